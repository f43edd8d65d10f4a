# md RAID-1 over slots of two targets: one is killed under load, the array goes on, it comes
# back, resyncs; then the other one is stopped, and the resynced half alone holds everything.
# A device that does not answer is given up by Linux after aoe_deadsecs; 8 instead of 180.
#: nics 2
#: ports 2
#: targets 2
#: size 96M
#: need targets
#: aoe aoe_deadsecs=8
#: timeout 1500
. /payload/lib.sh
export MDADM_NO_UDEV=1
modprobe raid1 || skip "the guest's kernel has no raid1"
command -v mdadm >/dev/null || skip "the guest has no mdadm"
discover
wait_dev e0.0
wait_dev e1.0
A=/dev/etherd/e0.0 B=/dev/etherd/e1.0 M=/dev/md0
[[ $(cat "$(sys_of e0.0)/netif") != "$(cat "$(sys_of e1.0)/netif")" ]] || fail "both targets are on one port"
check "mdadm --create failed" mdadm --create $M --run --metadata=1.2 --level=1 --raid-devices=2 --bitmap=none --assume-clean $A $B
state() { cat /sys/block/md0/md/array_state /sys/block/md0/md/degraded /sys/block/md0/md/sync_action | tr '\n' ' '; }
synced() { # wait until the array is whole
    local i
    for ((i = 0; i < 6000; i++)); do
        [[ $(cat /sys/block/md0/md/degraded) == 0 && $(cat /sys/block/md0/md/sync_action) == idle ]] && return
        sleep 0.1
    done
    cat /proc/mdstat
    fail "the array is not whole again: $(state)"
}
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 $M || fail "mkfs.ext4"
mkdir -p /mnt/a
mount $M /mnt/a || fail "mount"
make_tree /mnt/a/before
tree_sums /mnt/a/before >/tmp/before

# ---- lose the second target while files are written
(for ((i = 0; i < 40; i++)); do head -c 700000 /dev/urandom >/mnt/a/f$i || exit 1; sync -f /mnt/a/f$i || exit 1; sleep 0.2; done) &
writer=$!
sleep 1
host target-stop KILL 1 || fail "the second target could not be killed"
kill -0 $writer || fail "the writer ended too soon"
wait $writer || fail "a write failed when one half was lost"
for ((i = 0; i < 3000; i++)); do [[ $(cat /sys/block/md0/md/degraded) == 1 ]] && break; sleep 0.1; done
[[ $(cat /sys/block/md0/md/degraded) == 1 ]] || fail "md did not notice: $(state)"
say "degraded: $(state)"
make_tree /mnt/a/degraded
(cd /mnt/a && sha256sum f* >/tmp/files)
tree_sums /mnt/a/degraded >/tmp/degraded

# ---- bring it back; it has to be copied again
out=$(host target-start 1) || fail "the second target did not start: $out"
mdadm $M --remove failed >/dev/null 2>&1 || mdadm $M --remove detached
# A device that Linux gave up stays down until it is asked for again.
aoe-revalidate e1.0
wait_dev e1.0
for ((i = 0; i < 600; i++)); do
    mdadm $M --add $B >/tmp/add 2>&1 && break
    sleep 0.5
done
cat /tmp/add
say "after the restart: $(state)"
synced
cat /proc/mdstat

# ---- the other half goes: what was copied is all there is now
sync -f /mnt/a/f0
echo check >/sys/block/md0/md/sync_action
synced
[[ $(cat /sys/block/md0/md/mismatch_cnt) == 0 ]] || fail "the halves differ in $(cat /sys/block/md0/md/mismatch_cnt) sectors"
host target-stop TERM 0 || fail "the first target could not be stopped"
echo 3 >/proc/sys/vm/drop_caches
(cd /mnt/a && sha256sum --quiet -c /tmp/files) || fail "files differ on the copied half"
tree_sums /mnt/a/before | cmp - /tmp/before || fail "the first files differ on the copied half"
tree_sums /mnt/a/degraded | cmp - /tmp/degraded || fail "files written meanwhile differ on the copied half"
umount /mnt/a || fail "umount"
e2fsck -f -n $M >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail "fsck is not clean"; }
mdadm --stop $M || fail "mdadm --stop"
out=$(host target-start 0) || fail "the first target did not start: $out"
detail "killed under load, $(wc -l </tmp/files) files written degraded, resynced without a mismatch, other half stopped: all intact"
