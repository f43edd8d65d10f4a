#!/usr/bin/env bash
# Looks for inputs that break an invariant (tests/fuzz/harness.rs), and says how many it tried.
#
#   tests/fuzz/run.sh [TARGET...]      all targets, or these
#
#   FUZZ_RUNS=N      executions of each target (default 200000)
#   FUZZ_SECONDS=N   at most so long for each (default: no limit)
#
# What is new goes to target/fuzz/TARGET; a finding is kept in tests/fuzz/artifacts/TARGET and ends the run with exit code 1.
# The committed corpus is played by tests/corpus.rs: copy an input that found something to tests/fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

case ${1:-} in
-h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
esac
mapfile -t all < <(sed -n 's/^name = "\([a-z]*\)"$/\1/p' tests/fuzz/Cargo.toml)
targets=("$@")
[ $# -gt 0 ] || targets=("${all[@]}")
for target in "${targets[@]}"; do
    [[ " ${all[*]} " == *" $target "* ]] || { echo "$0: no target $target; there are: ${all[*]}" >&2 && exit 2; }
done

# Sanitizers and coverage are behind a switch that a stable compiler opens only for itself.
export RUSTC_BOOTSTRAP=1
deploy/install-build-deps --check >/dev/null 2>&1 || deploy/install-build-deps
command -v c++ >/dev/null || { echo "$0: a C++ compiler is missing (apt-get install g++)" >&2 && exit 3; }
PATH=$PATH:$HOME/.cargo/bin
if ! command -v cargo-fuzz >/dev/null; then
    echo "cargo-fuzz is not here: installing it (cargo install cargo-fuzz)"
    deploy/cargo install cargo-fuzz --locked --quiet
fi

sum=0
for target in "${targets[@]}"; do
    # Only worker comes to code that may have unsafe blocks; the others are ten times as fast without AddressSanitizer.
    sanitizer=none
    [ "$target" != worker ] || sanitizer=address
    options=(--fuzz-dir tests/fuzz --sanitizer "$sanitizer" --target-dir "target/fuzz-$sanitizer")
    echo "== $target: building"
    cargo-fuzz build "${options[@]}" "$target" >/dev/null 2>target/fuzz-build.log || { tail -n 40 target/fuzz-build.log && exit 1; }
    mkdir -p "target/fuzz/$target" "tests/fuzz/artifacts/$target"
    log=target/fuzz/$target.log
    # The statistics at its end are what we read.
    if ! cargo-fuzz run "${options[@]}" "$target" "target/fuzz/$target" "tests/fuzz/corpus/$target" -- \
        -runs="${FUZZ_RUNS:-200000}" -max_total_time="${FUZZ_SECONDS:-0}" -max_len=4096 -rss_limit_mb=4096 \
        -print_final_stats=1 >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "$target: a finding; the input is in tests/fuzz/artifacts/$target, and this repeats it:" >&2
        echo "  cargo-fuzz run --fuzz-dir tests/fuzz $target tests/fuzz/artifacts/$target/FILE" >&2
        exit 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    echo "$target: $runs executions, $speed a second, no finding"
    sum=$((sum + runs))
done
echo "$sum executions without a finding"
