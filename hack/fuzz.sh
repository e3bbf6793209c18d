#!/usr/bin/env bash
# Fuzzes every target of every module, one after the other, for the time given (default 30s): fuzz.sh [TIME [TARGET...]]. The input of
# a failure is in testdata/fuzz beside the test; it is committed with what mends it, so that each run of the tests has it from then on.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-30s}
shift || true

targets=0 failed=()
while IFS=: read -r file target; do
  if [ $# -gt 0 ] && [[ " $* " != *" $target "* ]]; then continue; fi
  targets=$((targets + 1))
  echo "== $(dirname "$file") $target"
  (cd "$(dirname "$file")" && go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" .) || failed+=("$(dirname "$file") $target")
done < <(grep -rE --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]+' . | sed -e 's|^\./||' -e 's|:func |:|' | sort)

[ $targets -gt 0 ] || { echo "fuzz: there is no such target" >&2; exit 1; }
[ ${#failed[@]} = 0 ] || { printf 'fuzz: failed: %s\n' "${failed[@]}" >&2; exit 1; }
echo "fuzz: $targets targets, $time each: nothing was found"
