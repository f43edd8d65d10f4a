#!/bin/bash
# Carries out what a script in the guest asks of the host:
#   handler.sh CALL [ARGUMENTS]        (environment: as set by run.sh)
set -uo pipefail
. "$(dirname "$0")/lib.sh"
. "$VM_DIR/hostlib.sh"
# shellcheck source=targets/xshelf.sh
. "$VM_PROFILE"

image() { awk -v s="$1" '$1 "." $2 "" == s "" || $2 "" == s "" { print $3; exit }' "$VM_STATE"/exports*; } # SLOT or SHELF.SLOT
sw() { ip netns exec "$VM_SWITCH_NS" "$@"; }
call=$1
shift
case $call in
ping) echo pong ;;
target-stop) VM_INSTANCE=${2:-} target_stop "${1:-TERM}" ;; # [SIGNAL] [INSTANCE]
target-start) vm_target_up "$@" ;; # [INSTANCE]
target-restart) # [SECONDS DOWN] [SIGNAL] [INSTANCE]
    VM_INSTANCE=${3:-} target_stop "${2:-KILL}" || exit 1
    sleep "${1:-1}"
    vm_target_up ${3:+"$3"}
    ;;
target-alive) vm_alive ;;
has) [[ " $(target_features) " == *" $1 "* ]] ;;
image-size) stat -c %s "$(image "${1:-0}")" ;;
image-sum) sha256sum <"$(image "${1:-0}")" | cut -d' ' -f1 ;;
image-grep) grep -a -c -e "$2" "$(image "$1")" ;;
image-range) # SLOT LBA SECTORS: sha256 of that range
    dd if="$(image "$1")" bs=512 skip="$2" count="$3" status=none | sha256sum | cut -d' ' -f1 ;;
image-resize) truncate -s "$(vm_bytes "$2")" "$(image "$1")" ;;
qemu) "$VM_DIR/qmp.py" "$VM_STATE/monitor" "$@" ;; # COMMAND of the monitor, where the case's machine has one
target-mac) cat "$VM_STATE/mac${1:-0}" ;;
link) ip -n "$VM_SWITCH_NS" link set "$1" "$2" ;;
loss) # PERCENT (decimals allowed) | off: drop that share of the AoE frames, both ways
    if [[ $1 == off ]]; then
        sw nft list table bridge xshelf_vm | sed -n 's/.*counter packets \([0-9]*\).*/\1/p'
        sw nft delete table bridge xshelf_vm
    else
        sw nft add table bridge xshelf_vm
        sw nft add chain bridge xshelf_vm loss '{ type filter hook forward priority 0 ; }'
        sw nft add rule bridge xshelf_vm loss ether type 0x88a2 numgen random mod 100000 '<' \
            "$(awk -v p="$1" 'BEGIN { printf "%d", p * 1000 }')" counter drop
    fi ;;
capture) # start | stop: then prints "frames=N max=N over1514=N" of what passed the first initiator port
    if [[ $1 == start ]]; then
        rm -f "$VM_STATE/cap" "$VM_STATE/cap.err"
        setsid ip netns exec "$VM_SWITCH_NS" tcpdump -i tap0 -s 64 -B 8192 --immediate-mode -U -w "$VM_STATE/cap" \
            ether proto 0x88a2 >/dev/null 2>"$VM_STATE/cap.err" </dev/null &
        echo $! >"$VM_STATE/cap.pid"
        for _ in {1..100}; do grep -q listening "$VM_STATE/cap.err" 2>/dev/null && exit 0; sleep 0.05; done
        exit 1
    fi
    sleep 0.3
    kill -INT "$(<"$VM_STATE/cap.pid")" 2>/dev/null
    vm_wait_gone "$(<"$VM_STATE/cap.pid")" 5
    rm -f "$VM_STATE/cap.pid"
    tcpdump -enr "$VM_STATE/cap" 2>/dev/null |
        gawk 'match($0, /length ([0-9]+)/, m) { n++; if (m[1] > x) x = m[1]; if (m[1] > 1514) o++ }
             END { printf "frames=%d max=%d over1514=%d\n", n, x, o }' ;;
*) echo "unknown call $call"; exit 99 ;;
esac
