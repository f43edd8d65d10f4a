#!/bin/bash
# Fetch and build what the VM tests need, into a cache outside the tree.
#
#   setup.sh [--force] [--check] [PART...]
#
# PARTs (all of them unless some are named):
#   host     Debian packages of this machine: QEMU and tools (installed with apt-get)
#   rootfs   file system image of the guest: aoetools, fio, e2fsprogs...
#   stock    the cloud kernel of this machine's own Debian release
#   new      the newest cloud kernel, 6.13 or later, of the suites in $XSHELF_VM_SUITES
#            (trixie-backports sid), read through an apt configuration of its own
#   vblade   the reference target, unpacked, not installed
#   aoetools the initiator's tools for cases that run on this machine, unpacked, not installed
#   boot     disk image for the case that boots a machine over AoE
#   accel    one trial start of a guest, where there is a /dev/kvm: is KVM fit for use?
#
# Safe to run again: a part is built again only when its recipe in this file
# has changed, or with --force.  --check builds nothing: it prints the parts
# that are missing and fails when there are any.
# The cache is $XSHELF_VM_CACHE, else ~/.cache/xshelf/vm (honours XDG_CACHE_HOME).
# Exits 77, with one line that says why, when something cannot be had here.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

FORCE=0 CHECK=0 PARTS=()
while (($#)); do
    case $1 in
    --force) FORCE=1 ;;
    --check) CHECK=1 ;;
    -h | --help) vm_help; exit 0 ;;
    host | rootfs | stock | new | vblade | aoetools | boot | accel) PARTS+=("$1") ;;
    *) vm_usage_error "no such option or part: $1" ;;
    esac
    shift
done
((${#PARTS[@]})) || PARTS=(host rootfs stock new vblade aoetools boot accel)
trap 'vm_log "failed at line $LINENO: $BASH_COMMAND"' ERR

T0=$(vm_now)
step() { vm_log "[$(vm_since "$T0")s] $*"; }

# A part is current when it was built by the recipe that this file holds now.
RELEASE=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_CODENAME:-}") || true
recipe() { # PART
    {
        echo "$RELEASE"
        case $1 in
        rootfs) echo "${GUEST_PACKAGES[*]}"; declare -f build_rootfs ;;
        stock | new) echo "${MODULES[*]}"; declare -f build_kernel unpack_vmlinux ;;
        vblade) declare -f build_vblade ;;
        aoetools) declare -f build_aoetools ;;
        boot) cat "$VM_DIR/guest/boot-init"; declare -f build_boot ;;
        esac
    } | sha256sum
}
product() { # PART: the file that is written last
    case $1 in
    rootfs) echo "$VM_CACHE/rootfs.img" ;;
    stock | new) echo "$VM_CACHE/kernels/$1/initrd.img" ;;
    vblade) echo "$VM_CACHE/target/usr/sbin/vblade" ;;
    aoetools) echo "$VM_CACHE/aoetools/bin/aoeping" ;;
    boot) echo "$VM_CACHE/ipxe/boot.img" ;;
    esac
}
current() { # PART
    case $1 in
    host) ((${#HOST_MISSING[@]} == 0)) ;;
    accel) [[ ${XSHELF_VM_ACCEL:-} || ! -w /dev/kvm || $(cut -d' ' -f1 "$VM_CACHE/accel" 2>/dev/null) == "$(vm_accel_key)" ]] ;;
    *) [[ -e $(product "$1") && $(cat "$(product "$1").recipe" 2>/dev/null) == "$(recipe "$1")" ]] ;;
    esac
}
built() { recipe "$1" >"$(product "$1").recipe"; } # PART

# ---------------------------------------------------------------- host tools
HOST_PACKAGES=(qemu-system-x86 qemu-system-common seabios ipxe-qemu
    cpio xz-utils lz4 zstd kmod e2fsprogs ethtool tcpdump nftables iproute2
    procps gawk dnsmasq-base python3-minimal libpython3-stdlib binutils)
