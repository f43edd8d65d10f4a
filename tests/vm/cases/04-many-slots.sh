# Eight slots at once, each with a file system of its own.
#: slots 8
#: size 96M
#: timeout 600
. /payload/lib.sh
discover
for ((i = 0; i < VM_SLOTS; i++)); do wait_dev "$(dev_of $i)"; done
aoe-stat
one() {
    local i=$1 d
    d=/dev/etherd/$(dev_of "$1")
    mkfs.ext4 -q -F -U "00000000-0000-0000-0000-00000000000$i" "$d" || return 1
    mkdir -p /mnt/"$i" && mount "$d" /mnt/"$i" || return 1
    echo "slot $i" >/mnt/"$i"/name
    head -c 12582912 /dev/urandom >/mnt/"$i"/data
    sync -f /mnt/"$i"/name
    tree_sums /mnt/"$i" >/tmp/sums"$i"
    umount /mnt/"$i"
}
pids=()
for ((i = 0; i < VM_SLOTS; i++)); do one $i & pids+=($!); done
for ((i = 0; i < VM_SLOTS; i++)); do wait "${pids[$i]}" || fail "slot $i failed"; done
echo 3 >/proc/sys/vm/drop_caches
aoe-flush -a
sleep 0.5
discover
for ((i = 0; i < VM_SLOTS; i++)); do
    wait_dev "$(dev_of $i)"
    d=/dev/etherd/$(dev_of $i)
    e2fsck -f -n "$d" >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail "fsck of slot $i"; }
    mount -o ro "$d" /mnt/$i || fail "mount of slot $i"
    [[ $(cat /mnt/$i/name) == "slot $i" ]] || fail "slot $i holds $(cat /mnt/$i/name)"
    tree_sums /mnt/$i | cmp - /tmp/sums$i || fail "contents of slot $i differ"
    umount /mnt/$i
done
(($(cut -d' ' -f1 /tmp/sums? | sort -u | wc -l) > VM_SLOTS)) || fail "slots share data"
detail "$VM_SLOTS slots written in parallel, all intact"
