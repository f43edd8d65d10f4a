# A reservation outlives the target.  Refused by ATA status, where the slot says so, Linux gets an
# I/O error; refused by AoE error 6 it would wait until it gives up the device.
# (The driver is told never to give up: a wait is then a hang, not a slow pass.)
#: slots 2
#: size 16M
#: fill 1M
#: opts 1 reserved-answer=ata
#: need reserve reserved-answer
#: aoe aoe_deadsecs=100000
#: timeout 600
. /payload/lib.sh
discover
wait_dev e0.0
wait_dev e0.1
own=$(cat /sys/class/net/eth0/address)
other=02:ae:00:00:00:97
ip link set eth0 promisc on
listed() { aoecli -T "0.$1" reserve read | grep -o 'macs=.*'; }
for s in 0 1; do
    aoecli -T 0.$s -s $other reserve set $other || fail "slot $s: reserve set"
done
for signal in KILL TERM; do
    out=$(host target-restart 0.3 $signal) || fail "the target did not come back: $out"
    for s in 0 1; do
        [[ $(listed $s) == "macs=$other" ]] || fail "slot $s: after SIG$signal the list is '$(listed $s)'"
        aoecli -T 0.$s -s $other read 0 1 >/dev/null || fail "slot $s: after SIG$signal the holder is not served"
        out=$(aoecli -T 0.$s reserve set "$own")
        rc=$?
        [[ $rc == 2 && $out == *err=6* ]] || fail "slot $s: after SIG$signal another host may reserve: $out"
    done
    out=$(aoecli -T 0.0 read 0 1)
    rc=$?
    [[ $rc == 2 && $out == *err=6* ]] || fail "slot 0: after SIG$signal: status $rc, $out (want error 6)"
    out=$(aoecli -T 0.1 read 0 1)
    rc=$?
    [[ $rc == 2 && $out != *err=* && $out == *" error=04 "*" status=41 "* ]] ||
        fail "slot 1: after SIG$signal: status $rc, $out (want ATA 41/04)"
done

# ---- Linux, which is not the holder, meets slot 1
D=/dev/etherd/e0.1
dd if=$D of=/dev/null bs=4k count=1 iflag=direct 2>/tmp/err && fail "a read of the reserved slot succeeded"
grep -q "Input/output error" /tmp/err || fail "read: $(tail -n 1 /tmp/err)"
before=$(host image-sum 1)
dd if=/dev/zero of=$D bs=4k count=1 oflag=direct conv=notrunc 2>/tmp/err && fail "a write of the reserved slot succeeded"
grep -q "Input/output error" /tmp/err || fail "write: $(tail -n 1 /tmp/err)"
[[ $(host image-sum 1) == "$before" ]] || fail "the image was changed"
[[ $(cat "$(sys_of e0.1)/state") == up* ]] || fail "the device is $(cat "$(sys_of e0.1)/state")"
# Released, it serves again, without a word to the driver; released it stays.
aoecli -T 0.1 -s $other reserve set >/dev/null || fail "release"
dd if=/dev/urandom of=$D bs=64k count=4 oflag=direct conv=notrunc status=none || fail "write after the release"
out=$(host target-restart 0.3 KILL) || fail "the target did not come back: $out"
[[ $(listed 1) == "macs=" ]] || fail "the release did not outlive the target: '$(listed 1)'"
[[ $(listed 0) == "macs=$other" ]] || fail "slot 0 lost its list: '$(listed 0)'"
dd if=$D of=/dev/null bs=64k count=4 iflag=direct status=none || fail "read after the restart"
detail "kept over SIGKILL and SIGTERM; ATA status: I/O error at once, device stays up, serves after the release"
