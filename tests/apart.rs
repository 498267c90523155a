//! `yunfan server` and `yunfan agent` as two processes over TLS.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use yunfan_tests::{Cloud, binary, host, run, seconds, until};

/// An agent's process with its own data directory. Its end takes away what it made.
struct Agent {
    data_dir: PathBuf,
    join: PathBuf,
    log: PathBuf,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Agent {
    fn start(work: &Path, join: &Path, arguments: &[String]) -> Self {
        let mut agent = Self {
            data_dir: work.join("agent"),
            join: join.to_owned(),
            log: work.join("agent.log"),
            arguments: arguments.to_vec(),
            process: None,
        };
        agent.up();
        agent
    }

    fn up(&mut self) {
        let log = File::create(&self.log).expect("a log");
        let child = Command::new(binary())
            .arg("agent")
            .arg("--data-dir")
            .arg(&self.data_dir)
            .arg("--join")
            .arg(&self.join)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.process = Some(child.expect("the agent"));
        until("the agent says `ready`", seconds(30), || {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            if text.lines().any(|line| line.starts_with("ready")) { Ok(()) } else { Err(text) }
        });
    }

    fn kill_9(&mut self) {
        let mut child = self.process.take().expect("the agent runs");
        child.kill().and_then(|()| child.wait()).expect("SIGKILL");
    }

    fn tag(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("instance")).expect("the tag").trim().to_owned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let tag = self.tag();
        if std::thread::panicking() {
            eprintln!("--- the agent's log\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
        let down = run(binary(), &["down", "--delete-data", "--data-dir", &self.data_dir.to_string_lossy()]);
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            return;
        }
        down.ok();
        let left = host::processes(&tag, &self.data_dir);
        assert!(left.is_empty(), "{left:?}");
    }
}

fn ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Whoever took over one node does not come to the Pods of others with what that one shows them.
fn other_nodes_get_disk_images_alone(cloud: &Cloud, port: u64) {
    let join = cloud.work().join("n2.join");
    cloud.yunfan(&["node", "add", "n2", "--address", "127.0.0.1", "--output", &join.to_string_lossy()]).ok();
    let text = std::fs::read_to_string(&join).expect("the credentials");
    let join: Value = serde_json::from_str(&text).expect("JSON");
    let file = |name: &str, field: &str| {
        let path = cloud.work().join(name);
        std::fs::write(&path, join[field].as_str().expect("PEM")).expect("a file");
        path.to_string_lossy().into_owned()
    };
    let (certificate, key) = (file("n2.crt", "clientCertificate"), file("n2.key", "clientKey"));
    let authority = cloud.authority().to_string_lossy().into_owned();
    let ask = |method: &str, path: &str| {
        let url = format!("https://127.0.0.1:{port}{path}");
        let shows = ["--cacert", &authority, "--cert", &certificate, "--key", &key, "-X", method];
        run("curl", &[&["-sS", "--max-time", "20", "-w", "\n%{http_code}", &url], &shows[..]].concat()).ok()
    };
    for (method, path) in [
        ("POST", "/exec/default/early/early?command=id&output=1"),
        ("GET", "/containerLogs/default/early/early"),
        ("GET", "/containerImages"),
        ("POST", "/containerImages?name=demo/web:1"),
        ("DELETE", "/images/x"),
        ("GET", "/stats/summary"),
    ] {
        let said = ask(method, path);
        assert!(said.ends_with("\n403") && said.contains("user system:node:n2 may not"), "{path}: {said}");
    }
    let said = ask("GET", "/images/11111111-2222-3333-4444-555555555555");
    assert!(said.ends_with("\n404"), "what images are for: {said}");
    // The API server shows it what is placed on itself.
    for group in ["compute.yunfan.io/v1/virtualmachines", "storage.yunfan.io/v1/volumes"] {
        let list = |selector: &str| {
            cloud.curl(&format!("/apis/{group}{selector}"), &["--cert", &certificate, "--key", &key])
        };
        assert_eq!(list("?fieldSelector=spec.nodeName%3Dn2").0, 200);
        for selector in ["", "?fieldSelector=spec.nodeName%3Dn1"] {
            let (code, said) = list(selector);
            assert!(code == 403 && said.contains("with spec.nodeName field selector"), "{selector}: {said}");
        }
    }
}

#[test]
fn a_server_and_an_agent_in_two_processes() {
    let cloud = Cloud::builder().server_only().start();
    let nodes = cloud.get(&["nodes"]);
    assert_eq!(nodes["items"].as_array().map(Vec::len), Some(0), "{nodes}");
    cloud.kubectl(&["run", "early", "--image", "demo/web:1"]).ok();
    cloud.yunfan(&["image", "list"]).refused_with(&["no node"]);
    let join = cloud.work().join("n1.join");
    cloud.yunfan(&["node", "add", "n1", "--address", "127.0.0.1", "--output", &join.to_string_lossy()]).ok();
    let mode = std::os::unix::fs::PermissionsExt::mode(&join.metadata().expect("the file").permissions());
    assert_eq!(mode & 0o777, 0o600, "it holds a private key");

    let mut agent = Agent::start(cloud.work(), &join, &[]);
    let node = cloud.until("the node is ready", seconds(30), || {
        let node = cloud.kubectl(&["get", "node", "n1", "-o", "json"]);
        let object: Value = serde_json::from_str(&node.stdout).unwrap_or_default();
        if ready(&object) { Ok(object) } else { Err(node.to_string()) }
    });
    let port =
        node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().expect("the agent's port");
    assert_ne!(port, 0);
    let listener = run("ss", &["-Hltnp", &format!("sport = :{port}")]).ok();
    let pid = agent.process.as_ref().expect("the agent runs").id();
    assert!(listener.contains(&format!("pid={pid},")), "{listener}");

    other_nodes_get_disk_images_alone(&cloud, port);

    // What waited for a node gets it; what waited for an image as well.
    cloud.import_web();
    let pod = cloud.pod_ready("default", "early");
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(cloud.kubectl(&["exec", "early", "--", "hostname"]).ok(), "early");
    assert!(cloud.kubectl(&["logs", "early"]).ok().contains("serving on port 8080"));

    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let workload = format!("pod{uid}");
    let running = host::processes_of(&agent.tag(), &workload);
    assert!(running.iter().any(|process| process.command.contains("httpd")), "{running:?}");
    agent.kill_9();
    assert!(running.iter().all(|process| process.lives()));
    cloud.kubectl(&["exec", "early", "--", "hostname"]).refused();
    agent.up();
    cloud.until("exec works again", seconds(30), || {
        cloud.kubectl(&["exec", "early", "--", "hostname"]).as_probe()
    });
    assert_eq!(host::processes_of(&agent.tag(), &workload), running);
    let again = cloud.pod_ready("default", "early");
    assert_eq!(again["status"]["containerStatuses"][0]["restartCount"], 0, "{}", again["status"]);
    assert_eq!(again["metadata"]["uid"], uid);

    // The server's end is nothing to the agent and its pods; it finds the server again.
    cloud.kill_9();
    cloud.up_again();
    cloud.kubectl(&["run", "late", "--image", "demo/web:1"]).ok();
    cloud.pod_ready("default", "late");
    assert!(running.iter().all(|process| process.lives()));

    // Credentials that another cloud made, or nobody, open nothing.
    std::fs::write(cloud.work().join("bad.join"), "{}").expect("a file");
    let bad = cloud.work().join("bad.join").to_string_lossy().into_owned();
    let dir = cloud.work().join("bad-agent").to_string_lossy().into_owned();
    run(binary(), &["agent", "--join", &bad, "--data-dir", &dir])
        .refused_with(&["bad.join", "yunfan node add"]);
}

#[test]
fn a_node_runs_its_own_pods_while_the_server_is_away() {
    let cloud = Cloud::builder().server_only().start();
    let join = cloud.work().join("n1.join");
    cloud.yunfan(&["node", "add", "n1", "--address", "127.0.0.1", "--output", &join.to_string_lossy()]).ok();
    let manifests = cloud.work().join("manifests");
    let notes = cloud.work().join("notes");
    for dir in [&manifests, &notes] {
        std::fs::create_dir(dir).expect("a directory");
    }
    let argument = format!("--pod-manifest-path={}", manifests.display());
    let mut agent = Agent::start(cloud.work(), &join, &[argument]);
    cloud.until("the node takes images", seconds(30), || {
        let nodes = cloud.get(&["nodes"]);
        if ready(&nodes["items"][0]) { Ok(()) } else { Err(nodes.to_string()) }
    });
    cloud.import_web();
    for (name, host) in [("own", false), ("host", true)] {
        let script = format!("echo up >>/notes/{name}; exec sleep 1000");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"hostNetwork": host, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "demo/web:1", "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": "notes", "mountPath": "/notes"}]}],
                "volumes": [{"name": "notes", "hostPath": {"path": notes}}]}});
        std::fs::write(manifests.join(format!("{name}.json")), pod.to_string()).expect("a manifest");
    }
    let shown = |restarts: u64| {
        cloud.until("both are shown", seconds(60), || {
            let pods = cloud.get(&["pods", "-n", "kube-system"]);
            let all = pods["items"].as_array().cloned().unwrap_or_default();
            let good = |pod: &&Value| {
                let container = &pod["status"]["containerStatuses"][0];
                pod["status"]["phase"] == "Running" && container["restartCount"] == restarts
            };
            if all.iter().filter(good).count() == 2 { Ok(()) } else { Err(pods.to_string()) }
        });
    };
    shown(0);

    // As after the node's own restart: nothing of it runs. And nobody is there to be asked.
    agent.kill_9();
    run(binary(), &["down", "--data-dir", &agent.data_dir.to_string_lossy()]).ok();
    cloud.kill_9();
    agent.up();
    for name in ["own", "host"] {
        until(&format!("{name} runs again"), seconds(60), || {
            let text = std::fs::read_to_string(notes.join(name)).unwrap_or_default();
            if text == "up\nup\n" { Ok(()) } else { Err(text) }
        });
    }
    cloud.up_again();
    shown(0);
    for name in ["own", "host"] {
        let text = std::fs::read_to_string(notes.join(name)).expect("its notes");
        assert_eq!(text, "up\nup\n", "{name} went on");
    }
}

