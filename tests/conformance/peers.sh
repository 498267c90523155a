#!/bin/sh
# Builds Kubernetes' own programs with the machine's Go, from its module proxy, if they are not there yet: its end-to-end tests, what runs them, what they
# run in Pods, and the programs that Yunfan is compared with. Prints the directory that has them.
set -eu
version=1.36.3
# Which etcd that version is for.
etcd=3.6.8

dir=${YUNFAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/yunfan}/peers-v$version
if [ -e "$dir/complete" ]; then
    echo "$dir"
    exit 0
fi
die() { echo "peers: $*" >&2; exit 1; }
command -v go >/dev/null || die "go was not found: install Go 1.21 or later: that fetches the version that Kubernetes asks for"
mkdir -p "$dir"
cd "$dir"
# No work tree and no flags of the caller's have a say in this. An older Go must be told that it may fetch the version that Kubernetes asks for.
export GOFLAGS=-mod=mod GOWORK=off GOTOOLCHAIN=auto CGO_ENABLED=0

# Kubernetes' module says that its parts lie beside it, where its archive has none: here they are the modules that are published of them.
source=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
[ -d "$source" ] || die "the module k8s.io/kubernetes v$version could not be fetched"
sed -e 's|^module .*|module yunfan.io/peers|' -e "s|=> ./staging/src/\(k8s.io/.*\)|=> \1 v0.${version#*.}|" "$source/go.mod" >go.mod
printf '\nrequire (\n\tk8s.io/kubernetes v%s\n\tgo.etcd.io/etcd/server/v3 v%s\n)\n' "$version" "$etcd" >>go.mod
install -m 0644 "$source/go.sum" go.sum

set -- -s -w
for package in k8s.io/client-go/pkg/version k8s.io/component-base/version; do
    set -- "$@" -X "$package.gitVersion=v$version" -X "$package.gitMajor=1" -X "$package.gitMinor=36" -X "$package.gitTreeState=clean"
done
flags=$*
echo "peers: building Kubernetes $version below $dir; which takes a quarter of an hour" >&2
go build -trimpath -ldflags "$flags" -o "$dir/" k8s.io/kubernetes/cmd/kubectl k8s.io/kubernetes/cmd/kube-apiserver \
    k8s.io/kubernetes/cmd/kube-scheduler k8s.io/kubernetes/cmd/kube-controller-manager k8s.io/kubernetes/test/images/agnhost \
    k8s.io/kubernetes/test/images/nonewprivs k8s.io/sample-apiserver github.com/onsi/ginkgo/v2/ginkgo go.etcd.io/etcd/server/v3 >&2
mv server etcd
go test -c -trimpath -ldflags "$flags" -o "$dir/e2e.test" k8s.io/kubernetes/test/e2e >&2
cc -O2 -static -DVERSION="$version" -o pause "$source/build/pause/linux/pause.c" >&2
# What the images have beside programs.
cp -r --no-preserve=mode "$source/test/images" images
touch complete
echo "$dir"
