#!/usr/bin/env bash
# Runs every fuzz target of the module for the time given, two at a time, each with one
# worker: that is what two processors have room for. A crash, and a target that does not
# run, fail the whole, and the input is left in testdata/fuzz of its package: keep it, it is
# a test from then on.
set -euo pipefail
time=${1:?usage: fuzz.sh TIME}
cd "$(dirname "$0")/.."

one() { # folder, target, time
  local log
  log=$(mktemp)
  if go test "./$1" -run '^$' -fuzz "^$2\$" -fuzztime "$3" -fuzzminimizetime 10x -parallel 1 >"$log" 2>&1 && grep -q '^fuzz: elapsed' "$log"; then
    echo "fuzz: ok   ./$1 $2: $(grep '^fuzz: elapsed' "$log" | tail -1 | sed 's/^fuzz: //')"
    rm -f "$log"
    return
  fi
  # The fuzzing of the standard library sometimes takes the end of its time for a failure: the
  # whole of what it says then is this, and there is no input.
  if grep -q '^ *context deadline exceeded$' "$log" && grep -q '^fuzz: elapsed' "$log" && ! grep -qE 'Failing input|panic|DATA RACE|_test\.go:[0-9]+' "$log"; then
    echo "fuzz: ok   ./$1 $2: $(grep '^fuzz: elapsed' "$log" | tail -1 | sed 's/^fuzz: //') (stopped at its end)"
    rm -f "$log"
    return
  fi
  echo "fuzz: FAILED ./$1 $2"; tail -60 "$log"; rm -f "$log"
  return 1
}
export -f one

list=$(grep -rE '^func Fuzz[A-Za-z0-9_]*\(' --include='*_test.go' cmd edge certs secrets routing policy |
  sed -E 's|^(.*)/[^/]+:func (Fuzz[A-Za-z0-9_]*)\(.*|\1 \2|' | sort)
[ -n "$list" ]
# The longest part of a run is compiling: what a package needs is compiled once, before two want it.
cut -d' ' -f1 <<<"$list" | sort -u | sed 's|^|./|' | xargs go vet
xargs -P 2 -L 1 bash -c 'one "$1" "$2" "$0"' "$time" <<<"$list"
echo "fuzz: $(wc -l <<<"$list") targets ran, $time each"
