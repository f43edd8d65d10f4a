# 255 slots of one shelf, and two more shelves, in one process; all discovered by one broadcast.
# On this machine: with our own client, and with aoecfg where the target pads.  (26 shows as many to Linux.)
#: kind host
#: part aoetools
#: slots 255
#: shelf 7
#: also 8.0 8.254 65534.0 65534.254
#: size 1M
#: need many
#: timeout 900
. "$VM_DIR/lib.sh"
. "$VM_DIR/hostlib.sh"
# shellcheck source=../targets/xshelf.sh
. "$VM_PROFILE"
out() { echo "$2" >"$VM_STATE/detail"; exit "$1"; }
fail() { out 1 "$*"; }
vm_target_up >"$VM_STATE/up.log" || fail "the target did not start: $(tail -n 1 "$VM_STATE/up.log")"
N=${VM_SWITCH_NS%-sw}-ini I=ini0
ip netns add "$N" || fail "no namespace for the initiator"
ip -n "$VM_SWITCH_NS" link add ini0p mtu "$VM_MTU" type veth peer name $I mtu "$VM_MTU" netns "$N" || fail "no veth pair"
ip -n "$VM_SWITCH_NS" link set ini0p master br0 up
ip -n "$N" link set $I up
in_ns() { timeout 300 ip netns exec "$N" env PATH="$VM_CACHE/aoetools/bin:$PATH" "$@"; }
cut -d' ' -f1,2 "$VM_STATE/exports" | tr ' ' . | sort >"$VM_STATE/want"
want=$(wc -l <"$VM_STATE/want")

# One frame is sent; every answer to it is counted, once each.
in_ns python3 -I -S -B "$VM_DIR/guest/aoecli.py" -i $I -T 0xffff.0xff -n "$want" -t 120 query >"$VM_STATE/query.log"
sed 's/.* dev=e\([0-9.]*\) .*/\1/' "$VM_STATE/query.log" | sort >"$VM_STATE/got"
cmp -s "$VM_STATE/want" "$VM_STATE/got" ||
    fail "one broadcast: $(sort -u "$VM_STATE/got" | wc -l) of $want slots answered, for example not $(comm -23 "$VM_STATE/want" <(sort -u "$VM_STATE/got") | head -n 3 | tr '\n' ' ')"
# A shelf's own wildcard reaches that shelf alone, and a slot's that slot on all shelves.
ask() { # ADDRESS COUNT
    in_ns python3 -I -S -B "$VM_DIR/guest/aoecli.py" -i $I -T "$1" -n $(($2 + 1)) -t 5 query | sed 's/.* dev=e\([0-9.]*\) .*/\1/' | sort | tr '\n' ' '
}
got=$(ask 65534.0xff 2)
[[ $got == "65534.0 65534.254 " ]] || fail "shelf 65534, all slots: '$got'"
got=$(ask 0xffff.254 3)
[[ $got == "65534.254 7.254 8.254 " ]] || fail "slot 254 of all shelves: '$got'"

# aoetools, which sends one broadcast and takes what comes: its own buffer is small, and on a busy
# machine it loses answers that did arrive.  Asked a few times, it has to have seen everybody.
: >"$VM_STATE/aoecfg.got"
for try in 1 2 3 4 5; do
    in_ns aoecfg -t 5 $I | cut -f1 | sort -u "$VM_STATE/aoecfg.got" - -o "$VM_STATE/aoecfg.got"
    got=$(wc -l <"$VM_STATE/aoecfg.got")
    ((got == want)) && break
done
((got == want)) || fail "aoecfg got answers of $got slots of $want, asked $try times"
target_stop TERM || fail "the target did not end as it should"
out 0 "$want slots on 3 shelves answered one broadcast, $(cut -d' ' -f1 "$VM_STATE/query.log" | sort -u | wc -l) MAC; aoecfg saw all of them, asked $try times"
