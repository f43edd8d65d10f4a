#!/usr/bin/env bash
# Looks for undefined behaviour in the modules that may have `unsafe` blocks, and in the whole program.
#
#   tests/sanitize/run.sh [PART...]    all parts, or these
#
#   miri       the TX ring, tokens, chunks and runs, and frames through the worker, over ordinary memory, under Miri (a nightly
#              compiler that has it); of the worker one test for each way that bytes take, for it takes a minute for each
#   address    the library's tests and those at the kernel's edge, with AddressSanitizer; as root all of them
#   e2e        the real binary between network namespaces, with AddressSanitizer (root)
#
# Optional tests: half an hour on an idle machine. The ledger of frame memory is checked at every touch in all debug builds;
# this is for what it cannot see. Closes with: N passed, N failed, N skipped.
#
#   SANITIZE_CASES=N    cases of each property (default 8; under Miri 2)
#   MIRI_TESTS=FILTER   other tests under Miri, such as worker::turn for all of the worker's (hours)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/lib.sh
. tests/lib.sh

case ${1:-} in
-h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
esac
parts=("$@")
[ $# -gt 0 ] || parts=(miri address e2e)
for part in "${parts[@]}"; do
    case $part in
    miri | address | e2e) ;;
    *) echo "$0: no part $part; try --help" >&2 && exit 2 ;;
    esac
    if [ "$part" = e2e ] && [ "$(id -u)" != 0 ]; then
        echo "$0: e2e needs root" >&2
        exit 2
    fi
    # Without it no suppression is known by its function, and a harmless report ends every xshelf that opens a socket.
    if [ "$part" != miri ] && ! command -v llvm-symbolizer >/dev/null; then
        echo "$0: $part needs llvm-symbolizer (apt-get install llvm)" >&2
        exit 2
    fi
done

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TERM_COLOR=never NO_COLOR=1
logs=$PWD/target/test-logs
mkdir -p "$logs"

# What touches frame memory without a kernel. Miri knows no io_uring and no AF_XDP.
pure=(frame:: net::ring net::memory net::assemble storage::memory storage::uring::share storage::uring::units worker::board
    worker::turn::doubts a_tagged_frame_takes_the_path_for_misaligned_data with_room_for_the_tag_tagged_data_stays_where_it_is
    a_frame_of_too_many_pieces_is_dropped_and_counted a_read_may_itself_be_long the_reply_leaves_by_the_port_of_arrival
    a_worker_without_a_queue_serves_its_slots_by_hand_off trim_frees_its_ranges_one_after_the_other)
[ -z "${MIRI_TESTS:-}" ] || read -ra pure <<<"$MIRI_TESTS"

miri() {
    if ! cargo +nightly miri --version >/dev/null 2>&1; then
        echo "SKIPPED: no Miri here (rustup toolchain install nightly --component miri,rust-src)"
        echo "test result: ok. 1 passed; 0 failed"
        return
    fi
    # rustix talks to the kernel in assembly unless told otherwise, which Miri cannot follow.
    MIRIFLAGS=-Zmiri-disable-isolation RUSTFLAGS=--cfg=rustix_use_libc CARGO_TARGET_DIR=target/miri \
        PROPTEST_CASES=${SANITIZE_CASES:-2} PROPTEST_MAX_SHRINK_ITERS=0 \
        cargo +nightly miri test --locked --lib -- "${pure[@]}"
}

# What AddressSanitizer finds, a file for each process: what a test's child says goes with the test.
reports=$logs/address-reports

# A stable compiler opens its sanitizers only to itself.
sanitized() {
    mkdir -p "$reports"
    # Leaks are counted by the frame ledger; what a thread that the kernel holds cannot free is no finding. The limit is a guard
    # against a hang.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes" CARGO_TARGET_DIR=target/address \
        ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:suppressions=$PWD/tests/sanitize/address.supp:log_path=$reports/report \
        PROPTEST_CASES=${SANITIZE_CASES:-8} timeout --kill-after=10 3600 \
        cargo test --locked --no-fail-fast --target "$host" "$@" -- --show-output
}

# results NAME LOG STATUS: as libtest of tests/lib.sh, over all the test binaries of a log.
results() {
    local p f
    count_skips "$2" "$1"
    p=$(sed -nE 's/^test result: .* ([0-9]+) passed.*/\1/p' "$2" | paste -sd+ - | sed 's/^$/0/')
    f=$(sed -nE 's/^test result: .* ([0-9]+) failed.*/\1/p' "$2" | paste -sd+ - | sed 's/^$/0/')
    [ "$3" -eq 0 ] || [ $((${f:-0})) -gt 0 ] || f=1
    tally "$1" $((${p:-0} - found)) $((${f:-0})) "$found"
}

group_ran=0
for part in "${parts[@]}"; do
    say "== $part"
    log=$logs/sanitize-$part.log
    status=0
    rm -rf "$reports"
    case $part in
    miri) miri >"$log" 2>&1 </dev/null || status=$? ;;
    address) sanitized --lib --test bpf --test xsk --test storage --test serve --test corpus >"$log" 2>&1 </dev/null || status=$? ;;
    e2e) sanitized --test e2e >"$log" 2>&1 </dev/null || status=$? ;;
    esac
    if [ "$status" -ne 0 ]; then tail -n 60 "$log"; fi
    results "$part" "$log" "$status"
    # Also where the test did not notice.
    for report in "$reports"/report*; do
        [ -e "$report" ] || continue
        head -n 40 "$report"
        bad "$part: AddressSanitizer (whole report: $report)"
        tally "$part: ${report##*/}" 0 1 0
    done
done
[ "$group_ran" -gt 0 ] || failed=1
[ ${#skips[@]} -eq 0 ] || printf 'SKIPPED %s\n' "${skips[@]}"

say "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
