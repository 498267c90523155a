#!/usr/bin/env bash
# Everything that CI runs: lints, units, contracts, and end to end with real clients. Needs root: the tests make namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "test: run as root: the tests make namespaces, mounts and cgroups of their own" >&2; exit 1; }

scripts/lint.sh
YUNFAN=${CARGO_TARGET_DIR:-$PWD/target}/release/yunfan
[ -x "$YUNFAN" ] || cargo build --release --locked
YUNFAN_OPENSTACK_BIN=$(scripts/openstack-client.sh)
export YUNFAN YUNFAN_OPENSTACK_BIN
# Four at a time: each end-to-end test starts a cloud, and the machine may be small. (There are no documentation tests.)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --workspace --locked -q --lib --bins --tests -- --test-threads=4 2>&1 | tee "$log" || status=$?
# One line for all that was run.
awk '/^test result:/ {passed += $4; failed += $6; ignored += $8} END {printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored}' "$log"
exit $status
