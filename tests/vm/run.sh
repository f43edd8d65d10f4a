#!/bin/bash
# Acceptance tests of an AoE target against the Linux kernel's own initiator,
# which runs in a QEMU guest.  One line a case, then "N passed, N failed, N skipped".
#
#   run.sh [OPTION...] [CASE...]
#
#   CASE              a case's name or its beginning (01, 05-restart); all without any
#   --quick           the quick set: 01 02 03 06 23, and 03 with less data
#   --target NAME     xshelf (the default), vblade (the reference), appliance-vblade
#                     or the path of a profile (targets/README.md)
#   --target-cmd CMD  any target with one process a slot, for example
#                     'vblade -b 128 {shelf} {slot} {ifname} {image}'
#   --kernel NAME     the initiator's kernel: stock (of this Debian release, the default) or new
#   --accel NAME      kvm or tcg (emulation); by default what setup.sh found to work
#   --results DIR     keep the logs there (otherwise they are kept when a case failed)
#   --name NAME       prefix of the two network namespaces (xshelf-vm and the process id)
#   --list            print the cases and what each one shows
#
# Examples:
#   run.sh --quick
#   run.sh --target vblade 01 06
#   XSHELF_BIN=target/debug/xshelf run.sh --kernel new --results /tmp/logs 05
#
# Needs root, Debian on x86_64, network namespaces, tun, veth and bridge; no
# KVM.  What is missing of kernels and tools is fetched by setup.sh, once.
# Exit status: 0 all passed, 1 a case failed, 2 wrong use, 77 nothing could be
# tested here (one line says why), 130 or 143 interrupted.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
. "$VM_DIR/hostlib.sh"

TARGET=xshelf KERNEL=stock RESULTS='' KEEP=0 NAME=xshelf-vm$$ WANT=() VM_QUICK=0 VM_TARGET_CMD='' LIST=0
while (($#)); do
    case $1 in
    --target | --target-cmd | --kernel | --accel | --results | --name)
        (($# > 1)) || vm_usage_error "$1 needs a value" ;;&
    --target) TARGET=$2; shift ;;
    --target-cmd) TARGET=cmd VM_TARGET_CMD=$2; shift ;;
    --kernel) KERNEL=$2; shift ;;
    --accel) export XSHELF_VM_ACCEL=$2; shift ;;
    --results) RESULTS=$2 KEEP=1; shift ;;
    --name) NAME=$2; shift ;;
    --quick) VM_QUICK=1 ;;
    --list) LIST=1 ;;
    -h | --help) vm_help; exit 0 ;;
    -*) vm_usage_error "unknown option $1" ;;
    *) WANT+=("$1") ;;
    esac
    shift
done
[[ $KERNEL == stock || $KERNEL == new ]] || vm_usage_error "--kernel is stock or new, not '$KERNEL'"
[[ ${XSHELF_VM_ACCEL:-tcg} =~ ^(kvm|tcg)$ ]] || vm_usage_error "--accel is kvm or tcg, not '$XSHELF_VM_ACCEL'"
if ((LIST)); then
    for f in "$VM_DIR"/cases/*.sh; do printf '%-20s %s\n' "$(basename "$f" .sh)" "$(sed -n '1s/^# //p' "$f")"; done
    exit 0
fi
if ((VM_QUICK)); then
    ((${#WANT[@]} == 0)) || vm_usage_error "--quick names its cases itself: leave out ${WANT[*]}"
    WANT=(01 02 03 06 23)
fi

# ------------------------------------------------------------------ the cases
CASES=()
for f in "$VM_DIR"/cases/*.sh; do
    ((${#WANT[@]})) || { CASES+=("$f"); continue; }
    for w in "${WANT[@]}"; do [[ ${f##*/} == "$w"* ]] && { CASES+=("$f"); break; }; done
