#!/bin/bash
# Runs inside the guest: configure the interfaces, load the initiator, run
# the script of the payload, report how it ended, and switch the machine off.
. /payload/config

port() { # NAME: device node of a named virtio port
    local p
    for p in /sys/class/virtio-ports/*; do
        [[ $(<"$p/name") == "$1" ]] && { echo "/dev/${p##*/}"; return; }
    done
}
out=$(port vm.out) ctl=$(port vm.ctl)
exec >"${out:-/dev/console}" 2>&1 </dev/null
exec 8<>"${ctl:-/dev/null}"
: >/run/host.lock

finish() {
    [[ -e /run/detail ]] && echo "DETAIL $(tr '\n' ' ' </run/detail)" >&8
    dmesg | tail -n 40 >/dev/console
    echo "EXIT $1" >&8
    echo o >/proc/sysrq-trigger
    sleep 60
}
trap 'finish 125' TERM

echo 1 >/proc/sys/kernel/sysrq
for i in all default; do echo 1 >"/proc/sys/net/ipv6/conf/$i/disable_ipv6" 2>/dev/null; done
ip link set lo up
ifs=()
for n in /sys/class/net/eth*; do
    [[ -e $n ]] || continue
    n=${n##*/}
    ip link set "$n" mtu "$VM_MTU" && ip link set "$n" up && ifs+=("$n")
done
for n in "${ifs[@]}"; do
    for ((i = 0; i < 50; i++)); do
        [[ $(cat "/sys/class/net/$n/carrier" 2>/dev/null) == 1 ]] && break
        sleep 0.1
    done
done
if ((VM_AOE)); then
    # shellcheck disable=SC2086  # parameters are words
    modprobe aoe aoe_iflist="${ifs[*]}" $VM_AOE_PARAMS || { echo "cannot load aoe"; finish 125; }
fi
echo "READY $(cut -d' ' -f1 /proc/uptime) $(uname -r)" >&8
# Shortly before the host gives up: what hangs, and where, to the console.
(
    sleep $((VM_TIMEOUT > 20 ? VM_TIMEOUT - 12 : VM_TIMEOUT))
    { echo "== about to time out"; ps -eo pid,ppid,stat,wchan:24,args; cat /proc/uptime; } >/dev/console
    echo w >/proc/sysrq-trigger
) &
cd /root || finish 125
export VM_IFS="${ifs[*]}"
bash /payload/script
finish $?
