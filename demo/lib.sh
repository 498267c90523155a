# Sourced by the demo's scripts: where things are, and how steps are told. Not to be run by itself.
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
yunfan=${YUNFAN:-$target/release/yunfan}
# The demo's cloud, beside any other cloud of this machine.
data=${YUNFAN_DEMO_DIR:-/var/lib/yunfan-demo}
cloud=$data/cloud
port=${YUNFAN_DEMO_PORT:-6443}
registry_port=${YUNFAN_DEMO_REGISTRY_PORT:-5000}

die() { echo "demo: $*" >&2; exit 1; }

# step TEXT: what is done next. ok: it is done, and how long it took.
if [ -t 1 ]; then bold=$(printf '\033[1m'); plain=$(printf '\033[0m'); else bold=; plain=; fi
now() { date +%s%3N; }
demo_started=$(now)
step_started=$demo_started
step() { printf '%s%s%s ... ' "$bold" "$1" "$plain"; step_started=$(now); }
ok() {
    took=$(($(now) - step_started))
    printf 'ok, %d.%03d s%s\n' $((took / 1000)) $((took % 1000)) "${1:+ ($1)}"
}

# until_true SECONDS WHAT COMMAND...: waits for a condition; says what did not come true.
until_true() {
    limit=$1 what=$2
    shift 2
    end=$(($(now) + limit * 1000))
    until "$@" >/dev/null 2>&1; do
        [ "$(now)" -lt "$end" ] || { echo; die "after $limit s: $what"; }
        sleep 0.1
    done
}
