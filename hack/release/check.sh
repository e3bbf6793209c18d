#!/usr/bin/env bash
# Checks the files of a release against each other: check.sh DIRECTORY vX.Y.Z. Needs $HELM.
set -euo pipefail
cd "$1"
tag=$2 version=${2#v}
fail() { echo "release: $*" >&2; exit 1; }

sha256sum --check --strict --quiet SHA256SUMS

want="buildinfo.txt digests.txt install.yaml krew-podtoken.yaml podtoken-$version.tgz release-notes.md SHA256SUMS"
for component in webhook controller sidecar; do
  want+=" podtoken-$component-$tag.oci.tar podtoken-$component-$tag-linux-amd64.cdx.json podtoken-$component-$tag-linux-arm64.cdx.json"
done
for platform in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64; do
  want+=" kubectl-podtoken-$tag-$platform.tar.gz kubectl-podtoken-$tag-$platform.cdx.json"
done
diff <(tr ' ' '\n' <<<"$want" | LC_ALL=C sort) <(LC_ALL=C ls -1) || fail "these are not the files of a release"

# krew's manifest names the archives by what they are.
while read -r _ checksum; do
  grep -q "^$checksum  kubectl-podtoken-$tag-" SHA256SUMS || fail "krew-podtoken.yaml has the checksum $checksum, which is that of no archive"
done < <(grep 'sha256:' krew-podtoken.yaml)
[ "$(grep -c 'sha256:' krew-podtoken.yaml)" = 4 ] || fail "krew-podtoken.yaml does not have four platforms"

"$HELM" lint --strict --quiet --kube-version 1.33.0 "podtoken-$version.tgz"
# The chart and install.yaml are this version, and run the images in the archives and no others.
rendered=$("$HELM" template podtoken "podtoken-$version.tgz" --namespace podtoken-system --kube-version 1.33.0)
for text in "$rendered" "$(cat install.yaml)"; do
  grep -q "app.kubernetes.io/version: \"$version\"" <<<"$text" || fail "the chart or install.yaml is not of version $version"
  used=$(grep -oE '[^/ "]+/[a-z]+@sha256:[0-9a-f]{64}' <<<"$text" | sed 's#^.*/##; s/@/ /' | sort -u)
  [ "$used" = "$(sort digests.txt)" ] || fail "the chart or install.yaml uses the images $used"
  ! grep -E '^ *image:' <<<"$text" | grep -v '@sha256:' || fail "the chart or install.yaml has images without a digest"
done
while read -r component digest; do
  # An archive's index.json names the digest of the image index; every other digest in it was checked when it was built.
  tar -xOf "podtoken-$component-$tag.oci.tar" index.json | grep -q "\"$digest\"" || fail "the archive of $component has another digest"
done <digests.txt
