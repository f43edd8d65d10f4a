# aoetools' own programs: aoe-discover, -stat, -interfaces, aoecfg, aoeping, aoe-sancheck.
# Nothing between them and the target pads a frame, and aoecfg and aoeping throw answers of
# less than 60 bytes away.  (23 runs the last three over a veth pair.)
#: slots 2
#: size 64M
#: need config
#: timeout 900
. /payload/lib.sh
discover
wait_dev e0.0
wait_dev e0.1
mac=$(host target-mac 0)

# ---- aoe-stat, aoe-interfaces, aoe-discover: what the driver knows
aoe-stat
for d in e0.0 e0.1; do
    payload=$(cat "$(sys_of $d)/payload")
    line=$(aoe-stat | awk -v d=$d '$1 == d { print $1, $2, $3, $4, $5 }')
    [[ $line == "$d 0.067GB eth0 $payload up" ]] || fail "aoe-stat: '$line'"
done
[[ $(aoe-interfaces) == eth0* ]] || fail "aoe-interfaces: $(aoe-interfaces)"
check "aoe-interfaces lo failed" aoe-interfaces lo
aoe-flush -a
sleep 0.5
discover
sleep 2
[[ -e $(sys_of e0.0) ]] && fail "a device was found over an interface that is not allowed"
check "aoe-interfaces eth0 failed" aoe-interfaces eth0
up e0.0
wait_dev e0.1

# ---- aoecfg: read, set, conflict, test, prefix, fset.  Without -t it waits for ever.
cfg() { timeout 60 aoecfg "$@"; }
say "aoecfg, everybody: $(cfg -t 3 eth0 | sort | tr '\n\t' ', ')"
[[ $(cfg -t 3 eth0 | sort | tr '\n\t' ', ') == "0.0 ,0.1 ," ]] || fail "aoecfg read of everybody: $(cfg -t 3 eth0)"
out=$(cfg -c set -s host-a 0 0 eth0) || fail "aoecfg set: status $?"
[[ $out == host-a ]] || fail "aoecfg set: '$out'"
[[ $(cfg 0 0 eth0) == host-a ]] || fail "aoecfg read: '$(cfg 0 0 eth0)'"
out=$(cfg -c set -s host-b 0 0 eth0) || fail "aoecfg conflict: status $?"
[[ $out == "*badcfg*" ]] || fail "aoecfg conflict: '$out'"
[[ $(cfg -c set -s host-a 0 0 eth0) == host-a ]] || fail "aoecfg set of the string in force"
[[ $(cfg -c test -s host-a 0 0 eth0) == host-a ]] || fail "aoecfg test"
[[ $(cfg -c test -s host -t 2 0 0 eth0) == "" ]] || fail "aoecfg test of another string was answered"
[[ $(cfg -c prefix -s host 0 0 eth0) == host-a ]] || fail "aoecfg prefix"
[[ $(cfg -c fset -s host-c 0 0 eth0) == host-c ]] || fail "aoecfg fset"
[[ $(cfg -t 3 eth0 | sort | tr '\n\t' ', ') == "0.0 host-c,0.1 ," ]] || fail "aoecfg, everybody: $(cfg -t 3 eth0)"

# ---- aoeping: plain, IDENTIFY, SMART
ping() { aoeping -s 60 "$@"; }
out=$(ping -v 0 0 eth0) || fail "aoeping: status $?"
[[ $out == *"found e0.0 with mac ${mac//:/}"* ]] || fail "aoeping -v: $out"
out=$(ping -I 0 1 eth0) || fail "aoeping -I: status $?"
say "$(tr '\n' ' ' <<<"$out")"
serial=$(sed -n 's/^serial_number: *//p' <<<"$out") model=$(sed -n 's/^model: *//p' <<<"$out")
[[ ${serial// /} && ${model// /} ]] || fail "aoeping -I: no serial number or no model: $out"
hex=$(ping -i -t 5 0 0 eth0 | sed 1d | tr -d ' \n') || fail "aoeping -i failed"
((${#hex} == 1024)) || fail "aoeping -i: ${#hex} digits"
# Word 82, low byte first; bit 0 is SMART.
if ((16#${hex:328:2} & 1)); then
    for c in enable read_data read_log:0 return_status; do
        ping -S $c 0 0 eth0 >/tmp/smart 2>&1
        rc=$?
        say "aoeping -S $c: status $rc, $(head -c 300 /tmp/smart | tr '\n' ' ')"
        ((rc == 0)) && { did="${did:-} $c"; continue; }
        # It gives up, without a word, on every answer that carries no 512 bytes of data.
        [[ $c == read_* || -s /tmp/smart ]] && fail "aoeping -S $c: status $rc, $(head -c 200 /tmp/smart)"
    done
    out=$(aoecli ata 0xb0 0xc24f00 0 0 0xda) || fail "SMART RETURN STATUS: $out"
    [[ $out == *" status=40 lba=$((16#c24f00))"* ]] || fail "SMART RETURN STATUS: $out"
    smart="SMART${did:-: nothing}"
else
    ping -S read_data 0 0 eth0 2>/tmp/smart && fail "aoeping -S without SMART in IDENTIFY"
    grep -q "does not support SMART" /tmp/smart || fail "aoeping -S: $(cat /tmp/smart)"
    smart="no SMART and says so"
fi

# ---- aoe-sancheck: every size up to the MTU has to come through
timeout 120 aoe-sancheck -v >/tmp/san || fail "aoe-sancheck: status $?"
cat /tmp/san
for s in 0 1; do
    line=$(awk -v d="e0.$s" '$1 == d && NF == 4 && $2 == 1 { print $2, $3, $4 }' /tmp/san)
    [[ $line == "1 $payload eth0" ]] || fail "aoe-sancheck: e0.$s: '$line'"
done
grep -E "Mismatched|only capable|not set optimally|different" /tmp/san && fail "aoe-sancheck: $(grep -E "^   " /tmp/san | head -n 2)"
detail "stat, interfaces, discover; cfg read/set/conflict/test/prefix/fset; ping ($smart); sancheck: payload $payload"
