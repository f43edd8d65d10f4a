#!/bin/bash
# Boot a machine for the target itself: kernel 6.13 or later, a virtio-net
# card with several queues on which AF_XDP works without copying, an NVMe
# controller with two namespaces, an AHCI disk, huge pages, the bpf file
# system and BTF.  Runs a script in it, as guest-run.sh does.
#
#   appliance-vm.sh --script FILE [--netns NS --tap TAP] [--queues 2] [--mtu 9000]
#       [--add PATH]... [--hugepages MB] [--disk-size 256M] [--disks DIR]
#       [--smp 2] [--mem 1536] [--timeout 300] [ANY OPTION OF guest-run.sh]
#
# The tap must have been made for as many queues (net.sh --tap-queues 2).
# Without --tap there is no network.  PATHs land in /payload, the working
# directory of the script is /root.  In the machine: /dev/appliance/nvme1 (512 byte
# blocks) and /dev/appliance/nvme2 (4096) on one controller, /dev/appliance/ahci,
# /dev/hugepages, /sys/fs/bpf.
# --disks DIR keeps the disk images there (nvme1.img nvme2.img ahci.img);
# otherwise they are scratch files.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

SCRIPT='' NETNS='' TAP='' QUEUES=2 MTU=9000 HUGE=256 DSIZE=256M DISKS='' SMP=2 MEM=1536 TIMEOUT=300 KERNEL=new MORE=''
REST=()
while (($#)); do
    case $1 in
    --script) SCRIPT=$2; shift ;;
    --netns) NETNS=$2; shift ;;
    --tap) TAP=$2; shift ;;
    --queues) QUEUES=$2; shift ;;
    --mtu) MTU=$2; shift ;;
    --hugepages) HUGE=$2; shift ;;
    --disk-size) DSIZE=$2; shift ;;
    --disks) DISKS=$2; shift ;;
    --smp) SMP=$2; shift ;;
    --mem) MEM=$2; shift ;;
    --timeout) TIMEOUT=$2; shift ;;
    --kernel) KERNEL=$2; shift ;;
    --qemu) MORE=$2; shift ;;
    --quiet) REST+=("$1") ;;
    *) REST+=("$1" "${2?option $1 needs a value}"); shift ;;
    esac
    shift
done
[[ -r $SCRIPT ]] || vm_die "--script is needed"
T=
if [[ ! $DISKS ]]; then
    T=$(mktemp -d "${TMPDIR:-/tmp}/xshelf-vm-disks.XXXXXX")
    DISKS=$T
fi
trap '[[ $T ]] && rm -rf "$T" "${S:-}"; rm -f "${S:-}"' EXIT
mkdir -p "$DISKS"
for d in nvme1 nvme2 ahci; do
    [[ -e $DISKS/$d.img ]] || truncate -s "$(vm_bytes "$DSIZE")" "$DISKS/$d.img"
done

# What has to be there before the script runs.
S=$(mktemp "${TMPDIR:-/tmp}/xshelf-vm-script.XXXXXX")
cat >"$S" <<'G'
modprobe -q ahci; modprobe -q sd_mod; modprobe -q nvme
mkdir -p /sys/fs/bpf /dev/hugepages
mount -t bpf bpf /sys/fs/bpf
mount -t hugetlbfs -o pagesize=2M hugetlbfs /dev/hugepages
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ulimit -l unlimited
# New kernels look at the namespaces of a controller in parallel: nvme0n1 may
# be the second one.  These names always mean the same disk.
mkdir -p /dev/appliance
names() {
    local d
    for d in /sys/block/nvme*; do
        [[ -e $d/nsid && $(<"$d/device/serial") == xshelfnvme* ]] && ln -sfn "/dev/${d##*/}" "/dev/appliance/nvme$(<"$d/nsid")"
    done
    [[ -b /dev/appliance/nvme1 && -b /dev/appliance/nvme2 ]]
}
# The stock kernel has no driver for AHCI.
modinfo -n ahci >/dev/null 2>&1 && AHCI=1 || AHCI=0
for ((i = 0; i < 50; i++)); do names && { ((!AHCI)) || [[ -b /dev/sda ]]; } && break; sleep 0.1; done
ln -s /dev/sda /dev/appliance/ahci
for n in $VM_IFS; do
    ethtool -L "$n" combined "$VM_QUEUES" 2>/dev/null
    for f in gro gso tso rx tx; do ethtool -K "$n" $f off >/dev/null 2>&1; done
done
G
cat "$SCRIPT" >>"$S"

# AF_XDP without copies wants buffers that the driver maps itself, so the
# device must follow the platform's address translation (iommu_platform), and
# XDP wants a card that never hands over merged or checksummed segments.
PROPS=iommu_platform=on,disable-legacy=on,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off
PROPS+=,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,csum=off,gso=off,mrg_rxbuf=on,rx_queue_size=1024
ENVF=$(mktemp "${TMPDIR:-/tmp}/xshelf-vm-env.XXXXXX")
echo "export VM_QUEUES=$QUEUES" >"$ENVF"
QEMU_DISKS="-drive if=none,id=nv1,file=$DISKS/nvme1.img,format=raw,cache=writeback
 -drive if=none,id=nv2,file=$DISKS/nvme2.img,format=raw,cache=writeback
 -device nvme,id=nvme0,serial=xshelfnvme,max_ioqpairs=8
 -device nvme-ns,drive=nv1,bus=nvme0,nsid=1,logical_block_size=512,physical_block_size=4096
 -device nvme-ns,drive=nv2,bus=nvme0,nsid=2,logical_block_size=4096,physical_block_size=4096
 -device ich9-ahci,id=ahci0
 -drive if=none,id=sd1,file=$DISKS/ahci.img,format=raw,cache=writeback
 -device ide-hd,drive=sd1,bus=ahci0.0,serial=xshelfahci"
NET=(--tap "")
[[ $TAP ]] && NET=(--netns "$NETNS" --tap "$TAP")
"$VM_DIR/guest-run.sh" --script "$S" "${NET[@]}" --queues "$QUEUES" --mtu "$MTU" --kernel "$KERNEL" --no-aoe \
    --smp "$SMP" --mem "$MEM" --timeout "$TIMEOUT" --env "$ENVF" --nic-props "$PROPS" --mac-base 16 \
    --append "hugepagesz=2M hugepages=$((HUGE / 2))" --qemu "$(tr '\n' ' ' <<<"$QEMU_DISKS") $MORE" \
    ${REST[@]+"${REST[@]}"}
rc=$?
rm -f "$ENVF"
exit $rc