/// What a TLS server shows, in PEM.
fn shown_at(address: &str) -> String {
    let script = format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509");
    run("sh", &["-c", &script]).stdout
}

#[test]
fn certificates_follow_one_another_while_all_runs() {
    let cloud = Cloud::builder().server_only().start();
    let join = cloud.work().join("n1.join");
    let file = join.to_string_lossy();
    let add = ["node", "add", "n1", "--address", "127.0.0.1", "--days", "5", "--output", &file];
    cloud.yunfan(&add).ok();
    let first: Value = serde_json::from_slice(&std::fs::read(&join).expect("the file")).expect("JSON");
    let mut agent = Agent::start(cloud.work(), &join, &[]);

    // They end so soon that the node asks for others at once. Loopback is nobody's address, so that a person must say yes to a server there.
    let asked = cloud.until("the node asks to be a server", seconds(60), || {
        let requests = cloud.get(&["csr"]);
        let all = requests["items"].as_array().cloned().unwrap_or_default();
        let serving = |one: &&Value| one["spec"]["signerName"] == "kubernetes.io/kubelet-serving";
        let name =
            all.iter().find(serving).and_then(|one| one["metadata"]["name"].as_str().map(str::to_owned));
        name.ok_or_else(|| requests.to_string())
    });
    cloud.kubectl(&["certificate", "approve", &asked]).ok();
    let kept = agent.data_dir.join("join.json");
    let second = cloud.until("the node has other certificates", seconds(60), || {
        let text = std::fs::read(&kept).map_err(|error| error.to_string())?;
        let kept: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let other = |part: &str| kept[part] != first[part];
        let both = other("clientCertificate") && other("servingCertificate");
        if both { Ok(kept) } else { Err(cloud.kubectl(&["describe", "csr"]).to_string()) }
    });
    let node = cloud.get(&["node", "n1"]);
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let text = |value: &Value| value.as_str().expect("a text").trim().to_owned();
    assert_eq!(shown_at(&format!("127.0.0.1:{port}")).trim(), text(&second["servingCertificate"]));
    let requests = cloud.get(&["csr"]);
    let signers: Vec<String> =
        requests["items"].as_array().into_iter().flatten().map(|r| text(&r["spec"]["signerName"])).collect();
    assert_eq!(signers.len(), 2, "{requests}");
    cloud.import_web();
    cloud.kubectl(&["run", "web", "--image", "demo/web:1"]).ok();
    cloud.pod_ready("default", "web");
    assert_eq!(cloud.kubectl(&["exec", "web", "--", "hostname"]).ok(), "web");

    // A node that starts again goes on with those.
    agent.kill_9();
    agent.up();
    cloud.until("exec works again", seconds(30), || {
        cloud.kubectl(&["exec", "web", "--", "hostname"]).as_probe()
    });
    assert_eq!(cloud.get(&["csr"])["items"].as_array().map(Vec::len), Some(2));

    // The server's own: looked at when it is told to.
    let address = cloud.url().trim_start_matches("https://").to_owned();
    let before = shown_at(&address);
    for part in ["server.crt", "server.key", "admin.crt", "admin.key"] {
        std::fs::remove_file(cloud.data_dir().join("pki").join(part)).expect("a kept certificate");
    }
    let kubeconfig = std::fs::read(cloud.data_dir().join("kubeconfig")).expect("a kubeconfig");
    run("kill", &["-HUP", &cloud.pid().to_string()]).ok();
    cloud.until("another is shown", seconds(30), || {
        let now = shown_at(&address);
        if now.contains("BEGIN") && now != before { Ok(()) } else { Err(now) }
    });
    cloud.until("the administrator has another", seconds(30), || {
        let now = std::fs::read(cloud.data_dir().join("kubeconfig")).map_err(|error| error.to_string())?;
        if now == kubeconfig { Err("it is the same".to_owned()) } else { Ok(()) }
    });
    cloud.kubectl(&["get", "nodes"]).ok();
    assert_eq!(cloud.kubectl(&["exec", "web", "--", "hostname"]).ok(), "web");
}
