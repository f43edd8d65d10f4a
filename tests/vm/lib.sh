# Helpers that every script of the VM tests shares.  Sourced, never run.
# shellcheck shell=bash disable=SC2034  # what is set here is used by those who source it

VM_DIR=${VM_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
VM_CACHE=${VM_CACHE:-${XSHELF_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/xshelf/vm}}
# "Cannot be tried here", for this machine or for this target: never a failure, never a pass.
VM_SKIPPED=77

vm_log() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
vm_die() { vm_log "$@"; exit 1; }
vm_usage_error() { vm_log "$* (--help tells more)"; exit 2; }
vm_cannot() { printf 'SKIPPED: VM tests: %s\n' "$*" >&2; exit $VM_SKIPPED; }
vm_now() { date +%s.%N; }
vm_since() { awk -v a="$1" -v b="$(vm_now)" 'BEGIN { printf "%.1f", b - a }'; }

# Print the comment at the head of a script, which is its manual.
vm_help() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0"; }

# Wait for a pid that need not be our child.  Usage: vm_wait_gone PID SECONDS
vm_wait_gone() {
    local i
    for ((i = 0; i < $2 * 20; i++)); do
        kill -0 "$1" 2>/dev/null || return 0
        # A zombie answers kill -0; it is gone all the same.
        [[ $(ps -o stat= -p "$1" 2>/dev/null) == Z* ]] && return 0
        sleep 0.05
    done
    return 1
}

# Size such as 64M, 1G, 4096 or 1000s (sectors) in bytes.
vm_bytes() {
    case $1 in
    *K) echo $((${1%K} * 1024)) ;;
    *M) echo $((${1%M} * 1048576)) ;;
    *G) echo $((${1%G} * 1073741824)) ;;
    *T) echo $((${1%T} * 1099511627776)) ;;
    *s) echo $((${1%s} * 512)) ;;
    *) echo $(($1)) ;;
    esac
}

# Value of a "#: key value" header line of a case; empty when absent.
vm_header() { sed -n "s/^#: $2[[:space:]]\{1,\}//p" "$1" | head -n 1; }

# Deterministic addresses.  All are locally administered.
vm_guest_mac() { printf '02:ae:00:00:00:%02x' "$((0x10 + $1))"; }
vm_target_mac() { printf '02:ae:00:00:01:%02x' "$((0x10 + $1))"; }

vm_kernel_dir() {
    local d=$VM_CACHE/kernels/$1
    [[ -e $d/vmlinux && -e $d/initrd.img ]] || vm_die "no kernel '$1' in $VM_CACHE: run setup.sh first"
    echo "$d"
}

# What a trial start with KVM depends on.
vm_accel_key() {
    { qemu-system-x86_64 --version; uname -r; grep -m 1 'model name' /proc/cpuinfo; } 2>/dev/null | sha256sum | cut -c -16
}
# kvm or tcg: as asked for, else what setup.sh found by starting a guest.
vm_accel() {
    local key accel
    [[ ${XSHELF_VM_ACCEL:-} ]] && { echo "$XSHELF_VM_ACCEL"; return; }
    read -r key accel 2>/dev/null <"$VM_CACHE/accel"
    [[ ${accel:-} && $key == "$(vm_accel_key)" ]] && echo "$accel" || echo tcg
}
vm_accel_args() {
    case $(vm_accel) in
    kvm) echo kvm ;;
    *) echo tcg,thread=multi,tb-size=256 ;;
    esac
}
