# NVMe disks are taken from a shelf in mid-load and come back; xshelf runs in the machine that has them.
# The guest is that machine: xshelf on four NVMe disks (two controllers of one disk, one of two) and a file, its hosts
# (xshelf bench, keeper.py) in a network namespace there.  One controller is removed by the kernel's own interface, the
# other pulled out by QEMU; guest/nvme-remove.sh says what has to be true.
#: kind host
#: need inside
#: timeout 900
. "$VM_DIR/lib.sh"
# shellcheck source=../targets/xshelf.sh
. "$VM_PROFILE"
S=$VM_STATE
out() { echo "$2" >"$S/detail"; exit "$1"; }
strip -g -o "$S/xshelf" "$(xshelf_bin)" || out 1 "the binary cannot be stripped"
truncate -s 64M "$S/a.img" "$S/b.img"
truncate -s 128M "$S/files.img"
# By node, not by drive: that would end with the device that is pulled out.
node() { echo "-blockdev driver=file,filename=$S/$1.img,node-name=$1"; }
"$VM_DIR/appliance-vm.sh" --quiet --script "$VM_DIR/guest/nvme-remove.sh" --kernel "$VM_KERNEL" --mtu 4132 --mem 768 \
    --hugepages 64 --timeout 840 --add "$S/xshelf" --add "$VM_DIR/guest/keeper.py" --handler "$VM_DIR/handler.sh" \
    --log "$VM_CASE_LOG" --qemu "-qmp unix:$S/monitor,server=on,wait=off $(node a) $(node b) $(node files)
 -device nvme,id=a,drive=a,serial=xshelfa,logical_block_size=512,physical_block_size=4096
 -device nvme,id=b,drive=b,serial=xshelfb,logical_block_size=4096,physical_block_size=4096
 -device virtio-blk-pci,drive=files,serial=files"
rc=$?
[[ -e $VM_CASE_LOG/detail ]] && cp "$VM_CASE_LOG/detail" "$S/detail"
exit $rc
