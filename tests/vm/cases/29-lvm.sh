# Partitions and LVM on slots: a volume over two of them, made, filled, and found again by a
# host that forgot it, after the target was killed and started again.
#: slots 2
#: size 128M
#: timeout 900
. /payload/lib.sh
modprobe dm_mod || skip "the guest's kernel has no dm_mod"
command -v lvcreate >/dev/null || skip "the guest has no lvm2"
export DM_DISABLE_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1
mkdir -p /tmp/lvm/{cache,backup,archive}
C='devices { scan = [ "/dev/etherd" ] filter = [ "a|^/dev/etherd/|", "r|.*|" ] types = [ "aoe", 16 ] use_devicesfile = 0 }
   activation { udev_sync = 0 udev_rules = 0 monitoring = 0 } backup { backup = 0 archive = 0 }
   global { event_activation = 0 locking_type = 1 locking_dir = "/tmp/lvm" }'
lvm_do() { "$1" --config "$C" "${@:2}" >/tmp/lvm.log 2>&1 || { cat /tmp/lvm.log; fail "$1 ${*:2}: $(tail -n 1 /tmp/lvm.log)"; }; }
discover
wait_dev e0.0
wait_dev e0.1
A=/dev/etherd/e0.0 B=/dev/etherd/e0.1

# ---- two partitions on slot 0: ext4 on the first, the other for LVM
printf 'label: gpt\nsize=40MiB, name=files\ntype=E6D6D379-F507-44C2-A23C-238F2A3DF928, name=volume\n' |
    sfdisk -q $A >/tmp/sfdisk 2>&1 || fail "sfdisk: $(tail -n 1 /tmp/sfdisk)"
for ((i = 0; i < 300; i++)); do [[ -b ${A}p2 ]] && break; sleep 0.1; done
[[ -b ${A}p1 && -b ${A}p2 ]] || fail "the partitions did not appear"
mkfs.ext4 -q -F ${A}p1 || fail "mkfs.ext4 on the partition"
mkdir -p /mnt/p /mnt/v
mount ${A}p1 /mnt/p || fail "mount of the partition"
make_tree /mnt/p/tree
tree_sums /mnt/p/tree >/tmp/psums

# ---- one volume group of the second partition and all of slot 1
lvm_do pvcreate -ff -y ${A}p2 $B
lvm_do vgcreate shelf ${A}p2 $B
lvm_do lvcreate -y -Zn -Wn -n lv -l 100%FREE shelf
lvm_do vgs --noheadings -o vg_name,pv_count,lv_count,vg_size
vgs=$(tr -s ' ' </tmp/lvm.log)
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/shelf/lv || fail "mkfs.ext4 on the volume"
mount /dev/shelf/lv /mnt/v || fail "mount of the volume"
make_tree /mnt/v/one
head -c 110M /dev/urandom >/mnt/v/spanning || fail "a file over both slots cannot be written"
tree_sums /mnt/v >/tmp/vsums
sync -f /mnt/v/spanning
sync -f /mnt/p/tree

# ---- the target is killed under both, while files are written
(for ((i = 0; i < 20; i++)); do head -c 300000 /dev/urandom >/mnt/v/g$i && sync -f /mnt/v/g$i || exit 1; done) &
writer=$!
sleep 0.5
out=$(host target-restart 2 KILL) || fail "the target did not come back: $out"
wait $writer || fail "a write failed over the restart"
(cd /mnt/v && sha256sum g* >/tmp/gsums)
umount /mnt/v /mnt/p || fail "umount"
lvm_do vgchange -an shelf

# ---- forgotten, restarted, found again
aoe-flush -a
out=$(host target-restart 0.5 TERM) || fail "the target did not come back: $out"
discover
wait_dev e0.0
wait_dev e0.1
for ((i = 0; i < 300; i++)); do [[ -b ${A}p2 ]] && break; sleep 0.1; done
lvm_do pvs
lvm_do vgchange -ay shelf
for d in ${A}p1 /dev/shelf/lv; do e2fsck -f -n $d >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail "fsck of $d is not clean"; }; done
mount -o ro /dev/shelf/lv /mnt/v || fail "second mount of the volume"
mount -o ro ${A}p1 /mnt/p || fail "second mount of the partition"
(cd /mnt/v && sha256sum --quiet -c /tmp/vsums && sha256sum --quiet -c /tmp/gsums) || fail "files on the volume differ"
tree_sums /mnt/p/tree | cmp - /tmp/psums || fail "files on the partition differ"
umount /mnt/v /mnt/p
lvm_do vgchange -an shelf
sfdisk -q --verify $A >/tmp/sfdisk 2>&1 || fail "sfdisk --verify: $(tail -n 1 /tmp/sfdisk)"
detail "2 partitions, volume group of$vgs, $(wc -l </tmp/vsums) + $(wc -l </tmp/gsums) + $(wc -l </tmp/psums) files intact after a kill and a restart"
