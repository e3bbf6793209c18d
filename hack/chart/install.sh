#!/usr/bin/env bash
# Prints install.yaml: the chart ($1, a directory or an archive) as $HELM renders it, with its namespace on top. render.sh and
# hack/release/release.sh call it, with nothing of the user's own helm settings.
set -euo pipefail

cat <<'EOF'
# Generated from charts/podtoken by hack/chart/render.sh (make generate). Do not edit.
#
# Needs cert-manager in the cluster. Installs into the namespace podtoken-system:
#
#     kubectl apply --server-side -f install.yaml
---
apiVersion: v1
kind: Namespace
metadata:
  name: podtoken-system
  labels:
    app.kubernetes.io/name: podtoken
    app.kubernetes.io/part-of: podtoken
    pod-security.kubernetes.io/enforce: restricted
EOF
# Helm does not manage what is applied without it; its hooks would run at once.
"$HELM" template podtoken "$1" --namespace podtoken-system --kube-version 1.33.0 --no-hooks |
	sed '/^ *app\.kubernetes\.io\/managed-by: Helm$/d'
