#!/bin/bash
# Run acceptance cases against an AoE target and print a table.
#
#   run.sh [--target vblade | --target FILE | --target-cmd 'vblade -b 128 {shelf} {slot} {ifname} {image}']
#          [--kernel stock|new] [--results DIR] [--name NAME] [--scale N] [CASE...]
#
# CASE is a name or its beginning (01 05-restart); all of them without any.
# Closes with "N passed, N failed, N skipped"; exits 1 when a case failed.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
. "$VM_DIR/hostlib.sh"

TARGET=vblade KERNEL=stock RESULTS= NAME=xshelf-vm$$ WANT=() VM_TARGET_CMD=
while (($#)); do
    case $1 in
    --target) TARGET=$2; shift ;;
    --target-cmd) TARGET=cmd VM_TARGET_CMD=$2; shift ;;
    --kernel) KERNEL=$2; shift ;;
    --results) RESULTS=$2; shift ;;
    --name) NAME=$2; shift ;;
    -h | --help) sed -n '2,10p' "$0"; exit 0 ;;
    -*) vm_die "unknown option $1" ;;
    *) WANT+=("$1") ;;
    esac
    shift
done
[[ $TARGET == */* ]] && VM_PROFILE=$(readlink -f "$TARGET") || VM_PROFILE=$VM_DIR/targets/$TARGET.sh
[[ -r $VM_PROFILE ]] || vm_die "no target profile $VM_PROFILE"
RESULTS=${RESULTS:-$(mktemp -d "${TMPDIR:-/tmp}/xshelf-vm-results.XXXXXX")}
mkdir -p "$RESULTS"
RESULTS=$(readlink -f "$RESULTS")
export VM_DIR VM_CACHE VM_PROFILE VM_TARGET_CMD
export VM_KERNEL=$KERNEL VM_TARGET_NS=$NAME-tgt VM_SWITCH_NS=$NAME-sw VM_NAME=$NAME
. "$VM_PROFILE"
# A target that runs in a machine of its own asks for a tap with this many queues.
VMQ=${TARGET_TAP_QUEUES:-0}

PASS=0 FAIL=0 SKIP=0
cleanup() {
    if [[ ${VM_STATE:-} && -d $VM_STATE ]]; then
        vm_stop_all KILL
        [[ -e $VM_STATE/cap.pid ]] && kill "$(<"$VM_STATE/cap.pid")" 2>/dev/null
        rm -rf "$VM_STATE"
    fi
    "$VM_DIR/net.sh" down "$NAME"
}
trap cleanup EXIT
trap 'exit 143' INT TERM

run_case() { # FILE: sets RESULT and DETAIL
    local f=$1 name log slots size mtu nics ports queues timeout shelf kind i opts o need rc
    name=$(basename "$f" .sh)
    log=$RESULTS/$name
    rm -rf "$log"
    mkdir -p "$log"
    slots=$(vm_header "$f" slots) size=$(vm_header "$f" size) mtu=$(vm_header "$f" mtu)
    nics=$(vm_header "$f" nics) ports=$(vm_header "$f" ports) queues=$(vm_header "$f" queues)
    timeout=$(vm_header "$f" timeout) shelf=$(vm_header "$f" shelf) kind=$(vm_header "$f" kind)
    RESULT=fail DETAIL=
    for need in $(vm_header "$f" need); do
        if [[ " $(target_features) " != *" $need "* ]]; then
            RESULT=skip DETAIL="the target has no $need"
            return
        fi
    done
    export VM_STATE=$log/state VM_MTU=${mtu:-9000} VM_CASE_LOG=$log
    mkdir -p "$VM_STATE"
    VM_TARGET_IFS=tgt0
    for ((i = 1; i < ${ports:-1}; i++)); do VM_TARGET_IFS+=" tgt$i"; done
    export VM_TARGET_IFS
    i=${nics:-1} o=
    for ((; i > 0; i--)); do o+=${queues:-1},; done
    export VM_TARGET_TAP=tap${nics:-1}
    "$VM_DIR/net.sh" up "$NAME" --mtu "$VM_MTU" --taps $((${nics:-1} + (VMQ > 0))) \
        --ports "${ports:-1}" --queues 4 --tap-queues "$o$VMQ" 2>"$log/net.log" || { DETAIL="net.sh: $(tail -n 1 "$log/net.log")"; return; }
    for ((i = 0; i < ${ports:-1}; i++)); do vm_target_mac "$i" >"$VM_STATE/mac$i"; done
    ((VMQ)) && vm_guest_mac 16 >"$VM_STATE/mac0"
    : >"$VM_STATE/exports"
    for ((i = 0; i < ${slots:-1}; i++)); do
        truncate -s "$(vm_bytes "${size:-64M}")" "$VM_STATE/image$i"
        # A case may want content on its image: "#: fill 4M" random bytes at the front.
        o=$(vm_header "$f" fill)
        [[ $o ]] && dd if=/dev/urandom of="$VM_STATE/image$i" bs=1M count="${o%M}" conv=notrunc status=none
        opts=$(sed -n "s/^#: opts $i[[:space:]]\{1,\}//p" "$f" | tr '\n' ' ')
        opts=${opts//GUESTMAC/$(vm_guest_mac 0)}
        echo "${shelf:-0} $i $VM_STATE/image$i $opts" >>"$VM_STATE/exports"
    done
    if [[ $kind == host ]]; then
        VM_PROFILE=$VM_PROFILE timeout "${timeout:-120}" bash "$f" >"$log/out.log" 2>&1
        rc=$?
        [[ -e $VM_STATE/detail ]] && DETAIL=$(<"$VM_STATE/detail")
    else
        DETAIL=$(vm_target_up 2>&1)
        rc=$?
        if ((rc == 77)); then
            RESULT=skip DETAIL="the target lacks an option of this case"
            return
        elif ((rc)); then
            DETAIL="target did not start: $DETAIL"
            return
        fi
        "$VM_DIR/guest-run.sh" --quiet --netns "$VM_SWITCH_NS" --tap tap0 --nics "${nics:-1}" --queues "${queues:-1}" \
            --mtu "$VM_MTU" --kernel "$KERNEL" --script "$f" --shelf "${shelf:-0}" --slots "${slots:-1}" \
            --timeout "${timeout:-120}" --handler "$VM_DIR/handler.sh" --log "$log" \
            --aoe-params "$(vm_header "$f" aoe)" >"$log/run.log" 2>&1
        rc=$?
        [[ -e $log/detail ]] && DETAIL=$(<"$log/detail")
    fi
    case $rc in
    0) RESULT=pass ;;
    77) RESULT=skip ;;
    124) DETAIL="timed out after ${timeout:-120}s; ${DETAIL:-$(tail -n 1 "$log/out.log" 2>/dev/null)}" ;;
    125) DETAIL="the guest died; ${DETAIL:-$(tail -n 1 "$log/console.log" 2>/dev/null)}" ;;
    *) DETAIL=${DETAIL:-status $rc: $(tail -n 1 "$log/out.log" 2>/dev/null)} ;;
    esac
    # The target has to have survived, and to stop when told to.
    if [[ $RESULT == pass && $kind != host ]]; then
        if ! o=$("$VM_DIR/handler.sh" target-alive); then
            RESULT=fail DETAIL="target: $o"
        fi
    fi
}

printf '%-20s %-6s %7s  %s\n' case result seconds detail
for f in "$VM_DIR"/cases/*.sh; do
    name=$(basename "$f" .sh)
    if ((${#WANT[@]})); then
        hit=0
        for w in "${WANT[@]}"; do [[ $name == "$w"* ]] && hit=1; done
        ((hit)) || continue
    fi
    T=$(vm_now)
    run_case "$f"
    if [[ ${VM_STATE:-} && -d $VM_STATE ]]; then
        target_stop TERM >/dev/null 2>&1
        vm_stop_all KILL
        [[ -e $VM_STATE/cap.pid ]] && kill "$(<"$VM_STATE/cap.pid")" 2>/dev/null
        cp "$VM_STATE"/*.log "$RESULTS/$name/" 2>/dev/null
        rm -rf "$VM_STATE"
    fi
    "$VM_DIR/net.sh" down "$NAME"
    case $RESULT in
    pass) PASS=$((PASS + 1)) ;;
    skip) SKIP=$((SKIP + 1)) ;;
    *) FAIL=$((FAIL + 1)) ;;
    esac
    printf '%-20s %-6s %7s  %s\n' "$name" "$RESULT" "$(vm_since "$T")" "$DETAIL"
done
echo "logs: $RESULTS"
echo "$PASS passed, $FAIL failed, $SKIP skipped"
((FAIL == 0))
