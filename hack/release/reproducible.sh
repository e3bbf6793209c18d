#!/usr/bin/env bash
# Builds the binaries and the images twice, and fails unless both times gave the same bytes. The second time everything that
# must not matter is different: the directory, the times of the files, the umask, the hour, and a cache of compiled packages that is
# empty, so that every package is really compiled again. Takes minutes; hack/release/binaries_test.go is the cheap version.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=v0.0.0 revision=none created=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

work=$(mktemp -d)
# Nothing in a cache of modules or packages is writable.
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
(cd e2e && CGO_ENABLED=0 go build -o "$work/releaseimages" ./cmd/releaseimages)

# build DIRECTORY OUTPUT [DATE]: what git knows of, changed or not, is copied to the directory and built there, by make and by
# the Dockerfile, which must not differ either.
build() {
  mkdir -p "$1" "$2/binaries"
  git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$1"
  find "$1" -exec touch -d "${3:-now}" {} +
  make -s -C "$1" build VERSION="$version"
  for binary in "$1"/bin/*; do mv "$binary" "$2/binaries/$(basename "$binary")"; done
  "$work/releaseimages" -source "$1" -version "$version" -revision "$revision" -created "$created" -output "$2" -binaries "$2/binaries" >"$2/digests"
  for component in webhook controller sidecar; do
    cmp "$2/binaries/podtoken-$component" "$2/binaries/podtoken-$component-linux-$(go env GOARCH)"
  done
  (cd "$2" && find . -type f | sort | xargs sha256sum) >"$2.sums"
}

build "$work/a" "$work/first"
(
  export GOCACHE=$work/cache TZ=Pacific/Auckland
  umask 027
  build "$work/b/another/longer directory" "$work/second" 2001-02-03
)

cat "$work/second.sums"
if ! diff "$work/first.sums" "$work/second.sums"; then
  echo "reproducible: the same sources gave different bytes" >&2
  exit 1
fi
echo "reproducible: both builds gave the same $(wc -l <"$work/first.sums") files"
