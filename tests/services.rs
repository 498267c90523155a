//! Services and host ports as clients see them: with the real `kubectl`, `curl` from the host, and `busybox` in Pods.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use yunfan_tests::{Cloud, run, seconds};

const NAMESPACE: &str = "shop";

/// A Pod with labels `app` that serves its own name on port 8080.
fn server(cloud: &Cloud, name: &str, app: &str, more: Value) {
    let script = "mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w";
    let mut container = json!({
        "name": "web", "image": "demo/web:1", "command": ["sh", "-c", script],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    });
    for (key, value) in more["container"].as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    let mut spec = json!({"terminationGracePeriodSeconds": 1, "containers": [container]});
    for (key, value) in more["spec"].as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let metadata = json!({"name": name, "namespace": NAMESPACE, "labels": {"app": app}});
    cloud.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string());
}

fn service(cloud: &Cloud, name: &str, app: &str, more: Value) -> Value {
    let mut spec =
        json!({"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    cloud.apply(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}).to_string(),
    );
    cloud.get(&["service", "-n", NAMESPACE, name])
}

fn ready(cloud: &Cloud, pod: &str) {
    cloud.kubectl(&["wait", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s", "pod", pod]).ok();
}

fn inside(cloud: &Cloud, pod: &str, command: &str) -> yunfan_tests::Ran {
    cloud.kubectl(&["exec", "-n", NAMESPACE, pod, "--", "sh", "-c", command])
}

/// What the host's `curl` gets, once it gets an answer.
fn answer(cloud: &Cloud, url: &str) -> String {
    cloud.until(&format!("{url} answers"), seconds(30), || {
        run("curl", &["-sSf", "--max-time", "5", url]).as_probe()
    })
}

/// How `curl` ended: 7 is a connection that was refused.
fn refused(cloud: &Cloud, url: &str) {
    cloud.until(&format!("{url} is refused"), seconds(30), || {
        let ran = run("curl", &["-sS", "--max-time", "5", url]);
        if ran.code == 7 { Ok(()) } else { Err(format!("{ran:?}")) }
    });
}

fn node_port(service: &Value) -> u64 {
    service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port of nodes")
}

#[test]
fn services_lead_to_pods() {
    let cloud = Cloud::start();
    cloud.import_web();
    let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}});
    cloud.apply(&namespace.to_string());
    for name in ["web-a", "web-b"] {
        server(&cloud, name, "web", json!({"spec": {"hostname": name, "subdomain": "names"}}));
    }
    ["web-a", "web-b"].iter().for_each(|pod| ready(&cloud, pod));
    node_ports(&cloud);
    affinity(&cloud);
    nobody_there(&cloud);
    hairpin(&cloud);
    names(&cloud);
    host_ports(&cloud);
    on_the_host(&cloud);
}

