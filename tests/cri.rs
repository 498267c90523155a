//! A cloud whose Pods are run by a containerd of the test's own, over CRI. Skipped where containerd is not installed.
#![forbid(unsafe_code)]

use std::path::Path;

use serde_json::Value;
use yunfan_tests::{Cloud, Containerd, run, seconds};

/// What a Pod's status says of its only container.
fn container(cloud: &Cloud, pod: &str) -> Value {
    cloud.get(&["pod", pod])["status"]["containerStatuses"][0].clone()
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().expect("a name").to_owned()
}

#[test]
fn pods_are_run_by_containerd() {
    let Some(containerd) = Containerd::start() else { return };
    let (bin, conf) = containerd.cni_dirs();
    let words = [
        "cni",
        "install",
        "--bin-dir",
        &bin.display().to_string(),
        "--conf-dir",
        &conf.display().to_string(),
    ];
    let wrote = run(yunfan_tests::binary(), &words).ok();
    assert!(wrote.contains("10-yunfan.conflist"), "{wrote}");
    let endpoint = containerd.endpoint();
    let cloud = Cloud::builder().argument("--container-runtime-endpoint").argument(&endpoint).start();
    let version = cloud.get(&["nodes"])["items"][0]["status"]["nodeInfo"]["containerRuntimeVersion"].clone();
    assert!(version.as_str().is_some_and(|version| version.starts_with("containerd://")), "{version}");

    images(&cloud, &containerd);
    cloud.web("default", "web", 2);
    let pods = cloud.web_ready("default", "web");
    assert_eq!(containerd.names("tasks").len(), 4, "two Pods, each a sandbox and a container");
    streams(&cloud, &name(&pods[0]));
    volumes(&cloud);
    services(&cloud, &name(&pods[0]));
    restarts(&cloud, &containerd, &pods[1]);
    what_goes_on_without_the_cloud(&cloud);
    another_runtime_does_not_take_over(&cloud);

    cloud.kubectl(&["delete", "pod", "client", "--wait", "--grace-period=1"]).ok();
    cloud.until("containerd has nothing of a deleted Pod", seconds(30), || {
        let tasks = containerd.names("tasks");
        if tasks.len() == 4 { Ok(()) } else { Err(format!("{tasks:?}")) }
    });
    cloud.yunfan(&["down"]).ok();
    for kind in ["containers", "tasks"] {
        assert_eq!(containerd.names(kind), [""; 0], "{kind}");
    }
    assert!(cloud.processes().is_empty(), "{:?}", cloud.processes());
    assert!(!Path::new("/run/yunfan/cni").exists(), "no other cloud here has Pods of another runtime");
}

/// Images come from archives, by the names that they are given.
fn images(cloud: &Cloud, containerd: &Containerd) {
    let pause = containerd.pause_archive().display().to_string();
    let said = cloud.yunfan(&["image", "import", &pause]).ok();
    assert!(said.contains("localhost/pause:1"), "{said}");
    cloud.import_web();
    let listed = cloud.yunfan(&["image", "list"]).ok();
    for image in ["docker.io/demo/web:1", "localhost/pause:1"] {
        assert!(listed.contains(image), "{listed}");
        assert!(containerd.names("images").contains(&image.to_owned()));
    }
    let broken = cloud.work().join("broken.tar").display().to_string();
    std::fs::write(&broken, "no archive").expect("a file");
    cloud.yunfan(&["image", "import", &broken]).refused_with(&["corrupt"]);
}

/// Logs, commands and ports, with the real kubectl.
fn streams(cloud: &Cloud, pod: &str) {
    let exec = |words: &[&str], input: &str| {
        cloud.kubectl_with(&[&["exec", "-i", pod, "--"], words].concat(), input)
    };
    assert_eq!(exec(&["hostname"], "").ok(), pod);
    assert_eq!(exec(&["cat"], "to and fro").ok(), "to and fro");
    let ended = exec(&["sh", "-c", "echo bad >&2; exit 7"], "");
    assert_eq!((ended.code, ended.stderr.contains("bad")), (7, true), "{ended}");
    let text = "echo hello; while read line; do echo got $line; done";
    cloud.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: client}}, spec: {{restartPolicy: Never, containers: [{{name: c,
          image: 'demo/web:1', stdin: true, stdinOnce: true, command: [sh, -c, '{text}']}}]}}}}"
    ));
    cloud.pod_ready("default", "client");
    assert_eq!(cloud.kubectl(&["logs", "client"]).ok(), "hello");
    let attached = cloud.kubectl_with(&["attach", "-i", "client"], "this\n");
    assert!(attached.ok().contains("got this"), "{attached}");
    assert_eq!(cloud.kubectl(&["logs", "client"]).ok(), "hello\ngot this");

    let forward = cloud.kubectl_running(Path::new("kubectl"), &["port-forward", pod, ":8080"]);
    let line = forward.line().unwrap_or_default();
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let url = format!("http://127.0.0.1:{}/", port.unwrap_or_else(|| panic!("{line:?}")));
    run("curl", &["-sSf", "--max-time", "10", &url]).ok();
}

