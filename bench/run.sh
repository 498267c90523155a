#!/bin/sh
# All benchmarks, each beside a peer or a limit measured in the same run. As root; nothing else should run meanwhile.
# KUBE_APISERVER and ETCD name programs to compare with: tests/conformance/peers.sh builds both, and prints where they are.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --release --locked -q -p yunfan-bench
archive=$(demo/web-image.sh "$target/demo" 2>/dev/null | tail -n 1)
disk=$(demo/guest-image.sh "$target/demo" 2>/dev/null | tail -n 1)
echo "== store: commits/s beside etcd on the same disk"
"$target/release/bench-store"
echo "== Kubernetes API (with KUBE_APISERVER=PATH beside that program over etcd)"
"$target/release/bench-api" "$target/release/yunfan"
echo "== authentication and roles (with KUBE_APISERVER=PATH beside that program over etcd)"
"$target/release/bench-auth" "$target/release/yunfan"
echo "== OpenStack API, with goals, beside OpenStack's own services on such a machine"
"$target/release/bench-openstack" "$target/release/yunfan"
echo "== cloud"
"$target/release/bench-cloud" "$target/release/yunfan" "$archive" "$disk"
echo "== density: 1,000 pods on one node; 5,000 nodes without containers"
"$target/release/bench-density" "$target/release/yunfan" "$archive"
