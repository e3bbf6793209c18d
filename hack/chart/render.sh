#!/bin/sh
# Renders what is generated from charts/podtoken: golden/*.yaml (one per ci/*-values.yaml), the table of values in its
# README.md, manifests/install.yaml and the static guards, manifests/guard*-static.yaml. With --check it changes nothing and fails when one of them is
# out of date.
#
# Needs helm 4 ($HELM, or helm in PATH) and go.
set -eu

cd "$(dirname "$0")/../.."
helm=${HELM:-helm}
chart=charts/podtoken

case "${1:-}" in
'' | --check) mode=${1:-} ;;
*)
	echo "usage: hack/chart/render.sh [--check]" >&2
	exit 2
	;;
esac

if ! command -v "$helm" >/dev/null; then
	echo "hack/chart/render.sh: no helm: set HELM to the path of helm 4, or put it in PATH" >&2
	exit 1
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
mkdir -p "$out/$chart/golden" "$out/manifests"

# Nothing of the user's own helm settings, plugins or clusters may matter.
HELM_CONFIG_HOME=$out/.helm HELM_CACHE_HOME=$out/.helm HELM_DATA_HOME=$out/.helm KUBECONFIG=$out/.helm/none
export HELM_CONFIG_HOME HELM_CACHE_HOME HELM_DATA_HOME KUBECONFIG

render() {
	"$helm" template podtoken "$chart" --namespace podtoken-system --kube-version 1.33.0 "$@"
}

for values in "$chart"/ci/*-values.yaml; do
	"$helm" lint --strict --quiet --namespace podtoken-system --kube-version 1.33.0 -f "$values" "$chart"
	name=$(basename "$values" -values.yaml)
	render -f "$values" >"$out/$chart/golden/$name.yaml"
done

HELM=$helm hack/chart/install.sh "$chart" >"$out/manifests/install.yaml"

# static NAME TITLE writes a guard as the file that API servers load.
static() {
	{
		cat <<-EOF
			# Generated from charts/podtoken by hack/chart/render.sh (make generate). Do not edit.
			#
			# $2 as every API server loads it from its own disk (--admission-control-config-file, staticManifestsDir of the
			# plugin ValidatingAdmissionPolicy): see docs/security.md. Install the chart with guard.static=true then.
		EOF
		render --set guard.static=true --show-only templates/guard.yaml | sed "1,/^  podtoken-$1.yaml: |\$/d; /^  [a-z-]*.yaml: |\$/,\$d; s/^    //"
	} >"$out/manifests/$1-static.yaml"
}
static guard "The guard"
static guard-strict "The strict guard, besides guard-static.yaml,"

go run ./hack/chart "$chart/values.yaml" "$chart/README.md" >"$out/$chart/README.md"

if [ "$mode" != --check ]; then
	rm -f "$chart"/golden/*.yaml
	cp "$out/$chart"/golden/*.yaml "$chart/golden/"
	cp "$out/$chart/README.md" "$chart/README.md"
	cp "$out"/manifests/*.yaml manifests/
	exit 0
fi

stale=0
for path in "$chart/golden" "$chart/README.md" manifests/install.yaml manifests/guard-static.yaml manifests/guard-strict-static.yaml; do
	diff -ru "$path" "$out/$path" || stale=1
done
if [ "$stale" != 0 ]; then
	echo "hack/chart/render.sh: generated files are out of date: run \`make generate\` and commit the result" >&2
	exit 1
fi
