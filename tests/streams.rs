//! Streams to containers with real clients: attach, exec and cp, port-forward, and the proxy subresources.
//!
//! Each is tried with the oldest `kubectl` at hand of each transport: since 1.31 they speak over WebSockets, before over SPDY.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use yunfan_tests::{Cloud, Ran, Running, kubectls, run, run_with, seconds};

/// Of 1.x: the first `kubectl` that streams over WebSockets.
const WEBSOCKETS: u32 = 31;

/// One client of a cloud.
struct Client<'a> {
    cloud: &'a Cloud,
    program: PathBuf,
}

impl<'a> Client<'a> {
    fn all(cloud: &'a Cloud) -> impl Iterator<Item = Self> {
        let mut kubectls = kubectls();
        kubectls.dedup_by_key(|kubectl| kubectl.minor >= WEBSOCKETS);
        kubectls.into_iter().map(move |kubectl| Self { cloud, program: kubectl.program })
    }

    #[track_caller]
    fn run(&self, arguments: &[&str], input: &str) -> Ran {
        self.cloud.kubectl_of(&self.program, arguments, &[], input)
    }

    /// As [`Client::run`], in a terminal.
    #[track_caller]
    fn in_terminal(&self, command: &str, input: &str) -> Ran {
        let command = format!("{} {command}", self.program.display());
        let kubeconfig = self.cloud.data_dir().join("kubeconfig").to_string_lossy().into_owned();
        let environment = [("KUBECONFIG".to_owned(), kubeconfig)];
        run_with("script", &["-qec", &command, "/dev/null"], &environment, input)
    }

    /// Forwards a local port, and returns its number, until the first of both is dropped.
    fn forward(&self, what: &str, port: u16) -> (Running, u16) {
        let forward = self.cloud.kubectl_running(&self.program, &["port-forward", what, &format!(":{port}")]);
        let line = forward.line().unwrap_or_default();
        let local = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let local = local.unwrap_or_else(|| panic!("{} {what}: {line:?}", self.program.display()));
        (forward, local)
    }
}

fn cloud() -> Cloud {
    let cloud = Cloud::start();
    cloud.import_web();
    cloud.web("default", "web", 2);
    cloud.web_ready("default", "web");
    cloud
}

/// A Pod that runs a script, with a stdin for clients.
fn script(cloud: &Cloud, name: &str, options: &str, text: &str) {
    cloud.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [{{name: main,
          image: 'demo/web:1', stdin: true, {options}, command: [sh, -c, '{text}']}}]}}}}"
    ));
    cloud.pod_ready("default", name);
}

#[test]
fn attach_and_exec() {
    let cloud = cloud();
    for (number, client) in Client::all(&cloud).enumerate() {
        let pod = format!("reader-{number}");
        script(&cloud, &pod, "stdinOnce: true", "while read line; do echo got $line; done; echo over >&2");
        let attached = client.run(&["attach", "-i", &pod], "one\ntwo\n");
        assert!(attached.ok().contains("got one\ngot two"), "{attached}");
        assert!(attached.stderr.contains("over"), "{attached}");
        client.cloud.until("the container has ended with its input", seconds(30), || {
            let phase = cloud.get(&["pod", &pod])["status"]["phase"].clone();
            if phase == "Succeeded" { Ok(()) } else { Err(phase.to_string()) }
        });
        let late = client.run(&["exec", &pod, "--", "true"], "");
        late.refused();

        let pod = format!("terminal-{number}");
        script(&cloud, &pod, "tty: true", "exec sh");
        let attached = client.in_terminal(&format!("attach -it {pod}"), "stty size; echo $((6 * 7)); exit\n");
        assert!(attached.ok().contains("42"), "{attached}");
        let inside = "exec -it deployment/web -- sh -c 'test -t 0 && stty size && echo $((6 * 7))'";
        let inside = client.in_terminal(inside, "");
        assert!(inside.ok().contains("42"), "{inside}");

        let name = format!("run-{number}");
        let image = ["run", &name, "--image", "demo/web:1", "-i", "--rm", "--restart=Never", "--quiet", "--"];
        let ran =
            client.run(&[&image[..], &["sh", "-c", "read word; echo $word; exit 0"]].concat(), "there\n");
        assert!(ran.ok().contains("there"), "{ran}");
    }
}

