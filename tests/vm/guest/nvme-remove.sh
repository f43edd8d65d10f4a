# Runs in the machine of case 33: xshelf on NVMe disks there, its hosts in a network namespace beside it.
# shellcheck shell=bash
. /payload/lib.sh
X=/payload/xshelf
LOG=/run/xshelf.log
export SYSTEMD_IGNORE_CHROOT=1 # udev thinks little of a root directory that init has changed to

# ---- names for the disks, as any machine has them: a disk that comes back may be another /dev/nvme*
[[ -x /usr/lib/systemd/systemd-udevd ]] || fail "no udev in this machine's file system"
/usr/lib/systemd/systemd-udevd --daemon
udevadm trigger && udevadm settle || fail "udev"
pulled() { echo "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_xshelf$1"; } # a or b
for d in a b; do [[ -b $(pulled $d) ]] || fail "no $(pulled $d): $(ls /dev/disk/by-id)"; done
queue() { cat "/sys/class/block/$(basename "$(readlink -f "$1")")/queue/$2"; }
A=$(pulled a) B=$(pulled b) C=/dev/appliance/nvme1 D=/dev/appliance/nvme2
for d in $A:512 $B:4096 $C:512 $D:4096; do
    [[ $(queue "${d%:*}" logical_block_size) == "${d#*:}" ]] || fail "${d%:*} has blocks of $(queue "${d%:*}" logical_block_size) bytes"
    [[ $(queue "${d%:*}" write_cache) == "write back" && $(queue "${d%:*}" fua) == 1 ]] || fail "${d%:*} has no cache, or no FUA"
done
# A disk that says that its cache may be passed over.
echo "write through" >"/sys/class/block/$(basename "$(readlink -f $C)")/queue/write_cache"
mkfs.ext4 -q -F /dev/vdb && mkdir -p /mnt/files && mount /dev/vdb /mnt/files || fail "no file system for the file"
truncate -s 64M /mnt/files/image

# ---- the shelf, and its hosts
modprobe veth
ip netns add host
ip link add shelf0 mtu "$VM_MTU" type veth peer name host0 mtu "$VM_MTU" netns host
ip link set shelf0 up
ip -n host link set host0 up
in_host() { ip netns exec host "$@"; }
ask() { in_host python3 -I -S -B /payload/aoecli.py -i host0 "$@"; }
# One worker: whatever a slot does to it, it does to all of them.
$X serve --interface shelf0 --workers 1 --state-dir /run/state --control /run/control \
    "7.0=$A" "7.1=$C" "7.2=$D" 7.3=/mnt/files/image "7.4=$B" >$LOG 2>&1 &
SHELF=$!
alive() { kill -0 $SHELF 2>/dev/null || { cat $LOG; fail "xshelf has ended: $(tail -n 1 $LOG)"; }; }
# A guard against a hang, no measure of speed.
await() { # WHAT COMMAND...
    local what=$1 i
    shift
    for ((i = 0; i < 1200; i++)); do
        "$@" && return
        alive
        sleep 0.1
    done
    cat $LOG; $X status --control /run/control
    fail "still not, after two minutes: $what"
}
await "xshelf serves" grep -q " serving " $LOG
grep " serving " $LOG

status() { $X status --control /run/control >/run/status; }
is() { status; grep -q "^slot $1  $2 for " /run/status; } # SLOT CONDITION
words() { # SLOT WORD...: of the status for programs
    $X status --control /run/control --json >/run/status.json
    python3 -I -S -c 'import json, sys
slot = next(s for s in json.load(open("/run/status.json"))["slots"] if s["address"] == sys.argv[1])
print(*(slot[word] for word in sys.argv[2:]))' "$@"
}

# ---- what the status says of durability, and what the disks are really sent
status
while read -r address durable; do
    awk -v s="$address" -v d=", durable: $durable, " '$1 == "slot" { at = $2 } at == s && index($0, d) { ok = 1 } END { exit !ok }' \
        /run/status || fail "slot $address is not durable: $durable: $(grep -A 1 "^slot $address" /run/status)"
