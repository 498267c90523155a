#!/bin/sh
# Builds the demo's web server image from Debian's busybox-static, without any network and without any container tool.
# Use: web-image.sh OUT_DIR. The last line printed is the archive's path.
#
# The archive is an OCI image layout (for `yunfan image import`, skopeo, podman) that carries the manifest.json of
# `docker save` as well (for `docker load`). Equal inputs make equal bytes: no time, owner or order of this machine is in it.
set -eu

[ $# -eq 1 ] || { echo "use: $0 OUT_DIR" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
name=demo/web
tag=1

die() { echo "web-image: $*" >&2; exit 1; }

busybox=/bin/busybox
[ -x "$busybox" ] || die "$busybox was not found: install the Debian package busybox-static (\`make deps\` does)"
# A dynamic one starts nowhere but here.
! ldd "$busybox" >/dev/null 2>&1 || die "$busybox is not static: install the Debian package busybox-static"
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) die "this machine's architecture $(uname -m) is not known here" ;;
esac

work=$(mktemp -d "$out/.web-XXXXXX")
trap 'rm -rf "$work"' EXIT

# --- the layer ---------------------------------------------------------------------------------------------------------
root=$work/root
mkdir -p "$root/bin" "$root/etc" "$root/config" "$root/root" "$root/tmp" "$root/www"
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
chmod 0755 "$root/bin/busybox"
for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"; done
install -m 0755 "$here/web/start" "$root/bin/start"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
ln -s bin "$root/sbin"
mkdir "$root/usr"
ln -s ../bin "$root/usr/bin"

# pack ARCHIVE DIR: a tar in which nothing depends on where and when it was made.
pack() {
    tar --create --file "$1" --directory "$2" --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner .
}
digest() { sha256sum "$1" | cut -d' ' -f1; }
size() { stat -c %s "$1"; }

pack "$work/layer.tar" "$root"
diff_id=$(digest "$work/layer.tar")
gzip -9 -n "$work/layer.tar"

# --- config, manifest, index -------------------------------------------------------------------------------------------
image=$work/image
mkdir -p "$image/blobs/sha256"
# keep FILE: moves it among the blobs, and prints its digest.
keep() {
    sum=$(digest "$1")
    mv "$1" "$image/blobs/sha256/$sum"
    echo "$sum"
}
layer_size=$(size "$work/layer.tar.gz")
layer=$(keep "$work/layer.tar.gz")

cat >"$work/config" <<JSON
{"created":"1970-01-01T00:00:00Z","architecture":"$arch","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["/bin/start"],"WorkingDir":"/","ExposedPorts":{"8080/tcp":{}},"Labels":{"org.opencontainers.image.title":"$name"}},"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"demo/web-image.sh"}]}
JSON
config_size=$(size "$work/config")
config=$(keep "$work/config")

cat >"$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$layer_size}]}
JSON
manifest_size=$(size "$work/manifest")
manifest=$(keep "$work/manifest")

cat >"$image/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,"platform":{"architecture":"$arch","os":"linux"},"annotations":{"io.containerd.image.name":"docker.io/$name:$tag","org.opencontainers.image.ref.name":"$tag"}}]}
JSON
printf '{"imageLayoutVersion":"1.0.0"}\n' >"$image/oci-layout"
cat >"$image/manifest.json" <<JSON
[{"Config":"blobs/sha256/$config","RepoTags":["$name:$tag"],"Layers":["blobs/sha256/$layer"]}]
JSON

pack "$work/archive.tar" "$image"
chmod 0644 "$work/archive.tar"
mv "$work/archive.tar" "$out/yunfan-demo-web.tar"
echo "web-image: $name:$tag, sha256:$manifest" >&2
echo "$out/yunfan-demo-web.tar"
