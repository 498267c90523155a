#!/bin/sh
# Makes the disk of the guest that `make guest-test` boots: Debian 12 from its own packages, with systemd, a kernel with cgroup v2 alone, an NFS
# server and sshd. The last line printed is a directory with `disk` (ext4), `vmlinuz` and `key` (of root's, for ssh).
#
# It is kept in the cache under the hash of this script, so it is made once (a few minutes, some 200 MiB of packages): remove the directory to get
# newer packages. No loop device, no boot loader and no initrd are needed: the kernel has NVMe and ext4 built in, and QEMU loads it.
set -eu

suite=bookworm
mirror=${YUNFAN_DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=systemd-sysv,dbus,udev,kmod,iproute2,nftables,procps,e2fsprogs,nfs-kernel-server,nfs-common,openssh-server,qemu-utils,linux-image-cloud-amd64
size=4G

die() { echo "guest disk: $*" >&2; exit 1; }

PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || die "run as root: debootstrap changes its root directory"
for tool in debootstrap:debootstrap mke2fs:e2fsprogs ssh-keygen:openssh-client; do
    command -v "${tool%:*}" >/dev/null || die "${tool%:*} was not found: install the Debian package ${tool#*:}"
done

cache=${YUNFAN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/yunfan}/guest
recipe=$(sha256sum "$0" | cut -c1-16)
dir=$cache/$recipe
if [ -e "$dir/disk" ]; then
    echo "$dir"
    exit 0
fi
echo "guest disk: making it in $dir; this is done once" >&2
mkdir -p "$cache"
work=$(mktemp -d "$cache/.making-XXXXXX")
trap 'umount -lR "$work/root/proc" "$work/root/sys" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
root=$work/root

timeout 1800 debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror" >"$work/log" 2>&1 || {
    tail -n 20 "$work/log" >&2
    die "debootstrap failed; what it said last stands above"
}

# --- the system --------------------------------------------------------------------------------------------------------
echo guest >"$root/etc/hostname"
printf '127.0.0.1 localhost\n10.0.2.15 guest\n' >"$root/etc/hosts"
printf 'nameserver 10.0.2.3\n' >"$root/etc/resolv.conf"
cat >"$root/etc/fstab" <<END
/dev/nvme0n1 / ext4 defaults 0 0
LABEL=parts /opt/parts ext4 ro 0 0
END
mkdir -p "$root/opt/parts" "$root/srv/share"
# The network of QEMU's own making, without waiting for DHCP.
cat >"$root/etc/systemd/network/wired.network" <<END
[Match]
Name=en*
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
END
printf '/srv/share *(rw,sync,no_subtree_check,no_root_squash,insecure,fsid=1)\n' >"$root/etc/exports"
# A journal on the disk also tells of the boots before.
mkdir -p "$root/var/log/journal"
ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
mkdir -p "$root/etc/systemd/system/network-online.target.wants"
ln -sf /lib/systemd/system/systemd-networkd-wait-online.service "$root/etc/systemd/system/network-online.target.wants/"
# What nothing here needs, and what would take the translator its time.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    dev-hugepages.mount dev-mqueue.mount getty@tty1.service kmod-static-nodes.service nfs-blkmap.service \
    proc-sys-fs-binfmt_misc.automount serial-getty@ttyS0.service sys-kernel-debug.mount sys-kernel-tracing.mount \
    systemd-binfmt.service systemd-firstboot.service systemd-pstore.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# --- root's way in -----------------------------------------------------------------------------------------------------
ssh-keygen -q -t ed25519 -N '' -C guest-test -f "$work/key"
mkdir -p "$root/root/.ssh"
cp "$work/key.pub" "$root/root/.ssh/authorized_keys"
chmod -R go= "$root/root/.ssh"
printf 'UsePAM no\nUseDNS no\nPasswordAuthentication no\n' >"$root/etc/ssh/sshd_config.d/guest.conf"

# --- the disk ----------------------------------------------------------------------------------------------------------
rm -f "$root"/var/cache/apt/archives/*.deb "$root"/boot/initrd.img*
cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
truncate -s "$size" "$work/disk"
mke2fs -q -t ext4 -d "$root" "$work/disk" >&2
rm -rf "$root"
mkdir "$work/whole"
mv "$work/disk" "$work/vmlinuz" "$work/key" "$work/key.pub" "$work/whole"
rm -rf "$dir"
mv "$work/whole" "$dir"
echo "$dir"