/// Files of the API, and memory, which the node mounts.
fn volumes(cloud: &Cloud) {
    cloud.kubectl(&["create", "configmap", "settings", "--from-literal=key=value"]).ok();
    cloud.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: files}, spec: {restartPolicy: Never, containers: [{name: c,
          image: 'demo/web:1', command: [sh, -c, 'cat /settings/key /one; df -T /memory | tail -n 1; ls /var/run/secrets/kubernetes.io/serviceaccount/token'],
          volumeMounts: [{name: settings, mountPath: /settings}, {name: settings, mountPath: /one, subPath: key},
          {name: memory, mountPath: /memory}]}], volumes: [{name: settings, configMap: {name: settings}},
          {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]}}",
    );
    let pod = cloud.until("the Pod has ended", seconds(60), || {
        let pod = cloud.get(&["pod", "files"]);
        if pod["status"]["phase"] == "Succeeded" { Ok(pod) } else { Err(pod["status"].to_string()) }
    });
    let log = cloud.kubectl(&["logs", "files"]).ok();
    assert!(log.starts_with("valuevalue") && log.contains("tmpfs") && log.ends_with("/token"), "{log}");
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let mounted = || std::fs::read_to_string("/proc/self/mountinfo").expect("mounts").contains(uid);
    cloud.until("a Pod that ended has nothing in memory, and nothing runs", seconds(30), || {
        let left = cloud.processes_of("pod", uid);
        if mounted() || !left.is_empty() { Err(format!("mounted: {}, {left:?}", mounted())) } else { Ok(()) }
    });
    assert_eq!(cloud.kubectl(&["logs", "files"]).ok(), log);
    cloud.kubectl(&["delete", "pod", "files", "--wait"]).ok();
}

/// By name from a Pod, and by a port of the node.
fn services(cloud: &Cloud, pod: &str) {
    let script = "timeout 10 wget -q -O - http://web.default.svc.cluster.local/";
    cloud.until("the Service answers a Pod", seconds(30), || {
        cloud.kubectl(&["exec", pod, "--", "sh", "-c", script]).as_probe()
    });
    cloud.kubectl(&["patch", "service", "web", "-p", r#"{"spec": {"type": "NodePort"}}"#]).ok();
    let port = cloud.get(&["service", "web"])["spec"]["ports"][0]["nodePort"].clone();
    cloud.until("the node's port answers", seconds(30), || {
        run("curl", &["-sSf", "--max-time", "5", &format!("http://127.0.0.1:{port}/")]).as_probe()
    });
}

/// A container that dies is started again, in the Pod that it was in.
fn restarts(cloud: &Cloud, containerd: &Containerd, pod: &Value) {
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let before = container(cloud, &name(pod));
    let processes = cloud.processes_of("pod", uid);
    let server =
        processes.iter().find(|one| one.command.contains("httpd")).unwrap_or_else(|| panic!("{processes:?}"));
    run("kill", &["-KILL", &server.pid.to_string()]).ok();
    let after = cloud.until("the container runs again", seconds(60), || {
        let now = container(cloud, &name(pod));
        if now["ready"] == true && now["restartCount"] == 1 { Ok(now) } else { Err(now.to_string()) }
    });
    assert_eq!(after["lastState"]["terminated"]["containerID"], before["containerID"], "{after}");
    // Whoever knows the runtime's own tools finds it there.
    let id = after["containerID"].as_str().and_then(|id| id.strip_prefix("containerd://"));
    let id = id.unwrap_or_else(|| panic!("{after}")).to_owned();
    assert!(containerd.names("containers").contains(&id), "{id}");
    assert_ne!(after["containerID"], before["containerID"]);
    assert_eq!(cloud.get(&["pod", &name(pod)])["status"]["podIP"], pod["status"]["podIP"]);
}

/// What runs goes on without the cloud, which finds it again.
fn what_goes_on_without_the_cloud(cloud: &Cloud) {
    let statuses = |cloud: &Cloud| -> Vec<Value> {
        let pods = cloud.web_ready("default", "web");
        pods.iter().map(|pod| pod["status"]["containerStatuses"].clone()).collect()
    };
    let before = statuses(cloud);
    cloud.kill_9();
    // Of one that was deleted meanwhile, before it had a sandbox.
    let left = [
        cloud.data_dir().join("agent/pods/00000000-0000-0000-0000-000000000000"),
        Path::new("/run/yunfan/cni/00000000-0000-0000-0000-000000000000").to_owned(),
    ];
    std::fs::create_dir(&left[0]).expect("a directory");
    std::fs::write(&left[1], "{}").expect("a file");
    cloud.up_again();
    assert_eq!(statuses(cloud), before);
    cloud.until("the node has nothing of a Pod that is gone", seconds(30), || {
        if left.iter().any(|path| path.exists()) { Err(format!("{left:?}")) } else { Ok(()) }
    });
}

/// Pods that run can't change whoever runs them.
fn another_runtime_does_not_take_over(cloud: &Cloud) {
    assert_eq!(cloud.terminate(), Some(0));
    let data = cloud.data_dir().display().to_string();
    let port = format!("127.0.0.1:{}", cloud.slot().port(0));
    let (pods, services) = (cloud.slot().cluster_cidr(), cloud.slot().service_cidr());
    let words =
        ["up", "--data-dir", &data, "--listen", &port, "--cluster-cidr", &pods, "--service-cidr", &services];
    run(yunfan_tests::binary(), &words)
        .refused_with(&["Pods of this node are run by unix://", "yunfan down"]);
    cloud.up_again();
    cloud.web_ready("default", "web");
}
