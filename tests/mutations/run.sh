#!/usr/bin/env bash
# Plants known bugs in the product, one at a time, and shows that the simulator or a test catches each.
#
#   tests/mutations/run.sh [NAME...]    all of tests/mutations/*.patch, or these
#   tests/mutations/run.sh --check      only whether each patch still fits the sources
#
#   SEEDS=N     worlds the simulator may take for each (default 2000)
#
# A patch says at its head what it plants and what is to catch it, in the order in which that is tried:
#   simulate              worlds of the simulator, from seed 1 on
#   unit FILTER           tests of the library
#   integration TARGET [FILTER]    one of tests/*.rs (e2e: root)
#   powercut              the power is cut under verified load (root)
# The work is done on a copy of the tree below target/mutations. First everything has to pass there as it is. Closes with a
# table, and fails when a bug was not caught.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
repository=$PWD

case ${1:-} in
-h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
--check)
    bad=0
    for patch in tests/mutations/*.patch; do
        git apply --check "$patch" || { echo "$patch does not fit the sources any more: plant its bug again by hand and take the difference" && bad=1; }
        grep -q '^What: ' "$patch" && grep -q '^Catch: ' "$patch" || { echo "$patch does not say what it plants and what catches it" && bad=1; }
    done
    exit $bad
    ;;
esac
patches=()
for name in "$@"; do
    [ -f "tests/mutations/$name.patch" ] || { echo "$0: no mutation $name; there are: $(cd tests/mutations && echo *.patch)" >&2 && exit 2; }
    patches+=("$repository/tests/mutations/$name.patch")
done
[ $# -gt 0 ] || patches=("$repository"/tests/mutations/*.patch)

work=$repository/target/mutations
tree=$work/tree
rm -rf "$tree"
mkdir -p "$tree" "$work/log"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
cd "$tree"
# The copy is no part of the repository around it.
export GIT_CEILING_DIRECTORIES=$work
export CARGO_TARGET_DIR=$work/build CARGO_TERM_COLOR=never NO_COLOR=1 RUST_BACKTRACE=0 PROPTEST_MAX_SHRINK_ITERS=100

# catch LOG WAY...: runs one way of catching; true when it found something wrong. What it took is in $took.
took=
catch() {
    local log=$1 status=0
    shift
    case $1 in
    simulate)
        SEED='' FROM='' SEEDS=${SEEDS:-2000} timeout --kill-after=10 1800 cargo test --locked --quiet --profile simulate \
            --test simulate -- --ignored --exact many --nocapture >"$log" 2>&1 </dev/null || status=$?
        took=$(sed -nE 's/.*make simulate SEED=([0-9]+).*/\1/p' "$log" | tail -n 1)
        took=${took:+seed $took of 1, 2, 3, …}
        ;;
    unit)
        timeout --kill-after=10 1800 cargo test --locked --quiet --profile simulate --lib -- "$2" >"$log" 2>&1 </dev/null || status=$?
        took=$(sed -nE 's/^test (.*) \.\.\. FAILED$/\1/p; s/^    ([a-z_:]+::[a-z_0-9]+)$/\1/p' "$log" | sort -u | head -n 1)
        ;;
    integration)
        timeout --kill-after=10 1800 cargo test --locked --quiet --profile simulate --test "$2" -- "${@:3}" >"$log" 2>&1 </dev/null || status=$?
        took=$(sed -nE 's/^    ([a-z_:]*[a-z_0-9]+)$/\1/p' "$log" | sort -u | head -n 1)
        ;;
    powercut)
        timeout --kill-after=10 1800 make --no-print-directory powercut CUTS="${CUTS:-40}" >"$log" 2>&1 </dev/null || status=$?
        took=$(sed -nE 's/^LOST with (cut [0-9]+):$/lost with \1/p' "$log" | head -n 1)
        ;;
    *)
        echo "$0: no way of catching called $1" >&2
        exit 2
        ;;
    esac
    if grep -qE '^error(\[E[0-9]+\])?:.*(could not compile|aborting)|^error: could not' "$log"; then
        tail -n 30 "$log" >&2
        echo "$0: it does not compile; see $log" >&2
        exit 1
    fi
    [ "$status" -ne 0 ] || return 1
    [ "$status" -ne 124 ] || took="it hung"
    took=${took:-exit code $status}
}

ways_of() { sed -n 's/^Catch: //p' "$1" | tr ';' '\n' | sed 's/^ *//'; }

echo "as it is:"
while read -r way; do
    read -r -a words <<<"$way"
    # What only root can run is its own test elsewhere; here it would take long.
    [ "${words[0]}" != powercut ] || continue
    if SEEDS=200 catch "$work/log/clean-${way//[^a-z]/-}.log" "${words[@]}"; then
        echo "$0: $way fails without any bug planted ($took); see $work/log" >&2
        exit 1
    fi
    echo "  $way: well"
done < <(for patch in "${patches[@]}"; do ways_of "$patch"; done | sort -u)

escaped=0
table=()
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    git apply "$patch"
    caught=
    while read -r way; do
        read -r -a words <<<"$way"
        if [ "${words[0]}" = powercut ] && [ "$(id -u)" != 0 ]; then
            echo "SKIPPED: powercut for $name needs root"
            continue
        fi
        if catch "$work/log/$name-${way//[^a-z]/-}.log" "${words[@]}"; then
            caught="${words[*]}: $took"
            break
        fi
    done < <(ways_of "$patch")
    if [ -z "$caught" ]; then
        escaped=$((escaped + 1))
        caught="NOT CAUGHT"
    fi
    printf '%-38s %s\n' "$name" "$caught"
    table+=("$(printf '%-38s %-64s %s' "$name" "$caught" "$(sed -n 's/^What: //p' "$patch")")")
    git apply --reverse "$patch"
done

echo
printf '%s\n' "${table[@]}"
echo
echo "$((${#patches[@]} - escaped)) of ${#patches[@]} bugs caught"
[ "$escaped" -eq 0 ]
