#!/bin/sh
# Makes a virtual environment with OpenStack's Tempest and its SDK, if it is not there yet. Prints its bin directory.
set -eu
venv=${YUNFAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/yunfan}/tempest
if [ ! -x "$venv/bin/tempest" ] || ! "$venv/bin/python" -c 'import openstack' 2>/dev/null; then
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install -q --disable-pip-version-check 'tempest>=47,<48' 'openstacksdk>=4,<5' >&2 || {
        rm -rf "$venv"
        echo "tempest: it could not be installed from PyPI" >&2
        exit 1
    }
fi
echo "$venv/bin"
