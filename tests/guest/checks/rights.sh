# rights: devices by the filter of cgroup v2, capabilities, user and system calls

# A disk of the node's that one Pod may only read, and others not at all.
guest 'truncate -s 1M /srv/disk && printf disk | dd of=/srv/disk conv=notrunc status=none'
loop=$(guest losetup --find --show /srv/disk)
numbers=$(guest "stat -c '%Hr %Lr' $loop")
kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadOnlyMany]
  volumeMode: Block
  storageClassName: ""
  persistentVolumeReclaimPolicy: Retain
  local: {path: $loop}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [guest]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadOnlyMany], volumeMode: Block, storageClassName: "", volumeName: disk, resources: {requests: {storage: 1Mi}}}
---
$(pod reader 'volumes: [{name: disk, persistentVolumeClaim: {claimName: disk, readOnly: true}}]')
    volumeDevices: [{name: disk, devicePath: /dev/disk}]
---
$(pod maker)
    securityContext: {capabilities: {add: [MKNOD]}}
---
$(pod confined 'securityContext: {runAsUser: 1000, runAsGroup: 2000, seccompProfile: {type: RuntimeDefault}}')
    command: [sleep, "1000000"]
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
END
ready reader maker confined

# A shell of the Pod's says what happened.
seen() { in_pod "$1" "$2 2>&1 && echo done || echo refused"; }
same 'what may be read' disk "$(in_pod reader 'head -c 4 /dev/disk')"
has 'not permitted' seen reader 'dd if=/dev/zero of=/dev/disk bs=512 count=1' || die 'a device that is to be read only was written to'
same 'what is on the disk' disk "$(guest head -c 4 /srv/disk)"
same 'making a device' 'done' "$(seen maker "mknod /tmp/disk b $numbers")"
has 'not permitted' seen maker 'head -c 4 /tmp/disk' || die 'a container read a disk of the node'
same 'what every container may use' 'done' "$(seen maker 'echo x > /dev/null')"

same 'user and group' '1000 2000' "$(in_pod confined 'echo $(id -u) $(id -g)')"
same 'capabilities, the way to more, and the filter' '0000000000000000 1 2' \
    "$(in_pod confined 'echo $(sed -n "s/^\(CapBnd\|NoNewPrivs\|Seccomp\):\s*//p" /proc/self/status)')"
for line in 'unshare -U true' 'mount -t tmpfs x /tmp' 'touch /file' 'echo 1 > /proc/sys/kernel/panic' 'dmesg -c'; do
    has refused seen confined "$line" || die "a confined container did: $line"
done

kubectl delete pod --all --timeout=180s >/dev/null
guest losetup --detach "$loop"
