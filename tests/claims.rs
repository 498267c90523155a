//! Persistent volumes with the real clients: data that outlive their Pods and the cloud's process, devices, claims that grow, and
//! what is left when they are gone.
#![forbid(unsafe_code)]

use std::path::Path;

use serde_json::Value;
use yunfan_tests::{Cloud, Tenant, seconds};

/// A set with a claim of its own for each Pod; it counts its starts in the volume.
const SET: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  serviceName: db
  selector: {matchLabels: {app: db}}
  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Delete}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {fsGroup: 2000}
      containers:
      - name: main
        image: demo/web:1
        command: [sh, -c, 'echo start >> /data/starts; exec sleep 100000']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 100Mi}}}
"#;

/// A device, shown to two containers, and a claim that comes and goes with the Pod.
const DEVICE: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: raw}
spec: {accessModes: [ReadWriteOncePod], volumeMode: Block, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: raw}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: demo/web:1
    command: [sh, -c, 'exec sleep 100000']
    volumeDevices: [{name: raw, devicePath: /dev/xvda}]
    volumeMounts: [{name: own, mountPath: /own, subPath: a/b}]
  volumes:
  - {name: raw, persistentVolumeClaim: {claimName: raw}}
  - name: own
    ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}
"#;

#[test]
fn data_outlive_pods_and_the_cloud_and_go_with_their_claims() {
    let cloud = Cloud::start();
    cloud.import_web();
    let class = cloud.kubectl(&["get", "storageclass"]).ok();
    assert!(class.contains("yunfan (default)") && class.contains("WaitForFirstConsumer"), "{class}");
    cloud.apply(SET);
    ready(&cloud, "statefulset/db", "{.status.readyReplicas}=2");
    let volume = volume_of(&cloud, "default", "data-db-0");
    cloud.kubectl(&["exec", "db-0", "--", "sh", "-c", "echo kept > /data/note"]).ok();
    let listing = cloud.kubectl(&["exec", "db-0", "--", "ls", "-ldn", "/data"]).ok();
    assert!(listing.contains(" 2000 ") && listing.starts_with("drwxrws"), "fsGroup: {listing}");

    // A Pod that is deleted comes back to its data, and so does one that runs while the cloud is killed.
    cloud.kubectl(&["delete", "pod", "db-0"]).ok();
    ready(&cloud, "pod/db-0", "condition=Ready");
    cloud.kill_9();
    cloud.up_again();
    assert_eq!(read(&cloud, "db-0", "/data/note"), "kept");
    assert_eq!(read(&cloud, "db-0", "/data/starts").lines().count(), 2);
    cloud.kubectl(&["exec", "db-0", "--", "sh", "-c", "echo more >> /data/note"]).ok();
    assert_eq!(volume_of(&cloud, "default", "data-db-0"), volume);

    grows(&cloud);
    let (before, devices) = (files(&cloud), a_device(&cloud));
    assert_eq!(before, 2, "one disk for each claim");

    // A smaller set gives its last claim back; its file goes with it.
    cloud.kubectl(&["scale", "statefulset/db", "--replicas=1"]).ok();
    cloud.until("the claim of the Pod that is gone is gone, with its disk", seconds(60), || {
        let claims = cloud.kubectl(&["get", "pvc,pv", "--no-headers"]).ok();
        let files = files(&cloud);
        if claims.contains("data-db-1") || files != 1 {
            Err(format!("{files} files: {claims}"))
        } else {
            Ok(())
        }
    });
    cloud.kubectl(&["delete", "statefulset", "db"]).ok();
    cloud.until("nothing is left", seconds(60), || {
        let left = cloud.kubectl(&["get", "pvc,pv,volumes.storage.yunfan.io", "-A", "-o", "name"]).ok();
        let (files, loops) = (files(&cloud), loops(cloud.data_dir()));
        let mounts = mounts(cloud.data_dir());
        if left.is_empty() && files == 0 && loops.is_empty() && mounts.is_empty() {
            Ok(())
        } else {
            Err(format!("{left}, {files} files, {loops:?}, {mounts:?}"))
        }
    });
    assert!(!devices.is_empty());
}

