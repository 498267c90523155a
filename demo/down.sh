#!/usr/bin/env bash
# Stops the demo's cloud and registry and removes everything they made. `make down` runs it; twice is fine.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

if [ -x "$yunfan" ] && [ -d "$cloud" ]; then
    "$yunfan" down --data-dir "$cloud" --delete-data
elif [ -d "$cloud" ]; then
    die "$yunfan was not found: run make build, then make down again"
fi
if [ -s "$data/registry.pid" ]; then
    pid=$(cat "$data/registry.pid")
    # The number may belong to another process by now.
    if grep -qs docker-registry "/proc/$pid/cmdline"; then
        kill "$pid"
        until_true 10 "the registry (process $pid) does not end" sh -c "! kill -0 $pid"
    fi
fi
rm -rf "$data"
echo "down: nothing of the demo is left"