/// From the host, also by loopback, and from a Pod by the node's address; another number when it is changed.
fn node_ports(cloud: &Cloud) {
    let made =
        service(cloud, "outside", "web", json!({"type": "NodePort", "externalTrafficPolicy": "Local"}));
    let port = node_port(&made);
    let url = format!("http://127.0.0.1:{port}/");
    let mut seen = BTreeSet::new();
    cloud.until("both Pods answer", seconds(30), || {
        seen.insert(answer(cloud, &url).trim().to_owned());
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let routes = run("ip", &["-4", "route", "get", "192.0.2.99"]).ok();
    let address =
        routes.split(" src ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    if !address.is_empty() {
        assert!(answer(cloud, &format!("http://{address}:{port}/")).starts_with("web-"));
        let from_pod =
            inside(cloud, "web-a", &format!("timeout 5 wget -q -O - http://{address}:{port}/")).ok();
        assert!(from_pod.starts_with("web-"), "{from_pod}");
    }
    let patch = r#"[{"op": "replace", "path": "/spec/type", "value": "ClusterIP"}]"#;
    cloud.kubectl(&["patch", "service", "-n", NAMESPACE, "outside", "--type=json", "-p", patch]).ok();
    refused(cloud, &url);
}

/// A client stays with its Pod, also while other Services come.
fn affinity(cloud: &Cloud) {
    let made = service(cloud, "sticky", "web", json!({"type": "NodePort", "sessionAffinity": "ClientIP"}));
    let url = format!("http://127.0.0.1:{}/", node_port(&made));
    let first = answer(cloud, &url);
    for turn in 0..12 {
        if turn == 6 {
            let other = service(cloud, "other", "web", json!({"type": "NodePort"}));
            answer(cloud, &format!("http://127.0.0.1:{}/", node_port(&other)));
        }
        assert_eq!(answer(cloud, &url), first);
    }
}

/// Without endpoints a client is refused and does not wait.
fn nobody_there(cloud: &Cloud) {
    let made = service(cloud, "nobody", "nobody", json!({"type": "NodePort"}));
    refused(cloud, &format!("http://127.0.0.1:{}/", node_port(&made)));
    let ip = made["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    refused(cloud, &format!("http://{ip}/"));
    let from_pod = inside(cloud, "web-a", &format!("timeout 20 wget -O - http://{ip}/"));
    assert!(from_pod.stderr.contains("refused"), "{from_pod:?}");
}

/// A Pod reaches itself through its Service.
fn hairpin(cloud: &Cloud) {
    server(cloud, "alone", "alone", json!({}));
    ready(cloud, "alone");
    let made = service(cloud, "alone", "alone", json!({"type": "NodePort"}));
    answer(cloud, &format!("http://127.0.0.1:{}/", node_port(&made)));
    assert_eq!(inside(cloud, "alone", "timeout 5 wget -q -O - http://alone.shop/").ok().trim(), "alone");
}

/// Names of Services and of a headless Service's Pods, as a Pod asks for them.
fn names(cloud: &Cloud) {
    service(cloud, "names", "web", json!({"clusterIP": "None"}));
    service(
        cloud,
        "far",
        "web",
        json!({"type": "ExternalName", "externalName": "outside.shop.svc.cluster.local"}),
    );
    let ask = |kind: &str, name: &str, wanted: &str| {
        cloud.until(&format!("{name} ({kind}) is known"), seconds(30), || {
            let ran = inside(cloud, "web-a", &format!("nslookup -type={kind} {name}"));
            if ran.stdout.contains(wanted) { Ok(()) } else { Err(format!("{ran:?}")) }
        });
    };
    let pod = cloud.get(&["pod", "-n", NAMESPACE, "web-b"]);
    let ip = pod["status"]["podIP"].as_str().expect("an address");
    ask("a", "web-b.names.shop.svc.cluster.local", ip);
    ask("srv", "_http._tcp.names.shop.svc.cluster.local", "8080 web-b.names.shop.svc.cluster.local");
    ask("srv", "_http._tcp.outside.shop.svc.cluster.local", "80 outside.shop.svc.cluster.local");
    let outside = cloud.get(&["service", "-n", NAMESPACE, "outside"]);
    ask("a", "far.shop.svc.cluster.local", outside["spec"]["clusterIP"].as_str().expect("an address"));
    let mut octets: Vec<&str> = ip.split('.').collect();
    octets.reverse();
    ask("ptr", &format!("{}.in-addr.arpa", octets.join(".")), "web-b.names.shop.svc.cluster.local");
    ask("a", &format!("{}.shop.pod.cluster.local", ip.replace('.', "-")), ip);
}

/// A port of the host leads to its Pod, and to one Pod alone.
fn host_ports(cloud: &Cloud) {
    let number = cloud.slot().port(8);
    let port = |ip: &str| json!({"container": {"ports": [{"containerPort": 8080, "hostPort": number, "hostIP": ip}]}});
    server(cloud, "on-host", "on-host", port("127.0.0.1"));
    let url = format!("http://127.0.0.1:{number}/");
    assert_eq!(answer(cloud, &url).trim(), "on-host");
    server(cloud, "late", "late", port(""));
    cloud.until("the second Pod waits", seconds(30), || {
        let pod = cloud.get(&["pod", "-n", NAMESPACE, "late"]);
        let conditions = pod["status"]["conditions"].to_string();
        let why = "didn't have free ports for the requested pod ports";
        if conditions.contains(why) { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    cloud.kubectl(&["delete", "pod", "-n", NAMESPACE, "on-host", "--wait=true"]).ok();
    ready(cloud, "late");
    assert_eq!(answer(cloud, &url).trim(), "late");
    cloud.kubectl(&["delete", "pod", "-n", NAMESPACE, "late", "--wait=true"]).ok();
    refused(cloud, &url);
}

/// A Pod in the host's network is behind its Service as any other, though the cloud itself listens on loopback alone.
fn on_the_host(cloud: &Cloud) {
    let number = 20_000 + u64::from(std::process::id() % 5000);
    let script =
        format!("mkdir /tmp/w; echo of-the-host > /tmp/w/index.html; exec httpd -f -p {number} -h /tmp/w");
    let container = json!({
        "command": ["sh", "-c", script], "ports": [{"name": "http", "containerPort": number}],
        "readinessProbe": {"httpGet": {"path": "/", "port": number}, "periodSeconds": 1},
    });
    server(cloud, "on-host", "on-host", json!({"spec": {"hostNetwork": true}, "container": container}));
    ready(cloud, "on-host");
    let made = service(cloud, "on-host", "on-host", json!({}));
    let ip = made["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    cloud.until("a Pod reaches it", seconds(30), || {
        let got = inside(cloud, "web-a", &format!("timeout 5 wget -q -O - http://{ip}/"));
        if got.stdout.contains("of-the-host") { Ok(()) } else { Err(format!("{got:?}")) }
    });
}
