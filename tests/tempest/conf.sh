#!/bin/sh
# Writes a tempest.conf for the cloud that OS_CLOUD names in OS_CLIENT_CONFIG_FILE. Use: conf.sh OUT. `make tempest-conf OUT=FILE` calls it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
[ $# -eq 1 ] && [ -n "$1" ] || { echo "tempest-conf: name the file to write: make tempest-conf OUT=FILE" >&2; exit 2; }
[ -n "${OS_CLOUD:-}" ] || { echo "tempest-conf: OS_CLOUD names no cloud: set it, and OS_CLIENT_CONFIG_FILE, as \`yunfan up\` says" >&2; exit 2; }
bin=$("$top/scripts/tempest.sh")
# A guest that Tempest can reach by ssh; it is small, as machines without KVM need one to be.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
image=$("$top/demo/guest-image.sh" "${CARGO_TARGET_DIR:-$top/target}/demo" "$here/tempest-guest.sh" 2>"$log" | tail -n 1)
[ -s "$image" ] || { cat "$log" >&2; exit 1; }
# Whoever runs Tempest with SSL_CERT_FILE, as run.sh does, says so here: see `trusted` in conf.py.
[ -z "${TEMPEST_AUTHORITY:-}" ] || export SSL_CERT_FILE="$TEMPEST_AUTHORITY"
"$bin/python" "$here/conf.py" --image "$image" "$1"
echo "tempest-conf: wrote $1"
