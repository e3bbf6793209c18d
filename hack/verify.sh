#!/usr/bin/env bash
# Checks that everything which is generated or formatted is as the generators would write it. Changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
fail() { echo "verify: $1" >&2; failed=1; }

unformatted=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 gofmt -l)
[ -z "$unformatted" ] || fail "not gofmt'ed: $unformatted (run gofmt -w)"

for module in . e2e e2e/clients bench bench/admission hack/alerts hack/policies hack/supply; do
  (cd "$module" && go mod tidy -diff >/dev/null) || fail "$module/go.mod or go.sum is not tidy (run 'go mod tidy' in $module)"
  (cd "$module" && go vet ./...) || fail "go vet found problems in $module"
done

helm=$(cd e2e && CGO_ENABLED=0 go run ./cmd/cluster path)/helm
HELM=$helm hack/chart/render.sh --check || fail "manifests or golden files differ from the chart (run 'make generate')"

hack/previous.sh --check || fail "the previous version for the test of an upgrade is not what its commit says (see above)"
go run -C hack/supply ./licences -check || fail "licences of what is linked (see above)"
hack/vulncheck.sh || fail "known vulnerabilities (see above)"

long=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 wc -l | awk '$2 != "total" && $2 !~ /_test\.go$/ && $1 >= 400 {print $2 " (" $1 " lines)"}')
[ -z "$long" ] || fail "files of 400 lines or more: $long (split them by purpose)"

[ $failed = 0 ] && echo "verify: everything is up to date"
exit $failed
