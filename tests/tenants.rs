//! Two tenants against each other and against the node, through every door: what one has, the other neither sees, changes, reaches over
//! the network, nor takes as its own.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::fmt::Display;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use yunfan_tests::{Cloud, Ran, Tenant, empty_disk, run};

/// What the victim has. Both tenants' networks have the same name and addresses.
const OWN: &str = "
apiVersion: v1
kind: Secret
metadata: {name: treasure}
stringData: {map: two-steps-north}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: notes}
data: {a: plain}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: chest}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: vault, labels: {app: vault}}
spec:
  containers:
    - name: web
      image: demo/web:1
      volumeMounts: [{name: chest, mountPath: /chest}, {name: treasure, mountPath: /treasure}]
  volumes:
    - {name: chest, persistentVolumeClaim: {claimName: chest}}
    - {name: treasure, secret: {secretName: treasure}}
---
apiVersion: v1
kind: Service
metadata: {name: vault}
spec: {selector: {app: vault}, ports: [{port: 80, targetPort: 8080}]}
";

/// What the other one runs: a foothold on its own network.
const FOOTHOLD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: foothold}
spec: {containers: [{name: web, image: 'demo/web:1'}]}
";

/// What a Pod must not ask for, as fields of its spec.
const BREAKOUTS: [(&str, &str); 7] = [
    ("the node's files", "volumes: [{name: root, hostPath: {path: /}}]"),
    ("the node's network", "hostNetwork: true"),
    ("the node's processes", "hostPID: true"),
    ("the node's memory", "hostIPC: true"),
    ("privileges", "containers: [{name: c, image: 'demo/web:1', securityContext: {privileged: true}}]"),
    (
        "capabilities",
        "containers: [{name: c, image: 'demo/web:1', securityContext: {capabilities: {add: [SYS_ADMIN]}}}]",
    ),
    (
        "a port of the node",
        "containers: [{name: c, image: 'demo/web:1', ports: [{containerPort: 1, hostPort: 22}]}]",
    ),
];

/// The victim's things, as the other one may have heard of them.
struct Known {
    node: String,
    web: String,
    server: String,
    port: String,
    network: String,
    subnet: String,
    image: String,
    volume: String,
    project: String,
}

/// What was not refused, or not as it should be: all of it is told at the end.
#[derive(Default)]
struct Open(RefCell<Vec<String>>);

impl Open {
    /// Something that must be refused with these words.
    fn tried(&self, ran: &Ran, words: &[&str]) {
        let said = format!("{}{}", ran.stdout, ran.stderr);
        self.must(!ran.succeeded() && ran.code != 124 && words.iter().all(|word| said.contains(word)), ran);
    }

    fn must(&self, holds: bool, otherwise: impl Display) {
        if !holds {
            self.0.borrow_mut().push(otherwise.to_string());
        }
    }
}

#[test]
fn neither_sees_changes_or_reaches_what_the_other_has() {
    let cloud = Cloud::start();
    cloud.import_web();
    let (acme, umbra) = (tenant(&cloud, "acme"), tenant(&cloud, "umbra"));
    acme.kubectl_with(&["apply", "-f", "-"], OWN).ok();
    umbra.kubectl_with(&["apply", "-f", "-"], FOOTHOLD).ok();
    let known = known(&cloud, &acme);
    cloud.pod_ready("umbra", "foothold");
    let before = held(&cloud);

    let open = Open::default();
    objects(&open, &cloud, &umbra, &known);
    roles(&open, &cloud, &umbra);
    streams(&open, &cloud, &umbra, &known);
    node(&open, &umbra, &known);
    references(&open, &umbra, &known);
    openstack(&open, &umbra, &known);
    packets(&open, &umbra, &known);

    assert!(open.0.borrow().is_empty(), "{:#?}", open.0.borrow());
    assert_eq!(held(&cloud), before, "what the victim has was changed");
    // The doors were not shut for all: its owner reads it.
    let read = acme.kubectl(&["get", "secret", "treasure", "-o", "jsonpath={.data.map}"]).ok();
    assert_eq!(read, "dHdvLXN0ZXBzLW5vcnRo");
}

fn tenant(cloud: &Cloud, name: &str) -> Tenant {
    let tenant = Tenant::create(cloud, name);
    tenant.network("lan", "10.83.0.0/24");
    cloud.kubectl(&["annotate", "namespace", name, "network.yunfan.io/default-network=lan"]).ok();
    tenant
}

