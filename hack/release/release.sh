#!/usr/bin/env bash
# Makes the files of a release in dist/ from the commit that is checked out: release.sh vX.Y.Z. docs/releasing.md says what they are.
# The same commit gives the same bytes, with the same Go and buildah. Needs root, for buildah; nothing is fetched but Go modules.
#
# REGISTRY, if it is set, is what the chart and install.yaml name as the registry of the images.
set -euo pipefail
cd "$(dirname "$0")/../.."
fail() { echo "release: $*" >&2; exit 1; }

tag=${1:-}
[[ $tag =~ ^v(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$ ]] || fail "VERSION is ${tag:-not set}, want vX.Y.Z: make release VERSION=v1.2.3"
version=${tag#v}
registry=${REGISTRY:-}
[[ $registry =~ ^[a-z0-9._:/-]*[a-z0-9]$|^$ ]] || fail "REGISTRY is $registry, want a host and perhaps a path, without a slash at the end"

# What is released is a commit: somebody else has to be able to check it out.
[ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed: $(git status --porcelain | head -n 3 | tr '\n' ';')"
revision=$(git rev-parse HEAD)
if tagged=$(git rev-parse -q --verify "refs/tags/$tag^{commit}"); then
  [ "$tagged" = "$revision" ] || fail "the tag $tag is another commit, $tagged"
fi
created=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/dist
mkdir "$out"

# section TITLE: the lines below a heading of the changelog, without the empty ones around them.
section() { awk -v title="$1" '/^## /{on = $2 == title; next} on' CHANGELOG.md | sed -e '/./,$!d' | sed -e ':a' -e '/^\n*$/{$d;N;ba' -e '}'; }
[ -z "$(section Unreleased)" ] || fail "CHANGELOG.md has lines below \"Unreleased\": move them to \"## $tag\""
section "$tag" >"$out/release-notes.md"
[ -s "$out/release-notes.md" ] || fail "CHANGELOG.md has nothing below \"## $tag\""

echo "release: licences"
go run -C hack/supply ./licences -check

echo "release: images"
(cd e2e && CGO_ENABLED=0 go build -o "$work/releaseimages" ./cmd/releaseimages)
"$work/releaseimages" -version "$tag" -revision "$revision" -created "$created" -output "$out" -binaries "$work/binaries" >"$out/digests.txt"

echo "release: kubectl podtoken"
hack/release/plugin.sh "$tag" "$created" "$work/binaries" "$out"

echo "release: bills of materials"
for component in webhook controller sidecar; do
  for architecture in amd64 arm64; do
    name=podtoken-$component-linux-$architecture
    go run -C hack/supply ./sbom -binary "$work/binaries/$name" -architecture "$architecture" -version "$tag" -created "$created" \
      -notices "$PWD/licenses/$component.txt" -output "$out/podtoken-$component-$tag-linux-$architecture.cdx.json"
  done
done
for platform in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64; do
  go run -C hack/supply ./sbom -binary "$work/binaries/kubectl-podtoken-$platform" -os "${platform%-*}" -architecture "${platform#*-}" \
    -version "$tag" -created "$created" -notices "$PWD/licenses/kubectl-podtoken.txt" -output "$out/kubectl-podtoken-$tag-$platform.cdx.json"
done

echo "release: chart"
# The flags of the test cluster's helm: what was compiled for that one is not compiled again.
HELM=${HELM:-$(CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false" go tool -n -modfile=e2e/cluster/components/helm/go.mod helm)}
HELM_CONFIG_HOME=$work/helm HELM_CACHE_HOME=$work/helm HELM_DATA_HOME=$work/helm KUBECONFIG=$work/none
export HELM HELM_CONFIG_HOME HELM_CACHE_HOME HELM_DATA_HOME KUBECONFIG
hack/release/chart.sh "$version" "$out/digests.txt" "$registry" "$created" "$out"
archive=$out/podtoken-$version.tgz
hack/chart/install.sh "$archive" >"$out/install.yaml"

# What is needed to get the same bytes once more.
{
  echo "version $tag"
  echo "revision $revision"
  echo "created $created"
  echo "registry ${registry:-none}"
  go version | awk '{print "go", $3}'
  buildah --version | awk '{print "buildah", $3}'
  awk '$1 == "helm.sh/helm/v4" {print "helm", $2}' e2e/cluster/components/helm/go.mod
} >"$out/buildinfo.txt"

(cd "$out" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)
hack/release/check.sh "$out" "$tag"
rm -rf dist
mv "$out" dist
echo "release: $tag is in dist/"
