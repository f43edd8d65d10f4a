# Linux' own initiator while the target is killed, the link flaps and frames get lost, again and again.
#: size 128M
#: timeout 900
. /payload/lib.sh
up
D=/dev/etherd/$DEV
# Enough work to last over all of it: 55 seconds at this rate.
fio --name=t --filename="$D" --ioengine=libaio --direct=1 --rw=randwrite --bs=4k --iodepth=16 --size=64M \
    --verify=crc32c --do_verify=1 --verify_fatal=1 --rate_iops=300 --aux-path=/tmp --output-format=normal \
    --eta=never >/tmp/fio.log 2>&1 &
fio=$!
kills=0 flaps=0 lost=0
for round in 1 2 3 4 5 6; do
    # Every second round on a bad line.
    ((round % 2 == 0)) || host loss 5 || fail "no frames to lose"
    sleep 1.$((RANDOM % 10))
    kill -0 $fio 2>/dev/null || fail "fio ended too soon: $(tail -n 3 /tmp/fio.log)"
    out=$(host target-restart 0.$((RANDOM % 10)) KILL) || fail "the target did not come back: $out"
    kills=$((kills + 1))
    sleep 0.$((RANDOM % 10))
    host link tap0 down || fail "no link to take away"
    sleep 0.$((RANDOM % 10))
    host link tap0 up
    flaps=$((flaps + 1))
    sleep 0.5
    ((round % 2 == 0)) || lost=$((lost + $(host loss off | tail -n 1)))
done
wait $fio || { tail -n 30 /tmp/fio.log; fail "fio failed"; }
grep -E 'err=|WRITE:|READ:' /tmp/fio.log
dmesg | grep -iE 'I/O error|aoe.*dead' && fail "errors in the kernel log"
((lost > 0)) || fail "no frame was lost"
blockdev --flushbufs "$D"
[[ $(host image-sum 0) == "$(sha256sum <"$D" | cut -d' ' -f1)" ]] || fail "device differs from the image"
detail "$kills kills, $flaps flaps, $lost frames lost, all data verified"
