#!/usr/bin/env bash
# Runs a command as if it were started in the least convenient way: from nohup and in the background, with another umask, language and
# time zone, proxies that do not answer, no home, a kubeconfig of nothing, a TMPDIR with a blank, and no input. Tests pass all the
# same: see .ci/run. What they need from a network, modules and packages, has to be there before.
set -euo pipefail

# Where Go and the test cluster keep what they have built is found by way of the home, and building it again would take minutes.
GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE) GOPATH=$(go env GOPATH) GOPROXY=$(go env GOPROXY)
export GOCACHE GOMODCACHE GOPATH GOPROXY
export PODTOKEN_CACHE=${PODTOKEN_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}}

base=$(mktemp -d)
trap 'chmod -R u+rwX "$base"; rm -rf "$base"' EXIT
mkdir "$base/tmp with a blank"
printf 'not: [a kubeconfig' >"$base/kubeconfig"
variables=(
  "TMPDIR=$base/tmp with a blank" "KUBECONFIG=$base/kubeconfig"
  HOME=/nonexistent USER=nobody LOGNAME=nobody XDG_CACHE_HOME=/nonexistent/cache XDG_CONFIG_HOME=/nonexistent/config
  LANG=tr_TR.UTF-8 LC_ALL=tr_TR.UTF-8 LANGUAGE=tr TZ=Pacific/Kiritimati
  TERM=dumb COLUMNS=20 PAGER=false EDITOR=false CDPATH=/ GREP_COLORS=mt=31
  NO_PROXY= no_proxy= KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT=9 HELM_NAMESPACE=nowhere HELM_DEBUG=true
)
for proxy in HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy; do variables+=("$proxy=http://127.0.0.1:9"); done
umask 077
(
  trap '' HUP INT QUIT PIPE TERM USR1 USR2 ALRM TSTP TTIN TTOU # what is ignored stays so in what is started
  exec env "${variables[@]}" "$@" <&-
)
