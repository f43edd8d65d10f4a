#!/bin/bash
# Build or remove the network of one test.
#
#   net.sh up   NAME [--mtu 9000] [--taps 1] [--ports 1] [--queues 4] [--tap-queues 1,1..]
#   net.sh down NAME
#   net.sh show NAME
#
# Two namespaces: NAME-sw holds the switch (bridges br0.., the guest's taps
# tap0.., and the near ends tgt0p.. of the target's links), NAME-tgt holds
# nothing but the target's interfaces tgt0...  Link J and tap J sit on bridge
# J modulo the number of ports, so "--ports 2 --taps 2" gives two disjoint
# paths and "--taps 2" two initiator ports (or an initiator's and an
# appliance's) on one segment.
# A case that runs on this machine may make NAME-ini, for an initiator; it goes with the others.
# Nothing outside these namespaces is touched.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

CMD=${1:-} NAME=${2:-}
[[ $CMD && $NAME ]] || vm_die "usage: net.sh up|down|show NAME [--mtu N] [--taps N] [--ports N] [--queues N]"
shift 2
MTU=9000 TAPS=1 PORTS=1 QUEUES=4 TAPQ=1
while (($#)); do
    case $1 in
    --mtu) MTU=$2; shift ;;
    --taps) TAPS=$2; shift ;;
    --ports) PORTS=$2; shift ;;
    --queues) QUEUES=$2; shift ;;
    --tap-queues) TAPQ=$2; shift ;;
    *) vm_die "unknown option $1" ;;
    esac
    shift
done
SW=$NAME-sw TGT=$NAME-tgt

# Raw frames must arrive as they were sent: no segmentation, coalescing,
# checksum or VLAN work on the way.
plain() { # NAMESPACE INTERFACE
    local f
    for f in tso gso gro lro tx rx rxvlan txvlan sg; do
        [[ $f == sg && $2 == tap* ]] && continue
        ip netns exec "$1" ethtool -K "$2" "$f" off >/dev/null 2>&1 || true
    done
}
namespace() {
    ip netns add "$1"
    # shellcheck disable=SC2016  # expanded by the inner shell
    ip netns exec "$1" sh -c 'for i in all default; do echo 1 >/proc/sys/net/ipv6/conf/$i/disable_ipv6; done' 2>/dev/null || true
    ip -n "$1" link set lo up
}
down() {
    local n p
    for n in "$SW" "$TGT" "$NAME-ini"; do
        [[ -e /run/netns/$n ]] || continue
        # Deleting a namespace deletes its links, once nothing runs in it; what still
        # does was started by the test, for nobody else knows these namespaces.
        for p in $(ip netns pids "$n"); do kill -KILL "$p" 2>/dev/null || true; done
        ip netns del "$n" || true
    done
}
up() {
    local i j q
    down
    namespace "$SW"
    namespace "$TGT"
    for ((i = 0; i < PORTS; i++)); do
        ip -n "$SW" link add "br$i" address "02:ae:00:00:02:$(printf %02x $((0x10 + i)))" \
            type bridge stp_state 0 forward_delay 0 mcast_snooping 0
        ip -n "$SW" link add "tgt${i}p" address "02:ae:00:00:03:$(printf %02x $((0x10 + i)))" \
            numrxqueues "$QUEUES" numtxqueues "$QUEUES" type veth \
            peer name "tgt$i" numrxqueues "$QUEUES" numtxqueues "$QUEUES" \
            address "$(vm_target_mac "$i")" netns "$TGT"
        ip -n "$SW" link set "tgt${i}p" mtu "$MTU" master "br$i" up
        ip -n "$TGT" link set "tgt$i" mtu "$MTU" up
        plain "$SW" "tgt${i}p"
        plain "$TGT" "tgt$i"
    done
    for ((j = 0; j < TAPS; j++)); do
        i=$((j % PORTS))
        # --queues are those of the veth pairs.  A tap is made for one queue or
        # for several; its guest must then be given --queues to match.
        IFS=, read -r -a q <<<"$TAPQ"
        if ((${q[$j]:-${q[-1]}} > 1)); then
            ip -n "$SW" tuntap add "tap$j" mode tap multi_queue
        else
            ip -n "$SW" tuntap add "tap$j" mode tap
        fi
        ip -n "$SW" link set "tap$j" address "02:ae:00:00:04:$(printf %02x $((0x10 + j)))" mtu "$MTU" master "br$i" up
        plain "$SW" "tap$j"
    done
    for ((i = 0; i < PORTS; i++)); do ip -n "$SW" link set "br$i" mtu "$MTU" up; done
}
case $CMD in
up) up ;;
down) down ;;
show) for n in "$SW" "$TGT"; do echo "== $n"; ip -n "$n" -br link; done ;;
*) vm_die "unknown command $CMD" ;;
esac
