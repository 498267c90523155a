#!/bin/sh
# Runs Tempest by a tempest.conf that conf.py wrote. Use: run.sh CONF [ARGUMENTS OF tempest run], by default `--smoke` without what excluded.txt names.
# Its workspace, with a log of each request, is the directory of CONF.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
bin=$("$here/../../scripts/tempest.sh")
conf=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
work=$(dirname "$conf")
PATH=$bin:$PATH
# A list of workspaces in the home directory is of no use to a run that is over.
if [ ! -e "$work/workspace/.stestr.conf" ]; then
    tempest init --workspace-path "$work/workspaces.yaml" --name yunfan "$work/workspace" >"$work/init.log" 2>&1 || { cat "$work/init.log" >&2; exit 1; }
fi
cd "$work/workspace"
[ $# -gt 0 ] || set -- --smoke
# What Tempest asks of pages of consoles knows no other setting.
authority=$(sed -n 's/^ca_certificates_file = *//p' "$conf")
[ -z "$authority" ] || export SSL_CERT_FILE="$authority"
exec tempest run --workspace-path "$work/workspaces.yaml" --config-file "$conf" --exclude-list "$here/excluded.txt" --concurrency "${TEMPEST_CONCURRENCY:-2}" "$@"
