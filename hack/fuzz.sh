#!/usr/bin/env bash
# Fuzzes every target below the folders (default: all), one after the other, for the time given (default 30s): fuzz.sh [TIME [FOLDER...]].
# The input of a failure is in testdata/fuzz beside the test; it is committed with what mends it, so that each run of the tests has it
# from then on.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
shift || true
# Go makes each new input smaller, by default for up to a minute, and does nothing else then: FuzzHandler had tried 13 inputs after 45
# seconds, and now tries 9,000 in 15.
minimize=20x

output=$(mktemp)
trap 'rm -f "$output"' EXIT

# fuzz fuzzes one target. Go's own end of the time can be a failure, "context deadline exceeded", when an input was on its way: it is none
# unless there is an input that failed.
fuzz() {
  (cd "$1" && go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime "$minimize" .) 2>&1 | tee "$output" && return
  grep -q '^ *context deadline exceeded$' "$output" && ! grep -q 'Failing input written to' "$output"
}

targets=0 failed=()
while IFS=: read -r file target; do
  targets=$((targets + 1))
  echo "== $(dirname "$file") $target ($(date -u +%H:%M:%S))"
  fuzz "$(dirname "$file")" "$target" || failed+=("$(dirname "$file") $target")
done < <(grep -rE --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]+' "${@:-.}" | sed -e 's|^\./||' -e 's|:func |:|' | sort)

[ $targets -gt 0 ] || { echo "fuzz: there is no target below ${*:-.}" >&2; exit 1; }
[ ${#failed[@]} = 0 ] || { printf 'fuzz: failed: %s\n' "${failed[@]}" >&2; exit 1; }
echo "fuzz: $targets targets, $time each: nothing was found"
