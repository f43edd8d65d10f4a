#!/bin/bash
# Builds and tries the project "from nothing": in a bare Debian root, with that release's own Rust.
# Nothing of this machine's tool chain is visible there, so what the project forgets to install is found.
#
#   run.sh [--suite trixie|bookworm]... [--command COMMAND]... [--mirror URI]
#          [--results DIR] [--keep] [--shell]
#
#   --suite    the Debian release of the root (trixie; may be given more than once)
#   --command  what to run in the clone instead of "make demo" and "make test-unit" (may be given more than once)
#   --mirror   where Debian is fetched from (this machine's own mirror, else deb.debian.org)
#   --results  keep the logs in DIR (otherwise they are kept when something failed)
#   --keep     leave the root behind, and say where
#   --shell    an interactive shell in the root, in the clone, after the commands (with --command true: at once)
#
# What happens, for each suite: debootstrap makes a minimal root (once, kept in the cache); a copy of it gets a fresh
# `git clone` of the commit checked out here, this machine's way to the network (proxies, certificate authorities,
# settings of apt and cargo that say where to fetch from; no tokens) and `make`. Then each command runs in a chroot
# with mount and process namespaces of its own: whatever it mounts or starts ends with it. It shares this machine's
# network and kernel.
#
# The cache is $XSHELF_BARE_CACHE, else ~/.cache/xshelf/bare (honours XDG_CACHE_HOME). Needs root, debootstrap, git.
# Closes with "N passed, N failed, N skipped"; exit status: 0 all passed, 1 something failed, 2 wrong use,
# 77 nothing could be tried here (one line says why), 130 or 143 interrupted.
set -uo pipefail

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${XSHELF_BARE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/xshelf/bare}
# Guards against a hang; nothing measures with it.
HANG_GUARD=7200

log() { printf 'bare: %s\n' "$*" >&2; }
usage_error() { log "$* (--help tells more)"; exit 2; }
cannot() { printf 'SKIPPED: bare root: %s\n' "$*"; exit 77; }

SUITES=() COMMANDS=() MIRROR='' RESULTS='' KEEP='' SHELL_AFTER=''
while (($#)); do
    case $1 in
    --suite | --command | --mirror | --results) (($# > 1)) || usage_error "$1 needs a value" ;;&
    --suite)
        [[ $2 == trixie || $2 == bookworm ]] || usage_error "--suite is trixie or bookworm, not '$2'"
        SUITES+=("$2")
        shift
        ;;
    --command) COMMANDS+=("$2"); shift ;;
    --mirror) MIRROR=$2; shift ;;
    --results) RESULTS=$2; shift ;;
    --keep) KEEP=yes ;;
    --shell) SHELL_AFTER=yes ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) usage_error "unknown argument $1" ;;
    esac
    shift
