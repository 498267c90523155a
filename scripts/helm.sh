#!/bin/sh
# Builds helm with the machine's Go, if there is no helm yet. Prints its path; fails where there is neither.
set -eu
version=v3.22.0
if command -v helm; then
    exit 0
fi
dir=${YUNFAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/yunfan}/helm-$version
if [ ! -x "$dir/helm" ]; then
    command -v go >/dev/null || { echo "helm: neither helm nor go was found: install one of them" >&2; exit 1; }
    mkdir -p "$dir"
    # No work tree of the caller's has a say in this. Debian's Go must be told that it may fetch the version that helm asks for.
    (cd "$dir" && GOBIN=$dir GOFLAGS= GOWORK=off GOTOOLCHAIN=auto CGO_ENABLED=0 go install "helm.sh/helm/v3/cmd/helm@$version") >&2 || {
        echo "helm: helm.sh/helm/v3 $version could not be built" >&2
        exit 1
    }
fi
echo "$dir/helm"
