//! Bad input: each gets an error that names the field or the thing and what to do, and nothing else is disturbed.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::Value;
use yunfan_tests::{Cloud, Tenant, run, seconds, web_archive};

/// One cloud for the tests of this file that run at the same time.
fn shared() -> Arc<Cloud> {
    static SHARED: Mutex<Weak<Cloud>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let cloud = Arc::new(Cloud::start());
        cloud.import_web();
        cloud.machine_parts();
        *shared = Arc::downgrade(&cloud);
        cloud
    })
}

/// curl's arguments that make the caller the cloud's admin.
fn admin(cloud: &Cloud) -> Vec<String> {
    let file = |name: &str| cloud.data_dir().join("pki").join(name).to_string_lossy().into_owned();
    vec!["--cert".into(), file("admin.crt"), "--key".into(), file("admin.key")]
}

fn post(cloud: &Cloud, path: &str, kind: &str, body: &str) -> (u16, String) {
    let mut arguments = admin(cloud);
    arguments.extend(["-H".into(), format!("Content-Type: {kind}"), "--data-binary".into(), body.into()]);
    cloud.curl(path, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn malformed_documents() {
    let cloud = shared();
    let path = "/api/v1/namespaces/default/configmaps";
    for (kind, body) in [
        ("application/json", "{\"apiVersion\": \"v1\", \"kind\":"),
        ("application/json", "[]"),
        ("application/json", "\u{1}\u{2}"),
        ("application/yaml", "kind: ConfigMap\n  apiVersion: [v1\n"),
        ("application/json", "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":\"x\"}}"),
    ] {
        let (status, said) = post(&cloud, path, kind, body);
        assert_eq!(status, 400, "{body:?}: {said}");
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_eq!(said["kind"], "Status", "{said}");
        assert!(said["message"].as_str().is_some_and(|message| !message.is_empty()), "{said}");
    }
    let (status, said) = post(&cloud, path, "text/plain", "hello");
    assert_eq!(status, 415, "{said}");
    // So deep that a careless parser falls.
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let (status, said) = post(&cloud, path, "application/json", &deep);
    assert_eq!(status, 400, "{said}");
    let (status, said) = cloud.curl("/compute/v2.1/servers", &["-d", "{"]);
    assert_eq!(status, 401, "{said}");
    let auth = ["-H", "Content-Type: application/json", "-d", "{\"auth\": "];
    let (status, said) = cloud.curl("/identity/v3/auth/tokens", &auth);
    assert_eq!(status, 400, "{said}");
}

#[test]
fn fields_that_are_wrong_are_named() {
    let cloud = shared();
    let refused = |manifest: &str, words: &[&str]| {
        cloud.kubectl_with(&["apply", "-f", "-"], manifest).refused_with(words);
    };
    let deployment = |spec: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: wrong}}, spec: {{selector: {{matchLabels: {{a: b}}}}, \
             template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i}}]}}}}, {spec}}}}}"
        )
    };
    refused(&deployment("replica: 3"), &["unknown field", "spec.replica"]);
    refused(&deployment("replicas: three"), &["replicas"]);
    refused(&deployment("replicas: -1"), &["spec.replicas"]);
    let config = |name: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}");
    refused(&config("Bad_Name"), &["metadata.name", "Bad_Name"]);
    refused(&config("trailing-"), &["metadata.name", "trailing-"]);
    let machine = |spec: &str| {
        format!(
            "{{apiVersion: compute.yunfan.io/v1, kind: VirtualMachine, metadata: {{name: wrong, namespace: admin}}, spec: {{{spec}}}}}"
        )
    };
    refused(&machine("flavor: tiny, image: blank, colour: red"), &["unknown field", "spec.colour"]);
    refused(&machine("flavor: 7, image: blank"), &["spec.flavor"]);
    refused(&machine("image: blank"), &["spec.flavor"]);
    refused(&machine("flavor: huge, image: blank"), &["spec.flavor", "huge"]);
    let subnet = "{apiVersion: network.yunfan.io/v1, kind: Subnet, metadata: {name: wrong, namespace: admin}, \
                  spec: {network: lan, cidr: 10.300.0.0/24}}";
    refused(subnet, &["spec.cidr", "10.300.0.0/24"]);
    let (status, said) = post(
        &cloud,
        "/apis/apps/v1/namespaces/default/spaceships",
        "application/json",
        "{\"kind\": \"Spaceship\"}",
    );
    assert_eq!(status, 404, "{said}");
    let container = "{apiVersion: v1, kind: Pod, metadata: {name: wrong}, spec: {containers: [{name: c, image: i, \
                     resources: {limits: {memory: lots}}}]}}";
    // Kubernetes names no field here, and neither do we.
    refused(container, &["quantities must match"]);
    cloud
        .openstack(&["server", "create", "--image", "blank", "--flavor", "tiny", "--network", "nowhere", "x"])
        .refused_with(&["nowhere"]);
    cloud
        .openstack(&["subnet", "create", "--network", "lan", "--subnet-range", "10.1.2.3/99", "x"])
        .refused();
    for kind in ["deployments", "configmaps", "pods", "vm", "subnets"] {
        let names = cloud.kubectl(&["get", kind, "-A", "-o", "name"]).ok();
        assert!(!names.contains("wrong"), "refused, but there: {names}");
    }
}

