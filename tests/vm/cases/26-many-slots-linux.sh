# Linux finds three shelves of one process, 259 slots in all, by one broadcast.
#: slots 255
#: shelf 7
#: also 8.0 8.254 65534.0 65534.254
#: size 1M
#: need many
#: timeout 1500
. /payload/lib.sh
want=$((VM_SLOTS + 4))
# The module asked when it was loaded; start from nothing.
aoe-flush -a
sleep 1
discover
count() { cat /sys/block/etherd!e*/state 2>/dev/null | grep -c '^up'; }
# No second question from us.  (Linux asks again by itself after 60 s.)
n=-1 same=0
until ((n == want || same == 60)); do
    sleep 1
    m=$(count)
    if ((m == n)); then same=$((same + 1)); else same=0; fi
    n=$m
done
say "$n devices are up after $(cut -d' ' -f1 /proc/uptime)s"
((n == want)) || fail "$n devices of $want are up"
for d in e7.0 e7.1 e7.127 e7.254 e8.0 e8.254 e65534.0 e65534.254; do
    [[ -b /dev/etherd/$d ]] || fail "there is no $d"
    echo "this is $d" | dd of=/dev/etherd/$d bs=512 conv=sync oflag=direct status=none || fail "write to $d"
done
echo 3 >/proc/sys/vm/drop_caches
for d in e7.0 e7.1 e7.127 e7.254 e8.0 e8.254 e65534.0 e65534.254; do
    got=$(dd if=/dev/etherd/$d bs=512 count=1 iflag=direct status=none | tr -d '\0')
    [[ $got == "this is $d" ]] || fail "$d holds '$got'"
    (($(host image-grep "${d#e}" "this is $d") == 1)) || fail "the image of $d does not hold it"
done
dmesg | grep -iE 'I/O error|ata error' && fail "errors in the kernel log"
detail "$n devices on 3 shelves up after one aoe-discover, written and read"
