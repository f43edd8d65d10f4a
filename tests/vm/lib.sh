# Shared helpers for the testbed scripts.  Sourced, never run.
# shellcheck shell=bash

VM_DIR=${VM_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
VM_CACHE=${VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/xshelf/vm}

vm_log() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
vm_die() { vm_log "$@"; exit 1; }
vm_now() { date +%s.%N; }
vm_since() { awk -v a="$1" -v b="$(vm_now)" 'BEGIN { printf "%.1f", b - a }'; }

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
    [[ -e $d/vmlinux && -e $d/initrd.img ]] || vm_die "no kernel '$1' in the cache: run setup.sh first"
    echo "$d"
}
