# Starting and stopping a target: what run.sh, handler.sh and the cases of the host share.
# Sourced, never run.
# shellcheck shell=bash

target_features() { :; } # a profile may say more
# How long a target may take to start or to end.  Guards against a hang, no measure of speed.
VM_START_GUARD=90 VM_STOP_GUARD=60

vm_spawn() { # [--notify] ID COMMAND...: start a daemon of the target in its namespace
    local notify=() id fault
    [[ $1 == --notify ]] && { notify=(--notify "$VM_START_GUARD"); shift; }
    id=$1${VM_INSTANCE:+@$VM_INSTANCE}
    shift
    mkdir -p "$VM_STATE/pids" "$VM_STATE/status"
    rm -f "$VM_STATE/status/$id"
    if ! fault=$(ip netns exec "$VM_TARGET_NS" python3 -I -S "$VM_DIR/supervise.py" "${notify[@]}" \
        --pid "$VM_STATE/pids/$id" --status "$VM_STATE/status/$id" -- "$@" 2>&1 >>"$VM_STATE/$id.log"); then
        echo "$id: ${fault:-not started}; its log ends: $(tail -n 1 "$VM_STATE/$id.log")"
        return 1
    fi
}

vm_gone() { # ID PID SECONDS
    local i gone=0
    # Without a supervisor (a machine, see targets/appliance-vblade.sh) there is no status.
    [[ -d $VM_STATE/status ]] || { vm_wait_gone "$2" "$3"; return; }
    for ((i = 0; i < $3 * 20; i++)); do
        [[ -e $VM_STATE/status/$1 ]] && return 0
        kill -0 "$2" 2>/dev/null || ((gone++ < 40)) || return 0 # its supervisor was killed, too
        sleep 0.05
    done
    return 1
}

# End all that vm_spawn started (all of VM_INSTANCE, where that is set).  Prints what went wrong, and fails, when one did not end by
# itself, or after TERM with a status other than the profile's VM_TERM_STATUS.
vm_stop_all() { # SIGNAL
    local p id pid rc=0 status
    for p in "$VM_STATE"/pids/*${VM_INSTANCE:+@$VM_INSTANCE}; do
        [[ -e $p ]] && kill -"$1" "$(<"$p")" 2>/dev/null
    done
    for p in "$VM_STATE"/pids/*${VM_INSTANCE:+@$VM_INSTANCE}; do
        [[ -e $p ]] || continue
        id=${p##*/} pid=$(<"$p")
        if ! vm_gone "$id" "$pid" "$VM_STOP_GUARD"; then
            echo "$id did not end within $VM_STOP_GUARD seconds of SIG$1"
            rc=1
            kill -KILL "$pid" 2>/dev/null
            vm_gone "$id" "$pid" 10
        elif [[ $1 == TERM && ${VM_TERM_STATUS:-} ]]; then
            status=$(cat "$VM_STATE/status/$id" 2>/dev/null || echo unknown)
            if [[ $status != "$VM_TERM_STATUS" ]]; then
                echo "$id ended with status $status, not $VM_TERM_STATUS, after SIGTERM: $(tail -n 1 "$VM_STATE/$id.log")"
                rc=1
            fi
        fi
        rm -f "$p"
    done
    return $rc
}

vm_alive() { # every daemon that was started still runs (of VM_INSTANCE, where that is set)
    local p
    for p in "$VM_STATE"/pids/*${VM_INSTANCE:+@$VM_INSTANCE}; do
        [[ -e $p ]] || continue
        kill -0 "$(<"$p")" 2>/dev/null && continue
        p=${p##*/}
        echo "$p has ended (status $(cat "$VM_STATE/status/$p" 2>/dev/null || echo unknown)); its log ends:" \
            "$(tail -n 1 "$VM_STATE/$p.log" 2>/dev/null)"
        return 1
    done
}

# A case with "#: targets N" has so many targets, each with an interface of its own: target N
# serves what $VM_STATE/exports@N lists, on tgtN, and VM_INSTANCE says which is meant (empty: all).
vm_target_up() { # [INSTANCE]: start everything in $VM_STATE/exports, or exports@*
    local f n
    [[ -e $VM_STATE/exports ]] && { vm_target_up_one "$VM_STATE/exports"; return; }
    for f in "$VM_STATE"/exports@*; do
        n=${f##*@}
        [[ ${1:-$n} == "$n" ]] || continue
        VM_INSTANCE=$n VM_TARGET_IFS=tgt$n vm_target_up_one "$f" || return $?
    done
}

vm_target_up_one() { # EXPORTS
    local shelf slot image opts
    while read -r shelf slot image opts; do
        # shellcheck disable=SC2086  # options are words
        target_start "$shelf" "$slot" "$image" $opts || return $?
    done <"$1"
    if declare -F target_commit >/dev/null; then target_commit || return $?; fi
    # A target that cannot tell when it is ready is given a moment.
    sleep "${VM_TARGET_SETTLE:-0.3}"
    vm_alive
}
