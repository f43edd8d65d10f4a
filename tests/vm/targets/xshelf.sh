# Profile of xshelf: one process serves all slots on all interfaces.
# The binary is $XSHELF_BIN, else the project's release build, else its debug build.
# shellcheck shell=bash disable=SC2034  # the variables are read by hostlib.sh and run.sh

# It says by sd_notify when it serves, so nothing is slept for.
VM_TARGET_SETTLE=0
# SIGTERM is a normal end.
VM_TERM_STATUS=0

xshelf_bin() {
    local d=$VM_DIR/../.. t
    t=${CARGO_TARGET_DIR:-$d/target}
    if [[ ${XSHELF_BIN:-} ]]; then
        echo "$XSHELF_BIN"
    elif [[ -x $t/release/xshelf ]]; then
        realpath -m "$t/release/xshelf"
    else
        realpath -m "$t/debug/xshelf"
    fi
}

target_check() {
    local b
    b=$(xshelf_bin)
    [[ -x $b ]] || { echo "no xshelf to test: $b is missing (cargo build --release, or set XSHELF_BIN)"; return 1; }
    echo "xshelf, $b of $(date -r "$b" '+%F %T')"
}

target_features() { echo readonly mask config maskcmd reserve reserved-answer resize targets many inside; }

target_start() { # note the slot; target_commit starts the process
    local shelf=$1 slot=$2 image=$3 o spec
    shift 3
    spec=$shelf.$slot=$image
    for o in "$@"; do
        case $o in
        readonly) spec+=,ro ;;
        mask=*) o=${o#mask=}; spec+=,mask=${o//,/+} ;;
        config=*) spec+=,config-string=${o#config=} ;;
        reserved-answer=*) spec+=,$o ;;
        sync) ;; # the default: nothing is acknowledged before it is durable
        *) return 77 ;;
        esac
    done
    echo "$spec" >>"$VM_STATE/xshelf.slots@${VM_INSTANCE:-0}"
}

target_commit() {
    local args=() n slots state=$VM_STATE/xshelf-state@${VM_INSTANCE:-0}
    for n in $VM_TARGET_IFS; do args+=(--interface "$n"); done
    mapfile -t slots <"$VM_STATE/xshelf.slots@${VM_INSTANCE:-0}"
    # What is durable outlives the process: every start of a case has the same directory.
    mkdir -p "$state"
    vm_spawn --notify xshelf "$(xshelf_bin)" serve "${args[@]}" --state-dir "$state" "${slots[@]}"
}

target_stop() {
    rm -f "$VM_STATE/xshelf.slots@"${VM_INSTANCE:-*}
    vm_stop_all "${1:-TERM}"
}

# After the last stop of a case: a panic is a defect even when nobody noticed it.
target_verify() {
    local line
    line=$(grep -a -h -m 1 -A 1 'panicked at' "$VM_STATE"/xshelf*.log) || return 0
    echo "xshelf: ${line//$'\n'/ }"
    return 1
}
