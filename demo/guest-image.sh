#!/bin/sh
# Builds the demo guest: a bootable qcow2 disk made of nothing but Debian's packages (cloud kernel, busybox, syslinux).
# Use: guest-image.sh OUT_DIR [MORE]. The last line printed is the disk's path. Nothing is done when no input has changed. MORE is a script
# that is sourced before the guest is packed, with `unpack`, `add_module`, $tree and $work; the disk is then named by it.
#
# The guest lives in its initramfs, which is small and not compressed: without KVM, unpacking is what takes the time.
set -eu

[ $# -eq 1 ] || [ $# -eq 2 ] || { echo "use: $0 OUT_DIR [MORE]" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
more=${2:-}
disk=$out/yunfan-guest.qcow2
if [ -n "$more" ]; then
    more=$(cd "$(dirname "$more")" && pwd)/$(basename "$more")
    disk=$out/yunfan-$(basename "$more" .sh).qcow2
fi

die() { echo "guest-image: $*" >&2; exit 1; }

need() { command -v "$1" >/dev/null 2>&1 || die "$1 was not found: install the Debian package $2 (\`make deps\` does)"; }
PATH=$PATH:/usr/sbin:/sbin
need syslinux syslinux
need mcopy mtools
need sfdisk fdisk
need qemu-img qemu-utils
need zstd zstd
mbr=/usr/lib/syslinux/mbr/mbr.bin
[ -r "$mbr" ] || die "$mbr was not found: install the Debian package syslinux-common"

work=$(mktemp -d "$out/.guest-XXXXXX")
trap 'rm -rf "$work"' EXIT

# unpack PACKAGE: the files of a package that is not installed.
unpack() {
    echo "guest-image: fetching the Debian package $1" >&2
    (cd "$work" && apt-get -q download "$1" >&2 || { apt-get -q update >&2 && apt-get -q download "$1" >&2; }) ||
        die "the package $1 could not be fetched: check the network and /etc/apt/sources.list"
    dpkg -x "$work"/"$1"_*.deb "$work/packages"
}

# The newest cloud kernel that is installed, else the one that Debian's metapackage asks for.
root=
kernel=$(find /boot -name 'vmlinuz-*-cloud-amd64' 2>/dev/null | sort -V | tail -n 1)
version=${kernel#*/vmlinuz-}
if [ -z "$kernel" ] || [ ! -d "/lib/modules/$version/kernel" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$package" ] || die "no cloud kernel is known to apt: run apt-get update"
    unpack "$package"
    root=$work/packages
    version=${package#linux-image-}
    kernel=$root/boot/vmlinuz-$version
fi
modules=$root/lib/modules/$version
[ -d "$modules" ] || modules=$root/usr/lib/modules/$version

busybox=/bin/busybox
if ! dpkg-query -W -f '${Status}' busybox-static 2>/dev/null | grep -q 'ok installed'; then
    unpack busybox-static
    busybox=$(find "$work/packages" -path '*bin/busybox' | head -n 1)
fi

inputs=$(cat "$0" "$here"/guest/* "$kernel" "$busybox" ${more:+"$more"} | sha256sum | cut -d' ' -f1)
if [ -s "$disk" ] && [ "$(cat "$disk.inputs" 2>/dev/null)" = "$inputs" ]; then
    echo "guest-image: unchanged" >&2
    echo "$disk"
    exit 0
fi

# --- the initramfs -----------------------------------------------------------------------------------------------------
tree=$work/tree
for dir in bin dev etc mnt modules proc root run sys tmp var www; do mkdir -p "$tree/$dir"; done
cp "$busybox" "$tree/bin/busybox"
for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -sf busybox "$tree/bin/$applet"; done
ln -s bin "$tree/sbin"
ln -s ../run "$tree/var/run"
mkdir -p "$tree/usr" && ln -s ../bin "$tree/usr/bin" && ln -s ../bin "$tree/usr/sbin"
install -m 0755 "$here/guest/init" "$tree/init"
install -m 0755 "$here/guest/udhcpc.script" "$tree/etc/udhcpc.script"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$tree/etc/passwd"
printf 'root:x:0:\n' >"$tree/etc/group"
printf 'hosts: files dns\n' >"$tree/etc/nsswitch.conf"

# A module with all that it needs before it, each once.
add_module() {
    for path in $(sed -n "s|^\([^:]*/$1\.ko[.a-z]*\): *\(.*\)|\1 \2|p" "$modules/modules.dep" |
        awk '{ for (i = NF; i > 0; i--) print $i }'); do
        name=$(basename "$path")
        name=${name%%.ko*}.ko
        [ -e "$tree/modules/$name" ] && continue
        case $path in
        *.xz) xz -dc "$modules/$path" >"$tree/modules/$name" ;;
        *.zst) zstd -qdc "$modules/$path" >"$tree/modules/$name" ;;
        *) cp "$modules/$path" "$tree/modules/$name" ;;
        esac
        echo "$name" >>"$tree/modules/order"
    done
}
# A package that was only unpacked has no modules.dep yet.
if [ ! -e "$modules/modules.dep" ]; then
    need depmod kmod
    depmod -b "$root" "$version"
fi
for module in virtio_pci virtio_blk virtio_net virtio_rng evdev button; do add_module "$module"; done
# As many as asked for; dependencies come on top.
[ "$(wc -l <"$tree/modules/order")" -ge 5 ] || die "the kernel $version lacks modules for virtio"

# shellcheck disable=SC1090 # named by whoever calls
[ -z "$more" ] || . "$more"

find "$tree" -exec touch -h -d @0 {} +
(cd "$tree" && find . | LC_ALL=C sort | "$busybox" cpio -o -H newc 2>/dev/null) >"$work/initrd"

# --- the disk ----------------------------------------------------------------------------------------------------------
cat >"$work/syslinux.cfg" <<CONFIG
DEFAULT guest
PROMPT 0
TIMEOUT 0
LABEL guest
  LINUX /vmlinuz
  INITRD /initrd
  APPEND console=ttyS0,115200 loglevel=6 nokaslr mitigations=off tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on panic=10
CONFIG
cp "$kernel" "$work/vmlinuz"
bytes=$(($(stat -c %s "$work/vmlinuz") + $(stat -c %s "$work/initrd")))
mib=$((bytes / 1048576 + 8))
truncate -s $((mib + 1))M "$work/disk"
printf '2048,,c,*\n' | sfdisk -q "$work/disk"
dd if="$mbr" of="$work/disk" conv=notrunc status=none
export MTOOLS_SKIP_CHECK=1
# 32 KiB clusters: fewer and longer reads through the BIOS.
mformat -i "$work/disk@@1M" -T $((mib * 2048)) -h 64 -s 32 -c 32 -H 2048 -N 59554e46 -v YUNFAN ::
syslinux --install --offset $((1 << 20)) "$work/disk"
mcopy -i "$work/disk@@1M" "$work/vmlinuz" "$work/initrd" "$work/syslinux.cfg" ::
qemu-img convert -f raw -O qcow2 "$work/disk" "$work/qcow2"
chmod 0644 "$work/qcow2"
mv "$work/qcow2" "$disk"
echo "$inputs" >"$disk.inputs"
echo "guest-image: kernel $version, $(($(stat -c %s "$disk") / 1048576)) MiB" >&2
echo "$disk"
