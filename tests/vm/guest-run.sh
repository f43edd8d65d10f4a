#!/bin/bash
# Boot the initiator guest on a tap and run one script in it.
#
#   guest-run.sh --netns NS --tap TAP --script FILE [--mtu 9000] [--timeout 120]
#       [--nics N] [--queues N] [--kernel stock|new] [--shelf N] [--slots N]
#       [--no-aoe] [--aoe-params "aoe_deadsecs=30"] [--env FILE] [--add FILE]...
#       [--handler COMMAND] [--log DIR] [--smp N] [--mem MB] [--qemu "MORE ARGS"]
#       [--modules "nvme ahci"] [--nic-props PROPS] [--mac-base N] [--append ARGS]
#       [--machine TYPE] [--pidfile FILE (of QEMU)] [--tries N (starts)] [--quiet]
#
# Prints what the script printed; exits with the script's status, 124 after
# the timeout, 125 when the guest died without a report.  TAP is the first
# interface; with --nics N the others are the taps that follow it (tap0, tap1).
# The script may call the host (see guest/lib.sh); each call runs
# "COMMAND words..." here and its output and status go back to the script.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

ARGS=("$@")
NETNS='' TAP=tap0 SCRIPT='' MTU=9000 TIMEOUT=120 NICS=1 QUEUES=1 KERNEL=stock SHELF=0 SLOTS=1
AOE=1 AOE_PARAMS='' ENVF='' HANDLER=false LOG='' SMP=2 MEM=512 QEMU_ARGS='' ADD=() MODS=''
QUIET=0 TRIES=4 INIT_APPEND='' NIC_PROPS='' MAC_BASE=0 MACHINE=pc,hpet=off PIDFILE=''
while (($#)); do
    case $1 in
    --netns) NETNS=$2; shift ;;
    --tap) TAP=$2; shift ;;
    --script) SCRIPT=$2; shift ;;
    --mtu) MTU=$2; shift ;;
    --timeout) TIMEOUT=$2; shift ;;
    --nics) NICS=$2; shift ;;
    --queues) QUEUES=$2; shift ;;
    --kernel) KERNEL=$2; shift ;;
    --shelf) SHELF=$2; shift ;;
    --slots) SLOTS=$2; shift ;;
    --no-aoe) AOE=0 ;;
    --aoe-params) AOE_PARAMS=$2; shift ;;
    --modules) MODS=$2; shift ;;
    --env) ENVF=$2; shift ;;
    --add) ADD+=("$2"); shift ;;
    --handler) HANDLER=$2; shift ;;
    --log) LOG=$2; shift ;;
    --smp) SMP=$2; shift ;;
    --mem) MEM=$2; shift ;;
    --qemu) QEMU_ARGS=$2; shift ;;
    --append) INIT_APPEND=$2; shift ;;
    --nic-props) NIC_PROPS=,$2; shift ;;
    --mac-base) MAC_BASE=$2; shift ;;
    --machine) MACHINE=$2; shift ;;
    --pidfile) PIDFILE=$2; shift ;;
    --tries) TRIES=$2; shift ;;
    --quiet) QUIET=1 ;;
    *) vm_die "unknown option $1" ;;
    esac
    shift
done
[[ -r $SCRIPT ]] || vm_die "--script is needed"
[[ $TAP ]] || NICS=0
K=$(vm_kernel_dir "$KERNEL") || exit 1
W='' QPID=''
cleanup() {
    [[ $W ]] || return
    if [[ $QPID ]] && kill -0 "$QPID" 2>/dev/null; then
        kill "$QPID" 2>/dev/null
        vm_wait_gone "$QPID" 3 || kill -9 "$QPID" 2>/dev/null
    fi
    if [[ $LOG ]]; then
        mkdir -p "$LOG"
        cp "$W"/{console.log,out.log,qemu.log} "$LOG/" 2>/dev/null
    fi
    rm -rf "$W"
}
trap cleanup EXIT
trap 'exit 143' TERM INT
W=$(mktemp -d "${TMPDIR:-/tmp}/xshelf-vm.XXXXXX")

# ------------------------------------------------------------------- payload
mkdir -p "$W/p/payload"
cp "$VM_DIR"/guest/{main.sh,lib.sh,aoecli.py} "$W/p/payload/"
install -m 755 "$VM_DIR/guest/init" "$W/p/init"
cp "$SCRIPT" "$W/p/payload/script"
for a in ${ADD[@]+"${ADD[@]}"}; do cp -a "$a" "$W/p/payload/"; done
{
    printf 'VM_MTU=%q VM_AOE=%q VM_AOE_PARAMS=%q VM_SHELF=%q VM_SLOTS=%q VM_MODULES=%q VM_TIMEOUT=%q\n' \
        "$MTU" "$AOE" "$AOE_PARAMS" "$SHELF" "$SLOTS" "$MODS" "$TIMEOUT"
    [[ $ENVF ]] && cat "$ENVF"
} >"$W/p/payload/config"
# The initramfs is padded to four bytes, so that a second archive may follow.
{
    cat "$K/initrd.img"
    (cd "$W/p" && find . -print0 | cpio -0 -o -H newc -R 0:0 --quiet)
} >"$W/initrd"