done
for w in ${WANT[@]+"${WANT[@]}"}; do
    [[ " ${CASES[*]##*/}" == *" $w"* ]] || vm_usage_error "no case begins with '$w'; there are: $(cd "$VM_DIR/cases" && echo [0-9]*)"
done

# ----------------------------------------------------------------- the target
if [[ $TARGET == */* ]]; then VM_PROFILE=$(readlink -f "$TARGET"); else VM_PROFILE=$VM_DIR/targets/$TARGET.sh; fi
[[ -r $VM_PROFILE ]] || vm_usage_error "no target profile $VM_PROFILE"
export VM_DIR VM_CACHE VM_PROFILE VM_TARGET_CMD VM_QUICK VM_KERNEL=$KERNEL
export VM_TARGET_NS=$NAME-tgt VM_SWITCH_NS=$NAME-sw
# shellcheck source=targets/xshelf.sh
. "$VM_PROFILE"
WHAT=$TARGET
if declare -F target_check >/dev/null; then
    WHAT=$(target_check) || { vm_log "$WHAT"; exit 2; }
fi
# A target that runs in a machine of its own asks for a tap with this many queues.
VMQ=${TARGET_TAP_QUEUES:-0}

# ------------------------------------------------------- what has to be there
((EUID == 0)) || vm_cannot "they need root (network namespaces, taps, raw sockets)"
NEED=(host rootfs "$KERNEL" accel)
[[ $TARGET == *vblade* || $VM_TARGET_CMD == *vblade* ]] && NEED+=(vblade)
((VMQ)) && NEED+=(new)
for f in "${CASES[@]}"; do
    for p in $(vm_header "$f" part); do [[ " ${NEED[*]} " == *" $p "* ]] || NEED+=("$p"); done
done
if ! MISSING=$("$VM_DIR/setup.sh" --check "${NEED[@]}"); then
    vm_log "$VM_CACHE lacks: $MISSING; running setup.sh for them (once, a minute or so, up to 400 MB of downloads)"
    SETUP=$("$VM_DIR/setup.sh" "${NEED[@]}" 2>&1)
    rc=$?
    case $rc in
    0) ;;
    "$VM_SKIPPED") tail -n 1 <<<"$SETUP" >&2; exit $VM_SKIPPED ;;
    *) echo "$SETUP" >&2; vm_die "setup.sh failed (status $rc)" ;;
    esac
fi
"$VM_DIR/net.sh" down "$NAME"
if ! O=$("$VM_DIR/net.sh" up "$NAME" 2>&1); then
    "$VM_DIR/net.sh" down "$NAME"
    vm_cannot "no test network can be made here: $(tail -n 1 <<<"$O")"
fi

if ((!KEEP)); then RESULTS=$(mktemp -d "${TMPDIR:-/tmp}/xshelf-vm-results.XXXXXX"); fi
mkdir -p "$RESULTS" || vm_die "cannot make the directory $RESULTS"
RESULTS=$(readlink -f "$RESULTS")

# ------------------------------------------------------------------- tidy up
PASS=0 FAIL=0 SKIP=0 CHILD='' CURRENT=''
tidy_case() { # nothing of a case outlives it, whatever it did
    [[ ${VM_STATE:-} && -d $VM_STATE ]] || return 0
    vm_stop_all KILL >/dev/null
    [[ -e $VM_STATE/cap.pid ]] && kill "$(<"$VM_STATE/cap.pid")" 2>/dev/null
    cp "$VM_STATE"/*.log "${VM_STATE%/*}/" 2>/dev/null
    rm -rf "$VM_STATE"
}
cleanup() {
    trap '' INT TERM
    if [[ $CHILD ]] && kill -TERM "$CHILD" 2>/dev/null; then
        vm_wait_gone "$CHILD" 20 || kill -KILL "$CHILD" 2>/dev/null
    fi
    tidy_case
    "$VM_DIR/net.sh" down "$NAME"
    if ((!KEEP && FAIL == 0)) && [[ ! $CURRENT ]]; then rm -rf "$RESULTS"; fi
}
interrupted() { # SIGNAL STATUS
    vm_log "SIG$1 during ${CURRENT:-the start}: tidying up; $PASS passed, $FAIL failed, $SKIP skipped so far; logs: $RESULTS"
    exit "$2"
}
trap cleanup EXIT
trap 'interrupted INT 130' INT
trap 'interrupted TERM 143' TERM

# A shell waiting for a foreground command takes a signal only when it ends;
# waiting for one in the background it takes it at once.
run() { # COMMAND...
    local rc
    "$@" &
    CHILD=$!
    wait "$CHILD"
    rc=$?
    CHILD=''
    return $rc
}

run_case() { # FILE: sets RESULT and DETAIL
    local f=$1 name log slots size mtu nics ports queues targets timeout shelf kind i n j opts o need image exports=() rc
    name=$(basename "$f" .sh)
    log=$RESULTS/$name
    rm -rf "$log"
    mkdir -p "$log"
    slots=$(vm_header "$f" slots) size=$(vm_header "$f" size) mtu=$(vm_header "$f" mtu)
    nics=$(vm_header "$f" nics) ports=$(vm_header "$f" ports) queues=$(vm_header "$f" queues)
    targets=$(vm_header "$f" targets) timeout=$(vm_header "$f" timeout) shelf=$(vm_header "$f" shelf) kind=$(vm_header "$f" kind)
    # A guard against a hang, no measure of speed: far above what a busy machine needs.
    timeout=${timeout:-600}
    RESULT=fail DETAIL=''
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
    i=${nics:-1} o=''
    for ((; i > 0; i--)); do o+=${queues:-1},; done
    export VM_TARGET_TAP=tap${nics:-1}
    if ! "$VM_DIR/net.sh" up "$NAME" --mtu "$VM_MTU" --taps $((${nics:-1} + (VMQ > 0))) \
        --ports "${ports:-1}" --queues 4 --tap-queues "$o$VMQ" 2>"$log/net.log"; then
        DETAIL="net.sh: $(tail -n 1 "$log/net.log")"
        return
    fi
    for ((i = 0; i < ${ports:-1}; i++)); do vm_target_mac "$i" >"$VM_STATE/mac$i"; done
    ((VMQ)) && vm_guest_mac 16 >"$VM_STATE/mac0"
    # "INSTANCE SHELF SLOT": target N of several has a shelf of its own.
    for ((n = 0; n < ${targets:-1}; n++)); do
        for ((i = 0; i < ${slots:-1}; i++)); do exports+=("$n $((${shelf:-0} + n)) $i"); done
    done
    for o in $(vm_header "$f" also); do exports+=("0 ${o%.*} ${o#*.}"); done
    for ((j = 0; j < ${#exports[@]}; j++)); do
        read -r n o i <<<"${exports[$j]}"
        image=$VM_STATE/image$j
        opts=$(sed -n "s/^#: size-of ${i}[[:space:]]\{1,\}//p" "$f")
        truncate -s "$(vm_bytes "${opts:-${size:-64M}}")" "$image" || { DETAIL="cannot make the image"; return; }
        opts=$(sed -n "s/^#: opts ${i}[[:space:]]\{1,\}//p" "$f" | tr '\n' ' ')
        opts=${opts//GUESTMAC/$(vm_guest_mac 0)}
        # A case may want content on its image: "#: fill 4M" random bytes at the front.
        i=$(vm_header "$f" fill)
        [[ $i ]] && dd if=/dev/urandom of="$image" bs=1M count="${i%M}" conv=notrunc status=none
        echo "${exports[$j]#* } $image $opts" >>"$VM_STATE/exports${targets:+@$n}"
    done
    if [[ $kind == host ]]; then
        run timeout "$timeout" bash "$f" >"$log/out.log" 2>&1
        rc=$?
        [[ -e $VM_STATE/detail ]] && DETAIL=$(<"$VM_STATE/detail")
    else
        DETAIL=$(vm_target_up 2>&1)
        rc=$?
        if ((rc == VM_SKIPPED)); then
            RESULT=skip DETAIL="the target lacks an option of this case: $(tr '\n' ' ' < <(sed -n 's/^#: opts [0-9]* *//p' "$f"))"
            return
        elif ((rc)); then
            DETAIL="target did not start: $DETAIL"
            return
        fi
        echo "export VM_QUICK=$VM_QUICK" >"$VM_STATE/env"
        run "$VM_DIR/guest-run.sh" --quiet --netns "$VM_SWITCH_NS" --tap tap0 --nics "${nics:-1}" --queues "${queues:-1}" \
            --mtu "$VM_MTU" --kernel "$KERNEL" --script "$f" --shelf "${shelf:-0}" --slots "${slots:-1}" \
            --timeout "$timeout" --handler "$VM_DIR/handler.sh" --log "$log" --env "$VM_STATE/env" \
            --aoe-params "$(vm_header "$f" aoe)" >"$log/run.log" 2>&1
        rc=$?
        [[ -e $log/detail ]] && DETAIL=$(<"$log/detail")
    fi
    case $rc in
    0) RESULT=pass ;;
    "$VM_SKIPPED") RESULT=skip ;;
    124) DETAIL="hung: ended after ${timeout}s; ${DETAIL:-$(tail -n 1 "$log/out.log" 2>/dev/null)}" ;;
    125) DETAIL="the guest died; ${DETAIL:-$(tail -n 1 "$log/qemu.log" 2>/dev/null) $(tail -n 1 "$log/console.log" 2>/dev/null)}" ;;
    *) DETAIL=${DETAIL:-status $rc: $(tail -n 1 "$log/out.log" 2>/dev/null)} ;;
    esac
    # The target has to have survived, to stop when told to, and to leave no trace of a defect.
    fault() { RESULT=fail DETAIL="$1${DETAIL:+ ($DETAIL)}"; }
    if [[ $RESULT == skip ]]; then return; fi
    if [[ $kind != host ]]; then
        o=$("$VM_DIR/handler.sh" target-alive 2>&1) || fault "target: $o"
    fi
    o=$(target_stop TERM 2>&1) || fault "target: $o"
    if declare -F target_verify >/dev/null; then
        o=$(target_verify 2>&1) || fault "target: $o"
    fi
}

