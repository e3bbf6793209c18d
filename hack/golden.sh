#!/usr/bin/env bash
# Rewrites the golden files of every package that has any, which is every package whose tests define the flag -update.
set -euo pipefail
cd "$(dirname "$0")/.."
grep -rl --include='*_test.go' 'flag.Bool("update"' cmd internal pkg | xargs -n1 dirname | sort -u | sed 's#^#./#' | while read -r package; do
  go test "$package" -update
done
