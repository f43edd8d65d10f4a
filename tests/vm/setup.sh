#!/bin/bash
# Fetch and build everything the testbed needs, into a cache outside the tree.
# Safe to run again: finished parts are kept.  --force rebuilds.
#
#   setup.sh [--force] [--kernels "stock new"] [--no-host-packages]
#
# Kernels: "stock" is the cloud kernel of this machine's own Debian release;
# "new" is the newest one (6.13 or later) of the newer suites of the same
# mirror, read through a private apt configuration.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

FORCE=0 KERNELS="stock new" HOSTPKGS=1
while (($#)); do
    case $1 in
    --force) FORCE=1 ;;
    --kernels) KERNELS=$2; shift ;;
    --no-host-packages) HOSTPKGS=0 ;;
    *) vm_die "unknown option $1" ;;
    esac
    shift
done
((FORCE)) && rm -rf "$VM_CACHE"/{kernels,rootfs.img,target,ipxe,apt}
mkdir -p "$VM_CACHE"/{kernels,debs/partial,apt,ipxe,target}
chmod 755 "$VM_CACHE"

T0=$(vm_now)
step() { vm_log "[$(vm_since "$T0")s] $*"; }

# ---------------------------------------------------------------- host tools
HOST_PACKAGES=(qemu-system-x86 qemu-system-common seabios ipxe-qemu
    cpio xz-utils lz4 zstd kmod e2fsprogs ethtool tcpdump nftables iproute2
    procps gawk dnsmasq-base)
