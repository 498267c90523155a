# NFS of the kernel: a volume and a claim mount, read and write; a server that is gone keeps nobody else's Pods

guest 'rm -rf /srv/share/*; mkdir -p /srv/share/claimed; echo served > /srv/share/note; systemctl start nfs-server; exportfs -ra'
kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: nfs-check}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  mountOptions: [vers=4.2]
  nfs: {server: 10.0.2.15, path: /srv/share/claimed}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteMany], storageClassName: "", volumeName: nfs-check, resources: {requests: {storage: 1Gi}}}
---
$(pod direct 'volumes: [{name: data, nfs: {server: 10.0.2.15, path: /srv/share}}]')
    volumeMounts: [{name: data, mountPath: /data}]
---
$(pod claimed 'volumes: [{name: data, persistentVolumeClaim: {claimName: claim}}]')
    volumeMounts: [{name: data, mountPath: /data}]
---
$(pod reader 'volumes: [{name: data, nfs: {server: 10.0.2.15, path: /srv/share, readOnly: true}}]')
    volumeMounts: [{name: data, mountPath: /data}]
END
ready direct claimed reader
same 'the claim' Bound "$(of pvc/claim '{.status.phase}')"
same 'what the Pod reads' served "$(in_pod direct 'cat /data/note')"
in_pod direct 'echo written > /data/claimed/by-pod'
same 'what the server has' written "$(guest cat /srv/share/claimed/by-pod)"
same "what the claim's Pod reads of the other's" written "$(in_pod claimed 'cat /data/by-pod')"
! in_pod reader 'touch /data/x' 2>/dev/null || die 'a volume that is read-only was written to'
has 'type nfs4' guest mount || die 'no NFS is mounted'

# What is missing is told, and the Pod waits.
pod refused 'volumes: [{name: data, nfs: {server: 10.0.2.15, path: /srv/none}}]' | kubectl apply -f - >/dev/null
until_true 120 'a share that is not there is an event' has FailedMount kubectl get events --field-selector involvedObject.name=refused
kubectl delete pod refused --timeout=120s >/dev/null

# A server that is gone: neither the node nor others' Pods wait for it, and Pods that use it go when it is back.
guest systemctl stop nfs-server
pod late 'volumes: [{name: data, nfs: {server: 10.0.2.15, path: /srv/share}}]' | kubectl apply -f - >/dev/null
kubectl delete pod direct --wait=false >/dev/null
pod other | kubectl apply -f - >/dev/null
ready other
kubectl delete pod other --timeout=120s >/dev/null
same 'the node' True "$(of node/guest '{.status.conditions[?(@.type=="Ready")].status}')"
guest systemctl restart yunfan
until_cloud
pod another | kubectl apply -f - >/dev/null
ready another
guest systemctl start nfs-server
ready late
kubectl delete pod --all --timeout=240s >/dev/null
until_true 60 'nothing of NFS stays mounted' guest "! mount | grep -q 'type nfs4'"
same 'what was written' written "$(guest cat /srv/share/claimed/by-pod)"