#[test]
fn more_than_the_quota() {
    let cloud = shared();
    let tight = Tenant::create(&cloud, "tight");
    cloud.kubectl(&["create", "quota", "pods", "-n", "tight", "--hard=pods=1,requests.memory=64Mi"]).ok();
    let pod = |name: &str, memory: &str| {
        let manifest = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: 'demo/web:1', \
             resources: {{requests: {{memory: {memory}}}}}}}]}}}}"
        );
        tight.kubectl_with(&["apply", "-f", "-"], &manifest)
    };
    pod("big", "65Mi").refused_with(&["exceeded quota", "pods", "requests.memory=65Mi", "64Mi"]);
    pod("one", "16Mi").ok();
    pod("two", "16Mi").refused_with(&["exceeded quota", "pods=1", "limited: pods=1"]);
    tight.kubectl(&["delete", "pod", "one", "--timeout=60s"]).ok();
    pod("three", "16Mi").ok();

    cloud.openstack(&["quota", "set", "--cores", "1", "--instances", "1", "--ram", "512", "tight"]).ok();
    tight.network("lan", "10.5.0.0/24");
    tight.image("disk", "qcow2", &yunfan_tests::empty_disk(cloud.work()));
    let server = |name: &str| {
        tight.openstack(&[
            "server",
            "create",
            "--flavor",
            "tiny",
            "--image",
            "disk",
            "--network",
            "lan",
            name,
        ])
    };
    server("one").ok();
    server("two").refused_with(&["Quota exceeded", "instances", "403"]);
    // The same quota at the other door.
    let machine = "{apiVersion: compute.yunfan.io/v1, kind: VirtualMachine, metadata: {name: three}, \
                   spec: {flavor: tiny, image: disk, networks: [{network: lan}]}}";
    tight.kubectl_with(&["apply", "-f", "-"], machine).refused_with(&["exceeded quota"]);
    assert_eq!(tight.openstack(&["server", "list", "-f", "value", "-c", "Name"]).ok(), "one");
}

