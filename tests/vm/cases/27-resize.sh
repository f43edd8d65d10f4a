# An image grows while it is served: announced, seen at once by a host that has it closed,
# after aoe-revalidate by one that has it open; ext4 grows into it.
#: slots 2
#: size 64M
#: need resize
#: timeout 900
. /payload/lib.sh
discover
wait_dev e0.0
wait_dev e0.1
D=/dev/etherd/e0.0
size() { blockdev --getsize64 "/dev/etherd/$1"; }
grow() { # SLOT SIZE: and wait for the announcement
    python3 -I -S -B /payload/aoecli.py -T "0.$1" -t 300 listen >/tmp/heard &
    local listener=$!
    until grep -q listening /tmp/heard; do sleep 0.1; done
    host image-resize "$1" "$2" || fail "the image cannot be resized"
    wait $listener || fail "slot 0.$1 grew and was not announced within 300s"
    cat /tmp/heard
}

# ---- closed: the announcement alone brings the new size
[[ $(size e0.0) == 67108864 ]] || fail "size at the start: $(size e0.0)"
grow 0 96M
for ((i = 0; i < 3000; i++)); do [[ $(cat "$(sys_of e0.0)/size") == 196608 ]] && break; sleep 0.1; done
[[ $(size e0.0) == 100663296 ]] || fail "closed: size is $(size e0.0) after the announcement"
head -c 65536 /dev/urandom >/tmp/w
dd if=/tmp/w of=$D bs=64k seek=1535 oflag=direct conv=notrunc status=none || fail "write at the new end"
[[ $(host image-range 0 196480 128) == "$(sha256sum </tmp/w | cut -d' ' -f1)" ]] || fail "the image differs at its new end"
# The other slot is as it was.
[[ $(size e0.1) == 67108864 ]] || fail "slot 1 changed its size"

# ---- open: nothing changes under a mounted file system until it is asked for
mkfs.ext4 -q -F $D || fail "mkfs.ext4"
mkdir -p /mnt/a
mount $D /mnt/a || fail "mount"
make_tree /mnt/a/tree
tree_sums /mnt/a/tree >/tmp/sums
grow 0 160M
sleep 2
[[ $(size e0.0) == 100663296 ]] || fail "open: size changed to $(size e0.0) by itself"
check "aoe-revalidate failed" aoe-revalidate e0.0
for ((i = 0; i < 3000; i++)); do [[ $(size e0.0) == 167772160 ]] && break; sleep 0.1; done
[[ $(size e0.0) == 167772160 ]] || fail "open: size is $(size e0.0) after aoe-revalidate"
resize2fs $D >/tmp/resize 2>&1 || fail "resize2fs: $(tail -n 1 /tmp/resize)"
(($(df -k --output=size /mnt/a | tail -n 1) > 120000)) || fail "the file system did not grow: $(df -k /mnt/a | tail -n 1)"
head -c 80M /dev/urandom >/mnt/a/big || fail "the new room cannot be filled"
sum=$(sha256sum </mnt/a/big)
umount /mnt/a
echo 3 >/proc/sys/vm/drop_caches
e2fsck -f -n $D >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail "fsck is not clean"; }
mount -o ro $D /mnt/a || fail "second mount"
[[ $(sha256sum </mnt/a/big) == "$sum" ]] || fail "the large file differs"
tree_sums /mnt/a/tree | cmp - /tmp/sums || fail "files differ"
umount /mnt/a
[[ $(host image-sum 0) == "$(sha256sum <$D | cut -d' ' -f1)" ]] || fail "the device differs from the image"

# ---- grown while the target was down, and seen after the restart
host target-stop TERM || fail "the target did not stop"
host image-resize 1 80M
out=$(host target-start) || fail "the target did not start: $out"
for ((i = 0; i < 3000; i++)); do [[ $(size e0.1) == 83886080 ]] && break; sleep 0.1; done
[[ $(size e0.1) == 83886080 ]] || fail "after a restart: size is $(size e0.1)"
dmesg | grep -iE 'I/O error|ata error' && fail "errors in the kernel log"
detail "64M to 96M closed, to 160M mounted (revalidate, resize2fs, fsck clean), to 80M over a restart"