/// Makes the rest of what the victim has.
fn known(cloud: &Cloud, acme: &Tenant) -> Known {
    let id = |arguments: &[&str]| acme.openstack(&[arguments, &["-f", "value", "-c", "id"]].concat()).ok();
    let disk = empty_disk(cloud.work());
    let image = acme.image("gold", "qcow2", &disk);
    cloud.openstack(&["flavor", "create", "--vcpus", "1", "--ram", "64", "--disk", "1", "tiny"]).ok();
    let volume = id(&["volume", "create", "--size", "1", "hoard"]);
    // It need not start: that it is there is enough.
    let server =
        id(&["server", "create", "--flavor", "tiny", "--image", "gold", "--nic", "net-id=lan", "keep"]);
    let web = cloud.pod_ready("acme", "vault");
    let uid = web["metadata"]["uid"].as_str().expect("a uid");
    Known {
        node: web["spec"]["nodeName"].as_str().expect("a node").to_owned(),
        web: web["status"]["podIP"].as_str().expect("an address").to_owned(),
        port: acme.openstack(&["port", "list", "--device-id", uid, "-f", "value", "-c", "ID"]).ok(),
        network: id(&["network", "show", "lan"]),
        subnet: id(&["subnet", "show", "lan"]),
        project: cloud.openstack(&["project", "show", "acme", "-f", "value", "-c", "id"]).ok(),
        server,
        image,
        volume,
    }
}

/// The victim's objects but for what changes by itself.
fn held(cloud: &Cloud) -> Vec<String> {
    let kinds = "secrets,configmaps,pods,services,persistentvolumeclaims,rolebindings,serviceaccounts,networks.network.yunfan.io,\
                 subnets.network.yunfan.io,ports.network.yunfan.io,virtualmachines.compute.yunfan.io,\
                 volumes.storage.yunfan.io,images.image.yunfan.io";
    let list = cloud.get(&[kinds, "-n", "acme"]);
    let items = list["items"].as_array().expect("a list").iter();
    let shown = |item: &Value| {
        let parts = ["/kind", "/metadata/name", "/metadata/uid", "/metadata/labels", "/data", "/subjects"];
        let parts = parts.iter().map(|at| item.pointer(at).unwrap_or(&Value::Null).to_string());
        // What a node or a loop fills in of a Pod, a machine or a port comes later.
        let spec = if ["Pod", "VirtualMachine", "Port", "PersistentVolumeClaim"]
            .contains(&item["kind"].as_str().unwrap_or_default())
        {
            String::new()
        } else {
            item["spec"].to_string()
        };
        parts.collect::<Vec<_>>().join(" ") + &spec
    };
    let mut held: Vec<_> = items.map(shown).collect();
    held.sort();
    held
}

/// No kind of object, with no verb, and no list of all namespaces.
fn objects(open: &Open, cloud: &Cloud, umbra: &Tenant, known: &Known) {
    let kinds = cloud.kubectl(&["api-resources", "--namespaced", "--verbs=list", "-o", "name"]).ok();
    assert!(kinds.lines().count() > 30, "{kinds}");
    // One refusal for each of them.
    let (count, all) = (kinds.lines().count(), kinds.lines().collect::<Vec<_>>().join(","));
    for words in [
        &["get", &all, "-n", "acme"][..],
        &["get", &all, "-A"],
        &["delete", &all, "--all", "-n", "acme", "--wait=false"],
    ] {
        let ran = umbra.kubectl(words);
        let refusals = ran.stderr.matches("orbidden").count();
        open.must(ran.stdout.is_empty() && refusals >= count, format!("{refusals} of {count}: {ran}"));
    }
    for kind in [
        "nodes",
        "persistentvolumes",
        "namespaces",
        "clusterroles",
        "certificatesigningrequests",
        "users.iam.yunfan.io",
    ] {
        open.tried(&umbra.kubectl(&["get", kind]), &["orbidden"]);
    }
    open.tried(&umbra.kubectl(&["get", "secret", "treasure", "-n", "acme"]), &["orbidden"]);
    open.tried(
        &umbra.kubectl(&["patch", "configmap", "notes", "-n", "acme", "-p", "{\"data\":{\"a\":\"b\"}}"]),
        &["orbidden"],
    );
    open.tried(
        &umbra.kubectl(&["label", "pod", "vault", "-n", "acme", "app-", "--overwrite"]),
        &["orbidden"],
    );
    open.tried(&umbra.kubectl(&["create", "configmap", "planted", "-n", "acme"]), &["orbidden"]);
    let start = "{\"spec\":{\"runState\":\"Stopped\"}}";
    open.tried(
        &umbra.kubectl(&["patch", "vm", "keep", "-n", "acme", "--type=merge", "-p", start]),
        &["orbidden"],
    );
    // In one's own namespace under another's name of a path.
    for path in [
        "/api/v1/namespaces/umbra/../acme/secrets/treasure",
        "/api/v1/namespaces/umbra%2F..%2Facme/secrets/treasure",
        "/api/v1/namespaces/acme%00/secrets/treasure",
        "/api/v1//namespaces/acme/secrets/treasure",
        "/api/v1/namespaces/acme/pods/vault:8080/proxy/",
        "/api/v1/namespaces/acme/services/vault:80/proxy/",
    ] {
        let said = umbra.kubectl(&["get", "--raw", path]);
        open.must(!said.succeeded() && !said.stdout.contains("dHdvLXN0ZXBz"), &said);
    }
    open.tried(
        &umbra.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/pods", known.node)]),
        &["orbidden"],
    );
}