#[test]
fn an_image_that_does_not_exist() {
    let cloud = shared();
    let image = format!("127.0.0.1:{}/no/such:image", cloud.slot().port(9));
    cloud.kubectl(&["run", "lost", "--image", &image]).ok();
    cloud.until("the pod says ErrImagePull", seconds(60), || {
        let pod = cloud.get(&["pod", "lost"]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        if reason.contains("ImagePull") && waiting["message"].as_str().is_some_and(|m| m.contains("no/such"))
        {
            return Ok(());
        }
        Err(pod["status"].to_string())
    });
    let why = cloud.yunfan(&["why", "pod", "lost"]).ok();
    assert!(why.contains(&image) && why.contains("ImagePull"), "{why}");
    let why = cloud.yunfan(&["why", "pod", "lost", "-o", "json"]).json();
    assert_eq!(why["kind"], "Pod");
    // Imported by that name, it starts by itself.
    cloud.yunfan(&["image", "import", web_archive(), "--name", &image]).ok();
    cloud.pod_ready("default", "lost");
    cloud.yunfan(&["why", "pod", "nobody"]).refused_with(&["nobody", "default"]);
    cloud.yunfan(&["why", "teapot", "x"]).refused_with(&["teapot"]);
}

#[test]
fn corrupt_disk_images() {
    let cloud = shared();
    let file = |name: &str| cloud.work().join(name).to_string_lossy().into_owned();
    let (noise, cut, child, base) =
        (file("noise.qcow2"), file("cut.qcow2"), file("child.qcow2"), file("base.qcow2"));
    std::fs::write(&noise, [b"QFI\xfb\0\0\0\x03".as_slice(), &[0x5a; 4096]].concat()).expect("a file");
    run("qemu-img", &["create", "-q", "-f", "qcow2", &base, "8M"]).ok();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", &child, "1M"]).ok();
    std::fs::write(&cut, &std::fs::read(&base).expect("a file")[..50]).expect("a file");
    for (name, path, words) in [
        ("noise", &noise, vec!["not usable"]),
        ("cut", &cut, vec!["not usable", "upload the whole file"]),
        ("child", &child, vec!["backing"]),
    ] {
        let said = cloud.openstack(&["image", "create", "--disk-format", "qcow2", "--file", path, name]);
        said.refused_with(&words);
        let phase = cloud.openstack(&["image", "list", "--name", name, "-f", "value", "-c", "Status"]).ok();
        assert!(!phase.contains("active"), "{name} is {phase}");
    }
    let create = ["server", "create", "--image", "noise", "--flavor", "tiny", "--network", "lan", "x"];
    cloud.openstack(&create).refused_with(&["noise"]);
    // What is whole is still taken.
    cloud.openstack(&["image", "create", "--disk-format", "qcow2", "--file", &base, "whole"]).ok();
}

/// The web image with another layer, so that no node knows it, and one byte of it turned over. Returns the
/// archive, and the layer's digest as the manifest has it.
fn broken_archive(work: &Path) -> (String, String) {
    let dir = work.join("layout");
    std::fs::create_dir(&dir).expect("a directory");
    run("tar", &["-xf", web_archive(), "-C", &dir.to_string_lossy()]).ok();
    std::fs::remove_file(dir.join("manifest.json")).expect("the manifest of docker save");
    let blob = |digest: &str| dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let read = |path: PathBuf| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("a document")).expect("JSON")
    };
    let keep = |bytes: &[u8]| -> Value {
        let new = dir.join("new");
        std::fs::write(&new, bytes).expect("a blob");
        let sum = run("sha256sum", &[&new.to_string_lossy()]).ok();
        let digest = format!("sha256:{}", sum.split_whitespace().next().expect("a digest"));
        std::fs::rename(new, blob(&digest)).expect("a blob");
        Value::from(digest)
    };
    let mut index = read(dir.join("index.json"));
    let mut manifest = read(blob(index["manifests"][0]["digest"].as_str().expect("a digest")));
    let layer = blob(manifest["layers"][0]["digest"].as_str().expect("a digest"));
    // One file more, which makes it a layer that no node has.
    let (tar, more) = (dir.join("layer.tar").to_string_lossy().into_owned(), work.join("more"));
    std::fs::write(&more, "more\n").expect("a file");
    run("sh", &["-c", &format!("gzip -dc <{} >{tar}", layer.display())]).ok();
    run("tar", &["-rf", &tar, "-C", &work.to_string_lossy(), "more"]).ok();
    let mut config = read(blob(manifest["config"]["digest"].as_str().expect("a digest")));
    config["rootfs"]["diff_ids"][0] = keep(&std::fs::read(&tar).expect("the layer"));
    let config = config.to_string();
    manifest["config"]["size"] = config.len().into();
    manifest["config"]["digest"] = keep(config.as_bytes());
    run("gzip", &["-1", "-n", &tar]).ok();
    let mut bytes = std::fs::read(format!("{tar}.gz")).expect("the layer");
    manifest["layers"][0]["size"] = bytes.len().into();
    let digest = keep(&bytes);
    manifest["layers"][0]["digest"] = digest.clone();
    let document = manifest.to_string();
    index["manifests"][0]["size"] = document.len().into();
    index["manifests"][0]["digest"] = keep(document.as_bytes());
    std::fs::write(dir.join("index.json"), index.to_string()).expect("the index");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    let digest = digest.as_str().expect("a digest").to_owned();
    std::fs::write(blob(&digest), bytes).expect("the layer");
    let archive = work.join("broken.tar").to_string_lossy().into_owned();
    run("tar", &["-cf", &archive, "-C", &dir.to_string_lossy(), "."]).ok();
    (archive, digest)
}

