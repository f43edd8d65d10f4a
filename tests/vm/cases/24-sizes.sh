# Sizes at both ends: a sparse slot of 3 TiB, to its last sector, and a slot of one sector.
#: slots 2
#: size-of 0 3T
#: size-of 1 1s
#: timeout 900
. /payload/lib.sh
discover
wait_dev e0.0
wait_dev e0.1
total=$((3 << 31))
got=$(blockdev --getsz /dev/etherd/e0.0)
((got == total)) || fail "the large slot has $got sectors, not $total"
((got == $(host image-size 0) / 512)) || fail "the image has $(host image-size 0) bytes"
at() { # LBA SECTORS: write there, read back, and look into the image
    dd if=/dev/urandom of=/tmp/w bs=512 count="$2" status=none
    dd if=/tmp/w of=/dev/etherd/e0.0 bs=512 seek="$1" oflag=direct conv=notrunc status=none || fail "write of $2 sectors at $1"
    dd if=/dev/etherd/e0.0 of=/tmp/r bs=512 skip="$1" count="$2" iflag=direct status=none || fail "read of $2 sectors at $1"
    cmp /tmp/w /tmp/r || fail "$2 sectors at $1 differ"
    [[ $(host image-range 0 "$1" "$2") == "$(sha256sum </tmp/w | cut -d' ' -f1)" ]] || fail "the image differs at $1"
}
at $((total - 1)) 1
at $((total - 16)) 16
at $(((1 << 32) - 3)) 6 # where 32 bits end,
at $(((1 << 28) - 3)) 6 # where the short address ends,
at $((3 << 30)) 1
at 0 2
# Nothing landed where only the low bits of an address point to.
[[ $(host image-range 0 $(((total - 1) & 0xffffffff)) 1) == "$(head -c 512 /dev/zero | sha256sum | cut -d' ' -f1)" ]] ||
    fail "a sector in the middle was written as well"
out=$(aoecli read $((total - 1)) 1) || fail "raw read of the last sector: $out"
out=$(aoecli read "$total" 1)
rc=$?
[[ $rc == 2 && $out == *" error=10 "*" status=41 "* ]] || fail "read behind the end: $out"
out=$(aoecli read $((total - 1)) 2)
rc=$?
[[ $rc == 2 && $out == *" error=10 "*" status=41 "* ]] || fail "read over the end: $out"

D=/dev/etherd/e0.1
(($(blockdev --getsz $D) == 1)) || fail "the small slot has $(blockdev --getsz $D) sectors"
head -c 512 /dev/urandom >/tmp/w
dd if=/tmp/w of=$D bs=512 oflag=direct status=none || fail "write of the only sector"
dd if=$D of=/tmp/r bs=512 iflag=direct status=none || fail "read of the only sector"
cmp /tmp/w /tmp/r || fail "the only sector differs"
[[ $(host image-sum 1) == "$(sha256sum </tmp/w | cut -d' ' -f1)" ]] || fail "the small image differs"
out=$(aoecli -T 0.1 write 1 1 0x55)
rc=$?
[[ $rc == 2 && $out == *" error=10 "*" status=41 "* ]] || fail "write behind the only sector: $out"
(($(host image-size 1) == 512)) || fail "the small image has $(host image-size 1) bytes now"
dmesg | grep -iE 'I/O error|ata error' && fail "errors in the kernel log"
detail "$total sectors: last one, 2^32 and 2^28 written and read; one sector: the same"