/// No rights that one has not: by bindings, by other people's names, by their accounts, by certificates.
fn roles(open: &Open, cloud: &Cloud, umbra: &Tenant) {
    let name = "--user=umbra";
    open.tried(
        &umbra.kubectl(&["create", "clusterrolebinding", "me", "--clusterrole=cluster-admin", name]),
        &["orbidden"],
    );
    open.tried(
        &umbra.kubectl(&["create", "rolebinding", "me", "--clusterrole=view", name, "-n", "acme"]),
        &["orbidden"],
    );
    open.tried(
        &umbra.kubectl(&["create", "rolebinding", "me", "--clusterrole=cluster-admin", name]),
        &["orbidden"],
    );
    open.tried(&umbra.kubectl(&["create", "role", "all", "--verb=*", "--resource=*.*"]), &["orbidden"]);
    for who in
        ["--as=acme", "--as=admin", "--as=system:serviceaccount:acme:default", "--as-group=system:masters"]
    {
        let words = if who.starts_with("--as-group") { vec!["--as=umbra", who] } else { vec![who] };
        open.tried(&umbra.kubectl(&[&words[..], &["get", "secrets", "-n", "acme"]].concat()), &["orbidden"]);
    }
    open.tried(&umbra.kubectl(&["create", "token", "default", "-n", "acme"]), &["orbidden"]);
    let mut wish = rcgen::CertificateParams::default();
    wish.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let pem = wish.serialize_request(&rcgen::KeyPair::generate().expect("a key")).expect("a request").pem();
    let request = format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: master}}\nspec: {{request: {}, \
         signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}}\n",
        STANDARD.encode(pem.expect("PEM"))
    );
    open.tried(&umbra.kubectl_with(&["create", "-f", "-"], &request), &["orbidden"]);
    // An account of one's own gets no further than oneself.
    let token = umbra.kubectl(&["create", "token", "default"]).ok();
    let as_account = cloud.kubeconfig_with_token("umbra-account", &token);
    let config = as_account.to_string_lossy();
    for words in [["get", "secrets", "-n", "acme"], ["get", "pods", "-n", "acme"]] {
        open.tried(&umbra.kubectl(&[&["--kubeconfig", &*config], &words[..]].concat()), &["orbidden"]);
    }
    // One that was changed is nobody's.
    let (head, sign) = token.rsplit_once('.').expect("a signature");
    let forged =
        cloud.kubeconfig_with_token("forged", &format!("{head}.{}", sign.chars().rev().collect::<String>()));
    open.tried(
        &umbra.kubectl(&["--kubeconfig", &forged.to_string_lossy(), "get", "pods"]),
        &["Unauthorized"],
    );
}

