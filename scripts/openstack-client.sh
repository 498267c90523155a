#!/bin/sh
# Makes a virtual environment with the real OpenStack client and its commands for placement, if it is not there yet. Prints its bin
# directory.
set -eu
venv=${YUNFAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/yunfan}/openstackclient
if [ ! -x "$venv/bin/openstack" ] || ! "$venv/bin/python" -c 'import osc_placement' 2>/dev/null; then
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install -q --disable-pip-version-check 'python-openstackclient>=7,<11' 'osc-placement>=4,<5' >&2 || {
        rm -rf "$venv"
        echo "openstack-client: python-openstackclient could not be installed from PyPI" >&2
        exit 1
    }
fi
echo "$venv/bin"
