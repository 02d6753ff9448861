#!/usr/bin/env bash
# Passes the output of `go test -v` on and closes with what ran. It fails when a
# test failed, when none ran, and, under KEYWAY_REQUIRE=all, when one was skipped.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
tee "$log" | grep -Ev '^(=== |\s+--- (PASS|SKIP): .*/)' || true
passed=$(grep -cE '^\s*--- PASS: ' "$log")
failed=$(grep -cE '^\s*--- FAIL: ' "$log")
skipped=$(grep -cE '^\s*--- SKIP: ' "$log")
broken=$(grep -cE '^(FAIL|panic:)' "$log")
if [ "$skipped" -gt 0 ]; then
  echo "skipped:"; grep -E '^\s*--- SKIP: ' "$log"
fi
echo "integration: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$broken" -eq 0 ] && [ "$passed" -gt 0 ] || exit 1
if [ "${KEYWAY_REQUIRE:-}" = all ] && [ "$skipped" -gt 0 ]; then
  echo "integration: KEYWAY_REQUIRE=all, and tests were skipped"; exit 1
fi