done <<<"7.0 yes (each write is synced)
7.1 yes (write-through cache)
7.2 yes (each write is synced)
7.3 yes (each write is synced)
7.4 yes (each write is synced)"
T=/sys/kernel/tracing
echo 1 >$T/events/block/block_rq_issue/enable
in_host $X bench host0 7.0 7.1 7.2 --mode write --destroy-data --seconds 1 --depth 4 --span 4M --json >/run/short.json ||
    { cat /run/short.json; fail "the first load"; }
for s in 0 1 2 4; do [[ $(ask -T 7.$s flush) == *" status=40"* ]] || fail "flush of 7.$s: $(ask -T 7.$s flush)"; done
echo 0 >$T/events/block/block_rq_issue/enable
cp $T/trace /run/trace
issued() { # PATH PATTERN: requests to the disk whose kind is like that
    local n
    n=$(tr : , <"/sys/class/block/$(basename "$(readlink -f "$1")")/dev" | tr -d '\n')
    grep -cE "block_rq_issue: $n $2 " /run/trace
}
for d in $A $D; do
    # W: a write; WF: with FUA; F: a flush.
    (($(issued $d 'WF[A-Z]*') > 0 && $(issued $d 'W[A-EG-Z]*') == 0)) ||
        fail "$d: $(issued $d 'WF[A-Z]*') writes with FUA, $(issued $d 'W[A-EG-Z]*') without"
    (($(issued $d 'F[A-Z]*') > 0)) || fail "$d: FLUSH CACHE did not reach it"
done
(($(issued $C 'WF[A-Z]*') == 0 && $(issued $C 'W[A-Z]*') > 0)) ||
    fail "$C: $(issued $C 'WF[A-Z]*') writes with FUA, $(issued $C 'W[A-Z]*') in all"
say "FUA: $(issued $A 'WF[A-Z]*') writes of 7.0, $(issued $D 'WF[A-Z]*') of 7.2; none of $(issued $C 'W[A-Z]*') of 7.1"

# ---- all slots under verified load: 7.1, 7.2 and 7.3 until the end; those that will lose their disks also by a host that
# ---- remembers what it wrote, and goes on whatever it is answered
load() { # REPORT ARGUMENTS...: in a subshell, so that its number is that of the process
    local report=$1
    shift
    exec ip netns exec host $X bench host0 "$@" --mode verify --destroy-data --span 4M --deadline 100 --rto-min 1 --json \
        >"$report" 2>"$report.err"
}
others_on=("$(basename "$(readlink -f $C)")" "$(basename "$(readlink -f $D)")" vdb)
declare -A keeper bench at
load /run/others.json 7.1 7.2 7.3 --depth 4 --seconds 3600 &
others=$!
for s in 7.0 7.4; do
    mkdir /run/$s
    in_host python3 -I -S -B /payload/keeper.py host0 $s 65536 512 /run/$s &
    keeper[$s]=$!
    load /run/$s.json $s --depth 2 --seconds 3600 &
    bench[$s]=$!
done
word() { sed -n "s|.*\b$2=\([^ ]*\).*|\1|p" "/run/$1/now" 2>/dev/null; }
wrote() { (($(word "$1" writes) + 0 >= $2)); }
refused() { (($(word "$1" ATA61/04) + 0 >= $2)); }
disk() { basename "$(readlink -f "$1")"; }
done_by() { awk '{ print $1 + $5 }' "/sys/class/block/$1/stat"; } # reads and writes that a disk has done
worked() { (($(done_by "$1") >= $2)); }
# What the log has said since the disk in question was touched.
since() { SAID=$(wc -l <$LOG); }
said() { tail -n +$((SAID + 1)) $LOG | grep "slot $1: ${2:-}"; }
lines() { said "$@" | wc -l; }

