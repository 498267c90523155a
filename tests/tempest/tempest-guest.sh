# Sourced by demo/guest-image.sh: adds to the guest what Tempest does within one: ssh as root with the machine's key, and the few commands that
# busybox has not, or not so. shellcheck shell=sh disable=SC2154

# A server for ssh, with the libraries that it is linked with.
for package in dropbear-bin libtomcrypt1 libtommath1 libgmp10 libcrypt1 zlib1g libc6; do unpack "$package"; done
install -m 0755 "$work/packages/usr/sbin/dropbear" "$tree/bin/dropbear"
mkdir -p "$tree/lib64" "$tree/lib/x86_64-linux-gnu" "$tree/etc/dropbear"
for library in ld-linux-x86-64.so.2 libc.so.6 libcrypt.so.1 libgmp.so.10 libtomcrypt.so.1 libtommath.so.1 libz.so.1; do
    found=$(find "$work/packages" -name "$library" | head -n 1)
    [ -n "$found" ] || die "the packages have no $library"
    cp -L "$found" "$tree/lib/x86_64-linux-gnu/$library"
done
ln -s ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$tree/lib64/ld-linux-x86-64.so.2"
printf '/bin/sh\n' >"$tree/etc/shells"

mkdir -p "$tree/etc/start.d"
# The guest lives in memory, but what Tempest leaves in /tmp is to be there after a reboot, and in images of the disk: it is on the partition that
# the guest is booted from.
cat >"$tree/etc/start.d/disk" <<'START'
#!/bin/sh
for part in /dev/vda1 /dev/sda1; do
    [ -b "$part" ] && mount -t vfat -o sync "$part" /tmp && echo "yunfan-guest: /tmp is on $part" && break
done
START
chmod 0755 "$tree/etc/start.d/disk"
cat >"$tree/etc/start.d/ssh" <<'START'
#!/bin/sh
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
# Its own keys are made when the first client comes; nobody gets in with a password.
dropbear -R -s && echo "yunfan-guest: ssh answers"
START
chmod 0755 "$tree/etc/start.d/ssh"

# Config drives, and disks with files on them.
for module in virtio_scsi isofs vfat nls_cp437 nls_ascii nls_utf8 ext4 cdrom sr_mod; do add_module "$module"; done

# command_of NAME: the script on standard input takes the place of busybox's command.
command_of() {
    rm -f "$tree/bin/$1"
    cat >"$tree/bin/$1"
    chmod 0755 "$tree/bin/$1"
}
command_of sudo <<'SUDO'
#!/bin/sh
exec "$@"
SUDO
command_of mkfs <<'MKFS'
#!/bin/sh
# -t TYPE DEVICE, of the types that busybox can make.
[ "${1:-}" = -t ] || exit 2
case $2 in
vfat) exec mkdosfs "$3" ;;
ext2 | ext3 | ext4) exec mke2fs "$3" ;;
*) echo "mkfs: $2 can't be made here" >&2 && exit 1 ;;
esac
MKFS
command_of curl <<'CURL'
#!/bin/sh
# As much of curl as a guest needs that asks the metadata service.
while [ $# -gt 0 ]; do
    case $1 in
    -X) shift ;;
    -d | --data) shift && data=$1 ;;
    -*) ;;
    *) url=$1 ;;
    esac
    shift
done
exec wget -q -O - ${data+--post-data "$data"} "$url"
CURL
command_of blkid <<'BLKID'
#!/bin/sh
# -L LABEL: the CD of that label, as util-linux has it; busybox of Debian has no command of that name.
[ "${1:-}" = -L ] || exit 2
for disk in /dev/sr*; do
    [ -b "$disk" ] || continue
    # Where ISO 9660 has the name of the volume, filled with spaces.
    [ "$(dd if="$disk" bs=1 skip=32808 count=32 2>/dev/null | tr -d ' ')" = "$2" ] && echo "$disk" && exit
done
exit 2
BLKID
command_of lsblk <<'LSBLK'
#!/bin/sh
printf '%-5s %7s %2s %14s %2s %-4s %s\n' NAME MAJ:MIN RM SIZE RO TYPE MOUNTPOINT
for block in /sys/block/[svx]*; do
    [ -e "$block/dev" ] || continue
    type=disk
    case $block in */sr*) type=rom ;; esac
    printf '%-5s %7s %2s %14s %2s %-4s\n' "${block##*/}" "$(cat "$block/dev")" "$(cat "$block/removable")" $(($(cat "$block/size") * 512)) "$(cat "$block/ro")" "$type"
done
LSBLK