done
((${#SUITES[@]})) || SUITES=(trixie)
((${#COMMANDS[@]})) || COMMANDS=("make demo" "make test-unit")

((EUID == 0)) || cannot "it needs root (chroot and mounts)"
for tool in debootstrap git unshare; do
    PATH=$PATH:/usr/sbin:/sbin command -v $tool >/dev/null || cannot "it needs $tool (apt-get install debootstrap git util-linux)"
done
unshare --mount --pid --fork --propagation private true 2>/dev/null || cannot "mount and process namespaces are refused here"

# This machine's own mirrors, as apt knows them.
mirror_of() { # LABEL
    # shellcheck disable=SC2016  # the dollars are apt's
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 2>/dev/null | awk -v l="$1" '$1 == l { print $2; exit }'
}
[[ $MIRROR ]] || MIRROR=$(mirror_of Debian)
MIRROR=${MIRROR:-http://deb.debian.org/debian}
SECURITY=$(mirror_of Debian-Security)

mkdir -p "$CACHE" || exit 1
KEEP_RESULTS=$RESULTS
[[ $RESULTS ]] || RESULTS=$(mktemp -d "${TMPDIR:-/tmp}/xshelf-bare-results.XXXXXX")
mkdir -p "$RESULTS" || exit 1
RESULTS=$(readlink -f "$RESULTS")

PASS=0 FAIL=0 SKIP=0 ROOT='' CHILD='' STEP=''
discard_root() {
    # Mounts were made in namespaces that are gone; one that is here all the same is not ours to empty.
    [[ $ROOT && ! $KEEP ]] && rm -rf --one-file-system "$ROOT"
    [[ $ROOT && $KEEP ]] && log "the root is kept: $ROOT"
    ROOT=''
}
cleanup() {
    trap '' INT TERM
    if [[ $CHILD ]]; then
        # unshare takes its child with it, and that is the first process of its namespace.
        kill -TERM "$CHILD" 2>/dev/null
        wait "$CHILD" 2>/dev/null
    fi
    discard_root
    [[ $KEEP_RESULTS || $STEP ]] || ((FAIL)) || rm -rf "$RESULTS"
}
trap cleanup EXIT
trap 'log "SIGINT during ${STEP:-the start}; logs: $RESULTS"; exit 130' INT
trap 'log "SIGTERM during ${STEP:-the start}; logs: $RESULTS"; exit 143' TERM

# In the background and waited for: only then does a signal reach this shell at once.
run() { # LOG COMMAND...
    local rc to=$1
    shift
    "$@" >"$to" 2>&1 </dev/null &
    CHILD=$!
    wait "$CHILD"
    rc=$?
    CHILD=''
    return $rc
}

base_of() { # SUITE: the minimal root, made once
    local base=$CACHE/$1 lock
    exec {lock}>"$CACHE/$1.lock"
    flock "$lock"
    if [[ ! -e $base.made ]]; then
        log "making a bare $1 root in $base (once, about 90 MB of downloads)"
        rm -rf --one-file-system "$base"
        if ! run "$RESULTS/$1-debootstrap.log" debootstrap --variant=minbase "$1" "$base" "$MIRROR"; then
            rm -rf --one-file-system "$base"
            WHY="debootstrap cannot make it from $MIRROR: $(grep -m 1 '^[EW]:' "$RESULTS/$1-debootstrap.log")"
            exec {lock}>&-
            return 1
        fi
        date >"$base.made"
    fi
    exec {lock}>&-
}

carry_network() { # SUITE: this machine's way to package sources, into $ROOT
    local bundle config proxy
    rm -f "$ROOT/etc/resolv.conf"
    cat /etc/resolv.conf >"$ROOT/etc/resolv.conf" 2>/dev/null
    cat /etc/hosts >"$ROOT/etc/hosts" 2>/dev/null

    # Whom this machine trusts. update-ca-certificates wants a file for each; it runs when the project installs the
    # package. apt has to do without it until then.
    for bundle in "${SSL_CERT_FILE:-}" "${CURL_CA_BUNDLE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        [[ -s $bundle ]] && break
    done
    if [[ -s $bundle ]]; then
        mkdir -p "$ROOT/usr/local/share/ca-certificates"
        awk -v d="$ROOT/usr/local/share/ca-certificates" \
            '/-BEGIN CERT/ { f = sprintf("%s/host-%03d.crt", d, ++n) } f { print >f } /-END CERT/ { close(f); f = "" }' "$bundle"
        cp "$bundle" "$ROOT/etc/apt/host-ca.crt"
        echo 'Acquire::https::CaInfo "/etc/apt/host-ca.crt";' >"$ROOT/etc/apt/apt.conf.d/90host-ca"
    fi

    # apt: proxies and the like; not paths, for those name files of this machine.
    apt-config dump 2>/dev/null |
        grep -E '^Acquire::((https?|ftp)::|Retries|Check-(Valid-Until|Date)|ForceIPv)' |
        grep -vE '(CaInfo|CaPath|CRLFile|Ssl[A-Za-z]*|Proxy-?Auto-?Detect|SourceSymlinks) ' >"$ROOT/etc/apt/apt.conf.d/90host"
    proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy-Auto-Detect Acquire::http::ProxyAutoDetect 2>/dev/null | grep -m 1 .)
    if [[ -x $proxy ]]; then
        proxy=$("$proxy" "$MIRROR" 2>/dev/null)
        [[ $proxy && $proxy != DIRECT ]] && echo "Acquire::http::Proxy \"$proxy\";" >>"$ROOT/etc/apt/apt.conf.d/90host"
    fi
    {
        echo "deb $MIRROR $1 main"
        [[ $SECURITY ]] && echo "deb $SECURITY $1-security main"
    } >"$ROOT/etc/apt/sources.list"

    # cargo: where to fetch from and how, not how to build, and no credentials.
    for config in "${CARGO_HOME:-${HOME:-/root}/.cargo}"/config{.toml,}; do
        [[ -r $config ]] || continue
        mkdir -p "$ROOT/root/.cargo"
        awk '/^[[:space:]]*\[/ { keep = /^[[:space:]]*\[+[[:space:]"]*(http|net|source|registry|registries)[]."]/; table = 1 }
             /^[[:space:]]*(cainfo|token)[[:space:]]*=/ { next }
             table ? keep : /^[[:space:]]*(http|net|source|registry|registries)\./' "$config" >"$ROOT/root/.cargo/config.toml"
        break
    done
}

# Variables that say how to reach the network.
NETWORK_ENV=()
while IFS='=' read -r -d '' name value; do
    case ${name,,} in
    http_proxy | https_proxy | ftp_proxy | all_proxy | no_proxy) ;;
    *token* | *credential* | *cainfo*) continue ;;
    cargo_http_* | cargo_net_* | cargo_registry_* | cargo_registries_* | cargo_source_*) ;;
    *) continue ;;
    esac
    NETWORK_ENV+=("$name=$value")
done < <(env -0)

# The first process of the namespaces: gives the chroot its file systems and becomes the command.
# shellcheck disable=SC2016  # expanded there
INSIDE='
set -e
root=$1 archives=$2 command=$3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount --bind "$archives" "$root/var/cache/apt/archives"
cd "$root"
shift 3
exec chroot "$root" /usr/bin/env -i "$@" HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /bin/bash -c "$command"
'
ENTER=(unshare --mount --pid --fork --kill-child=KILL --propagation private bash -c "$INSIDE" inside)
enter() { # SUITE LOG COMMAND
    run "$2" timeout --kill-after=30 "$HANG_GUARD" "${ENTER[@]}" "$ROOT" "$CACHE/$1-archives" "$3" ${NETWORK_ENV[@]+"${NETWORK_ENV[@]}"}
}

skip_suite() { # SUITE: nothing of it can be tried here, for the reason in $WHY
    printf 'SKIPPED: bare root of %s: %s\n' "$1" "$WHY"
    SKIP=$((SKIP + ${#COMMANDS[@]}))
    STEP=''
    discard_root
}

suite() { # SUITE
    local s=$1 n=0 c to t rc detail
    STEP="making the $s root"
    base_of "$s" || { skip_suite "$s"; return; }
    ROOT=$(mktemp -d "$CACHE/run-$s.XXXXXX")
    chmod 755 "$ROOT"
    cp -a --reflink=auto "$CACHE/$s/." "$ROOT/" || { log "cannot copy the $s root"; exit 1; }
    mkdir -p "$CACHE/$s-archives/partial"
    carry_network "$s"
    # Under sudo the tree is another user's; git wants to be told that this is meant.
    GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' \
        git clone --quiet --no-hardlinks "$PROJECT" "$ROOT/root/xshelf" || { log "cannot clone $PROJECT"; exit 1; }

    STEP="preparing the $s root"
    # shellcheck disable=SC2016  # expanded there
    if ! enter "$s" "$RESULTS/$s-prepare.log" '
        for tool in cargo rustc cc clang; do ! command -v $tool || exit 3; done
        apt-get update -qq -o APT::Update::Error-Mode=any && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends make'; then
        if WHY="apt cannot fetch in it: $(grep -m 1 '^E:' "$RESULTS/$s-prepare.log")"; then
            skip_suite "$s"
            return
        fi
        tail -n 20 "$RESULTS/$s-prepare.log"
        log "the $s root is not bare, or cannot be entered"
        exit 1
    fi
    for c in "${COMMANDS[@]}"; do
        STEP="$s: $c"
        n=$((n + 1))
        to=$RESULTS/$s-$n.log
        t=$SECONDS
        enter "$s" "$to" "cd /root/xshelf && $c"
        rc=$?
        # A test run in there closes with its counts.
        detail=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$to" | tail -n 1)
        case $rc in
        0) PASS=$((PASS + 1)) detail="pass  $((SECONDS - t)) s  $detail" ;;
        77) SKIP=$((SKIP + 1)) detail="skip  $((SECONDS - t)) s" ;;
        124 | 137) FAIL=$((FAIL + 1)) detail="FAIL  ended after $((SECONDS - t)) s: it hung, or was killed" ;;
        *) FAIL=$((FAIL + 1)) detail="FAIL  $((SECONDS - t)) s  status $rc  $detail" ;;
        esac
        printf '%-10s %-32s %s\n' "$s" "$( ((${#c} > 32)) && echo "${c:0:29}..." || echo "$c")" "$detail"
        if ((rc == 77)); then
            printf 'SKIPPED: %s: %s: %s\n' "$s" "$c" "$(tail -n 1 "$to")"
        elif ((rc)); then
            tail -n 40 "$to" | sed 's/^/    | /'
        fi
    done
    STEP=''
    if [[ $SHELL_AFTER ]]; then
        "${ENTER[@]}" "$ROOT" "$CACHE/$s-archives" "cd /root/xshelf && exec bash -i" ${NETWORK_ENV[@]+"${NETWORK_ENV[@]}"}
    fi
    printf '%-10s Rust there: %s\n' "$s" "$(chroot "$ROOT" /bin/sh -c 'rustc --version 2>/dev/null || echo none')"
    discard_root
}

commit=$(git -c safe.directory='*' -C "$PROJECT" log -1 --format='%h %s') || { log "$PROJECT is no git checkout with a commit"; exit 2; }
changes=$(git -c safe.directory='*' -C "$PROJECT" status --porcelain | wc -l)
echo "commit $commit$( ((changes)) && echo " ($changes uncommitted changes are not in the clone)")"
for s in "${SUITES[@]}"; do suite "$s"; done
[[ $KEEP_RESULTS ]] || ((FAIL)) && echo "logs: $RESULTS"
echo "$PASS passed, $FAIL failed, $SKIP skipped"
((FAIL == 0)) || exit 1
((PASS > 0)) || exit 77
