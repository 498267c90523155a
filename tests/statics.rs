//! Static Pods: what stands in a node's directory runs there, and the API shows it.
#![forbid(unsafe_code)]

use std::path::Path;

use serde_json::{Value, json};
use yunfan_tests::{Cloud, seconds};

/// Writes a manifest as one should: it is there whole or not at all.
fn manifest(directory: &Path, text: &str) {
    let script = format!("echo {text}; trap 'exit 0' TERM; while :; do sleep 0.1; done");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own", "namespace": "kube-system"},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "main", "image": "demo/web:1",
            "imagePullPolicy": "Never", "command": ["sh", "-c", script]}]}});
    let hidden = directory.join(".new");
    std::fs::write(&hidden, pod.to_string()).expect("a manifest");
    std::fs::rename(hidden, directory.join("own.json")).expect("a manifest");
}

/// Waits for the mirror, as it should be.
fn mirror(cloud: &Cloud, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    cloud.until(&format!("the mirror {what}"), seconds(60), || {
        let mut list = cloud.get(&["pods", "-n", "kube-system"]);
        let pod = list["items"].get_mut(0).map(Value::take).unwrap_or_default();
        if pod["status"]["phase"] == "Running" && is(&pod) { Ok(pod) } else { Err(pod.to_string()) }
    })
}

fn logs(cloud: &Cloud, name: &str) -> String {
    cloud.kubectl(&["logs", "-n", "kube-system", name]).ok()
}

#[test]
fn a_nodes_own_pods_run_and_are_shown() {
    let directory = std::env::temp_dir().join(format!("yunfan-manifests-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let cloud = Cloud::builder().argument(&format!("--pod-manifest-path={}", directory.display())).start();
    cloud.import_web();
    manifest(&directory, "first");
    let first = mirror(&cloud, "runs", |_| true);
    let node = first["spec"]["nodeName"].as_str().expect("a node").to_owned();
    let name = format!("own-{node}");
    assert_eq!(first["metadata"]["name"], name.as_str());
    let annotations = &first["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(first["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(logs(&cloud, &name), "first");

    // Who deletes the mirror deletes no more than that.
    let run = first["status"]["containerStatuses"][0]["containerID"].clone();
    let same = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"] == run;
    cloud.kubectl(&["delete", "pod", "-n", "kube-system", &name, "--wait=false"]).ok();
    mirror(&cloud, "is made again", |pod| same(pod) && pod["metadata"]["uid"] != first["metadata"]["uid"]);

    // It goes on while the cloud is away, and is the same when that comes back.
    cloud.kill_9();
    cloud.up_again();
    mirror(&cloud, "is of the same container", same);

    // Another text is another Pod.
    manifest(&directory, "second");
    mirror(&cloud, "is another", |pod| !same(pod));
    assert_eq!(logs(&cloud, &name), "second");

    makes_room(&cloud, &directory);

    std::fs::remove_file(directory.join("own.json")).expect("a manifest that goes");
    cloud.until("the mirror is gone", seconds(60), || {
        let list = cloud.get(&["pods", "-n", "kube-system"]);
        let none = list["items"].as_array().is_some_and(Vec::is_empty);
        if none { Ok(()) } else { Err(list.to_string()) }
    });
    std::fs::remove_dir_all(&directory).expect("an empty directory");
}

/// A Pod that has all of the node's CPUs ends for one of the node's own.
fn makes_room(cloud: &Cloud, directory: &Path) {
    let cpus = cloud.get(&["nodes"])["items"][0]["status"]["allocatable"]["cpu"].clone();
    let pod = |name: &str, cpu: &Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "demo/web:1", "command": ["sleep", "1000"],
                "resources": {"requests": {"cpu": cpu}}}]}})
    };
    cloud.apply(&pod("large", &cpus).to_string());
    cloud.pod_ready("default", "large");
    let vital = directory.join("vital.json");
    std::fs::write(&vital, pod("vital", &json!("500m")).to_string()).expect("a manifest");
    let status = cloud.until("there is room", seconds(60), || {
        let status = cloud.get(&["pod", "large"])["status"].take();
        if status["phase"] == "Failed" { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["reason"], "Preempting");
    assert_eq!(status["message"], "Preempted in order to admit critical pod");
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget");
    let said = target.map(|target| (target["reason"].clone(), target["message"].clone()));
    let words = "Pod was preempted by Kubelet to accommodate a critical pod.";
    assert_eq!(said, Some((json!("TerminationByKubelet"), json!(words))), "{status}");
    cloud.until("the node's own Pod runs", seconds(60), || {
        let pods = cloud.get(&["pods"]);
        let mut all = pods["items"].as_array().into_iter().flatten();
        let runs = all.any(|pod| pod["metadata"]["name"] != "large" && pod["status"]["phase"] == "Running");
        if runs { Ok(()) } else { Err(pods.to_string()) }
    });
    std::fs::remove_file(vital).expect("a manifest that goes");
    cloud.kubectl(&["delete", "pod", "large"]).ok();
}
