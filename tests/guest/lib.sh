# shellcheck shell=bash
# Sourced by run.sh and by the checks: the guest from outside. Not to be run by itself.
#
# Times below are for a guest that a translator runs: they are limits for what hangs, nothing waits for them to pass.

die() { echo "$*" >&2; exit 1; }

# guest COMMAND: runs a line of shell in the guest, as root. What it needs on standard input is handed on.
guest() {
    timeout "${limit:-300}" ssh -q -F "$GUEST/ssh" guest "set -eu; $*"
}

# kubectl of this machine, at the API server in the guest.
kubectl() {
    timeout "${limit:-300}" "$KUBECTL" --kubeconfig "$GUEST/kubeconfig" --request-timeout=60s "$@"
}

# until_true SECONDS WHAT COMMAND...: waits for a condition; says what did not come true.
until_true() {
    local seconds=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>"$GUEST/last-error"; do
        [ "$SECONDS" -lt "$end" ] || { cat "$GUEST/last-error" >&2; die "after $seconds s: $what"; }
        sleep 0.5
    done
}

# same WHAT WANTED SEEN: they must be equal.
same() { [ "$2" = "$3" ] || die "$1: wanted '$2', saw '$3'"; }

# is WANTED COMMAND...: whether what it prints is as wanted.
is() {
    local wanted=$1
    shift
    [ "$("$@")" = "$wanted" ]
}

# has WANTED COMMAND...: whether what it prints has the words in it.
has() {
    local words=$1 text
    shift
    text=$("$@") && [[ $text == *"$words"* ]]
}

# of OBJECT PATH: a field of an object, as JSONPath.
of() { kubectl get "$1" -o "jsonpath=$2"; }

# ready POD...: waits until they are.
ready() { kubectl wait --for=condition=Ready --timeout=180s "${@/#/pod/}" >/dev/null; }

# phase POD PHASE: waits for it.
phase() { until_true 240 "$1 is $2" is "$2" of "pod/$1" '{.status.phase}'; }

# in_pod POD COMMAND: a line of the Pod's shell.
in_pod() { kubectl exec "$1" -- sh -c "$2"; }

# cgroup POD: the directory of the Pod's cgroup in the guest.
cgroup() { guest "echo /sys/fs/cgroup/yunfan-*/pod$(of "pod/$1" '{.metadata.uid}')"; }

# pod NAME [FIELDS]: the beginning of a Pod's manifest; what follows are fields of its one container, indented by four.
pod() {
    cat <<END
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  terminationGracePeriodSeconds: 2
${2:+  $2
}  containers:
  - name: main
    image: demo/web:1
END
}

# until_guest BOOT: waits until the guest can be reached, in another boot than the named one.
until_guest() {
    local end=$((SECONDS + 600)) boot
    until boot=$(limit=20 guest cat /proc/sys/kernel/random/boot_id 2>/dev/null) && [ "$boot" != "$1" ]; do
        kill -0 "$(cat "$GUEST/pid")" 2>/dev/null || die "QEMU ended; see $GUEST/console"
        [ "$SECONDS" -lt "$end" ] || die "the guest can't be reached after 600 s"
        sleep 1
    done
}

# until_cloud: waits until the cloud in the guest says that it and its node are ready, and takes its credentials.
until_cloud() {
    if [ ! -s "$GUEST/kubeconfig" ]; then
        until_true 120 'the cloud has written its kubeconfig' guest test -s /var/lib/yunfan/kubeconfig
        guest cat /var/lib/yunfan/kubeconfig | sed "s/127.0.0.1:6443/127.0.0.1:$API_PORT/" >"$GUEST/kubeconfig"
    fi
    until_true 120 'the API server is ready' has ok kubectl get --raw /readyz
    until_true 120 'the node is ready' is True of node '{.items[0].status.conditions[?(@.type=="Ready")].status}'
}

# space NAME: makes a namespace for a check, and the one that kubectl means. Its Pods may do what a node's own may.
space() {
    kubectl create namespace "$1" >/dev/null
    kubectl label namespace "$1" pod-security.kubernetes.io/enforce=privileged >/dev/null
    kubectl config set-context --current --namespace="$1" >/dev/null
}

# tell NAME: keeps what the guest knows about a check that failed.
tell() {
    guest 'journalctl --no-pager -o short-monotonic' >"$GUEST/$1.journal" 2>&1 || true
    kubectl get pods,events -o wide >"$GUEST/$1.objects" 2>&1 || true
}

# reboot_guest: as an administrator would, until the guest can be reached again.
reboot_guest() {
    local boot
    boot=$(guest cat /proc/sys/kernel/random/boot_id)
    guest systemctl reboot || true
    ssh -q -F "$GUEST/ssh" -O exit guest 2>/dev/null || true
    until_guest "$boot"
}
