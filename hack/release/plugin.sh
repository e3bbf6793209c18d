#!/usr/bin/env bash
# Builds `kubectl podtoken` for a release: plugin.sh vX.Y.Z CREATED BINARIES OUTPUT. Each platform gets an archive with the program, its
# licence, and the licences of what is linked into it; OUTPUT also gets a manifest for krew, which names them by their checksums.
set -euo pipefail
cd "$(dirname "$0")/../.."
tag=$1 created=$2 binaries=$3 output=$4

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
platforms=""
for platform in linux-amd64 linux-arm64 darwin-amd64 darwin-arm64; do
  os=${platform%-*} architecture=${platform#*-}
  binary=$binaries/kubectl-podtoken-$platform
  CGO_ENABLED=0 GOOS=$os GOARCH=$architecture go build -trimpath -buildvcs=false \
    -ldflags="-s -w -X github.com/podtoken/podtoken/internal/version.Version=$tag" -o "$binary" ./cmd/kubectl-podtoken
  install -m 0755 "$binary" "$work/kubectl-podtoken"
  install -m 0644 LICENSE "$work/LICENSE"
  install -m 0644 licenses/kubectl-podtoken.txt "$work/NOTICES.txt"
  archive=kubectl-podtoken-$tag-$platform.tar.gz
  tar -C "$work" --sort=name --mtime="@$created" --owner=0 --group=0 --numeric-owner --format=ustar -cf - LICENSE NOTICES.txt kubectl-podtoken |
    gzip -n -9 >"$output/$archive"
  platforms+="
    - selector:
        matchLabels: {os: $os, arch: $architecture}
      uri: https://github.com/podtoken/podtoken/releases/download/$tag/$archive
      sha256: $(sha256sum "$output/$archive" | cut -d' ' -f1)
      bin: kubectl-podtoken"
done

cat >"$output/krew-podtoken.yaml" <<END
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: podtoken
spec:
  version: $tag
  homepage: https://github.com/podtoken/podtoken
  shortDescription: Explain and look after podtoken
  description: |
    Says what podtoken, which keeps pod-bound ServiceAccount tokens fresh as files, does with a pod and why, what its tokens
    are, and whether the installation is as it should be.
  platforms:$platforms
END
