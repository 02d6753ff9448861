#!/usr/bin/env bash
# Installs what the tests and benchmarks need: Debian packages (when run as root on a
# Debian machine) and the pinned tools, built once for each state of their module file.
set -euo pipefail
cache=${1:?usage: setup.sh CACHE}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$cache/bin"

packages=(nginx-light haproxy nghttp2-client slowhttptest wrk curl openssl postgresql prometheus iproute2)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
# Any nginx will do where one is already there.
if command -v nginx >/dev/null; then missing=("${missing[@]/nginx-light/}"); fi
missing=(${missing[@]})
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # The packages must not start their servers: tests start their own, on loopback.
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod +x "$policy"; made=1; fi
    trap '[ -z "$made" ] || rm -f "$policy"' EXIT
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "setup: these Debian packages are missing and this user cannot install them: ${missing[*]}" >&2
    echo "setup: tests that need them will be skipped loudly" >&2
  fi
fi

stamp="$cache/bin/.tools-$(cat "$here"/tools/go.mod "$here"/tools/go.sum <(go version) | sha256sum | cut -c1-16)"
if [ ! -e "$stamp" ]; then
  for tool in $(awk '/^tool \(/{on=1;next} on&&/^\)/{exit} on{print $1}' "$here/tools/go.mod"); do
    echo "setup: building $tool"
    go build -C "$here/tools" -o "$cache/bin/" "$tool"
  done
  rm -f "$cache"/bin/.tools-*
  touch "$stamp"
fi

# Real servers for tests, each a module of its own that Keyway never links. The name of
# a binary says what it was built from, so that an old cache is never taken for new.
built() { # built FOLDER NAME PACKAGE [LDFLAGS]: bin/NAME, from bin/NAME-HASH; a NAME.test is the package's tests
  local hash note= how=build compile=
  case $2 in
    vaultdev) note=" (12 minutes of CPU the first time)" ;;
    kube-apiserver) note=" (6 minutes of CPU the first time)" ;;
    kube-controller-manager) note=" (3 minutes of CPU the first time)" ;;
    *.test) how=test compile=-c ;;
    certmanagerdev) note=" (7 minutes of CPU the first time)" ;;
  esac
  hash=$({ cat $(find "$here/$1" -type f \( -name "go.*" -o -name "*.go" \) | sort); go version; } | sha256sum | cut -c1-16)
  if [ ! -e "$cache/bin/$2-$hash" ]; then
    echo "setup: building $2$note"
    CGO_ENABLED=0 go $how -C "$here/$1" $compile -mod=readonly -trimpath -ldflags="-s -w ${4:-}" -o "$cache/bin/.$2.new" "$3"
    rm -f "$cache/bin/$2"-????????????????
    mv "$cache/bin/.$2.new" "$cache/bin/$2-$hash"
  fi
  ln -sf "$2-$hash" "$cache/bin/$2"
}
built vaultdev vaultdev .
built pebbledev pebble github.com/letsencrypt/pebble/v2/cmd/pebble
built pebbledev pebble-challtestsrv github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv
# Kubernetes refuses to read its own version unless it was told one.
v=$(awk '$1 == "k8s.io/kubernetes" {print $2}' "$here/kubedev/go.mod")
kube=
for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  kube+=" -X $p.gitVersion=$v -X $p.gitMajor=1 -X $p.gitMinor=$(cut -d. -f2 <<<"$v") -X $p.gitCommit=module -X $p.gitTreeState=clean -X $p.buildDate=1970-01-01T00:00:00Z"
done
# So does Helm of itself, and of the Kubernetes that it renders for.
helm="-X helm.sh/helm/v3/internal/version.version=$(awk '$1 == "helm.sh/helm/v3" {print $2}' "$here/helmdev/go.mod")"
for p in chartutil lint/rules; do
  helm+=" -X helm.sh/helm/v3/pkg/$p.k8sVersionMajor=$(cut -d. -f1 <<<"${v#v}") -X helm.sh/helm/v3/pkg/$p.k8sVersionMinor=$(cut -d. -f2 <<<"$v")"
done
built grpcdev grpcdev .
built helmdev helm helm.sh/helm/v3/cmd/helm "$helm"
built kubedev etcd go.etcd.io/etcd/server/v3
built kubedev kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver "$kube"
built kubedev kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager "$kube"
# Pods as processes, and the Gateway API's own conformance suite with its programs.
built pkubelet pkubelet .
built minidns minidns .
built gatewaydev echo-basic sigs.k8s.io/gateway-api/conformance/echo-basic
built gatewaydev gateway-conformance.test sigs.k8s.io/gateway-api/conformance
# Modules of which only files are used: definitions of kinds.
go mod download -C "$here/kindsdev" $(awk '/^require \(/{on=1;next} /^\)/{exit} on{print $1}' "$here/kindsdev/go.mod")
built certmanagerdev certmanagerdev .
built certmanagerdev acmesolver ./acmesolver
go mod download
echo "setup: ready (tools in $cache/bin)"