/// No way into its containers.
fn streams(open: &Open, cloud: &Cloud, umbra: &Tenant, known: &Known) {
    for words in [
        &["exec", "vault", "-n", "acme", "--", "cat", "/treasure/map"][..],
        &["attach", "vault", "-n", "acme"],
        &["logs", "vault", "-n", "acme"],
        &["port-forward", "pod/vault", "18080:8080", "-n", "acme"],
        &["cp", "acme/vault:/treasure/map", "/dev/null"],
        &["debug", "vault", "-n", "acme", "--image=demo/web:1", "--", "true"],
    ] {
        open.tried(&umbra.kubectl(words), &["orbidden"]);
    }
    // The node's own door takes the API server's certificate alone.
    let node = cloud.get(&["node", &known.node]);
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let address = node["status"]["addresses"][0]["address"].as_str().expect("an address");
    for path in ["exec/acme/vault/web?command=id&output=1", "containerLogs/acme/vault/web", "pods", "metrics"]
    {
        let url = format!("https://{address}:{port}/{path}");
        let ran = run("curl", &["-ksS", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", &url]);
        open.must(["401", "403", "000"].contains(&ran.stdout.trim()), &ran);
    }
}

/// No Pod that takes the node, and none that names another's node, network or account.
fn node(open: &Open, umbra: &Tenant, known: &Known) {
    let pod = |name: &str, more: &str| {
        let containers =
            if more.contains("containers:") { "" } else { "containers: [{name: c, image: 'demo/web:1'}], " };
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{{containers}{more}}}\n")
    };
    for (number, (what, more)) in BREAKOUTS.iter().enumerate() {
        let ran = umbra.kubectl_with(&["create", "-f", "-"], &pod(&format!("breakout-{number}"), more));
        open.must(!ran.succeeded() && ran.stderr.contains("PodSecurity"), format!("{what}: {ran}"));
        // The same by way of a loop, which acts with rights of its own.
        let template = pod("x", more);
        let spec = template.split_once("spec: ").expect("a spec").1.trim();
        let job = format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: breakout-{number}}}\nspec:\n  template:\n    \
             spec: {}, restartPolicy: Never}}\n",
            &spec[..spec.len() - 1]
        );
        umbra.kubectl_with(&["create", "-f", "-"], &job);
    }
    let pods = umbra.kubectl(&["get", "pods", "-o", "name"]).ok();
    open.must(pods == "pod/foothold", format!("a loop made what its owner may not: {pods}"));
    umbra.kubectl(&["delete", "jobs", "--all", "--wait=false"]).ok();
    let namespace =
        ["label", "namespace", "umbra", "pod-security.kubernetes.io/enforce=privileged", "--overwrite"];
    open.tried(&umbra.kubectl(&namespace), &["orbidden"]);
    open.tried(&umbra.kubectl(&["drain", &known.node]), &["orbidden"]);
    open.tried(&umbra.kubectl(&["taint", "node", &known.node, "a=b:NoExecute"]), &["orbidden"]);
}