# ---------------------------------------------------------------------- qemu
mkfifo "$W/ctl.in" "$W/ctl.out"
NET=()
for ((i = 0; i < NICS; i++)); do
    t=${TAP%%[0-9]*}$((${TAP##*[!0-9]} + i))
    mq='' dq=''
    ((QUEUES > 1)) && mq=,queues=$QUEUES dq=,mq=on,vectors=$((2 * QUEUES + 2))
    NET+=(-netdev "tap,id=n$i,ifname=$t,script=no,downscript=no,vhost=off$mq"
        -device "virtio-net-pci,netdev=n$i,mac=$(vm_guest_mac $((MAC_BASE + i))),romfile=$dq$NIC_PROPS")
done
# shellcheck disable=SC2054,SC2206  # commas are QEMU's; --qemu gives words
CMD=(qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none
    -accel "$(vm_accel_args)" -M "$MACHINE" -cpu max -smp "$SMP" -m "$MEM"
    -kernel "$K/vmlinux" -initrd "$W/initrd"
    -append "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on rcupdate.rcu_expedited=1 $INIT_APPEND"
    -serial "file:$W/console.log"
    -drive "if=none,id=root,file=$VM_CACHE/rootfs.img,format=raw,readonly=on,file.locking=off"
    -device virtio-blk-pci,drive=root,serial=vmroot
    -device virtio-rng-pci
    -device virtio-serial-pci
    -chardev "file,id=out,path=$W/out.log" -device virtserialport,chardev=out,name=vm.out
    -chardev "pipe,id=ctl,path=$W/ctl" -device virtserialport,chardev=ctl,name=vm.ctl
    ${NET[@]+"${NET[@]}"} $QEMU_ARGS)
exec {IN}<>"$W/ctl.out" {OUT}<>"$W/ctl.in"
T0=$(vm_now)
# A start takes 3 seconds; this only ends one that hangs.
BOOT_GUARD=90
: >"$W/out.log"
if [[ $NETNS ]]; then
    ip netns exec "$NETNS" "${CMD[@]}" >"$W/qemu.log" 2>&1 {IN}<&- {OUT}<&- &
else
    "${CMD[@]}" >"$W/qemu.log" 2>&1 {IN}<&- {OUT}<&- &
fi
QPID=$!
[[ $PIDFILE ]] && echo "$QPID" >"$PIDFILE"

# ------------------------------------------------- answer calls, await the end
RC=125 START=$SECONDS DEADLINE=$((SECONDS + TIMEOUT)) BOOT='' part=''
while :; do
    line=''
    if IFS= read -r -t 0.5 -u "$IN" line; then
        line=$part$line part=''
        case $line in
        READY*) BOOT=$(vm_since "$T0") ;;
        CALL*)
            # shellcheck disable=SC2086
            answer=$($HANDLER ${line#CALL } 2>&1 {IN}<&- {OUT}<&-)
            rc=$?
            printf '%d %s\n' "$rc" "$(base64 -w0 <<<"$answer")" >&"$OUT"
            ;;
        DETAIL*) [[ $LOG ]] && mkdir -p "$LOG" && echo "${line#DETAIL }" >"$LOG/detail" ;;
        EXIT*) RC=${line#EXIT }; break ;;
        esac
    else
        part+=$line # a line cut in two by the time-out of read
        if ! kill -0 "$QPID" 2>/dev/null; then
            RC=125
            break
        fi
    fi
    if [[ ! $BOOT ]] && ((SECONDS - START > BOOT_GUARD)); then
        RC=125
        break
    fi
    if ((SECONDS >= DEADLINE)); then
        RC=124
        break
    fi
done
# QEMU's emulation of several processors loses a race now and then when the
# machine is busy, and the guest's kernel dies of it while it starts (an "int3"
# oops).  That says nothing about the target: start over.
if ((RC == 125)) && [[ ! $BOOT ]] && ((${VM_TRY:-1} < TRIES)) && [[ -s $W/console.log || $SECONDS -gt 3 ]]; then
    vm_log "the guest died while starting (try ${VM_TRY:-1}), once more"
    tail -n 3 "$W/qemu.log" >&2
    cleanup
    export VM_TRY=$((${VM_TRY:-1} + 1))
    exec "$0" "${ARGS[@]}"
fi
((RC == 124)) || vm_wait_gone "$QPID" 3
if [[ $LOG ]]; then mkdir -p "$LOG"; echo "${BOOT:-none}" >"$LOG/boot-seconds"; fi
((QUIET)) || { cat "$W/out.log"; vm_log "guest ready after ${BOOT:-?}s, ended after $(vm_since "$T0")s, status $RC"; }
if ((RC == 125 || RC == 124)); then
    tail -n 15 "$W/qemu.log" "$W/console.log" >&2
fi
exit "$RC"
