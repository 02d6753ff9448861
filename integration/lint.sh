#!/usr/bin/env bash
# The lint run. Each check has a reason, and one that fails does not stop the others.
set -uo pipefail
bin=${1:?usage: lint.sh BIN}
cd "$(dirname "$0")/.."
failed=0
check() { # name, reason, command...
  local name=$1 reason=$2; shift 2
  if out=$("$@" 2>&1) && [ -z "${must_be_empty:+$out}" ]; then
    echo "lint: $name ok"
  else
    echo "lint: $name FAILED ($reason)"; printf '%s\n' "$out" | head -60
    failed=1
  fi
}
# The attack probe, the Vault, the kubelet and the name server are modules of their own,
# kept as they were given.
mapfile -t files < <(git ls-files '*.go' | grep -Ev '^integration/(edgeprobe|vaultdev|pkubelet|minidns)/')
must_be_empty=1 check gofumpt "one way to lay code out: run make fmt" "$bin/gofumpt" -l "${files[@]}"
check "go vet" "what the compiler's authors hold to be a mistake" go vet ./...
check staticcheck "dead code, misused APIs" "$bin/staticcheck" ./...
check errorlint "errors must stay wrapped, or callers cannot branch on them" "$bin/go-errorlint" -asserts=false ./...
check "go mod tidy" "go.mod says what is used, no more" go mod tidy -diff
check "go mod verify" "modules are what go.sum says" go mod verify
db=${KEYWAY_VULNDB:-../shared/vulndb}
if [ -d "$db" ]; then
  check govulncheck "no call into a known vulnerability" "$bin/govulncheck" -db "file://$(cd "$db" && pwd)" ./...
else
  echo "lint: govulncheck skipped: no database at $db (set KEYWAY_VULNDB to a copy of the Go vulnerability database)"
fi
exit $failed
