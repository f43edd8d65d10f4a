# Profile that runs the target in a machine of its own (appliance-vm.sh), its
# slots on that machine's NVMe namespaces and AHCI disk.  Here with vblade; a
# profile for another target differs in what is carried in and in SERVE.
# Stopping it is a power failure: what the target had not written is lost.
# shellcheck shell=bash
TARGET_TAP_QUEUES=2
APPLIANCE_CARRY=("$VM_CACHE/target/usr/sbin/vblade")
# One line of shell for each slot; $shelf $slot $dev $mtu are set.
# shellcheck disable=SC2016  # expanded in the guest
APPLIANCE_SERVE='/payload/vblade -d -b 64 $opts $shelf $slot eth0 $dev &'
# Shell for after them, and the machine's kernel.
APPLIANCE_LAST='' APPLIANCE_KERNEL=new

target_features() { echo readonly mask config maskcmd reserve; }

target_start() {
    local shelf=$1 slot=$2 image=$3 o opts='' n d
    shift 3
    for o in "$@"; do
        case $o in
        readonly) opts+=" -r" ;;
        direct | sync) ;;
        mask=*) opts+=" -m ${o#mask=}" ;;
        *) return 77 ;;
        esac
    done
    mkdir -p "$VM_STATE/vm"
    n=$(find "$VM_STATE/vm" -name "*.img" | wc -l)
    case $n in
    0) o=nvme1 d=/dev/appliance/nvme1 ;;
    1) o=nvme2 d=/dev/appliance/nvme2 ;;
    2) o=ahci d=/dev/appliance/ahci ;;
    *) return 77 ;;
    esac
    ln -s "$image" "$VM_STATE/vm/$o.img"
    printf 'shelf=%s slot=%s dev=%s opts="%s"\n%s\n' "$shelf" "$slot" "$d" "$opts" "$APPLIANCE_SERVE" >>"$VM_STATE/vm/script"
}

target_commit() {
    local i add=()
    for i in "${APPLIANCE_CARRY[@]}"; do add+=(--add "$i"); done
    {
        # shellcheck disable=SC2016
        echo '. /payload/lib.sh; mtu=$VM_MTU'
        cat "$VM_STATE/vm/script"
        echo "$APPLIANCE_LAST"
        echo "sleep 0.5; host $VM_STATE/vm/ready; wait"
    } >"$VM_STATE/vm/full"
    mkdir -p "$VM_STATE/pids"
    setsid "$VM_DIR/appliance-vm.sh" --script "$VM_STATE/vm/full" --netns "$VM_SWITCH_NS" --tap "$VM_TARGET_TAP" \
        --mtu "$VM_MTU" --kernel "$APPLIANCE_KERNEL" --queues "$TARGET_TAP_QUEUES" --disks "$VM_STATE/vm" --timeout 3600 --hugepages 64 --mem 768 \
        --handler touch --pidfile "$VM_STATE/pids/vm" --log "$VM_CASE_LOG/vm" "${add[@]}" \
        >>"$VM_STATE/vm.log" 2>&1 </dev/null &
    for ((i = 0; i < 300; i++)); do [[ -e $VM_STATE/vm/ready ]] && return 0; sleep 0.1; done
    echo "the machine did not come up"
    return 1
}

target_stop() {
    # QEMU needs no grace: TERM and KILL are alike a switch turned off.
    vm_stop_all "${1:-TERM}"
    sleep 0.7 # its tap has to be free, and guest-run.sh to have tidied up
    rm -rf "$VM_STATE/vm"
}