#[test]
fn a_corrupt_layer() {
    let cloud = shared();
    let (archive, digest) = broken_archive(cloud.work());
    let import = cloud.yunfan(&["image", "import", &archive, "--name", "demo/broken:1"]);
    import.refused_with(&[&digest[.."sha256:".len() + 12]]);
    let noise = cloud.work().join("noise.tar").to_string_lossy().into_owned();
    std::fs::write(&noise, vec![7; 100_000]).expect("a file");
    cloud.yunfan(&["image", "import", &noise, "--name", "demo/noise:1"]).refused();
    cloud.yunfan(&["image", "import", "/no/such/archive"]).refused_with(&["/no/such/archive"]);
    let listed = cloud.yunfan(&["image", "list"]).ok();
    assert!(
        listed.contains("demo/web:1") && !listed.contains("broken") && !listed.contains("noise"),
        "{listed}"
    );
    // Nothing else is disturbed.
    cloud.kubectl(&["run", "whole", "--image", "demo/web:1"]).ok();
    cloud.pod_ready("default", "whole");
}

#[test]
fn who_may_what() {
    let cloud = shared();
    let plain = Tenant::create(&cloud, "plain");
    let token = plain.openstack(&["token", "issue", "-f", "value", "-c", "id"]).ok();
    let doors = [
        "/api/v1/namespaces/default/pods",
        "/apis/compute.yunfan.io/v1/namespaces/admin/virtualmachines",
        "/yunfan/v1/backup",
        "/identity/v3/projects",
        "/compute/v2.1/servers",
        "/image/v2/images",
        "/network/v2.0/networks",
    ];
    for path in doors {
        let (status, said) = cloud.curl(path, &[]);
        // To Kubernetes' API who says nothing is somebody, to OpenStack's nobody.
        let known = ["/api/", "/apis/", "/yunfan/"].iter().any(|start| path.starts_with(start));
        assert_eq!(status, if known { 403 } else { 401 }, "{path} to nobody: {said}");
        let (status, said) =
            cloud.curl(path, &["-H", "Authorization: Bearer nonsense", "-H", "X-Auth-Token: nonsense"]);
        assert_eq!(status, 401, "{path} to a liar: {said}");
        // One letter of the signature is another.
        let last = token.chars().rev().nth(5).expect("a long token");
        let mut forged = token.clone();
        forged.replace_range(token.len() - 6..token.len() - 5, if last == 'A' { "B" } else { "A" });
        let (bearer, x) = (format!("Authorization: Bearer {forged}"), format!("X-Auth-Token: {forged}"));
        let (status, said) = cloud.curl(path, &["-H", &bearer, "-H", &x]);
        assert_eq!(status, 401, "{path} to a forger: {said}");
    }
    let bearer = format!("Authorization: Bearer {token}");
    for path in [
        "/api/v1/nodes",
        "/api/v1/namespaces/default/pods",
        "/api/v1/namespaces/kube-system/secrets",
        "/api/v1/namespaces/plain/nothing-of-the-sort",
        "/yunfan/v1/backup",
    ] {
        let (status, said) = cloud.curl(path, &["-H", &bearer]);
        assert_eq!(status, 403, "{path}: {said}");
        assert!(said.contains("plain"), "does not say who: {said}");
    }
    let (status, said) = cloud.curl("/api/v1/namespaces/plain/pods", &["-H", &bearer]);
    assert_eq!(status, 200, "{said}");
    plain.openstack(&["project", "create", "mine"]).refused_with(&["403"]);
    plain.openstack(&["flavor", "create", "--vcpus", "1", "--ram", "1", "huge"]).refused_with(&["403"]);
    plain.openstack(&["quota", "set", "--cores", "100", "plain"]).refused_with(&["403"]);
    let wrong = "{\"auth\":{\"identity\":{\"methods\":[\"password\"],\"password\":{\"user\":{\"name\":\"plain\",\"domain\":\
                 {\"id\":\"default\"},\"password\":\"wrong\"}}}}}";
    let (status, said) =
        cloud.curl("/identity/v3/auth/tokens", &["-H", "Content-Type: application/json", "-d", wrong]);
    assert_eq!(status, 401, "{said}");
    // A node's own API lets nobody in either.
    let node = &cloud.get(&["nodes"])["items"][0];
    let port =
        node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().expect("the agent's port");
    let url = format!("https://127.0.0.1:{port}/containerImages");
    let status = run("curl", &["-sk", "-o", "/dev/null", "-w", "%{http_code}", &url]);
    assert!(["000", "401", "403"].contains(&status.stdout.as_str()), "{status}");
}

