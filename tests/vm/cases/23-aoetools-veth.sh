# aoecfg, aoeping and aoe-sancheck on this machine, over a veth pair, which pads nothing.
#: kind host
#: part aoetools
#: slots 3
#: size 16M
#: need config
#: timeout 600
. "$VM_DIR/lib.sh"
. "$VM_DIR/hostlib.sh"
# shellcheck source=../targets/xshelf.sh
. "$VM_PROFILE"
out() { echo "$2" >"$VM_STATE/detail"; exit "$1"; }
fail() { out 1 "$*"; }
vm_target_up || fail "the target did not start"
# The initiator's end of a veth pair, alone in the namespace that the programs see.
N=${VM_SWITCH_NS%-sw}-ini I=ini0
ip netns add "$N" || fail "no namespace for the initiator"
ip -n "$VM_SWITCH_NS" link add ini0p mtu "$VM_MTU" type veth peer name $I mtu "$VM_MTU" netns "$N" || fail "no veth pair"
ip -n "$VM_SWITCH_NS" link set ini0p master br0 up
ip -n "$N" link set $I up
in_ns() { timeout 120 ip netns exec "$N" env PATH="$VM_CACHE/aoetools/bin:$PATH" "$@"; }
cfg() { in_ns aoecfg "$@"; }
ping() { in_ns aoeping -s 60 "$@"; }

all=$(cfg -t 3 $I | sort | tr '\n\t' ', ')
[[ $all == "0.0 ,0.1 ,0.2 ," ]] || fail "aoecfg read of everybody: '$all'"
[[ $(cfg -c set -s alpha 0 1 $I) == alpha ]] || fail "aoecfg set"
[[ $(cfg -c set -s beta 0 1 $I) == "*badcfg*" ]] || fail "aoecfg set of another string is no conflict"
[[ $(cfg 0 1 $I) == alpha ]] || fail "aoecfg read: '$(cfg 0 1 $I)'"
[[ $(cfg 0 2 $I) == "" ]] || fail "slot 2 has the string of slot 1"
[[ $(ping -v 0 1 $I) == *"found e0.1 with mac $(tr -d : <"$VM_STATE/mac0")"* ]] || fail "aoeping -v"
[[ $(ping -I 0 2 $I) == *model:* ]] || fail "aoeping -I"
in_ns aoe-sancheck >"$VM_STATE/san.log" 2>&1 || fail "aoe-sancheck: status $?, $(tail -n 1 "$VM_STATE/san.log")"
for s in 0 1 2; do
    awk -v d="e0.$s" -v i=$I '$1 == d && $2 == 1 && $3 >= 1024 && $4 == i { ok = 1 } END { exit !ok }' "$VM_STATE/san.log" ||
        fail "aoe-sancheck does not list e0.$s as it should: $(grep "^e0" "$VM_STATE/san.log" | head -n 3)"
done
o=$(grep -E "Mismatched|only capable|not set optimally|different" "$VM_STATE/san.log") && fail "aoe-sancheck: ${o%%$'\n'*}"
target_stop TERM || fail "the target did not end as it should"
out 0 "cfg read/set/conflict, ping -v -I, sancheck: $(grep '^e0' "$VM_STATE/san.log" | awk '{ print $1 ":" $3 }' | tr '\n' ' ')"
