# Functions that run.sh and handler.sh share: starting and stopping a target.
# shellcheck shell=bash

target_features() { :; } # a profile may say more

vm_spawn() { # ID COMMAND...
    local id=$1
    shift
    mkdir -p "$VM_STATE/pids"
    setsid ip netns exec "$VM_TARGET_NS" "$@" >>"$VM_STATE/$id.log" 2>&1 </dev/null &
    # setsid replaces itself here (the job is no group leader), and so does ip.
    echo $! >"$VM_STATE/pids/$id"
}
vm_stop_all() { # SIGNAL
    local p
    for p in "$VM_STATE"/pids/*; do
        [[ -e $p ]] && kill -"$1" "$(<"$p")" 2>/dev/null
    done
    for p in "$VM_STATE"/pids/*; do
        [[ -e $p ]] || continue
        vm_wait_gone "$(<"$p")" 5 || { kill -KILL "$(<"$p")" 2>/dev/null; vm_wait_gone "$(<"$p")" 2; }
        rm -f "$p"
    done
}
vm_target_up() { # start everything in $VM_STATE/exports
    local shelf slot image opts rc
    while read -r shelf slot image opts; do
        # shellcheck disable=SC2086
        target_start "$shelf" "$slot" "$image" $opts || return $?
    done <"$VM_STATE/exports"
    if declare -F target_commit >/dev/null; then target_commit || return $?; fi
    sleep "${VM_TARGET_SETTLE:-0.3}"
    for p in "$VM_STATE"/pids/*; do
        kill -0 "$(<"$p")" 2>/dev/null || { echo "${p##*/} did not stay up: $(tail -n 1 "$VM_STATE/${p##*/}.log")"; return 1; }
    done
}
