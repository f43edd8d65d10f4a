#!/usr/bin/env bash
# Runs the tests, group by group, and closes with one line: N passed, N failed, N skipped.
# The exit code is 0 only when nothing failed and every group ran at least one test.
#
#   tests/run.sh                all groups the gate runs (root)
#   tests/run.sh GROUP...       only these
#
#   style        formatting, clippy, shell scripts, systemd units
#   unit         the library's own tests: pure core, properties; as root also those at the kernel's edge
#   integration  tests/*.rs, but for the next two
#   e2e          the real binary between network namespaces (root)
#   simulate     worlds of the simulator: the same ones every time, and fresh ones
#   loom         the rings between workers under every interleaving
#   outages      the real binary under verified load: killed, its power cut, on a bad wire (root)
#   vm           the Linux initiator in a virtual machine, a quick choice of cases (root)
#   vm-all       the same, all cases
#   bare         install, build and test in bare Debian roots (root)
#
# cargo builds as the caller under sudo (deploy/cargo); test binaries run as whoever runs this. Logs: target/test-logs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

gate=(style unit integration simulate loom e2e outages vm)
case ${1:-} in
-h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
esac
groups=("$@")
[ $# -gt 0 ] || groups=("${gate[@]}")
for group in "${groups[@]}"; do
    case $group in
    style | unit | integration | simulate | e2e | loom | outages | vm | vm-all | bare) ;;
    *) echo "tests/run.sh: no group $group; try --help" >&2 && exit 2 ;;
    esac
    case $group in
    e2e | outages | vm | vm-all | bare)
        if [ "$(id -u)" != 0 ]; then
            echo "tests/run.sh: $group needs root: sudo make test (make test-unit does without)" >&2
            exit 2
        fi
        ;;
    esac
done

export CARGO_TERM_COLOR=never NO_COLOR=1
target=${CARGO_TARGET_DIR:-target}
deps=()
[[ " ${groups[*]} " =~ \ (style|integration|e2e|outages)\  ]] && deps=(--tests)
deploy/install-build-deps "${deps[@]}"

