//! What people do with `kubectl` all day, with every version of it that is at hand.
#![forbid(unsafe_code)]

use serde_json::Value;
use yunfan_tests::{Cloud, Kubectl, Ran, kubectls, seconds};

/// One version of kubectl, at work in a namespace of its own.
struct Client<'a> {
    cloud: &'a Cloud,
    kubectl: Kubectl,
    namespace: String,
}

impl Client<'_> {
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Ran {
        self.run_in(&[], arguments, "")
    }

    #[track_caller]
    fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        self.run_in(&[], arguments, input)
    }

    #[track_caller]
    fn run_in(&self, environment: &[(&str, &str)], arguments: &[&str], input: &str) -> Ran {
        let arguments = [&["-n", &self.namespace], arguments].concat();
        self.cloud.kubectl_of(&self.kubectl.program, &arguments, environment, input)
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    #[track_caller]
    fn get(&self, arguments: &[&str]) -> Value {
        self.run(&[&["get", "-o", "json"], arguments].concat()).json()
    }

    /// Writes a file of the test's, and returns its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.cloud.work().join(format!("{}-{name}", self.namespace));
        std::fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    }
}

#[test]
fn what_people_do_all_day() {
    let cloud = Cloud::start();
    cloud.import_web();
    std::thread::scope(|scope| {
        for kubectl in kubectls() {
            let client = Client { cloud: &cloud, namespace: format!("day-{}", kubectl.minor), kubectl };
            scope.spawn(move || all_day(&client));
        }
    });
    the_node(&cloud);
}

fn all_day(client: &Client) {
    client.ok(&["create", "namespace", &client.namespace]);
    objects(client);
    apply(client);
    documents(client);
    deployment(client);
    client.ok(&["delete", "namespace", &client.namespace, "--timeout=60s"]);
    client.run(&["get", "namespace", &client.namespace]).refused_with(&["NotFound"]);
}