#[test]
fn nowhere_to_run() {
    let cloud = shared();
    cloud.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: giant}, spec: {containers: [{name: c, image: 'demo/web:1', \
         resources: {requests: {memory: 4000Gi}}}]}}\n---\n\
         {apiVersion: compute.yunfan.io/v1, kind: Flavor, metadata: {name: giant}, spec: {vcpus: 1, memoryMib: 4000000}}\n---\n\
         {apiVersion: compute.yunfan.io/v1, kind: VirtualMachine, metadata: {name: giant, namespace: admin}, \
         spec: {flavor: giant, image: blank, networks: [{network: lan}]}}\n",
    );
    let counts = "0/1 nodes are available: 1 Insufficient memory.";
    for (kind, namespace, condition) in
        [("pod", "default", "PodScheduled"), ("virtualmachine", "admin", "Scheduled")]
    {
        let object = cloud.until(&format!("the {kind} says why it has no node"), seconds(30), || {
            let object = cloud.get(&[kind, "-n", namespace, "giant"]);
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.iter().any(|c| {
                c["type"] == condition
                    && c["status"] == "False"
                    && c["message"].as_str().is_some_and(|m| m.starts_with(counts))
            });
            if found { Ok(object) } else { Err(object["status"].to_string()) }
        });
        let uid = object["metadata"]["uid"].as_str().expect("a uid");
        let selector = format!("involvedObject.uid={uid},reason=FailedScheduling");
        cloud.until(&format!("the {kind} has an event"), seconds(30), || {
            let events = cloud.get(&["events", "-n", namespace, "--field-selector", &selector]);
            let message = events["items"][0]["message"].as_str().unwrap_or_default();
            if message.starts_with(counts) { Ok(()) } else { Err(events.to_string()) }
        });
        let why = cloud.yunfan(&["why", kind, "giant", "-n", namespace]).ok();
        assert!(why.contains(counts) && why.contains("not placed"), "{why}");
    }
    let shown = cloud.openstack(&["server", "show", "giant", "-f", "json"]).json();
    assert_ne!(shown["status"], "ACTIVE", "{shown}");
    // Room that comes is taken: the request is the only thing in the way.
    cloud.kubectl(&["delete", "pod", "giant"]).ok();
    cloud.kubectl(&["delete", "vm", "-n", "admin", "giant", "--timeout=60s"]).ok();
}

/// A namespace and its project are one tenant: what was deleted at one door does not come back through the other.
#[test]
fn a_deleted_namespace_takes_its_project_along() {
    let cloud = shared();
    cloud.kubectl(&["create", "namespace", "brief"]).ok();
    cloud.until("the namespace's project", seconds(20), || {
        let found = cloud.kubectl(&["get", "project", "brief", "-o", "jsonpath={.status.namespace}"]);
        if found.stdout == "brief" { Ok(()) } else { Err(found.stdout) }
    });
    cloud.kubectl(&["delete", "namespace", "brief", "--timeout=60s"]).ok();
    cloud.until("the end of the project", seconds(20), || {
        let found = cloud.kubectl(&["get", "project,namespace", "-o", "name"]);
        if found.stdout.contains("brief") { Err(found.stdout) } else { Ok(()) }
    });
}

/// An answer that is whole before its request reaches clients that drop what a reset stream said.
#[test]
fn answers_that_need_no_body_arrive() {
    let cloud = shared();
    for _ in 0..20 {
        let body = "{\"kind\": \"Spaceship\"}";
        let (status, said) = post(&cloud, "/apis/apps/v1/spaceships", "application/json", body);
        assert_eq!(status, 404, "{said}");
    }
}
