#!/usr/bin/env bash
# Runs every fuzz target of the module for the time given, one after the other.
set -euo pipefail
time=${1:?usage: fuzz.sh TIME}
cd "$(dirname "$0")/.."
count=0
while read -r file; do
  dir=$(dirname "$file")
  for name in $(grep -ohE '^func Fuzz[A-Za-z0-9_]*' "$file" | sed 's/^func //'); do
    echo "fuzz: ./$dir $name"
    go test "./$dir" -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x
    count=$((count + 1))
  done
done < <(grep -rlE '^func Fuzz' --include='*_test.go' cmd edge certs secrets routing policy | sort)
[ "$count" -gt 0 ]
echo "fuzz: $count targets ran"