/// Single objects: made, seen, changed in every way, deleted.
fn objects(client: &Client) {
    client.ok(&["create", "configmap", "one", "--from-literal=k=v"]);
    client.ok(&["create", "secret", "generic", "two", "--from-literal=k=v"]);
    client.ok(&["label", "configmap", "one", "tier=front"]);
    client.ok(&["annotate", "configmap", "one", "note=seen"]);
    client.run(&["label", "configmap", "one", "tier=back"]).refused_with(&["overwrite"]);
    client.ok(&["patch", "configmap", "one", "-p", r#"{"data":{"s":"strategic"}}"#]);
    client.ok(&["patch", "configmap", "one", "--type=merge", "-p", r#"{"data":{"m":"merge"}}"#]);
    client.ok(&[
        "patch",
        "configmap",
        "one",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/data/j","value":"json"}]"#,
    ]);
    let one = client.get(&["configmap", "one"]);
    assert_eq!(one["data"], serde_json::json!({"k": "v", "s": "strategic", "m": "merge", "j": "json"}));
    assert_eq!(one["metadata"]["labels"]["tier"], "front");
    assert_eq!(one["metadata"]["annotations"]["note"], "seen");

    let editor = client.file("editor", "#!/bin/sh\nsed -i 's/: json/: edited/' \"$1\"\n");
    yunfan_tests::run("chmod", &["755", &editor]).ok();
    client.run_in(&[("EDITOR", &editor)], &["edit", "configmap", "one"], "").ok();
    assert_eq!(client.ok(&["get", "configmap", "one", "-o", "jsonpath={.data.j}"]), "edited");

    let yaml = client.ok(&["get", "configmap", "one", "-o", "yaml"]);
    client.run_with(&["replace", "-f", "-"], &yaml.replace("k: v", "k: replaced")).ok();
    let columns = client.ok(&[
        "get",
        "configmaps",
        "-l",
        "tier=front",
        "-o",
        "custom-columns=N:.metadata.name,K:.data.k",
    ]);
    assert!(columns.lines().any(|line| line.split_whitespace().eq(["one", "replaced"])), "{columns}");
    assert!(
        client.ok(&["get", "configmaps,secrets", "-o", "wide", "--chunk-size=1"]).contains("configmap/one")
    );
    assert_eq!(client.ok(&["get", "secret", "two", "-o", "name"]), "secret/two");
    client.run(&["get", "configmap", "none"]).refused_with(&["NotFound", "\"none\" not found"]);
    if client.kubectl.minor >= 23 {
        client.ok(&["wait", "configmap/one", "--for=jsonpath={.data.k}=replaced", "--timeout=10s"]);
    }
    watch(client);
    assert_eq!(client.ok(&["auth", "can-i", "create", "pods"]), "yes");
    let nobody = client.run(&["auth", "can-i", "create", "pods", "--as=nobody"]);
    assert!(nobody.stdout.starts_with("no"), "{nobody}");
}

/// What is done to an object is seen by who watches it.
fn watch(client: &Client) {
    let arguments = ["get", "configmap", "one", "--watch", "--output-watch-events", "-o"];
    let columns = ["custom-columns=T:.type,K:.object.data.k", "--no-headers", "-n", &client.namespace];
    let watching =
        client.cloud.kubectl_running(&client.kubectl.program, &[&arguments[..], &columns].concat());
    let seen = || watching.line().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(seen(), "ADDED replaced");
    client.ok(&["patch", "configmap", "one", "-p", r#"{"data":{"k":"seen"}}"#]);
    assert_eq!(seen(), "MODIFIED seen");
    client.ok(&["delete", "configmap", "one"]);
    assert_eq!(seen(), "DELETED seen");
}

/// Apply from the client's side and from the server's, its difference beforehand, and what it prunes.
fn apply(client: &Client) {
    let manifest = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: applied, labels: {{set: a}}}}\ndata: {{k: {value}}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: other, labels: {{set: a}}}}\n"
        )
    };
    assert!(client.run_with(&["apply", "-f", "-"], &manifest("one")).ok().contains("applied created"));
    assert!(client.run_with(&["apply", "-f", "-"], &manifest("one")).ok().contains("applied unchanged"));
    let difference = client.run_with(&["diff", "-f", "-"], &manifest("two"));
    assert_eq!(difference.code, 1, "{difference}");
    assert!(difference.stdout.contains("+  k: two"), "{difference}");
    assert!(client.run_with(&["apply", "-f", "-"], &manifest("two")).ok().contains("applied configured"));
    assert_eq!(client.run_with(&["diff", "-f", "-"], &manifest("two")).code, 0);
    client.run_with(&["apply", "--dry-run=server", "-f", "-"], &manifest("three")).ok();
    assert_eq!(client.ok(&["get", "configmap", "applied", "-o", "jsonpath={.data.k}"]), "two");

    let alone = manifest("two").split("---").next().unwrap_or_default().to_owned();
    // It was renamed in 1.26, and the old name has gone since.
    let list = if client.kubectl.minor >= 26 { "--prune-allowlist" } else { "--prune-whitelist" };
    let list = format!("{list}=core/v1/ConfigMap");
    let pruned = client.run_with(&["apply", "--prune", "-l", "set=a", &list, "-f", "-"], &alone);
    assert!(pruned.ok().contains("other pruned"), "{pruned}");
    if client.kubectl.minor >= 27 {
        let both = manifest("two").replace("applied", "first").replace("other", "second");
        let first = both.split("---").next().unwrap_or_default();
        let set = ["apply", "--prune", "--applyset=set", "-f", "-"];
        let apply = |manifest: &str| client.run_in(&[("KUBECTL_APPLYSET", "true")], &set, manifest);
        apply(&both).ok();
        assert!(apply(first).ok().contains("configmap/second pruned"));
        client.ok(&["get", "configmap", "first"]);
        client.run(&["get", "configmap", "second"]).refused_with(&["NotFound"]);
    }
    server_side(client);
}

/// Apply from the server's side: who owns a field, and who may take it.
fn server_side(client: &Client) {
    let server = ["apply", "--server-side", "-f", "-"];
    let mine = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {a: mine}\n";
    client.run_with(&server, mine).ok();
    let theirs = mine.replace("mine", "theirs");
    let other = [&server[..], &["--field-manager=other"]].concat();
    client.run_with(&other, &theirs).refused_with(&["conflict", "data.a"]);
    client.run_with(&[&other[..], &["--force-conflicts"]].concat(), &theirs).ok();
    assert_eq!(client.ok(&["get", "configmap", "shared", "-o", "jsonpath={.data.a}"]), "theirs");
    let unknown = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: odd}\nsurprise: 1\n";
    client.run_with(&["apply", "-f", "-"], unknown).refused_with(&["surprise"]);
}