dropped() { ! readlink /proc/$SHELF/fd/* | grep -q -w "/dev/$1"; }

# The disk of SLOT has been taken away, which was NAME: all that has to be true of it then, and of the others.
gone() { # SLOT NAME
    local s=$1 name=$2 other d n
    await "slot $s has lost its disk" is "$s" gone
    await "its hosts are told so" refused "$s" $(($(word "$s" ATA61/04) + 200))
    status && fail "status ends with 0 while $s is gone"
    for other in 7.1 7.2 7.3; do
        grep -q "^slot $other  serving for " /run/status || fail "$other while $s is gone: $(grep "^slot $other" /run/status)"
    done
    [[ $(words "$s" condition why) == "gone "*" failed: No such device"* ]] || fail "status for programs: $(words "$s" condition why)"
    [[ $(ask -T "$s" query) == *" cfglen="* ]] || fail "$s: no answer to Query Config while its disk is gone"
    [[ $(ask -T "$s" identify) == *" status=40"* ]] || fail "$s: no IDENTIFY while its disk is gone"
    # The others get on with it, at every one of their disks.
    for d in "${others_on[@]}"; do at[$d]=$(done_by "$d"); done
    for d in "${others_on[@]}"; do
        await "$d, which serves another slot, has done 50 requests" worked "$d" $((at[$d] + 50))
    done
    kill -0 $others || fail "the load on the other slots has ended: $(tail -n 3 /run/others.json.err)"
    # The load that does not expect this has left the slot alone by now, for nothing but errors.
    if [[ ${bench[$s]} ]]; then
        wait "${bench[$s]}"
        (($? == 1)) || fail "the load on $s ended otherwise than with errors: $(tail -n 3 "/run/$s.json.err")"
        bench[$s]=
    fi
    # Said once, with so many frames refused; nor is anything else said twice.
    [[ $(lines "$s" "its device is gone: ") == 1 ]] || fail "$(lines "$s" "its device is gone: ") lines say that $s is gone"
    d=$(said "$s" | sed 's/^[^ ]* *//' | sort | uniq -d)
    [[ ! $d ]] || fail "said twice: $d"
    n=$(lines "$s")
    ((n <= 4)) || fail "$n lines about $s: $(said "$s")"
    # What is left of it is let go (newer kernels leave a dead controller in its place).
    await "xshelf has let go of $name" dropped "$name"
    say "$s gone: $(cat "/run/$s/now")"
}
# It is there again.
back() { # SLOT
    await "slot $1 has its disk again" is "$1" serving
    await "its host writes again" wrote "$1" $(($(word "$1" writes) + 100))
    [[ $(lines "$1" ".* is served again after ") == 1 ]] || fail "$(lines "$1" ".* is served again") lines say that $1 is served again"
    status || { cat /run/status; fail "status does not end with 0 when all is well again"; }
    say "$1 back: $(cat "/run/$1/now")"
}
for s in 7.0 7.4; do await "the host of $s has written" wrote $s 300; done

# ---- the controller of 7.0 is removed by its driver's own interface, and found again under another name
name=$(disk "$A")
dropped "$name" && fail "xshelf does not have $name open"
since
exec 7<"/dev/$name" # somebody else has it open, too, so that its name stays taken
echo 1 >"/sys/class/nvme/${name%n*}/device/remove" || fail "$name cannot be removed"
gone 7.0 "$name"
echo 1 >/sys/bus/pci/rescan
back 7.0
[[ $(disk "$A") != "$name" ]] || fail "it was to come back as another than $name"
exec 7<&-
renamed="$name as $(disk "$A")"

# ---- the disk of 7.4, of blocks of 4096 bytes, is pulled out of the machine
name=$(disk "$B")
since
out=$(host qemu device_del b) || fail "device_del: $out"
gone 7.4 "$name"
plugged() { out=$(host qemu "device_add nvme,id=b,drive=b,serial=xshelfb,logical_block_size=4096,physical_block_size=4096"); }
await "the machine takes the disk again" plugged
back 7.4
# Had anybody kept it open, its name would not have been free.
[[ $(disk "$B") == "$name" ]] || fail "$name came back as $(disk "$B")"

