# Profile made of one command line: run.sh --target-cmd 'prog {shelf} {slot} {ifname} {image}'.
# Run once a slot; options of a case are refused unless the line has {opts}.
# shellcheck shell=bash
target_features() { :; }
target_start() {
    local shelf=$1 slot=$2 image=$3 c=$VM_TARGET_CMD
    shift 3
    (($#)) && [[ $c != *'{opts}'* ]] && return 77
    c=${c//'{shelf}'/$shelf} c=${c//'{slot}'/$slot} c=${c//'{image}'/$image}
    c=${c//'{ifname}'/${VM_TARGET_IFS%% *}} c=${c//'{mtu}'/$VM_MTU} c=${c//'{opts}'/$*}
    vm_spawn "cmd-$shelf.$slot" sh -c "exec $c"
}
target_stop() { vm_stop_all "${1:-TERM}"; }
