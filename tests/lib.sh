# Shared by the scripts that test: counting, and one way to say what happened. Source it; it runs nothing.
#
# A test that cannot run here prints a line "SKIPPED: why" and returns well; the line is what counts it as skipped.

passed=0
failed=0
skipped=0
failures=()
skips=()

say() { printf '%s\n' "$*"; }
bad() { printf "FAILED: %s\n" "$*"; }

# count_skips LOG: adds the SKIPPED lines of a log to `skips` and says how many there were in $found.
count_skips() {
    local line
    found=0
    while IFS= read -r line; do
        skips+=("$2: ${line#*SKIPPED: }")
        found=$((found + 1))
    done < <(grep -E '^[[:space:]]*SKIPPED: ' "$1" || :)
}

# tally NAME PASSED FAILED SKIPPED: adds to the totals and prints the line of this part.
tally() {
    passed=$((passed + $2))
    failed=$((failed + $3))
    skipped=$((skipped + $4))
    group_ran=$((group_ran + $2 + $3 + $4))
    printf '  %-34s %5d passed  %3d failed  %3d skipped\n' "$1" "$2" "$3" "$4"
    [ "$3" -eq 0 ] || failures+=("$1")
}

# check NAME COMMAND...: one test that is a command; its output goes to the log and, on failure, to the terminal.
check() {
    local name=$1 log
    shift
    log=$logs/$(tr -c 'a-z0-9\n' '-' <<<"${name,,}").log
    if "$@" >"$log" 2>&1 </dev/null; then
        count_skips "$log" "$name"
        if [ "$found" -gt 0 ]; then tally "$name" 0 0 1; else tally "$name" 1 0 0; fi
    else
        tail -n 60 "$log"
        bad "$name (whole output: $log)"
        tally "$name" 0 1 0
    fi
}

# closing_line NAME LOG STATUS: takes the counts from the last line "N passed, N failed, N skipped" of a script's log.
closing_line() {
    local line p f s
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$2" | tail -n 1 || :)
    count_skips "$2" "$1"
    # 77: nothing of it could be tested here; its last line says why.
    if [ "$3" -eq 77 ]; then
        [ "$found" -gt 0 ] || skips+=("$1: $(tail -n 1 "$2")")
        tally "$1" 0 0 1
        return
    fi
    if [ -z "$line" ]; then
        bad "$1 ended with status $3 and no count (whole output: $2)"
        tally "$1" 0 1 0
        return
    fi
    read -r p _ f _ s _ <<<"${line//,/} 0 skipped"
    # A script that fails without counting it has failed all the same.
    [ "$3" -eq 0 ] || [ "$f" -gt 0 ] || f=1
    tally "$1" "$p" "$f" "$s"
}

# libtest NAME LOG STATUS: takes the counts from what a Rust test binary printed.
libtest() {
    local result p f i
    count_skips "$2" "$1"
    result=$(grep -E '^test result: ' "$2" | tail -n 1 || :)
    if [ -z "$result" ]; then
        tail -n 40 "$2"
        bad "$1 ended with status $3 in the middle (whole output: $2)"
        tally "$1" "$(grep -cE '^test .* \.\.\. ok$' "$2" || :)" 1 0
        return
    fi
    p=$(sed -E 's/.* ([0-9]+) passed.*/\1/' <<<"$result")
    f=$(sed -E 's/.* ([0-9]+) failed.*/\1/' <<<"$result")
    i=$(sed -E 's/.* ([0-9]+) ignored.*/\1/' <<<"$result")
    if [ "$i" -gt 0 ]; then
        while IFS= read -r line; do skips+=("$1: $line"); done < <(grep -E '^test .* \.\.\. ignored' "$2")
    fi
    if [ "$3" -ne 0 ]; then
        sed -n '/^failures:$/,$p' "$2" | head -n 120
        bad "$1 (whole output: $2)"
        [ "$f" -gt 0 ] || f=1
    fi
    # A test that skipped itself returned well; it is no pass.
    tally "$1" $((p > found ? p - found : 0)) "$f" $((found + i))
}