/// What kubectl knows of kinds and fields.
fn documents(client: &Client) {
    let kinds = client.ok(&["api-resources", "--verbs=list", "-o", "name"]);
    for kind in ["pods", "deployments.apps", "cronjobs.batch", "virtualmachines.compute.yunfan.io"] {
        assert!(kinds.lines().any(|line| line == kind), "{kind} is not among\n{kinds}");
    }
    assert!(client.ok(&["api-versions"]).lines().any(|line| line == "apps/v1"));
    let field = client.ok(&["explain", "pod.spec.containers.image"]);
    assert!(field.contains("<string>") && field.to_lowercase().contains("container image name"), "{field}");
    let own = client.ok(&["explain", "virtualmachine.spec.flavor"]);
    assert!(own.contains("<string>") && own.contains("DESCRIPTION"), "{own}");
}

/// A Deployment: rolled out, scaled, changed, rolled back, restarted.
fn deployment(client: &Client) {
    client.ok(&["create", "deployment", "web", "--image=demo/web:1"]);
    let status = ["rollout", "status", "deployment/web", "--timeout=60s"];
    client.ok(&status);
    client.ok(&["scale", "deployment/web", "--replicas=2"]);
    client.ok(&status);
    assert_eq!(client.ok(&["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"]), "2");
    client.ok(&["rollout", "pause", "deployment/web"]);
    client.ok(&["set", "env", "deployment/web", "COLOUR=blue"]);
    assert_eq!(client.get(&["replicasets", "-l", "app=web"])["items"].as_array().map(Vec::len), Some(1));
    client.ok(&["rollout", "resume", "deployment/web"]);
    client.ok(&status);
    let history = client.ok(&["rollout", "history", "deployment/web"]);
    assert!(history.lines().any(|line| line.starts_with('2')), "{history}");
    client.ok(&["rollout", "undo", "deployment/web"]);
    client.ok(&status);
    let deployment = client.get(&["deployment", "web"]);
    assert!(deployment["spec"]["template"]["spec"]["containers"][0]["env"].is_null(), "{deployment}");
    client.ok(&["rollout", "restart", "deployment/web"]);
    client.ok(&status);
    client.ok(&["expose", "deployment/web", "--port=80", "--target-port=8080"]);
    assert!(client.ok(&["describe", "service", "web"]).contains("80/TCP"));
    client.ok(&["autoscale", "deployment/web", "--min=1", "--max=3", "--cpu-percent=50"]);
    client.ok(&["wait", "pod", "-l", "app=web", "--for=condition=Ready", "--timeout=60s"]);
    assert!(client.ok(&["describe", "deployment", "web"]).contains("NewReplicaSet"));
}

/// The node: no new Pods, a mark, and emptied.
fn the_node(cloud: &Cloud) {
    let node = cloud.get(&["nodes"])["items"][0]["metadata"]["name"].as_str().expect("a node").to_owned();
    cloud.kubectl(&["create", "deployment", "web", "--image=demo/web:1"]).ok();
    cloud.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    cloud.kubectl(&["cordon", &node]).ok();
    assert_eq!(cloud.get(&["node", &node])["spec"]["unschedulable"], true);
    cloud.kubectl(&["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"]).ok();
    cloud.until("the new Pod has no node", seconds(30), || {
        let pods = cloud.get(&["pods", "-l", "app=web"]);
        let pods: Vec<&Value> = pods["items"].as_array().into_iter().flatten().collect();
        match pods.as_slice() {
            [pod] if pod["spec"]["nodeName"].is_null() => Ok(()),
            pods => Err(format!("{pods:?}")),
        }
    });
    cloud.kubectl(&["uncordon", &node]).ok();
    cloud.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    cloud.kubectl(&["taint", "node", &node, "for=others:NoSchedule"]).ok();
    assert_eq!(cloud.get(&["node", &node])["spec"]["taints"][0]["key"], "for");
    cloud.kubectl(&["taint", "node", &node, "for-"]).ok();
}