#[test]
fn files_are_copied_both_ways() {
    let cloud = cloud();
    let pod = cloud.web_ready("default", "web")[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    // More than any buffer on the way holds.
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    let there = cloud.work().join("there");
    std::fs::write(&there, &bytes).expect("a file");
    for client in Client::all(&cloud) {
        let back = cloud.work().join("back");
        client.run(&["cp", &there.to_string_lossy(), &format!("{pod}:/tmp/file")], "").ok();
        client.run(&["cp", &format!("{pod}:/tmp/file"), &back.to_string_lossy()], "").ok();
        assert!(std::fs::read(&back).expect("the file") == bytes, "{}", client.program.display());
        std::fs::remove_file(back).expect("the file");
    }
}

#[test]
fn ports_are_forwarded() {
    let cloud = cloud();
    let pod = cloud.web_ready("default", "web")[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let open_files = || {
        let dir = format!("/proc/{}/fd", cloud.pid());
        std::fs::read_dir(dir).expect("the cloud's files").count()
    };
    let before = open_files();
    for client in Client::all(&cloud) {
        for (what, port) in
            [(format!("pod/{pod}"), 8080), ("service/web".into(), 80), ("deployment/web".into(), 8080)]
        {
            let (_forward, local) = client.forward(&what, port);
            let url = format!("http://127.0.0.1:{local}/");
            // One after another, and several at once.
            run("curl", &["-sSf", "-m", "20", &url]).ok();
            let urls = [url.as_str(); 8];
            let all = run("curl", &[&["-sSf", "-m", "20", "--parallel"], &urls[..]].concat());
            assert!(all.succeeded(), "{} {what}: {all}", client.program.display());
        }
        let (_forward, local) = client.forward(&format!("pod/{pod}"), 81);
        run("curl", &["-sSf", "-m", "20", &format!("http://127.0.0.1:{local}/")]).refused();
    }
    cloud.until("nothing is left of clients that were killed", seconds(60), || {
        let now = open_files();
        // Connections of other parts of the cloud come and go.
        if now <= before + 8 { Ok(()) } else { Err(format!("{before} open files before, {now} now")) }
    });
}

#[test]
fn pods_services_and_nodes_answer_through_the_api() {
    let cloud = cloud();
    let pod = cloud.web_ready("default", "web")[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let namespace = "/api/v1/namespaces/default";
    let page = cloud.kubectl(&["exec", &pod, "--", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]).ok();
    assert!(!page.is_empty());
    for path in [format!("pods/{pod}:8080/proxy/"), format!("pods/http:{pod}:8080/proxy/")] {
        assert_eq!(cloud.kubectl(&["get", "--raw", &format!("{namespace}/{path}")]).ok(), page);
    }
    for path in ["services/web:80/proxy/", "services/http:web:80/proxy/"] {
        cloud.kubectl(&["get", "--raw", &format!("{namespace}/{path}")]).ok();
    }
    let closed = cloud.kubectl(&["get", "--raw", &format!("{namespace}/pods/{pod}:81/proxy/")]);
    closed.refused_with(&["error trying to reach service"]);
    let node = cloud.get(&["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
    assert_eq!(cloud.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/healthz")]).ok(), "ok");
    cloud.kubectl(&["scale", "deployment/web", "--replicas=0"]).ok();
    cloud.until("a Service without Pods says so", seconds(60), || {
        let ran = cloud.kubectl(&["get", "--raw", &format!("{namespace}/services/web:80/proxy/")]);
        let said = ran.stderr.contains("no endpoints available for service");
        if said { Ok(()) } else { Err(ran.to_string()) }
    });
    let (status, _) = cloud.curl(&format!("{namespace}/services/web:80/proxy/"), &[]);
    assert_eq!(status, 403, "nobody in particular may not");
}