# ---- 7.0 once more: now its controller falls off the bus with commands in flight, which it never answers, nor its driver
# ---- any of its registers (they are moved away); the driver waits, resets, gives up
name=$(disk "$A")
pci=$(readlink -f "/sys/class/block/$name/device/device")
since
echo 6000 >"/sys/class/block/$name/queue/io_timeout" || fail "$name: no io_timeout"
before=$(word 7.0 ATA61/04)
for d in "${others_on[@]}"; do at[$d]=$(done_by "$d"); done
printf '\x7f\0\0\0' | dd of="$pci/config" bs=1 seek=20 conv=notrunc status=none || fail "$pci cannot be moved"
await "7.0 is told what became of its requests" refused 7.0 $((before + 1))
# No command of the worker but those of 7.0 has waited for that.
for d in "${others_on[@]}"; do
    (($(done_by "$d") > at[$d] + 100)) || fail "$d did $(($(done_by "$d") - at[$d])) requests while the device of 7.0 hung"
done
gone 7.0 "$name"
[[ $(lines 7.0 ".* has not answered a command for ") == 1 ]] || fail "it was not said once that the device hangs: $(said 7.0)"
[[ $(lines 7.0 ".* answers again") == 0 ]] || fail "the device that is gone is said to answer: $(said 7.0)"
echo 1 >"$pci/remove"
echo 1 >/sys/bus/pci/rescan
back 7.0

# ---- what was acknowledged is there, from before, between and after
for s in 7.0 7.4; do
    touch /run/$s/stop
    wait "${keeper[$s]}" || fail "the host of $s: $(cat /run/$s/now)"
    say "$s: $(cat /run/$s/now)"
    [[ ! $(tr ' ' '\n' </run/$s/now | grep -E '^(ATA|AoE)' | grep -v '^ATA61/04=') ]] || fail "the host of $s was told other things: $(cat /run/$s/now)"
done
kill -INT $others
wait $others || fail "the other slots: $(tr -d '\n ' </run/others.json)"
python3 -I -S -c 'import json, sys
for s in json.load(sys.stdin)["slots"]:
    v, l = s["verify"], s["writes"]["latency_us"]
    assert not s["errors"] and not s["left"] and v["bad_sectors"] == 0 and v["sectors_read_back"] > 100, s
    print("%s: %d sectors compared, p99 of writes %.0f ms, longest %.0f ms" % (s["address"], v["sectors_checked"], l["p99"] / 1e3, l["max"] / 1e3))
' </run/others.json || fail "the other slots: $(tr -d '\n ' </run/others.json)"
for s in 7.0 7.4; do
    python3 -I -S -c 'import json, sys
s = json.load(sys.stdin)["slots"][0]
assert s["verify"]["bad_sectors"] == 0 and s["verify"]["sectors_checked"] > 0 and s["left"], s
assert all(e["error"].startswith("ATA 61/04") for e in s["errors"]), s' </run/$s.json || fail "the load on $s: $(tr -d '\n ' </run/$s.json)"
done

# ---- and it works as before; on blocks of 4096 bytes also by the sector
[[ $(ask -T 7.4 identify) == *" w106=6003 "* && $(ask -T 7.0 identify) == *" w106="* ]] || fail "7.4: $(ask -T 7.4 identify)"
(load /run/last.json 7.0 7.4 7.2 --depth 8 --seconds 3 --sectors 1) || fail "load after it: $(tr -d '\n ' </run/last.json)"
kill -TERM $SHELF
wait $SHELF || { cat $LOG; fail "xshelf ended with $?, not 0: $(tail -n 1 $LOG)"; }
cat $LOG
grep -a -q "panicked at" $LOG && fail "xshelf panicked"
grep -q "frames conserved: \([0-9]*\) of \1$" $LOG || fail "frames were lost: $(grep "frames conserved" $LOG)"
detail "7.0 (removed, $renamed; off the bus) $(word 7.0 writes) writes, $(word 7.0 ATA61/04) refused; 7.4 (pulled out, 4Kn) $(word 7.4 writes) writes, $(word 7.4 ATA61/04) refused; 0 bad, a line each; others undisturbed"