echo "target: $WHAT; initiator: Linux $(<"$VM_CACHE/kernels/$KERNEL/version"), $(vm_accel)"
printf '%-20s %-6s %7s  %s\n' case result seconds detail
for f in "${CASES[@]}"; do
    CURRENT=$(basename "$f" .sh)
    T=$(vm_now)
    run_case "$f"
    tidy_case
    "$VM_DIR/net.sh" down "$NAME"
    case $RESULT in
    pass) PASS=$((PASS + 1)) ;;
    skip) SKIP=$((SKIP + 1)) ;;
    *) FAIL=$((FAIL + 1)) ;;
    esac
    DETAIL=${DETAIL//$'\n'/; } DETAIL=${DETAIL%"${DETAIL##*[![:space:]]}"}
    if [[ $RESULT == skip ]]; then
        printf '%-20s %-6s %7s\n' "$CURRENT" skip "$(vm_since "$T")"
        # On a line of its own: those who collect results look for it.
        echo "SKIPPED: $CURRENT: ${DETAIL:-the case did not say why}"
    else
        printf '%-20s %-6s %7s  %s\n' "$CURRENT" "$RESULT" "$(vm_since "$T")" "$DETAIL"
    fi
    CURRENT=''
done
if ((KEEP || FAIL)); then echo "logs: $RESULTS"; fi
echo "$PASS passed, $FAIL failed, $SKIP skipped"
((FAIL == 0)) || exit 1
((PASS > 0)) || exit $VM_SKIPPED
