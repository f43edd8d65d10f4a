# Profile of Debian's vblade, the reference: one process a slot and interface.
# shellcheck shell=bash
VBLADE=${VBLADE:-$VM_CACHE/target/usr/sbin/vblade}

target_features() { echo readonly mask config maskcmd reserve targets many; }

target_start() {
    local shelf=$1 slot=$2 image=$3 o n args=(-b 128)
    shift 3
    for o in "$@"; do
        case $o in
        readonly) args+=(-r) ;;
        direct) args+=(-d) ;;
        sync) args+=(-s) ;;
        mask=*) args+=(-m "${o#mask=}") ;;
        *) return 77 ;;
        esac
    done
    for n in $VM_TARGET_IFS; do
        vm_spawn "vblade-$shelf.$slot-$n" "$VBLADE" "${args[@]}" "$shelf" "$slot" "$n" "$image" || return 1
    done
}

target_stop() { vm_stop_all "${1:-TERM}"; }
