#!/usr/bin/env bash
# Installs the Debian packages of what the example applications are written in, as far as it is missing: their tests run them
# (manifests/examples/apps). What a cluster needs is installed by e2e/cmd/cluster.
set -euo pipefail
missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need python3 python3
need node nodejs
need curl curl
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing: ${missing[*]}; on Debian and Ubuntu, as root: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "installing Debian packages: ${missing[*]}" >&2
apt-get update -q >/dev/null
apt-get install -q -y --no-install-recommends --no-remove "${missing[@]}" >/dev/null
