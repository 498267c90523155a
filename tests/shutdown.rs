//! The end of Pods when their node shuts down: the ordinary ones first, then the critical, each with its time; static ones come back.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use yunfan_tests::{Cloud, seconds};

/// A Pod that writes down when it is asked to end, and ends a moment later.
fn pod(name: &str, class: &str, notes: &str) -> Value {
    let script =
        format!("trap 'sleep 1; echo {name} >>/notes/ends; exit 0' TERM; while :; do sleep 0.1; done");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"priorityClassName": class, "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "main", "image": "demo/web:1", "imagePullPolicy": "Never",
                "command": ["sh", "-c", script], "volumeMounts": [{"name": "notes", "mountPath": "/notes"}]}],
            "volumes": [{"name": "notes", "hostPath": {"path": notes}}]}})
}

fn until_phase(cloud: &Cloud, name: &str, phase: &str) -> Value {
    cloud.until(&format!("{name} is {phase}"), seconds(60), || {
        let pods = cloud.get(&["pods", "-n", "kube-system"]);
        let mut pods = pods["items"].as_array().into_iter().flatten();
        let found =
            pods.find(|pod| pod["metadata"]["name"].as_str().is_some_and(|own| own.starts_with(name)));
        match found {
            Some(pod) if pod["status"]["phase"] == phase => Ok(pod.clone()),
            found => Err(format!("{found:?}")),
        }
    })
}

fn until_active(cloud: &Cloud, name: &str) -> Value {
    cloud.until(&format!("{name} is active"), seconds(60), || {
        let status = cloud.get(&["virtualmachine", "-n", "admin", name])["status"].clone();
        if status["phase"] == "Active" { Ok(status) } else { Err(status.to_string()) }
    })
}

fn ready(cloud: &Cloud) -> Value {
    let nodes = cloud.get(&["nodes"]);
    let conditions = nodes["items"][0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default()
}

#[test]
fn pods_end_by_their_priority_when_their_node_shuts_down() {
    let work = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let notes = work.path().to_str().expect("a name").to_owned();
    let manifests = work.path().join("manifests");
    std::fs::create_dir(&manifests).expect("a directory");
    let cloud = Cloud::builder()
        .argument(&format!("--pod-manifest-path={}", manifests.display()))
        .argument("--shutdown-grace-period=20")
        .argument("--shutdown-grace-period-critical-pods=10")
        .start();
    cloud.import_web();
    std::fs::write(manifests.join("own.json"), pod("own", "system-node-critical", &notes).to_string())
        .expect("a manifest");
    cloud.apply(&pod("vital", "system-node-critical", &notes).to_string());
    cloud.apply(&pod("plain", "", &notes).to_string());
    cloud.machine_parts();
    cloud.machine("guest");
    for name in ["own", "vital", "plain"] {
        until_phase(&cloud, name, "Running");
    }
    let started = until_active(&cloud, "guest");

    cloud.yunfan(&["down"]).ok();
    let text = std::fs::read_to_string(work.path().join("ends")).expect("what the Pods wrote");
    let mut ends: Vec<&str> = text.lines().collect();
    assert_eq!(ends.remove(0), "plain", "the ordinary ones end first: {text}");
    ends.sort_unstable();
    assert_eq!(ends, ["own", "vital"]);

    cloud.up_again();
    for name in ["vital", "plain"] {
        let status = until_phase(&cloud, name, "Failed")["status"].take();
        assert_eq!(status["reason"], "Terminated");
        assert_eq!(status["message"], "Pod was terminated in response to imminent node shutdown.");
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget");
        assert_eq!(target.map(|target| &target["reason"]), Some(&json!("TerminationByKubelet")), "{status}");
    }
    // What is the node's own comes back with it, and so do machines, whose guests were asked to power off.
    until_phase(&cloud, "own", "Running");
    cloud.until("the machine was started again", seconds(60), || {
        let again = until_active(&cloud, "guest");
        if again["startedAt"] == started["startedAt"] { Err(again.to_string()) } else { Ok(()) }
    });
    let events = cloud.get(&["events", "-n", "admin", "--field-selector=reason=Stopped"]);
    let said = &events["items"][0]["message"];
    assert_eq!(said, "Stopped the virtual machine: its node is shutting down", "{events}");
    let crashes = cloud.get(&["events", "-n", "admin", "--field-selector=reason=Crashed"]);
    assert_eq!(crashes["items"], json!([]));
    cloud.until("the node is ready again", seconds(30), || {
        let ready = ready(&cloud);
        if ready["status"] == "True" { Ok(()) } else { Err(ready.to_string()) }
    });
    let events = cloud.get(&["events", "-A", "--field-selector=reason=Shutdown"]);
    let said = &events["items"][0]["message"];
    assert_eq!(said, "Shutdown manager detected shutdown event", "{events}");
}

#[test]
fn while_a_node_shuts_down_it_is_not_ready_and_takes_no_pods() {
    let work = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let notes = work.path().to_str().expect("a name");
    let cloud = Cloud::builder().argument("--shutdown-grace-period=60").start();
    cloud.import_web();
    let slow = pod("slow", "", notes)
        .to_string()
        .replace("sleep 1;", "while [ ! -e /notes/go ]; do sleep 0.1; done;");
    cloud.apply(&slow);
    until_phase(&cloud, "slow", "Running");
    let node = cloud.get(&["nodes"])["items"][0]["metadata"]["name"].clone();

    // What `yunfan down` sends.
    yunfan_tests::run("kill", &["-USR1", &cloud.pid().to_string()]).ok();
    cloud.until("the node is not ready", seconds(30), || {
        let ready = ready(&cloud);
        let wanted = ["False", "KubeletNotReady", "node is shutting down"];
        let said =
            ["status", "reason", "message"].map(|key| ready[key].as_str().unwrap_or_default().to_owned());
        if said == wanted { Ok(()) } else { Err(ready.to_string()) }
    });
    let mut late: Value = pod("late", "", notes);
    late["spec"]["nodeName"] = node;
    cloud.apply(&late.to_string());
    let status = until_phase(&cloud, "late", "Failed")["status"].take();
    assert_eq!(status["reason"], "NodeShutdown");
    assert_eq!(status["message"], "Pod was rejected: Pod was rejected as the node is shutting down.");
    std::fs::write(work.path().join("go"), "").expect("a file");
    assert_eq!(cloud.await_end(), Some(0));
    assert_eq!(std::fs::read_to_string(work.path().join("ends")).expect("what the Pod wrote"), "slow\n");
    cloud.up_again();
    until_phase(&cloud, "slow", "Failed");
}
