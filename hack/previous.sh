#!/bin/sh
# Packs the version with which the test of an upgrade begins, e2e/testdata/previous.tar.gz: the chart, and the sources of the
# images, of a commit of this repository, without tests. In the repository, because a clone may have no history.
#
# After a release: hack/previous.sh vX.Y.Z. With --check it changes nothing, and fails when the archive is not of the commit that it
# names; a clone that does not have the commit cannot tell.
set -eu

cd "$(dirname "$0")/.."
archive=e2e/testdata/previous.tar.gz

pack() {
	git archive --format=tar "$1" -- Dockerfile .dockerignore go.mod go.sum LICENSE cmd internal pkg $(git ls-tree --name-only "$1" licenses) \
		charts/podtoken/Chart.yaml charts/podtoken/values.yaml charts/podtoken/values.schema.json charts/podtoken/templates \
		':(exclude,glob)**/*_test.go' ':(exclude,glob)**/testdata/**' $(git ls-tree -d --name-only "$1" charts/podtoken/files)
}

case "${1:-}" in
--check)
	commit=$(gzip -dc "$archive" | git get-tar-commit-id)
	if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
		echo "hack/previous.sh: this clone does not have commit $commit, of which $archive is"
		exit 0
	fi
	out=$(mktemp)
	trap 'rm -f "$out"' EXIT
	pack "$commit" >"$out"
	if ! gzip -dc "$archive" | cmp - "$out"; then
		echo "hack/previous.sh: $archive is not of commit $commit: make it again with hack/previous.sh COMMIT" >&2
		exit 1
	fi
	;;
'' | -*)
	echo "usage: hack/previous.sh COMMIT | --check" >&2
	exit 2
	;;
*)
	commit=$(git rev-parse --verify "$1^{commit}")
	mkdir -p "$(dirname "$archive")"
	pack "$commit" | gzip -9n >"$archive"
	echo "$archive: $(git log -1 --format='%h %s' "$commit"), $(wc -c <"$archive") bytes"
	;;
esac
