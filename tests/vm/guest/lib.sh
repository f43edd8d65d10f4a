# Sourced by the scripts that run inside the guest.
# shellcheck shell=bash
set -u
. /payload/config

say() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }
# What the results table shows beside the case; later calls replace earlier.
detail() { echo "$*" >/run/detail; say "$*"; }
fail() { detail "$*"; exit 1; }
# A case that does not apply to this target ends this way.
skip() { detail "$*"; exit 77; }
check() { # DESCRIPTION COMMAND...
    local d=$1
    shift
    "$@" || fail "$d"
}

# Ask the host to do something; prints its answer, returns its status.
host() {
    local rc b
    {
        flock 9
        echo "CALL $*" >&8
        IFS=' ' read -r rc b <&8
        [[ ${b:-} ]] && base64 -d <<<"$b"
        return "${rc:-99}"
    } 9>/run/host.lock
}

# The raw client, without the parts of Python that only cost time.
aoecli() { python3 -I -S -B /payload/aoecli.py "$@"; }

DEV=e${VM_SHELF}.0
dev_of() { echo "e${VM_SHELF}.$1"; }
sys_of() { echo "/sys/block/etherd!$1"; }

discover() {
    # The script of aoetools; it must at least not fail.
    aoe-discover || fail "aoe-discover failed"
}

wait_dev() { # DEV [SECONDS]: wait until the device is up and has a size
    local d=$1 n=${2:-120} i s
    s=$(sys_of "$d")
    for ((i = 0; i < n * 10; i++)); do
        if [[ -b /dev/etherd/$d && $(cat "$s/state" 2>/dev/null) == up* && $(cat "$s/size") -gt 0 ]]; then
            return 0
        fi
        ((i % 20 == 19)) && aoe-discover
        sleep 0.1
    done
    aoe-stat
    fail "$d did not come up in ${n}s (state: $(cat "$s/state" 2>/dev/null || echo none))"
}

up() { # discover the first (or the given) device and wait for it
    discover
    wait_dev "${1:-$DEV}"
}

fio_verify() { # FILE BS DEPTH SIZE [MORE OPTIONS]: random writes, then a verify pass
    local f=$1 bs=$2 qd=$3 sz=$4
    shift 4
    fio --name="v$bs" --filename="$f" --ioengine=libaio --direct=1 --rw=randwrite \
        --bs="$bs" --iodepth="$qd" --size="$sz" --verify=crc32c --do_verify=1 \
        --verify_fatal=1 --verify_backlog=0 --randrepeat=1 --output-format=normal \
        --aux-path=/tmp --group_reporting --eta=never "$@" >/tmp/fio.log 2>&1
    local rc=$?
    grep -E 'READ:|WRITE:|verify|err=' /tmp/fio.log | head -n 8
    ((rc == 0)) || { tail -n 30 /tmp/fio.log; return 1; }
    grep -q 'err= 0' /tmp/fio.log
}

make_tree() { # DIR: files of many sizes with reproducible contents
    local d=$1 i
    mkdir -p "$d"/{a,b/c}
    cp -a /usr/lib/python3.*/json /usr/lib/python3.*/email "$d/a/"
    for i in 0 1 511 512 513 4095 4096 4097 65537 1000000; do
        head -c "$i" /dev/urandom >"$d/b/f$i"
    done
    head -c 6291456 /dev/urandom >"$d/b/c/big"
}
tree_sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
