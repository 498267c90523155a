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
# Everything else can be tried without helm, which is built with Go where there is none.
without=()
if YUNFAN_HELM=$(scripts/helm.sh); then
    export YUNFAN_HELM
else
    echo "test: there is no helm, so its test is left out" >&2
    without=(--skip a_chart_is_installed_upgraded_rolled_back_and_taken_away)
fi
if YUNFAN_OIDC=$(scripts/oidc.sh); then
    export YUNFAN_OIDC
else
    echo "test: there is no OpenID provider, so its test is left out" >&2
    without+=(--skip who_signs_in_at_an_openid_provider_comes_in)
fi
if [ -z "${KUBE_SCHEDULER:-}" ] || [ -z "${KUBE_CONTROLLER_MANAGER:-}" ]; then
    echo "test: KUBE_SCHEDULER and KUBE_CONTROLLER_MANAGER name no programs (tests/conformance/peers.sh builds them), so the test with them is left out" >&2
    without+=(--skip kubernetes_own_scheduler_and_controllers_run_a_cloud)
fi
# All are run, so that the log shows all that failed. Four at a time: each end-to-end test starts a cloud, and the machine may be
# small. (There are no documentation tests.)
# Into a file that is followed, not into a pipe: a process that a test left behind would hold a pipe open, and the run would wait
# for it after the last test.
log=$(mktemp)
tests=
trap 'kill $tests 2>/dev/null || true; rm -f "$log"' EXIT
cargo test --workspace --locked -q --no-fail-fast --lib --bins --tests -- --test-threads=4 "${without[@]}" >"$log" 2>&1 &
tests=$!
tail --pid="$tests" -n +1 -f "$log"
status=0
wait "$tests" || status=$?
# One line for all that was run.
awk '/^test result:/ {passed += $4; failed += $6; ignored += $8} END {printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored}' "$log"
exit $status
