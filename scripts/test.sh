#!/bin/sh
# Everything that CI runs: lints, units, contracts, and end to end with real clients. Needs root: the tests make namespaces.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "test: run as root: the tests make namespaces, mounts and cgroups of their own" >&2; exit 1; }

scripts/lint.sh
YUNFAN=${CARGO_TARGET_DIR:-$PWD/target}/release/yunfan
[ -x "$YUNFAN" ] || cargo build --release --locked
YUNFAN_OPENSTACK_BIN=$(scripts/openstack-client.sh)
export YUNFAN YUNFAN_OPENSTACK_BIN
# One at a time: the end-to-end tests measure nothing, but each starts a cloud, and the machine may be small.
cargo test --workspace --locked -q -- --test-threads=4