HOST_MISSING=()
for p in "${HOST_PACKAGES[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true) == installed ]] || HOST_MISSING+=("$p")
done
build_host() {
    step "installing on this machine: ${HOST_MISSING[*]}"
    local log=$VM_CACHE/apt-install.log
    install_missing() {
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${HOST_MISSING[@]}" >"$log" 2>&1
    }
    install_missing || { apt-get update >/dev/null 2>&1 && install_missing; } ||
        vm_cannot "apt-get cannot install ${HOST_MISSING[*]}: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"
}

# ------------------------------------------------------- private apt set-ups
# One configuration per suite.  "system" uses the machine's own sources with
# an empty dpkg status, so that a download resolves a whole root file system.
APT_COMMON=(-o APT::Sandbox::User=root -o Debug::NoLocking=1
    -o Dir::State::status="$VM_CACHE/apt/empty-status"
    -o Dir::Cache::archives="$VM_CACHE/debs"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)

debian_uri() {
    # First archive URI whose suite is a plain Debian release.
    awk '/^URIs:/ { u = $2 } /^Suites:/ && u { if ($2 !~ /security/) { print u; exit } }' \
        /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1 | grep . ||
        awk '$1 == "deb" && $0 !~ /security/ { for (i = 2; i <= NF; i++) if ($i ~ /debian\/?$/) { print $i; exit } }' \
            /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | head -n 1
}

suite_conf() { # SUITE: prints the config file, after an update of its lists
    local s=$1 d=$VM_CACHE/apt/$1
    if [[ ! -e $d/ok ]]; then
        mkdir -p "$d/lists/partial"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_uri) $s main" >"$d/sources.list"
        cat >"$d/apt.conf" <<C
Dir::Etc::SourceList "$d/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$d/lists";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
C
        APT_CONFIG=$d/apt.conf apt-get "${APT_COMMON[@]}" update >"$d/log" 2>&1 || return 1
        # apt-get update exits 0 with warnings when an index could not be had.
        APT_CONFIG=$d/apt.conf apt-cache "${APT_COMMON[@]}" show linux-image-cloud-amd64 >/dev/null 2>&1 || return 1
        touch "$d/ok"
    fi
    echo "$d/apt.conf"
}

# ------------------------------------------------------------------- kernels
# Modules wanted in a guest, each with what it depends on.  Those that a
# kernel has built in, or lacks, are passed over.
MODULES=(virtio_pci virtio_blk virtio_net virtio_console virtio_rng
    aoe ext4 xfs btrfs overlay crc32c_generic crc32c_intel libcrc32c
    sch_netem ifb act_mirred cls_matchall sch_ingress veth bridge tun
    af_packet af_packet_diag xsk_diag nvme ahci sd_mod sg loop dm_mod dm_mirror dm_snapshot md_mod raid1 raid0
    9p 9pnet_virtio virtiofs vfat nls_ascii nls_cp437 nls_utf8
    e1000 e1000e ublk_drv null_blk brd scsi_debug efivarfs)

unpack_vmlinux() { # BZIMAGE OUT: the ELF kernel inside, for a start without its own slow unpacking
    local f=$1 out=$2 sects off len start magic
    u32() { od -An -tu4 -j"$1" -N4 "$f" | tr -d ' '; }
    sects=$(od -An -tu1 -j$((0x1f1)) -N1 "$f" | tr -d ' ')
    off=$(u32 $((0x248))) len=$(u32 $((0x24c)))
    start=$(((sects + 1) * 512 + off))
    tail -c +$((start + 1)) "$f" | head -c "$len" >"$out.z"
    magic=$(od -An -tx1 -N4 "$out.z" | tr -d ' ')
    # The last four bytes are the unpacked size, not part of the stream.
    case $magic in
    02214c18) lz4 -dc "$out.z" >"$out" 2>/dev/null || true ;;
    28b52ffd) zstd -dc "$out.z" >"$out" 2>/dev/null || true ;;
    fd377a58) xz -dc --single-stream "$out.z" >"$out" 2>/dev/null || true ;;
    1f8b*) gzip -dc "$out.z" >"$out" 2>/dev/null || true ;;
    7f454c46) cp "$out.z" "$out" ;;
    esac
    rm -f "$out.z"
    [[ $(od -An -tx1 -N4 "$out" 2>/dev/null | tr -d ' ') == 7f454c46 ]]
}

