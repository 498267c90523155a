//! The whole story, with other names than the demo's: a container and a VM of one tenant talk to each other, a second tenant
//! with the same addresses reaches neither, and one object is seen through two doors.
#![forbid(unsafe_code)]

use serde_json::Value;
use yunfan_tests::registry::Registry;
use yunfan_tests::{Cloud, Tenant, empty_disk, guest_disk, run, seconds};

const SHOP: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: greeting}
data: {message: Greetings from the config of acme.}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers:
        - name: server
          image: demo/web:1
          env: [{name: PORT, value: '9090'}]
          ports: [{name: http, containerPort: 9090}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
          resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {memory: 64Mi}}
          volumeMounts: [{name: config, mountPath: /config}]
      volumes: [{name: config, configMap: {name: greeting}}]
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: shop}
  ports: [{port: 8000, targetPort: http}]
";

/// What the guest runs when it has booted.
const USER_DATA: &str = "#!/bin/sh
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    page=$(timeout 3 wget -q -O - http://shop.acme.svc.cluster.local:8000/) && break
    sleep 1
done
echo \"the shop says: $page\"
";

#[test]
fn a_container_and_a_vm_of_one_tenant_talk_to_each_other() {
    let cloud = Cloud::start();
    let acme = tenant_with_network(&cloud);
    containers(&cloud, &acme);
    machine(&cloud, &acme);
    they_talk(&cloud, &acme);
    machines_obey(&cloud, &acme);
    a_second_tenant_reaches_neither(&cloud, &acme);
    one_object_two_doors(&cloud, &acme);
    from_a_registry(&cloud, &acme);
}

fn tenant_with_network(cloud: &Cloud) -> Tenant {
    cloud.import_web();
    let acme = Tenant::create(cloud, "acme");
    cloud.openstack(&["quota", "set", "--cores", "6", "--ram", "3072", "--instances", "5", "acme"]).ok();
    cloud.openstack(&["flavor", "create", "--vcpus", "1", "--ram", "192", "--disk", "1", "acme.tiny"]).ok();
    acme.network("lan", "10.77.0.0/24");
    cloud.kubectl(&["annotate", "namespace", "acme", "network.yunfan.io/default-network=lan"]).ok();
    acme
}

fn containers(cloud: &Cloud, acme: &Tenant) {
    acme.kubectl_with(&["apply", "-f", "-"], SHOP).ok();
    let rollout = acme.kubectl(&["rollout", "status", "deployment/shop", "--timeout=60s"]);
    assert!(rollout.succeeded(), "{rollout}\n{}\n{}", pods(acme), cloud.log_tail());
    assert_eq!(
        acme.kubectl(&["get", "deployment", "shop", "-o", "jsonpath={.status.readyReplicas}"]).ok(),
        "3"
    );
    let list = acme.kubectl(&["get", "pods", "-l", "app=shop", "-o", "json"]).json();
    for pod in list["items"].as_array().expect("a list") {
        let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
        assert!(ip.starts_with("10.77.0."), "a pod of acme is at {ip}");
    }
    // The table that people read is rendered by the server.
    let table = acme.kubectl(&["get", "pods"]).ok();
    assert!(table.contains("READY") && table.contains("1/1") && table.contains("Running"), "{table}");
    // The Service's address and name, from inside.
    let page = acme.kubectl(&[
        "exec",
        "deploy/shop",
        "--",
        "timeout",
        "5",
        "wget",
        "-q",
        "-O",
        "-",
        "http://shop:8000/",
    ]);
    assert!(page.ok().contains("Greetings from the config of acme."), "{page}");
    exec_and_logs(acme);
    the_api_server_from_a_pod(cloud, acme);
}

/// By its variables, by its name, and over TLS that the cloud's own authority vouches for.
fn the_api_server_from_a_pod(cloud: &Cloud, acme: &Tenant) {
    let ip = cloud
        .kubectl(&["get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}"])
        .ok();
    let told = acme.kubectl(&["exec", "deploy/shop", "--", "env"]).ok();
    for variable in
        [&format!("KUBERNETES_SERVICE_HOST={ip}"), "KUBERNETES_SERVICE_PORT=443", "SHOP_SERVICE_PORT=8000"]
    {
        assert!(told.lines().any(|line| line == variable), "{variable} is not in {told}");
    }
    let named =
        acme.kubectl(&["exec", "deploy/shop", "--", "nslookup", "kubernetes.default.svc.cluster.local"]).ok();
    assert!(named.contains(&ip), "{named}");
    let uid =
        acme.kubectl(&["get", "pods", "-l", "app=shop", "-o", "jsonpath={.items[0].metadata.uid}"]).ok();
    let namespace = format!("yf-{}-pod-{uid}", cloud.tag());
    let authority = cloud.authority().to_string_lossy().into_owned();
    let ask = |url: &str, more: &[&str]| {
        let start = ["netns", "exec", &namespace, "curl", "-sS", "--max-time", "5", "--cacert", &authority];
        run("ip", &[&start[..], more, &[url]].concat()).ok()
    };
    let answer = ask(&format!("https://{ip}/version"), &[]);
    assert!(answer.contains("gitVersion"), "{answer}");
    let resolve = format!("kubernetes.default.svc:443:{ip}");
    let answer = ask("https://kubernetes.default.svc/api/v1/nodes", &["--resolve", &resolve]);
    assert!(answer.contains("system:anonymous"), "{answer}");
    // As the account that it runs as, by what every container of a Pod finds.
    let file = |name: &str| {
        let path = format!("/var/run/secrets/kubernetes.io/serviceaccount/{name}");
        acme.kubectl(&["exec", "deploy/shop", "--", "cat", &path]).ok()
    };
    let (token, space) = (file("token"), file("namespace"));
    let trusted = cloud.work().join("pod-ca.crt");
    std::fs::write(&trusted, file("ca.crt")).expect("a file");
    let (bearer, trusted) =
        (format!("Authorization: Bearer {token}"), trusted.to_string_lossy().into_owned());
    let url = format!("https://kubernetes.default.svc/api/v1/namespaces/{space}/pods");
    let own = ["--resolve", &resolve, "--cacert", &trusted, "-H", &bearer];
    let account = format!("system:serviceaccount:{space}:default");
    let answer = ask(&url, &own);
    assert!(answer.contains("Forbidden") && answer.contains(&account), "{answer}");
    let given = format!("--serviceaccount={space}:default");
    cloud.kubectl(&["create", "rolebinding", "reads", "-n", &space, "--clusterrole=view", &given]).ok();
    let answer = ask(&url, &own);
    assert!(answer.contains("PodList") && answer.contains(&uid), "{answer}");
}

fn exec_and_logs(acme: &Tenant) {
    let logs = acme.kubectl(&["logs", "deployment/shop"]).ok();
    assert!(logs.contains("serving on port 9090"), "{logs}");
    let code = acme.kubectl(&["exec", "deploy/shop", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((code.code, code.stdout.trim()), (7, "out"), "{code}");
    assert!(code.stderr.contains("err"), "{code}");
    // 300 KiB through standard input, counted on the other side.
    let much = "0123456789abcdef".repeat(300 * 64);
    let counted = acme.kubectl_with(&["exec", "-i", "deploy/shop", "--", "wc", "-c"], &much).ok();
    assert_eq!(counted, much.len().to_string());
    let back = acme.kubectl_with(&["exec", "-i", "deploy/shop", "--", "cat"], "there and back\n").ok();
    assert_eq!(back, "there and back");
    let missing = acme.kubectl(&["exec", "deploy/shop", "--", "/no/such/program"]);
    assert!(missing.refused().contains("/no/such/program"), "{missing}");
}

fn machine(cloud: &Cloud, acme: &Tenant) {
    acme.image("os", "qcow2", guest_disk());
    let key = cloud.work().join("key").to_string_lossy().into_owned();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "acme-key", "-f", &key]).ok();
    acme.openstack(&["keypair", "create", "--public-key", &format!("{key}.pub"), "acme-key"]).ok();
    let user_data = cloud.work().join("user-data").to_string_lossy().into_owned();
    std::fs::write(&user_data, USER_DATA).expect("user data");
    let create = [
        "server",
        "create",
        "--network",
        "lan",
        "--image",
        "os",
        "--flavor",
        "acme.tiny",
        "--key-name",
        "acme-key",
        "--user-data",
        &user_data,
        "--wait",
        "box",
    ];
    let created = acme.openstack(&create);
    assert!(created.succeeded(), "{created}\n{}", cloud.log_tail());
    let listed = acme.openstack(&["server", "list", "-f", "json"]).json();
    assert_eq!(listed[0]["Status"], "ACTIVE", "{listed}");
    assert_eq!(listed[0]["Networks"]["lan"][0], Value::from(address(acme)), "{listed}");
    console_says(cloud, acme, "serving on port 80");
    let console = console(acme);
    for said in ["hostname box", "acme-key", &format!("address {}", address(acme))] {
        assert!(console.contains(said), "the guest does not say {said:?}:\n{console}");
    }
}

fn address(acme: &Tenant) -> String {
    let vm = acme.kubectl(&["get", "virtualmachine", "box", "-o", "jsonpath={.status.addresses[0].ip}"]).ok();
    assert!(vm.starts_with("10.77.0."), "the machine is at {vm:?}");
    vm
}

fn console(acme: &Tenant) -> String {
    acme.openstack(&["console", "log", "show", "box"]).ok()
}

fn console_says(cloud: &Cloud, acme: &Tenant, what: &str) {
    cloud.until(&format!("the guest's console says {what:?}"), seconds(120), || {
        let console = console(acme);
        if console.contains(what) { Ok(()) } else { Err(console) }
    });
}

fn pods(acme: &Tenant) -> String {
    acme.kubectl(&["describe", "pods"]).stdout
}

fn they_talk(cloud: &Cloud, acme: &Tenant) {
    let address = address(acme);
    for host in [address.as_str(), "box.lan.acme.net.cluster.local", "box"] {
        let url = format!("http://{host}/");
        let page =
            acme.kubectl(&["exec", "deploy/shop", "--", "timeout", "10", "wget", "-q", "-O", "-", &url]);
        assert!(page.ok().contains("virtual machine box"), "{page}");
    }
    console_says(cloud, acme, "Greetings from the config of acme.");
}

/// Stop, start and reboot of the machine, by the client.
fn machines_obey(cloud: &Cloud, acme: &Tenant) {
    acme.openstack(&["server", "reboot", "--hard", "--wait", "box"]).ok();
    acme.openstack(&["server", "stop", "box"]).ok();
    cloud.vm_in_phase("acme", "box", "Stopped");
    let shown = acme.openstack(&["server", "show", "box", "-f", "json"]).json();
    assert_eq!(shown["status"], "SHUTOFF");
    let uid = cloud.get(&["vm", "-n", "acme", "box"])["metadata"]["uid"].as_str().expect("a uid").to_owned();
    assert!(cloud.processes_of("vm", &uid).is_empty(), "a stopped machine runs");
    acme.openstack(&["server", "start", "box"]).ok();
    cloud.vm_in_phase("acme", "box", "Active");
    cloud.until("the machine serves again", seconds(120), || {
        let url = format!("http://{}/", address(acme));
        acme.kubectl(&["exec", "deploy/shop", "--", "timeout", "2", "wget", "-q", "-O", "-", &url]).as_probe()
    });
}

fn a_second_tenant_reaches_neither(cloud: &Cloud, acme: &Tenant) {
    let rival = Tenant::create(cloud, "rival");
    rival.network("lan", "10.77.0.0/24");
    let spy = "
apiVersion: v1
kind: Pod
metadata: {name: spy, annotations: {network.yunfan.io/network: lan}}
spec: {containers: [{name: spy, image: 'demo/web:1'}]}
";
    rival.kubectl_with(&["apply", "-f", "-"], spy).ok();
    let pod = cloud.pod_ready("rival", "spy");
    assert!(
        pod["status"]["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.77.0.")),
        "{}",
        pod["status"]
    );
    let fetch =
        |url: &str| rival.kubectl(&["exec", "spy", "--", "timeout", "2", "wget", "-q", "-O", "-", url]);
    // It reaches itself: what follows fails for the right reason.
    assert!(fetch("http://127.0.0.1:8080/").ok().contains("container spy"));
    let web =
        acme.kubectl(&["get", "pods", "-l", "app=shop", "-o", "jsonpath={.items[0].status.podIP}"]).ok();
    let service = acme.kubectl(&["get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    for url in [
        format!("http://{}/", address(acme)),
        format!("http://{web}:9090/"),
        format!("http://{service}:8000/"),
        "http://box.lan.acme.net.cluster.local/".to_owned(),
    ] {
        let reached = fetch(&url);
        // The same address may be the spy's own, or nobody's, on its own network; the other tenant's page it never is.
        assert!(
            !reached.stdout.contains("virtual machine") && !reached.stdout.contains("Greetings"),
            "{reached}"
        );
    }
    // Nor by the doors.
    let seen = rival.openstack(&["server", "list", "-f", "value"]).ok();
    assert_eq!(seen, "");
    let other = rival.kubectl(&["get", "pods", "-n", "acme"]);
    other.refused_with(&["orbidden"]);
}

fn one_object_two_doors(cloud: &Cloud, acme: &Tenant) {
    let disk = empty_disk(cloud.work());
    acme.openstack(&["image", "create", "--disk-format", "qcow2", "--file", &disk, "blank"]).ok();
    acme.openstack(&[
        "server",
        "create",
        "--network",
        "lan",
        "--image",
        "blank",
        "--flavor",
        "acme.tiny",
        "--wait",
        "brief",
    ])
    .ok();
    let table = acme.kubectl(&["get", "virtualmachines"]).ok();
    assert!(table.lines().any(|line| line.starts_with("brief ") && line.contains("Active")), "{table}");
    let uid =
        cloud.get(&["vm", "-n", "acme", "brief"])["metadata"]["uid"].as_str().expect("a uid").to_owned();
    assert!(!cloud.processes_of("vm", &uid).is_empty(), "no QEMU in the machine's cgroup");
    acme.kubectl(&["delete", "virtualmachine", "brief"]).ok();
    let names = acme.openstack(&["server", "list", "-f", "value", "-c", "Name"]).ok();
    assert_eq!(names, "box");
    cloud.until("the deleted machine's process is gone", seconds(20), || {
        let left = cloud.processes_of("vm", &uid);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    // And the other way round.
    acme.openstack(&["server", "delete", "--wait", "box"]).ok();
    acme.kubectl(&["get", "virtualmachine", "box"]).refused_with(&["not found"]);
}

fn from_a_registry(cloud: &Cloud, acme: &Tenant) {
    let registry = Registry::start(cloud.work(), "");
    registry.push_web("acme/page:7", &[]);
    let image = registry.image("acme/page:7");
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: pulled}}, spec: {{containers: [{{name: c, image: '{image}'}}]}}}}"
    );
    acme.kubectl_with(&["apply", "-f", "-"], &pod).ok();
    let pod = cloud.pod_ready("acme", "pulled");
    let id = pod["status"]["containerStatuses"][0]["imageID"].as_str().unwrap_or_default();
    assert!(id.contains("sha256:"), "{}", pod["status"]);
    let listed = cloud.yunfan(&["image", "list"]).ok();
    assert!(listed.contains(&image), "{listed}");
}
