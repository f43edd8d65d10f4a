# A machine with nothing but a network card boots from the target, and writes to its disk.
# iPXE (the ROM of Debian's ipxe-qemu), syslinux, Linux, which then finds the same disk, reads all of
# kernel and initramfs again and writes a file.  (21 does the same with a read-only slot.)
#: kind host
#: part stock boot
#: mtu 1500
#: timeout 600
. "$VM_DIR/lib.sh"
. "$VM_DIR/hostlib.sh"
# shellcheck source=../targets/xshelf.sh
. "$VM_PROFILE"
out() { echo "$2" >"$VM_STATE/detail"; exit "$1"; }
B=$VM_CACHE/ipxe/boot.img
[[ -e $B ]] || out 77 "no boot image: see setup.sh"
BOOT_DISK=${BOOT_DISK:-rw}
cp --sparse=always "$B" "$VM_STATE/image0"
before=$(sha256sum <"$VM_STATE/image0")
vm_target_up || out 1 "the target did not start"
ser=$VM_CASE_LOG/console.log
QPID='' DPID=''
trap 'for p in $QPID $DPID; do kill $p 2>/dev/null; vm_wait_gone $p 3; done' EXIT

# The root path comes by DHCP, as it would in a machine room.
ip -n "$VM_SWITCH_NS" addr add 192.0.2.1/24 dev br0
ip netns exec "$VM_SWITCH_NS" dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=br0 \
    --bind-interfaces --dhcp-authoritative --no-ping --dhcp-leasefile="$VM_STATE/leases" --pid-file= --user=root \
    --dhcp-range=192.0.2.50,192.0.2.60,1h --dhcp-option=17,aoe:e0.0 --dhcp-option=3 --dhcp-option=6 \
    --log-facility="$VM_STATE/dnsmasq.log" >/dev/null 2>&1 &
DPID=$!
T=$(vm_now)
ip netns exec "$VM_SWITCH_NS" qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none \
    -accel "$(vm_accel_args)" -M pc,graphics=off,hpet=off -cpu max -smp 1 -m 384 \
    -netdev tap,id=n0,ifname=tap0,script=no,downscript=no,vhost=off \
    -device "virtio-net-pci,netdev=n0,mac=$(vm_guest_mac 0)" -boot n -serial "file:$ser" >"$VM_STATE/qemu.log" 2>&1 &
QPID=$!
seen() { grep -a -q -e "$1" "$ser" 2>/dev/null; }
mark=("Features:.*AoE" AOE-BOOT-SYSLINUX AOE-BOOT-LINUX AOE-BOOT-DATA AOE-BOOT-ROOT)
at=()
for m in "${mark[@]}"; do
    until seen "$m"; do
        kill -0 $QPID 2>/dev/null || { seen "$m" || out 1 "the machine stopped before '$m'"; }
        (($(printf '%.0f' "$(vm_since "$T")") > 540)) && out 1 "no '$m' after 540s: $(tail -c 300 "$ser" | tr -dc '[:print:]')"
        sleep 0.2
    done
    at+=("$(vm_since "$T")")
done
vm_wait_gone $QPID 10
got=$(sed -n 's/^AOE-BOOT-ROOT [^ ]* \([a-z]*\) .*/\1/p' "$ser")
how="iPXE ${at[0]}s, syslinux ${at[1]}s, Linux ${at[2]}s, files read ${at[3]}s, done ${at[4]}s"
[[ $got == "$BOOT_DISK" ]] || out 1 "the booted system found its disk ${got:-?}, not $BOOT_DISK"
if [[ $BOOT_DISK == ro ]]; then
    [[ $(sha256sum <"$VM_STATE/image0") == "$before" ]] || out 1 "the image of a read-only slot was changed"
    out 0 "$how, its write was refused"
fi
# What Linux wrote on its root disk is in the image.
PATH=$PATH:$VM_CACHE/ipxe/tools/usr/bin MTOOLS_SKIP_CHECK=1 mtype -i "$VM_STATE/image0" ::booted.txt ||
    out 1 "the file that the booted system wrote is not in the image"
out 0 "$how, its file is on the disk"
