#!/usr/bin/env bash
# Prints the plain manifests: what the chart renders with its own values into the namespace
# keyway, without what only Helm reads. `make manifests` writes them to keyway.yaml.
set -euo pipefail
helm=${1:?usage: render.sh HELM}
here=$(cd "$(dirname "$0")" && pwd)
cat <<'NAMESPACE'
# Made of deploy/chart/keyway by `make manifests`; change the chart. Apply with
#   kubectl apply --server-side -f keyway.yaml
# and set the image in the Deployment to where yours is (docs/kubernetes.md).
apiVersion: v1
kind: Namespace
metadata:
  name: keyway
  labels:
    pod-security.kubernetes.io/enforce: restricted
NAMESPACE
"$helm" template keyway "$here/../chart/keyway" --namespace keyway --include-crds --skip-tests |
  sed -e '/^# Source: /d' -e '/^ *helm\.sh\/chart: /d' -e '/^ *app\.kubernetes\.io\/managed-by: Helm$/d'