build_kernel() { # TAG META-PACKAGE [APT_CONFIG]
    local tag=$1 meta=$2 conf=${3:-} d=$VM_CACHE/kernels/$1 k todo=() seen=" " p v m line list
    apt() { if [[ $conf ]]; then APT_CONFIG=$conf "$@"; else "$@"; fi; }
    # Walk from the meta package to the real ones: image, and since the
    # packages were split up, binary, modules and base as well.
    todo=("$meta") list=()
    while ((${#todo[@]})); do
        k=${todo[0]} todo=("${todo[@]:1}")
        [[ $seen == *" $k "* ]] && continue
        seen+="$k "
        [[ $k == *[0-9].[0-9]* ]] && list+=("$k")
        for p in $(apt apt-cache "${APT_COMMON[@]}" show --no-all-versions "$k" |
            sed -n 's/^Depends: //p' | tr ',|' '\n' | awk '{ print $1 }' |
            grep -E '^linux-(image|binary|modules|base)-[0-9]' || true); do
            todo+=("$p")
        done
    done
    ((${#list[@]})) || vm_cannot "the package sources offer no $meta"
    step "kernel $tag: downloading ${list[*]}"
    rm -rf "$d"
    mkdir -p "$d/x" "$d/deb"
    (cd "$d/deb" && apt apt-get "${APT_COMMON[@]}" download "${list[@]}" >"$d/log" 2>&1) ||
        vm_cannot "cannot download the $tag kernel: $(grep -m 1 "^E:" "$d/log")"
    for p in "$d"/deb/*.deb; do dpkg -x "$p" "$d/x"; done
    [[ -d $d/x/usr/lib/modules ]] || { mkdir -p "$d/x/usr/lib"; mv "$d/x/lib/modules" "$d/x/usr/lib/"; }
    rm -rf "$d/x/lib"
    ln -s usr/lib "$d/x/lib"
    v=$(ls "$d/x/usr/lib/modules")
    echo "$v" >"$d/version"
    cp "$(find "$d/x" -type f \( -name 'vmlinuz' -o -name "vmlinuz-$v" \) | head -n 1)" "$d/vmlinuz"
    cp "$(find "$d/x" -type f \( -path '*/modules/*/config' -o -name "config-$v" \) | head -n 1)" "$d/config"
    unpack_vmlinux "$d/vmlinuz" "$d/vmlinux" || vm_die "kernel $tag: could not unpack vmlinux"
    depmod -b "$d/x" "$v"

    step "kernel $tag: building the initramfs"
    local i=$d/i
    mkdir -p "$i"/{bin,dev,proc,sys,r,payload,tmp} "$i/lib/modules/$v"
    cp "$VM_CACHE/busybox" "$i/bin/busybox"
    for m in "${MODULES[@]}"; do
        while read -r line p _; do
            [[ $line == insmod ]] || continue
            k=$i/lib/modules/$v/${p#*"/modules/$v/"}
            k=${k%.xz} k=${k%.zst} k=${k%.gz}
            [[ -e $k ]] && continue
            mkdir -p "${k%/*}"
            case $p in
            *.xz) xz -dc "$p" >"$k" ;;
            *.zst) zstd -qdc "$p" >"$k" ;;
            *.gz) gzip -dc "$p" >"$k" ;;
            *) cp "$p" "$k" ;;
            esac
            strip -g "$k" 2>/dev/null || true
        done < <(modprobe -d "$d/x" -S "$v" --show-depends "$m" 2>/dev/null || true)
    done
    cp "$d/x/usr/lib/modules/$v"/modules.{order,builtin,builtin.modinfo} "$i/lib/modules/$v/" 2>/dev/null || true
    depmod -b "$i" "$v" 2>/dev/null
    (cd "$i" && find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc -R 0:0 --quiet) >"$d/initrd.img.tmp"
    mv "$d/initrd.img.tmp" "$d/initrd.img"
    built "$tag"
    rm -rf "$d/x" "$d/i" "$d/deb"
    step "kernel $tag: $v ready ($(du -h "$d/initrd.img" | cut -f1) initramfs)"
}

# --------------------------------------------------------- guest file system
GUEST_PACKAGES=(busybox-static bash coreutils util-linux mount e2fsprogs
    xfsprogs fio aoetools ethtool sg3-utils hdparm iproute2 tcpdump kmod
    python3-minimal libpython3-stdlib gdisk fdisk mdadm lvm2 procps diffutils)
build_rootfs() {
    step "guest file system: downloading packages"
    apt-get "${APT_COMMON[@]}" --no-install-recommends -y --download-only install "${GUEST_PACKAGES[@]}" \
        >"$VM_CACHE/rootfs.log" 2>&1 || vm_cannot "cannot download the guest's packages: $(grep -m 1 "^E:" "$VM_CACHE/rootfs.log")"
    local r=$VM_CACHE/rootfs p py
    rm -rf "$r"
    mkdir -p "$r"/usr/{bin,sbin,lib,lib64}
    # Debian's merged /usr: older packages still ship files below /bin and /lib.
    for p in bin sbin lib lib64; do ln -s "usr/$p" "$r/$p"; done
    for p in "$VM_CACHE"/debs/*.deb; do
        case ${p##*/} in perl* | libperl* | dpkg_* | debconf* | init-system-helpers*) continue ;; esac
        dpkg-deb --fsys-tarfile "$p" | tar -C "$r" -x --keep-directory-symlink \
            --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale
    done
    rm -rf "$r"/usr/share/{doc,man,locale,lintian,bug,info} "$r/var/cache"
    mkdir -p "$r"/{dev,proc,sys,run,tmp,mnt,root,payload,lib/modules,etc,var/tmp,var/lock}
    ln -sf /proc/mounts "$r/etc/mtab"
    ln -sf bash "$r/usr/bin/sh"
    [[ -e $r/usr/bin/awk ]] || ln -s busybox "$r/usr/bin/awk"
    py=$(find "$r/usr/bin" -name 'python3.*[0-9]' -printf '%f\n' | tail -n 1)
    [[ -e $r/usr/bin/python3 ]] || ln -s "$py" "$r/usr/bin/python3"
    echo root:x:0:0:root:/root:/bin/bash >"$r/etc/passwd"
    echo root:x:0: >"$r/etc/group"
    : >"$r/etc/fstab"
    ldconfig -r "$r"
    cp "$r/usr/bin/busybox" "$VM_CACHE/busybox"
    # The packages leave this to their installation scripts; without it each
    # start of Python in the slow guest compiles what it imports.
    chroot "$r" "/usr/bin/$py" -m compileall -q "/usr/lib/$py" >/dev/null 2>&1 || true
    # Every applet that no package provides.
    "$VM_CACHE/busybox" --list | while read -r p; do
        [[ -e $r/usr/bin/$p || -e $r/usr/sbin/$p ]] || ln -s busybox "$r/usr/bin/$p"
    done
    step "guest file system: building the image"
    rm -f "$VM_CACHE/rootfs.img.tmp"
    truncate -s 640M "$VM_CACHE/rootfs.img.tmp"
    mkfs.ext4 -q -F -O ^has_journal -m 0 -d "$r" "$VM_CACHE/rootfs.img.tmp" >/dev/null
    mv "$VM_CACHE/rootfs.img.tmp" "$VM_CACHE/rootfs.img"
    built rootfs
    rm -rf "$r"
}

# -------------------------------------------------------------------- target
# vblade is the reference target; it is unpacked here, not installed, so that
# no daemon of its package is started on this machine.
build_vblade() {
    rm -rf "$VM_CACHE/target"
    mkdir -p "$VM_CACHE/target"
    (cd "$VM_CACHE/target" && apt-get "${APT_COMMON[@]}" download vblade >log 2>&1) ||
        vm_cannot "cannot download vblade: $(grep -m 1 "^E:" "$VM_CACHE/target/log")"
    dpkg -x "$VM_CACHE"/target/vblade_*.deb "$VM_CACHE/target"
    built vblade
    step "vblade: ready"
}

build_aoetools() {
    local t=$VM_CACHE/aoetools
    rm -rf "$t"
    mkdir -p "$t/bin"
    (cd "$t" && apt-get "${APT_COMMON[@]}" download aoetools >log 2>&1) ||
        vm_cannot "cannot download aoetools: $(grep -m 1 "^E:" "$t/log")"
    dpkg -x "$t"/aoetools_*.deb "$t/x"
    # /sbin in older releases, /usr/sbin since.
    find "$t/x" -type f -path '*sbin/aoe*' -exec cp {} "$t/bin/" \;
    built aoetools
    rm -rf "$t/x"
    step "aoetools: ready"
}

# ------------------------------------------------- image for a boot over AoE
# FAT with syslinux, the stock kernel, and a small initramfs that speaks AoE.
build_boot() {
    local b=$VM_CACHE/ipxe t=$VM_CACHE/ipxe/tools i=$VM_CACHE/ipxe/i v
    rm -rf "$t" "$i"
    mkdir -p "$t" "$i" "$b/deb"
    (cd "$b/deb" && apt-get "${APT_COMMON[@]}" download syslinux syslinux-common mtools dosfstools >/dev/null 2>&1) ||
        vm_cannot "cannot download syslinux and mtools"
    for v in "$b"/deb/*.deb; do dpkg -x "$v" "$t"; done
    v=$(<"$VM_CACHE/kernels/stock/version")
    (cd "$i" && cpio -id --quiet <"$VM_CACHE/kernels/stock/initrd.img" 'bin/*' "lib/modules/$v/modules.*" \
        '*/virtio*' '*/aoe.ko' '*/net_failover.ko' '*/failover.ko' '*/fat.ko' '*/vfat.ko' '*/nls_*.ko')
    mkdir -p "$i"/{proc,sys,dev}
    install -m 755 "$VM_DIR/guest/boot-init" "$i/init"
    depmod -b "$i" "$v" 2>/dev/null
    (cd "$i" && find . -print0 | cpio -0 -o -H newc -R 0:0 --quiet | gzip -9) >"$b/initrd.gz"
    rm -f "$b/boot.img.tmp"
    truncate -s 48M "$b/boot.img.tmp"
    "$t/sbin/mkfs.vfat" -F 16 -n AOEBOOT "$b/boot.img.tmp" >/dev/null
    cat >"$b/syslinux.cfg" <<C
SERIAL 0 115200
SAY AOE-BOOT-SYSLINUX
DEFAULT linux
PROMPT 0
LABEL linux
  KERNEL vmlinuz
  INITRD initrd.gz
  APPEND console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable marker=sanboot
C
    export PATH=$PATH:$t/usr/bin MTOOLS_SKIP_CHECK=1
    cp "$VM_CACHE/kernels/stock/vmlinuz" "$b/vmlinuz"
    (cd "$b" && sha256sum vmlinuz initrd.gz >sums)
    mcopy -i "$b/boot.img.tmp" "$b/syslinux.cfg" "$b/initrd.gz" "$b/vmlinuz" "$b/sums" ::
    syslinux --install "$b/boot.img.tmp" || vm_die "syslinux could not be put on the boot image"
    mv "$b/boot.img.tmp" "$b/boot.img"
    built boot
    rm -rf "$i" "$b/deb" "$b/vmlinuz"
    step "boot image: ready"
}

newest_suite() { # prints "VERSION SUITE" of the newest kernel on offer
    local s c v
    for s in ${XSHELF_VM_SUITES:-trixie-backports sid}; do
        c=$(suite_conf "$s") || continue
        v=$(APT_CONFIG=$c apt-cache "${APT_COMMON[@]}" show --no-all-versions linux-image-cloud-amd64 2>/dev/null |
            sed -n 's/^Version: //p' | head -n 1)
        dpkg --compare-versions "${v:-0}" ge 6.13 && { echo "$v $s"; return; }
    done
    return 1
}

build_stock() { build_kernel stock linux-image-cloud-amd64; }
build_new() {
    local n
    n=$(newest_suite) || vm_cannot "none of the suites ${XSHELF_VM_SUITES:-trixie-backports sid} offers a kernel of 6.13 or later"
    build_kernel new linux-image-cloud-amd64 "$VM_CACHE/apt/${n#* }/apt.conf"
}

# ----------------------------------------------------------------------- KVM
# A /dev/kvm that opens, and even makes a machine, may still not run one (in a
# virtual machine, say): only a start tells.
build_accel() {
    local accel=tcg s
    s=$(mktemp "${TMPDIR:-/tmp}/xshelf-vm-trial.XXXXXX")
    echo 'exit 0' >"$s"
    XSHELF_VM_ACCEL=kvm "$VM_DIR/guest-run.sh" --tries 1 --quiet --tap '' --no-aoe --timeout 30 --script "$s" >/dev/null 2>&1 &&
        accel=kvm
    rm -f "$s"
    echo "$(vm_accel_key) $accel" >"$VM_CACHE/accel"
    step "KVM: $([[ $accel == kvm ]] && echo used || echo 'present, but a guest does not start with it: emulating')"
}

TODO=()
for p in "${PARTS[@]}"; do
    if ((FORCE)) && [[ $p != host ]]; then
        TODO+=("$p")
    else
        current "$p" || TODO+=("$p")
    fi
done
# What a part is built with.
[[ " ${TODO[*]-} " == *" boot "* ]] && ! current stock && [[ " ${TODO[*]} " != *" stock "* ]] && TODO=(stock "${TODO[@]}")
[[ " ${TODO[*]-} " =~ " stock "|" new "|" accel " ]] && ! current rootfs && [[ " ${TODO[*]} " != *" rootfs "* ]] && TODO=(rootfs "${TODO[@]}")
if ((CHECK)); then
    ((${#TODO[@]})) || exit 0
    echo "${TODO[*]}"
    exit 1
fi
((${#TODO[@]})) || { step "everything is there"; exit 0; }
((EUID == 0)) || vm_cannot "they need root"
[[ $(uname -m) == x86_64 ]] || vm_cannot "they need an x86_64 machine, this is $(uname -m)"
command -v apt-get >/dev/null || vm_cannot "they need Debian's apt-get"
mkdir -p "$VM_CACHE"/{kernels,debs/partial,apt,ipxe,target}
chmod 755 "$VM_CACHE"
# Two set-ups at once would tread on each other.
exec {LOCK}>"$VM_CACHE/lock"
flock -n "$LOCK" || { step "waiting for another set-up"; flock "$LOCK"; }
: >"$VM_CACHE/apt/empty-status"
if [[ " ${TODO[*]} " =~ " rootfs "|" stock "|" vblade "|" aoetools "|" boot " ]] &&
    ! apt-cache "${APT_COMMON[@]}" show linux-image-cloud-amd64 >/dev/null 2>&1; then
    apt-get update >"$VM_CACHE/apt-update.log" 2>&1 || true
    apt-cache "${APT_COMMON[@]}" show linux-image-cloud-amd64 >/dev/null 2>&1 ||
        vm_cannot "the package sources offer no linux-image-cloud-amd64: $(grep -m 1 '^E:' "$VM_CACHE/apt-update.log" || echo 'not a Debian release?')"
fi
for p in "${TODO[@]}"; do
    # Another set-up may have built it while this one waited.
    if ((FORCE)) || [[ $p == host ]] || ! current "$p"; then "build_$p"; fi
done
step "done"