/// No object of one's own that names one of the other's.
fn references(open: &Open, umbra: &Tenant, known: &Known) {
    let object = |kind: &str, group: &str, name: &str, spec: &str| {
        format!("apiVersion: {group}.yunfan.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    for (kind, group, spec) in [
        ("Volume", "storage", "{sizeGib: 1, image: acme/gold}".to_owned()),
        ("Volume", "storage", "{sizeGib: 1, sourceVolume: acme/hoard}".to_owned()),
        (
            "VirtualMachine",
            "compute",
            "{flavor: tiny, image: acme/gold, networks: [{network: lan}]}".to_owned(),
        ),
        (
            "VirtualMachine",
            "compute",
            "{flavor: tiny, networks: [{network: acme/lan}], volumes: [{volume: acme/hoard, boot: true}]}"
                .to_owned(),
        ),
        ("Port", "network", "{network: acme/lan}".to_owned()),
        ("Port", "network", format!("{{network: {}}}", known.network)),
    ] {
        let ran = umbra.kubectl_with(&["create", "-f", "-"], &object(kind, group, "borrowed", &spec));
        open.must(!ran.succeeded(), format!("{kind} {spec}: {ran}"));
    }
    // A Pod on a network that is not there in its own namespace waits, and gets no address of another's.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: guest, annotations: {network.yunfan.io/network: acme/lan}}\n\
               spec: {containers: [{name: c, image: 'demo/web:1'}]}\n";
    if umbra.kubectl_with(&["create", "-f", "-"], pod).succeeded() {
        let shown = umbra.kubectl(&["wait", "pod/guest", "--for=jsonpath={.status.podIP}", "--timeout=5s"]);
        open.must(!shown.succeeded(), format!("a Pod came up on another network: {shown}"));
        umbra.kubectl(&["delete", "pod", "guest", "--wait=false"]).ok();
    }
}

/// The OpenStack door, by ids that the other has heard of.
fn openstack(open: &Open, umbra: &Tenant, known: &Known) {
    let Known { server, port, network, subnet, image, volume, project, .. } = known;
    umbra.openstack(&["router", "create", "own"]).ok();
    // (The client does not say that this was refused. That no token can be had for the project is tried last.)
    umbra.openstack(&["role", "add", "--project", project, "--user", "umbra", "member"]);
    for words in [
        &["server", "show", server][..],
        &["server", "delete", server],
        &["server", "stop", server],
        &["server", "set", "--name", "mine", server],
        &["console", "log", "show", server],
        &["server", "add", "volume", server, volume],
        &["server", "create", "--flavor", "tiny", "--image", image, "--nic", "net-id=lan", "stolen"],
        &[
            "server",
            "create",
            "--flavor",
            "tiny",
            "--image",
            image,
            "--nic",
            &format!("port-id={port}"),
            "stolen",
        ],
        &["image", "show", image],
        &["image", "save", "--file", "/dev/null", image],
        &["image", "delete", image],
        &["image", "set", "--public", image],
        &["volume", "show", volume],
        &["volume", "delete", volume],
        &["volume", "create", "--source", volume, "--size", "1", "stolen"],
        &["volume", "create", "--image", image, "--size", "1", "stolen"],
        &["volume", "snapshot", "create", "--volume", volume, "stolen"],
        &["port", "show", port],
        &["port", "set", "--name", "mine", port],
        &["port", "delete", port],
        &["port", "create", "--network", network, "stolen"],
        &["network", "show", network],
        &["network", "delete", network],
        &["network", "set", "--share", "lan"],
        &["subnet", "create", "--network", network, "--subnet-range", "10.84.0.0/24", "stolen"],
        &["router", "add", "subnet", "own", subnet],
        &["project", "show", project],
        &["user", "list"],
        &["server", "list", "--all-projects"],
        &["hypervisor", "list"],
        &["--os-project-name", "acme", "token", "issue"],
        &["--os-project-name", "acme", "server", "list"],
    ] {
        open.tried(&umbra.openstack(words), &[]);
    }
    for list in
        [["project", "list"], ["server", "list"], ["image", "list"], ["volume", "list"], ["port", "list"]]
    {
        let shown = umbra.openstack(&[&list[..], &["-f", "value"]].concat()).ok();
        for name in [project, server, image, volume, port] {
            open.must(!shown.contains(name.as_str()), format!("{list:?} shows {name}: {shown}"));
        }
    }
}

/// From one's own container: neither the other's workloads, whose address is one's own network's too, nor the node.
fn packets(open: &Open, umbra: &Tenant, known: &Known) {
    let fetch =
        |url: &str| umbra.kubectl(&["exec", "foothold", "--", "timeout", "3", "wget", "-q", "-O", "-", url]);
    let own = umbra.kubectl(&["get", "pod", "foothold", "-o", "jsonpath={.status.podIP}"]).ok();
    let page = fetch(&format!("http://{own}:8080/"));
    assert!(page.succeeded(), "the client itself works: {page}");
    // Both networks have the same addresses: who answers there is never the victim.
    for url in [format!("http://{}:8080/", known.web), "http://vault.acme.svc.cluster.local/".to_owned()] {
        let page = fetch(&url);
        open.must(!page.stdout.contains("vault"), &page);
    }
    let facts = fetch("http://169.254.169.254/openstack/latest/meta_data.json");
    open.must(!facts.stdout.contains(&known.server) && !facts.stdout.contains("acme"), &facts);
    // Nor by endpoints that one writes oneself: Kubernetes' `edit` does not let its bearers write those (CVE-2021-25740).
    for address in [&*known.web, "127.0.0.1"] {
        let slice = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: bridge, labels: {{kubernetes.io/service-name: bridge}}}}\n\
             addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [{address}]}}]\n"
        );
        open.tried(&umbra.kubectl_with(&["create", "-f", "-"], &slice), &["orbidden"]);
    }
}
