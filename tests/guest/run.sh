#!/usr/bin/env bash
# Boots a Debian guest and tries in it what most build machines can't: systemd as the first process, cgroup v2 alone, the kernel's NFS server.
# Use: run.sh [--stay] [CHECK...], by default all of checks/. Needs root for making the disk (disk.sh); YUNFAN names the binary.
#
# With --stay the guest is there, after the named checks, until Enter is pressed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
YUNFAN=${YUNFAN:-${CARGO_TARGET_DIR:-$top/target}/release/yunfan}
KUBECTL=${KUBECTL:-$(command -v kubectl)}
# shellcheck source=lib.sh
. "$here/lib.sh"
[ -x "$YUNFAN" ] || die "guest: $YUNFAN was not found: run \`make build\`"
command -v qemu-system-x86_64 >/dev/null || die "guest: qemu-system-x86_64 was not found: run \`make deps\`"
stay=
# Seconds that a guest may run.
life=3600
if [ "${1:-}" = --stay ]; then stay=yes life=86400 && shift; fi
checks=("$@")
if [ ${#checks[@]} = 0 ] && [ -z "$stay" ]; then
    for file in "$here"/checks/*.sh; do checks+=("$(basename "$file" .sh)"); done
fi

disk=$("$here/disk.sh" | tail -n 1)
GUEST=$(mktemp -d "${TMPDIR:-/tmp}/yunfan-guest-XXXXXX")
export GUEST KUBECTL here
qemu=
stop_guest() {
    ssh -q -F "$GUEST/ssh" -O exit guest 2>/dev/null || true
    [ -z "$qemu" ] || { kill "$qemu" 2>/dev/null && wait "$qemu" 2>/dev/null; } || true
    qemu=
}
ended() {
    status=$?
    stop_guest
    if [ $status = 0 ]; then rm -rf "$GUEST"; else
        rm -f "$GUEST"/*.qcow2 "$GUEST"/parts
        echo "guest: the console and journals of the guest are in $GUEST" >&2
    fi
}
trap ended EXIT
trap 'exit 1' INT TERM

# --- what the guest gets of this tree ----------------------------------------------------------------------------------
mkdir "$GUEST/tree"
cp "$YUNFAN" "$GUEST/tree/yunfan"
cp "$top/dist/yunfan.service" "$GUEST/tree/"
cp "$("$top/demo/web-image.sh" "$GUEST" 2>/dev/null | tail -n 1)" "$GUEST/tree/web.tar"
mib=$(($(du -sm "$GUEST/tree" | cut -f1) + 32))
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -O ^has_journal -L parts -d "$GUEST/tree" "$GUEST/parts" "${mib}M" >"$GUEST/mke2fs"
rm -rf "$GUEST/tree" "$GUEST"/*.tar
qemu-img create -q -f qcow2 -F raw -b "$disk/disk" "$GUEST/root.qcow2"

# --- the guest ---------------------------------------------------------------------------------------------------------
# Free numbers of ports for ssh and for the API.
free_ports() {
    python3 -c 'import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in held))'
}
read -r ssh_port API_PORT < <(free_ports)
export API_PORT
cat >"$GUEST/ssh" <<END
Host guest
  HostName 127.0.0.1
  Port $ssh_port
  User root
  IdentityFile $disk/key
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  ControlMaster auto
  ControlPath $GUEST/control
  ControlPersist 600
  LocalForward 127.0.0.1:$API_PORT 127.0.0.1:6443
  ConnectTimeout 10
  ServerAliveInterval 15
  ServerAliveCountMax 8
END
chmod 0600 "$disk/key" "$GUEST/ssh"

# start_guest: QEMU, until the guest can be reached.
start_guest() {
    # Debian's kernel has its NVMe and serial drivers built in, so that no initrd is needed.
    # Whatever becomes of this script, the guest ends.
    timeout "$life" nice qemu-system-x86_64 -accel tcg,tb-size=512 -machine q35 -cpu max -smp 1 -m 2048 -nodefaults -no-user-config -display none \
        -kernel "$disk/vmlinuz" -append "root=/dev/nvme0n1 rw console=ttyS0 nokaslr mitigations=off quiet systemd.show_status=no" \
        -drive "if=none,id=root,file=$GUEST/root.qcow2,format=qcow2,cache=unsafe" -device nvme,serial=root,drive=root \
        -drive "if=none,id=parts,file=$GUEST/parts,format=raw,readonly=on" -device nvme,serial=parts,drive=parts \
        -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$ssh_port-:22" -device virtio-net-pci,netdev=net \
        -serial "file:$GUEST/console" &
    qemu=$!
    echo $qemu >"$GUEST/pid"
    until_guest none
}

# --- the cloud, set up as docs/using.md says -----------------------------------------------------------------------------
step() { printf '%-72s' "$1 ..." && began=$SECONDS; }
ok() { echo "ok, $((SECONDS - began)) s"; }

step "guest: Debian 12 under TCG (software emulation; KVM is not tried)"
start_guest
ok
step "guest: the cloud comes up as a service, $(guest uname -r)"
guest 'install -m 0755 /opt/parts/yunfan /usr/local/bin/ && install -m 0644 /opt/parts/yunfan.service /etc/systemd/system/ &&
    systemctl daemon-reload && systemctl enable --now -q yunfan'
until_cloud
guest 'yunfan image import /opt/parts/web.tar --name demo/web:1 --data-dir /var/lib/yunfan >/dev/null'
ok

# --- the checks --------------------------------------------------------------------------------------------------------
failed=0
for name in "${checks[@]}"; do
    step "guest: $(sed -n '1s/^# //p' "$here/checks/$name.sh")"
    # shellcheck disable=SC2016 # for the other shell to expand
    if timeout 1200 bash -c 'set -euo pipefail; . "$here/lib.sh"; space "$1"; . "$here/checks/$1.sh"' check "$name" >"$GUEST/$name.log" 2>&1; then
        ok
    else
        echo "FAILED, $((SECONDS - began)) s"
        sed 's/^/    /' "$GUEST/$name.log"
        failed=$((failed + 1))
        tell "$name"
    fi
done
if [ -n "$stay" ]; then
    echo "guest: reach it by \`ssh -F $GUEST/ssh guest\` and \`kubectl --kubeconfig $GUEST/kubeconfig\`; Enter ends it"
    read -r _ || true
fi
echo "guest: $((${#checks[@]} - failed)) passed, $failed failed"
[ $failed = 0 ]
