#!/usr/bin/env bash
# Packages the chart for a release: chart.sh X.Y.Z DIGESTS REGISTRY CREATED OUTPUT. The packaged chart names the images by the digests
# of DIGESTS (lines of component and digest), so that it runs what was released with it and nothing else. Needs $HELM.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=$1 digests=$2 registry=$3 created=$4 output=$5

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/source" "$work/packaged"
cp -R charts/podtoken LICENSE "$work/source/"
chart=$work/source/podtoken
mv "$work/source/LICENSE" "$chart/"

while read -r component digest; do
  awk -v component="$component:" -v digest="$digest" '
    /^[^ #]/ {within = $1 == component}
    within && /^    digest: ""$/ {sub(/""/, digest)}
    {print}' "$chart/values.yaml" >"$work/values.yaml"
  mv "$work/values.yaml" "$chart/values.yaml"
  grep -q "^    digest: $digest\$" "$chart/values.yaml" || { echo "release: values.yaml has no empty digest of $component" >&2; exit 1; }
done <"$digests"
if [ -n "$registry" ]; then
  sed -i "s|^  registry: \"\"\$|  registry: \"$registry\"|" "$chart/values.yaml"
  grep -q "^  registry: \"$registry\"\$" "$chart/values.yaml" || { echo "release: values.yaml has no empty registry" >&2; exit 1; }
fi
go run ./hack/chart "$chart/values.yaml" "$chart/README.md" >"$work/README.md"
mv "$work/README.md" "$chart/README.md"

"$HELM" package "$chart" --version "$version" --app-version "$version" --destination "$work" >/dev/null
# helm packs in the order and with the times that it likes; the same files shall be the same archive.
tar -xmzf "$work/podtoken-$version.tgz" -C "$work/packaged"
tar -C "$work/packaged" --sort=name --mtime="@$created" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --format=ustar -cf - podtoken |
  gzip -n -9 >"$output/podtoken-$version.tgz"
