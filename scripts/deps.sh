#!/bin/sh
# Installs what building and running Yunfan need and this machine lacks, from Debian's packages, and the packages that are named.
# Does nothing when all is there.
set -eu

die() { echo "deps: $*" >&2; exit 1; }

command -v cargo >/dev/null 2>&1 || die "cargo was not found: install a Rust toolchain, 1.95 or later (https://rustup.rs)"
command -v dpkg-query >/dev/null 2>&1 || die "this is no Debian: install by hand what this script lists"

# build-essential: C parts of some crates (zstd, ring, mimalloc). protobuf: etcd's API. qemu, nftables, iproute2: what the agent drives.
# iputils-ping: Tempest. syslinux, mtools, fdisk, cpio, kmod: the demo's guest disk. skopeo, docker-registry, openssl: registries. etcd: its store's tests. containerd, runc: those of the
# CRI client.
packages="bsdextrautils build-essential busybox-static ca-certificates containerd cpio curl docker-registry etcd-client etcd-server fdisk iproute2 iputils-ping jq kmod
 libprotobuf-dev mtools nftables openssh-client openssl procps protobuf-compiler python3 python3-venv qemu-system-x86 qemu-utils runc skopeo syslinux
 syslinux-common zstd $*"
# kubectl may be there from elsewhere.
command -v kubectl >/dev/null 2>&1 || packages="$packages kubernetes-client"

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || die "run as root to install:$missing"
echo "deps: installing$missing"
export DEBIAN_FRONTEND=noninteractive
# Package lists may be older than the archive: fetch them anew if the first try fails.
# No service is started: Yunfan starts what it needs itself.
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    trap 'rm -f "$log" "$policy"' EXIT
fi
install() {
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -q --no-install-recommends $missing >"$log" 2>&1
}
if ! install; then
    apt-get update -q >"$log" 2>&1 && install || {
        tail -n 20 "$log" >&2
        die "the packages could not be installed; what apt-get said last stands above"
    }
fi