if ((HOSTPKGS)); then
    missing=()
    for p in "${HOST_PACKAGES[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || missing+=("$p")
    done
    if ((${#missing[@]})); then
        step "installing host packages: ${missing[*]}"
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" \
            >"$VM_CACHE/apt-install.log" 2>&1 ||
            { apt-get update >/dev/null 2>&1 &&
                DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" \
                    >"$VM_CACHE/apt-install.log" 2>&1; } ||
            { tail -5 "$VM_CACHE/apt-install.log" >&2; vm_die "apt-get install failed"; }
    fi
fi

# ------------------------------------------------------- private apt set-ups
# One configuration per suite.  "system" uses the machine's own sources with
# an empty dpkg status, so that a download resolves a whole root file system.
: >"$VM_CACHE/apt/empty-status"
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
    af_packet af_packet_diag xsk_diag nvme ahci sd_mod sg loop dm_mod raid1 raid0
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
    [[ -e $d/initrd.img && $d/initrd.img -nt $VM_DIR/guest/init ]] && { step "kernel $tag: kept ($(<"$d/version"))"; return; }
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
            sed -n 's/^Depends: //p' | tr ',|' '\n\n' | awk '{ print $1 }' |
            grep -E '^linux-(image|binary|modules|base)-[0-9]' || true); do
            todo+=("$p")
        done
    done
    ((${#list[@]})) || vm_die "kernel $tag: nothing to download"
    step "kernel $tag: downloading ${list[*]}"
    rm -rf "$d"
    mkdir -p "$d/x" "$d/deb"
    (cd "$d/deb" && apt apt-get "${APT_COMMON[@]}" download "${list[@]}" >"$d/log" 2>&1) ||
        { tail -3 "$d/log" >&2; vm_die "kernel $tag: download failed"; }
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
    install -m 755 "$VM_DIR/guest/init" "$i/init"
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
    rm -rf "$d/x" "$d/i" "$d/deb"
    step "kernel $tag: $v ready ($(du -h "$d/initrd.img" | cut -f1) initramfs)"
}

# --------------------------------------------------------- guest file system
GUEST_PACKAGES=(busybox-static bash coreutils util-linux mount e2fsprogs
    xfsprogs fio aoetools ethtool sg3-utils hdparm iproute2 tcpdump kmod
    python3-minimal libpython3-stdlib gdisk procps diffutils)
build_rootfs() {
    [[ -e $VM_CACHE/rootfs.img && -x $VM_CACHE/busybox ]] && { step "guest file system: kept"; return; }
    step "guest file system: downloading packages"
    apt-get "${APT_COMMON[@]}" --no-install-recommends -y --download-only install "${GUEST_PACKAGES[@]}" \
        >"$VM_CACHE/rootfs.log" 2>&1 || { tail -3 "$VM_CACHE/rootfs.log" >&2; vm_die "download failed"; }
    local r=$VM_CACHE/rootfs p
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
    [[ -e $r/usr/bin/python3 ]] || ln -s python3.11 "$r/usr/bin/python3"
    echo root:x:0:0:root:/root:/bin/bash >"$r/etc/passwd"
    echo root:x:0: >"$r/etc/group"
    : >"$r/etc/fstab"
    ldconfig -r "$r"
    cp "$r/usr/bin/busybox" "$VM_CACHE/busybox"
    # The packages leave this to their installation scripts; without it each
    # start of Python in the slow guest compiles what it imports.
    chroot "$r" /usr/bin/python3.11 -m compileall -q /usr/lib/python3.11 >/dev/null 2>&1 || true
    # Every applet that no package provides.
    "$VM_CACHE/busybox" --list | while read -r p; do
        [[ -e $r/usr/bin/$p || -e $r/usr/sbin/$p ]] || ln -s busybox "$r/usr/bin/$p"
    done
    step "guest file system: building the image"
    rm -f "$VM_CACHE/rootfs.img.tmp"
    truncate -s 640M "$VM_CACHE/rootfs.img.tmp"
    mkfs.ext4 -q -F -O ^has_journal -m 0 -d "$r" "$VM_CACHE/rootfs.img.tmp" >/dev/null
    mv "$VM_CACHE/rootfs.img.tmp" "$VM_CACHE/rootfs.img"
    rm -rf "$r"
}

# -------------------------------------------------------------------- target
# vblade is the reference target; it is unpacked here, not installed, so that
# no daemon of its package is started on this machine.
build_vblade() {
    [[ -x $VM_CACHE/target/usr/sbin/vblade ]] && { step "vblade: kept"; return; }
    (cd "$VM_CACHE/target" && apt-get "${APT_COMMON[@]}" download vblade >/dev/null 2>&1) || vm_die "no vblade"
    dpkg -x "$VM_CACHE"/target/vblade_*.deb "$VM_CACHE/target"
    step "vblade: ready"
}

# ------------------------------------------------- image for a boot over AoE
# FAT with syslinux, the stock kernel, and a small initramfs that speaks AoE.
build_boot_image() {
    local b=$VM_CACHE/ipxe t=$VM_CACHE/ipxe/tools i=$VM_CACHE/ipxe/i v
    [[ -e $b/boot.img && $b/boot.img -nt $VM_DIR/guest/boot-init ]] && { step "boot image: kept"; return; }
    rm -rf "$t" "$i"
    mkdir -p "$t" "$i" "$b/deb"
    (cd "$b/deb" && apt-get "${APT_COMMON[@]}" download syslinux syslinux-common mtools dosfstools >/dev/null 2>&1) ||
        { vm_log "no syslinux: case 20 cannot run"; return; }
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
    mcopy -i "$b/boot.img.tmp" "$b/syslinux.cfg" "$b/initrd.gz" ::
    mcopy -i "$b/boot.img.tmp" "$VM_CACHE/kernels/stock/vmlinuz" ::vmlinuz
    syslinux --install "$b/boot.img.tmp" || { vm_log "syslinux failed: case 20 cannot run"; return; }
    mv "$b/boot.img.tmp" "$b/boot.img"
    rm -rf "$i" "$b/deb"
    step "boot image: ready"
}

newest_suite() { # prints "VERSION SUITE" of the newest kernel on offer
    local s c v
    for s in ${VM_SUITES:-trixie-backports sid}; do
        c=$(suite_conf "$s") || continue
        v=$(APT_CONFIG=$c apt-cache "${APT_COMMON[@]}" show --no-all-versions linux-image-cloud-amd64 2>/dev/null |
            sed -n 's/^Version: //p' | head -n 1)
        dpkg --compare-versions "${v:-0}" ge 6.13 && { echo "$v $s"; return; }
    done
    return 1
}

build_rootfs
build_vblade
for k in $KERNELS; do
    case $k in
    stock) build_kernel stock linux-image-cloud-amd64 ;;
    new)
        if [[ -e $VM_CACHE/kernels/new/initrd.img && $VM_CACHE/kernels/new/initrd.img -nt $VM_DIR/guest/init ]]; then
            build_kernel new -
        elif n=$(newest_suite); then
            build_kernel new linux-image-cloud-amd64 "$VM_CACHE/apt/${n#* }/apt.conf"
        else
            vm_log "no kernel of 6.13 or later on offer: going without 'new'"
        fi ;;
    *) vm_die "unknown kernel $k" ;;
    esac
done
[[ -e $VM_CACHE/kernels/stock/initrd.img ]] && build_boot_image
step "done"