/// A claim of a running Pod grows under it.
fn grows(cloud: &Cloud) {
    let size = || {
        let text = cloud.kubectl(&["exec", "db-0", "--", "df", "-k", "/data"]).ok();
        let words = text.lines().last().and_then(|line| line.split_whitespace().nth(1)).map(str::to_owned);
        words.and_then(|word| word.parse::<u64>().ok()).expect("a size")
    };
    assert!(size() < 1 << 20, "one GiB to begin with");
    let patch = r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#;
    cloud.kubectl(&["patch", "pvc", "data-db-0", "-p", patch]).ok();
    let told = cloud.until("the node was at the file system", seconds(60), || {
        let described = cloud.kubectl(&["describe", "pvc", "data-db-0"]).ok();
        let told = ["FileSystemResizeSuccessful", "FileSystemResizeFailed"];
        told.into_iter().find(|reason| described.contains(reason)).ok_or(described)
    });
    if told == "FileSystemResizeFailed" {
        // The host does not let a mounted one grow; the next Pod finds it larger.
        cloud.kubectl(&["delete", "pod", "db-0"]).ok();
        ready(cloud, "pod/db-0", "condition=Ready");
    }
    cloud.until("the file system is larger", seconds(60), || {
        let claim = cloud.get(&["pvc", "data-db-0"]);
        let status = &claim["status"];
        if status["capacity"]["storage"] == "2Gi" && status["conditions"].is_null() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert!(size() > 3 << 19, "{}", size());
    assert_eq!(read(cloud, "db-0", "/data/note"), "kept\nmore");
    let described = cloud.kubectl(&["describe", "pvc", "data-db-0"]).ok();
    for word in ["ProvisioningSucceeded", "FileSystemResizeSuccessful", "Used By:       db-0"] {
        assert!(described.contains(word), "{word} in {described}");
    }
}

/// A block device keeps its bytes, one Pod alone has it, and a Pod's own claim ends with it. Returns the devices that it had.
fn a_device(cloud: &Cloud) -> Vec<String> {
    cloud.apply(DEVICE);
    ready(cloud, "pod/raw", "condition=Ready");
    let write =
        "echo bytes | dd of=/dev/xvda seek=7 bs=512 conv=notrunc && touch /own/x && test -b /dev/xvda";
    cloud.kubectl(&["exec", "raw", "--", "sh", "-c", write]).ok();
    let devices = loops(cloud.data_dir());
    cloud.kubectl(&["get", "pvc", "raw-own"]).ok();
    let second = DEVICE
        .split("---")
        .nth(1)
        .expect("a Pod")
        .replace("metadata: {name: raw}", "metadata: {name: second}");
    cloud.apply(&second);
    cloud.until("a second Pod is kept out", seconds(30), || {
        let pod = cloud.get(&["pod", "second"]);
        let text = pod["status"]["conditions"][0]["message"].to_string();
        if text.contains("ReadWriteOncePod access mode already in-use") { Ok(()) } else { Err(text) }
    });
    cloud.kubectl(&["delete", "pod", "raw"]).ok();
    // Its turn has come.
    ready(cloud, "pod/second", "condition=Ready");
    let read = "dd if=/dev/xvda skip=7 bs=512 count=1 2>/dev/null | head -c 5";
    assert_eq!(cloud.kubectl(&["exec", "second", "--", "sh", "-c", read]).ok(), "bytes");
    cloud.kubectl(&["delete", "pod", "second"]).ok();
    cloud.kubectl(&["delete", "pvc", "raw", "--timeout=60s"]).ok();
    cloud.until("the Pod's own claim went with it", seconds(60), || {
        let left = cloud.kubectl(&["get", "pvc,pv", "--no-headers"]).ok();
        if left.contains("raw") || files(cloud) != 2 { Err(left) } else { Ok(()) }
    });
    devices
}

#[test]
fn a_projects_claim_is_a_volume_of_its_own() {
    let cloud = Cloud::start();
    cloud.import_web();
    let acme = Tenant::create(&cloud, "acme");
    let pod = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: user, annotations: {network.yunfan.io/network: cluster}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: demo/web:1
    command: [sh, -c, 'exec sleep 100000']
    volumeMounts: [{name: files, mountPath: /files}]
  volumes: [{name: files, persistentVolumeClaim: {claimName: files}}]
"#;
    acme.kubectl_with(&["apply", "-f", "-"], pod).ok();
    acme.kubectl(&["wait", "--for=condition=Ready", "pod/user", "--timeout=60s"]).ok();
    let volumes = acme.openstack(&["volume", "list", "-f", "json"]).json();
    assert_eq!((&volumes[0]["Name"], &volumes[0]["Status"]), (&Value::from("files"), &Value::from("in-use")));
    acme.openstack(&["volume", "delete", "files"]).refused();
    acme.kubectl(&["delete", "pod", "user"]).ok();
    acme.kubectl(&["delete", "pvc", "files", "--timeout=60s"]).ok();
    cloud.until("the volume is gone", seconds(60), || {
        let volumes = acme.openstack(&["volume", "list", "-f", "json"]).json();
        if volumes.as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(volumes.to_string()) }
    });
}

#[track_caller]
fn ready(cloud: &Cloud, what: &str, condition: &str) {
    let condition = match condition.strip_prefix('{') {
        Some(path) => format!("--for=jsonpath={{{path}"),
        None => format!("--for={condition}"),
    };
    cloud.kubectl(&["wait", &condition, what, "--timeout=90s"]).ok();
}

fn read(cloud: &Cloud, pod: &str, path: &str) -> String {
    cloud.kubectl(&["exec", pod, "--", "cat", path]).ok()
}

/// The name of the volume of a claim.
fn volume_of(cloud: &Cloud, namespace: &str, claim: &str) -> Value {
    cloud.get(&["pvc", "-n", namespace, claim])["spec"]["volumeName"].clone()
}

/// How many disks of volumes there are on the node.
fn files(cloud: &Cloud) -> usize {
    let dir = cloud.data_dir().join("agent/disks/volumes");
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("disk.raw").exists())
        .count()
}

/// The loop devices of files below a directory.
fn loops(dir: &Path) -> Vec<String> {
    let blocks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let behind = blocks.filter_map(|block| {
        let file = std::fs::read_to_string(block.path().join("loop/backing_file")).ok()?;
        Path::new(file.trim()).starts_with(dir).then(|| block.file_name().to_string_lossy().into_owned())
    });
    behind.collect()
}

/// File systems of volumes below a directory.
fn mounts(dir: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| Path::new(point).starts_with(dir) && point.ends_with("/fs"))
        .map(str::to_owned)
        .collect()
}
