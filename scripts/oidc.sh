#!/bin/sh
# Builds the OpenID provider of the tests with the machine's Go, once. Prints its path; fails where there is no Go.
set -eu
source=$(cd "$(dirname "$0")/../tests/oidc" && pwd)
version=$(cat "$source/go.mod" "$source/go.sum" "$source/main.go" | sha256sum | cut -c1-12)
dir=${YUNFAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/yunfan}/oidc-$version
if [ ! -x "$dir/oidc" ]; then
    command -v go >/dev/null || { echo "oidc: go was not found: install it" >&2; exit 1; }
    mkdir -p "$dir"
    # No work tree of the caller's has a say in this.
    (cd "$source" && GOFLAGS=-mod=readonly GOWORK=off GOTOOLCHAIN=auto CGO_ENABLED=0 go build -o "$dir/oidc" .) >&2 || {
        echo "oidc: the OpenID provider of the tests could not be built" >&2
        exit 1
    }
fi
echo "$dir/oidc"
