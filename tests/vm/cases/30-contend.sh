# Two hosts contend for slots by config string: exactly one wins each round, both agree which
# one, and what was won outlives the target.  Two ports of the guest are the two hosts; the
# program is aoecfg, in the last rounds six raw clients at once.
#: nics 2
#: slots 2
#: size 16M
#: need config
#: timeout 900
. /payload/lib.sh
discover
wait_dev e0.0
cfg() { timeout 60 aoecfg "$@"; }
[[ $(cat /sys/class/net/eth0/address) != "$(cat /sys/class/net/eth1/address)" ]] || fail "the hosts share an address"
rounds=12 won0=0 won1=0 twins=0
for ((r = 0; r < rounds; r++)); do
    slot=$((r % 2))
    # Take turns in who starts; the other one follows at once.
    for h in $((r / 2 % 2)) $((1 - r / 2 % 2)); do
        cfg -c set -s "host-$h round $r" 0 $slot eth$h >/tmp/set$h 2>&1 &
    done
    wait
    a=$(cat /tmp/set0) b=$(cat /tmp/set1)
    case "$a/$b" in
    "host-0 round $r/*badcfg*") winner=$a won0=$((won0 + 1)) ;;
    "*badcfg*/host-1 round $r") winner=$b won1=$((won1 + 1)) ;;
    "host-1 round $r/host-0 round $r")
        # aoecfg takes its tag from the microsecond and does not look at the R flag: two of the same microsecond
        # take each other's request for the answer. Nothing is known of the target then: once more.
        ((++twins <= 5)) || fail "round $r: aoecfg had twin tags $twins times"
        aoecli -T "0.$slot" fset "" >/dev/null || fail "round $r: release"
        ((r--))
        continue
        ;;
    *) fail "round $r: eth0 got '$a', eth1 got '$b'" ;;
    esac
    for h in 0 1; do
        [[ $(cfg 0 $slot eth$h) == "$winner" ]] || fail "round $r: '$winner' won, but eth$h reads '$(cfg 0 $slot eth$h)'"
    done
    if ((r % 4 == 3)); then
        out=$(host target-restart 0.3 KILL) || fail "round $r: the target did not come back: $out"
        [[ $(cfg 0 $slot eth0) == "$winner" ]] || fail "round $r: after the restart the string is '$(cfg 0 $slot eth0)', not '$winner'"
        # The winner may claim again what it has; the other one still may not.
        [[ $(cfg -c set -s "$winner" 0 $slot eth0) == "$winner" ]] || fail "round $r: the winner cannot claim again"
        [[ $(cfg -c set -s intruder 0 $slot eth1) == "*badcfg*" ]] || fail "round $r: the string is lost after the restart"
    fi
    # Released by who holds it.
    aoecli -T "0.$slot" fset "" >/dev/null || fail "round $r: release"
done

ip link set eth0 promisc on
for ((r = 0; r < 3; r++)); do
    for ((h = 0; h < 6; h++)); do
        (aoecli -s "02:ae:00:00:00:9$h" -t 60 set "client-$h-$r" >/tmp/c$h; echo "status $?" >>/tmp/c$h) &
    done
    wait
    winners=$(grep -l "^status 0" /tmp/c[0-5] | tr -d '\n' | sed 's,/tmp/c,,g')
    ((${#winners} == 1)) || fail "six at once, round $r: the winners are '$winners'"
    (($(cat /tmp/c[0-5] | grep -c "err=4 .*cfg=client-$winners-$r$") == 5)) ||
        fail "six at once, round $r: not every loser was told of client-$winners-$r: $(cat /tmp/c[0-5] | tr '\n' ' ')"
    [[ $(cfg 0 0 eth1) == "client-$winners-$r" ]] || fail "six at once, round $r: the string is '$(cfg 0 0 eth1)'"
    aoecli fset "" >/dev/null || fail "six at once, round $r: release"
done
detail "$rounds rounds of aoecfg, one winner each (eth0 $won0, eth1 $won1), kept over 3 kills; 3 rounds of six clients"
