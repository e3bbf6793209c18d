#!/usr/bin/env bash
# Fuzzes every target of the modules that have some, one after the other, for the time given (default 30s).
set -euo pipefail
cd "$(dirname "$0")/.."
for module in . hack/policies; do
  for package in $(go list -C "$module" ./...); do
    for target in $(go test -C "$module" -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
      echo "== $package $target"
      go test -C "$module" -run '^$' -fuzz "^$target\$" -fuzztime "${1:-30s}" "$package"
    done
  done
done