# Whatever root makes below target/ or beside the tests belongs to the caller in the end.
logs=$PWD/$target/test-logs
[[ $target == /* ]] && logs=$target/test-logs
mkdir -p "$logs"
give_back() {
    if [ "$(id -u)" = 0 ] && [ -n "${SUDO_UID:-}" ] && [ "$(stat -c %u .)" = "$SUDO_UID" ]; then
        chown "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$target" 2>/dev/null || :
        chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$logs" 2>/dev/null || :
        find . -path "./$target" -prune -o -uid 0 -name '*proptest-regressions*' -exec chown "$SUDO_UID" {} + 2>/dev/null || :
    fi
}
trap give_back EXIT
# At once as well: cargo runs as the caller and has to write there.
give_back

# build NAME CARGO-TEST-ARGUMENT...: builds test binaries; prints "KIND NAME PATH" for each into $logs/NAME.list.
build() {
    local name=$1
    shift
    if ! deploy/cargo test --no-run --locked --message-format=json-render-diagnostics "$@" >"$logs/$name.json" 2>"$logs/$name-build.log" </dev/null; then
        tail -n 60 "$logs/$name-build.log"
        bad "$name does not build (whole output: $logs/$name-build.log)"
        tally "$name: build" 0 1 0
        return 1
    fi
    grep '"profile":{[^}]*"test":true' "$logs/$name.json" |
        sed -n 's/.*"target":{"kind":\["\([^"]*\)"\].*"name":"\([^"]*\)","src_path".*"executable":"\([^"]*\)".*/\1 \2 \3/p' >"$logs/$name.list"
}

# run_binary NAME PATH [FILTER...]: one Rust test binary. The limit is a guard against a hang, nothing measures with it.
run_binary() {
    local name=$1 path=$2 log status=0
    shift 2
    log=$logs/$(tr -c 'a-z0-9\n' '-' <<<"${name,,}").log
    CARGO_MANIFEST_DIR=$PWD RUST_BACKTRACE=${RUST_BACKTRACE:-1} \
        timeout --kill-after=10 1200 "$path" --show-output "$@" >"$log" 2>&1 </dev/null || status=$?
    libtest "$name" "$log" "$status"
}

run_list() { # NAME LIST-FILE KIND-PATTERN
    local kind name path
    while read -r kind name path; do
        [[ "$kind $name" =~ $3 ]] || continue
        run_binary "$1: $name${4:-}" "$path"
    done <"$2"
}

scripts() {
    # Every file in the tree that says bash in its first line.
    git ls-files 2>/dev/null | while IFS= read -r file; do
        [ -f "$file" ] && head -n 1 "$file" 2>/dev/null | tr -d '\0' | grep -q '^#!.*bash' && echo "$file" || :
    done
}

shell_style() {
    local files
    mapfile -t files < <(scripts)
    if [ ${#files[@]} -eq 0 ]; then
        # No git, no list: a tree unpacked from an archive.
        mapfile -t files < <(grep -lE '^#!.*bash' -r deploy tests .ci bench 2>/dev/null)
    fi
    for file in "${files[@]}"; do bash -n "$file"; done
    if ! command -v shellcheck >/dev/null; then
        echo "SKIPPED: shellcheck is not installed (apt-get install shellcheck)"
        return
    fi
    shellcheck -x -S warning "${files[@]}"
}

unit_style() {
    if ! command -v systemd-analyze >/dev/null; then
        echo "SKIPPED: systemd-analyze is not installed"
        return
    fi
    local scratch status=0
    scratch=$(mktemp -d)
    # It wants the programs to be there: those of the running system stand in for ours.
    for unit in deploy/*.service; do
        sed -E 's,^(Exec[A-Za-z]*=[+!-]*)/usr/sbin/xshelf[a-z-]*,\1/bin/true,' "$unit" >"$scratch/$(basename "$unit")"
    done
    cp "$scratch/xshelf-nic@.service" "$scratch/xshelf-nic@eth1.service"
    SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no --recursive-errors=no "$scratch"/xshelf.service \
        "$scratch"/xshelf-nic@eth1.service >"$scratch/log" 2>&1 || status=$?
    grep -v '^$' "$scratch/log" || :
    # A word about one of our units is a fault even where the exit code is 0.
    if grep -qE 'xshelf' "$scratch/log"; then status=1; fi
    rm -rf "$scratch"
    return $status
}

clippy() {
    if ! deploy/cargo clippy --version >/dev/null 2>&1; then
        echo "SKIPPED: this Rust has no clippy"
        return
    fi
    deploy/cargo clippy --workspace --all-targets --locked -- -D warnings
}

format() {
    if ! deploy/cargo fmt --version >/dev/null 2>&1; then
        echo "SKIPPED: this Rust has no rustfmt"
        return
    fi
    deploy/cargo fmt --all --check
}

debug_built=
build_tests() {
    [ -z "$debug_built" ] || return 0
    build tests --lib --bins --tests || return 1
    debug_built=yes
}

start=$SECONDS
for group in "${groups[@]}"; do
    group_ran=0
    say "== $group"
    case $group in
    style)
        check "style: cargo fmt" format
        check "style: clippy" clippy
        check "style: shell scripts" shell_style
        check "style: systemd units" unit_style
        check "style: mutations fit" tests/mutations/run.sh --check
        ;;
    unit)
        if build_tests; then run_list unit "$logs/tests.list" '^(lib|bin) '; fi
        ;;
    integration)
        if build_tests; then run_list integration "$logs/tests.list" '^test ([^es]|e[^2]|s[^i])'; fi
        ;;
    e2e)
        if build_tests; then run_list namespaces "$logs/tests.list" '^test e2e'; fi
        ;;
    simulate)
        # Optimized, and with every assertion.
        if build simulate --test simulate --profile simulate; then
            while read -r _ name path; do
                run_binary "simulator: $name" "$path" --include-ignored --skip many
            done <"$logs/simulate.list"
        fi
        ;;
    loom)
        # Optimized: a model runs its body some hundred thousand times.
        if build loom --package xshelf-loom --lib --release; then run_list loom "$logs/loom.list" '^lib '; fi
        ;;
    outages)
        if build_tests && build outages --package xshelf-torment --package xshelf-faultdisk --package xshelf-powercut \
            --package xshelf-shim --package xshelf-torture --lib --bins --tests; then
            export XSHELF_BIN=${logs%/test-logs}/debug/xshelf
            run_list outages "$logs/outages.list" '^(lib xshelf_t|lib xshelf_shim|bin faultdisk|test )'
            unset XSHELF_BIN
        fi
        ;;
    vm | vm-all)
        status=0
        arguments=()
        [ "$group" = vm-all ] || arguments=(--quick)
        # The binary of this tree as it is now, not whatever an older release build left.
        if deploy/cargo build --locked >"$logs/vm-build.log" 2>&1 </dev/null; then
            XSHELF_BIN=${logs%/test-logs}/debug/xshelf \
                tests/vm/run.sh "${arguments[@]}" </dev/null 2>&1 | tee "$logs/$group.log" || status=$?
        else
            tail -n 60 "$logs/vm-build.log" | tee "$logs/$group.log"
            status=1
        fi
        closing_line "virtual machines" "$logs/$group.log" "$status"
        ;;
    bare)
        status=0
        tests/bare/run.sh </dev/null 2>&1 | tee "$logs/bare.log" || status=$?
        closing_line "bare roots" "$logs/bare.log" "$status"
        ;;
    esac
    if [ "$group_ran" -eq 0 ]; then
        bad "group $group ran no test"
        failures+=("$group (ran no test)")
        failed=$((failed + 1))
    fi
done

say
if [ ${#skips[@]} -gt 0 ]; then
    say "SKIPPED, and why:"
    printf '  %s\n' "${skips[@]}"
    say
fi
if [ ${#failures[@]} -gt 0 ]; then
    say "FAILED:"
    printf '  %s\n' "${failures[@]}"
    say
fi
say "$((SECONDS - start)) s; logs: ${logs#"$PWD"/}"
say "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
