#!/usr/bin/env bash
# Runs Kubernetes' own conformance tests against a cloud. Needs root. Use: run.sh [FOCUS [SKIP]], patterns of tests' names; by default all are run.
#
# The cloud is started for it and taken away afterwards. It has two nodes, since some tests want that; both are on this machine. One that is running already
# in YUNFAN_CONFORMANCE_DIR is used, and left: `run.sh --stay` starts it, `run.sh --down` ends it. YUNFAN_CONFORMANCE_PROCS says how many tests run at once;
# what failed is run once more alone, since some tests want more of a machine than it has then. Reports and logs are kept in YUNFAN_CONFORMANCE_REPORTS.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
yunfan=${YUNFAN:-${CARGO_TARGET_DIR:-$top/target}/release/yunfan}
data=${YUNFAN_CONFORMANCE_DIR:-/var/tmp/yunfan-conformance}
procs=${YUNFAN_CONFORMANCE_PROCS:-$(($(nproc) * 2))}
die() { echo "conformance: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "run as root: a cloud makes network namespaces, mounts and cgroups"
[ -x "$yunfan" ] || die "$yunfan was not found: run \`make build\`, or name it by YUNFAN"
stay=
if [ "${1:-}" = --stay ]; then stay=yes && shift; fi
focus=${1:-.} skip=${2:-}

peers=$("$here/peers.sh")
images=$peers/images.tar
if [ "$here/images.py" -nt "$images" ]; then "$here/images.py" "$peers" "$images"; fi

# --- a cloud -----------------------------------------------------------------------------------------------------------
export KUBECONFIG=$data/cloud/kubeconfig
running() { "$peers/kubectl" --request-timeout=5s get --raw /readyz >/dev/null 2>&1; }
down() {
    for part in second cloud; do
        [ ! -d "$data/$part" ] || "$yunfan" down --data-dir "$data/$part" --delete-data >/dev/null || return
    done
    rm -rf "$data"
}
# start NAME COMMAND...: starts a part of the cloud, and waits until it is ready.
start() {
    name=$1 && shift
    setsid "$yunfan" "$@" --data-dir "$data/$name" >"$data/$name.log" 2>&1 </dev/null &
    until grep -qs '^ready' "$data/$name.log"; do
        kill -0 $! 2>/dev/null || die "no \`yunfan $1\`: $(tail -n 3 "$data/$name.log")"
        sleep 0.2
    done
}
if [ "${1:-}" = --down ]; then
    down
    exit 0
fi
if ! running; then
    down
    mkdir -p "$data"
    chmod 700 "$data"
    # Pods come to the API server, and the tests to node ports, by the node's address: loopback would be the Pods' own.
    address=$(ip -4 -o address show scope global | awk '{sub("/.*", "", $4); print $4; exit}')
    [ -n "$address" ] || die "this machine has no address but loopback, where no Pod could reach its node"
    [ -n "$stay" ] || trap down EXIT
    trap 'exit 1' INT TERM
    start cloud up --listen "$address:${YUNFAN_CONFORMANCE_PORT:-7300}" --cluster-cidr 10.130.0.0/16 --service-cidr 10.131.0.0/16
    "$yunfan" node add second --address "$address" --output "$data/second.join" --data-dir "$data/cloud" >/dev/null
    start second agent --join "$data/second.join"
    "$peers/kubectl" wait --for=condition=Ready node --all --timeout=60s >/dev/null || die "the nodes are not ready, see $data/*.log"
    "$yunfan" image import "$images" --data-dir "$data/cloud" >/dev/null
fi
if [ -n "$stay" ]; then
    echo "conformance: the cloud is up; KUBECONFIG=$KUBECONFIG, $0 --down ends it"
    exit 0
fi

# --- tests -------------------------------------------------------------------------------------------------------------
reports=${YUNFAN_CONFORMANCE_REPORTS:-$peers/reports/$(date +%Y%m%dT%H%M%S)}
mkdir -p "$reports"
# run NAME PROCESSES LABELS FOCUS SKIP: one run; its log and JUnit report are kept by name.
run() {
    echo "conformance: $1, $2 at once; see $reports/$1.log" >&2
    PATH=$peers:$PATH "$peers/ginkgo" run --procs="$2" --timeout=24h --no-color --silence-skips --label-filter="$3" --focus="$4" ${5:+--skip="$5"} \
        --output-dir="$reports" --junit-report="$1.xml" "$peers/e2e.test" -- --provider=skeleton --kubeconfig="$KUBECONFIG" \
        --kubectl-path="$peers/kubectl" --disable-log-dump >"$reports/$1.log" 2>&1 || true
    [ -s "$reports/$1.xml" ] || die "the tests did not run: $(tail -n 5 "$reports/$1.log")"
}
run parallel "$procs" 'Conformance && !Serial' "$focus" "$skip"
run serial 1 'Conformance && Serial' "$focus" "$skip"
again=$("$here/report.py" --failed "$reports/parallel.xml" "$reports/serial.xml")
if [ -n "$again" ]; then run again 1 Conformance "$again" ''; fi
"$here/report.py" "$reports"/{parallel,serial}.xml ${again:+"$reports/again.xml"}
