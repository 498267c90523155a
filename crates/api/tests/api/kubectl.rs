//! The real `kubectl` against the door over TLS.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::Desk;

struct Kubectl {
    config: tempfile::NamedTempFile,
    cache: tempfile::TempDir,
}

impl Kubectl {
    /// Runs it with these words; its output, and whether it was well.
    fn try_run(&self, words: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.config.path())
            .arg("--cache-dir")
            .arg(self.cache.path())
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is on the PATH");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }

    #[track_caller]
    fn run(&self, line: &str, input: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (well, output) = self.try_run(&words, input);
        assert!(well, "kubectl {line}\n{output}");
        output
    }

    #[track_caller]
    fn says(&self, line: &str, input: &str, wanted: &[&str]) {
        let output = self.run(line, input);
        for text in wanted {
            assert!(output.contains(text), "kubectl {line}: {text:?} is not in\n{output}");
        }
    }

    #[track_caller]
    fn fails(&self, line: &str, input: &str, wanted: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (well, output) = self.try_run(&words, input);
        assert!(!well && output.contains(wanted), "kubectl {line}\n{output}");
    }
}

/// Serves the desk on a free port of the loopback, and gives a kubectl that knows it.
async fn serve(desk: &Desk) -> Kubectl {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = desk.authority.issue_server("server", &["127.0.0.1"], 1).expect("a certificate");
    let tls = yunfan_identity::pki::server_config(&server, Some(desk.authority.certificate()))
        .expect("a TLS configuration");
    tokio::spawn(yunfan_serve::serve_tls(listener, Arc::new(tls), desk.api.router(), std::future::pending()));
    let client = desk.authority.issue_client("admin", &["system:masters"], 1).expect("a certificate");
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://{address}"),
            "certificate-authority-data": STANDARD.encode(desk.authority.certificate_pem())}}],
        "users": [{"name": "u", "user": {"client-certificate-data": STANDARD.encode(&client.certificate_pem),
            "client-key-data": STANDARD.encode(&client.key_pem)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
    });
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(config.to_string().as_bytes()).expect("written");
    Kubectl { config: file, cache: tempfile::tempdir().expect("a directory") }
}

const ROLES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: ann, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: actor}
rules: [{apiGroups: [''], resources: [users], verbs: [impersonate], resourceNames: [bob]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: actor}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: actor}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}]
";

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_do_is_told_to_whoever_asks() {
    let desk = Desk::new().await;
    let kubectl = serve(&desk).await;
    tokio::task::spawn_blocking(move || {
        let k = &kubectl;
        k.run("apply -f -", ROLES);
        k.says("auth whoami --as ann --as-group dev", "", &["ann", "dev", "system:authenticated"]);
        k.says("auth can-i get pods --as ann", "", &["yes"]);
        for no in ["create pods", "get pods -n kube-system", "get secrets", "get /metrics"] {
            k.fails(&format!("auth can-i {no} --as ann"), "", "no");
        }
        k.says("auth can-i get /healthz --as ann", "", &["yes"]);
        k.says("auth can-i * *", "", &["yes"]);
        let list = k.run("auth can-i --list --as ann", "");
        for row in ["configmaps", "[get list watch]", "/healthz", "selfsubjectreviews.authentication.k8s.io"]
        {
            assert!(list.contains(row), "{row:?} is not in\n{list}");
        }
        assert!(!list.contains("secrets"), "{list}");
        // The cloud's own kinds of these names are not what is meant.
        k.says("auth can-i impersonate users/bob --as ann", "", &["yes"]);
        k.fails("auth can-i impersonate users/eve --as ann", "", "no");
        k.fails("auth can-i impersonate groups --as ann", "", "no");
    })
    .await
    .expect("all went well");
}

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'demo/web:1', ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {index.html: hello}
";

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_and_go() {
    let desk = Desk::new().await;
    let kubectl = serve(&desk).await;
    tokio::task::spawn_blocking(move || {
        let k = &kubectl;
        k.says("version", "", &["Server Version: v1.37"]);
        k.says(
            "apply -f -",
            WEB,
            &["deployment.apps/web created", "service/web created", "configmap/web created"],
        );
        k.says(
            "apply -f -",
            WEB,
            &["deployment.apps/web unchanged", "service/web unchanged", "configmap/web unchanged"],
        );
        k.says("apply -f -", &WEB.replace("replicas: 3", "replicas: 2"), &["deployment.apps/web configured"]);
        k.says("diff -f -", &WEB.replace("replicas: 3", "replicas: 2"), &[]);
        k.says(
            "get deployments,services,configmaps",
            "",
            &["deployment.apps/web", "0/2", "ClusterIP", "80/TCP"],
        );
        k.says("get deploy web -o wide", "", &["CONTAINERS", "demo/web:1", "app=web"]);
        k.says("get deploy web -o yaml", "", &["kind: Deployment", "replicas: 2"]);
        k.says("get deploy web -o jsonpath={.spec.replicas}", "", &["2"]);
        k.says("describe deploy web", "", &["Name:", "web", "RollingUpdate"]);
        k.says("describe svc web", "", &["Selector:", "app=web"]);
        k.says("scale deploy web --replicas=5", "", &["deployment.apps/web scaled"]);
        k.says("label deploy web tier=front", "", &["deployment.apps/web labeled"]);
        k.says("annotate cm web note=x", "", &["configmap/web annotated"]);
        k.says("get deploy -l tier=front --show-labels", "", &["tier=front", "0/5"]);
        k.says("patch cm web --type=merge -p {\"data\":{\"b\":\"2\"}}", "", &["configmap/web patched"]);
        k.says(
            "patch cm web --type=json -p [{\"op\":\"remove\",\"path\":\"/data/b\"}]",
            "",
            &["configmap/web patched"],
        );
        k.says("set image deploy/web web=demo/web:2", "", &["deployment.apps/web image updated"]);
        k.says(
            "apply --server-side --force-conflicts -f -",
            WEB,
            &["deployment.apps/web serverside-applied"],
        );
        k.says(
            "create -f -",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: gen-}\n",
            &["configmap/gen-", "created"],
        );
        k.says(
            "replace -f -",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {z: '1'}\n",
            &["configmap/web replaced"],
        );
        k.says("get cm --chunk-size=1", "", &["web", "gen-"]);
        k.says("get all", "", &["deployment.apps/web", "service/web"]);
        k.says("create secret generic s --from-literal=a=b", "", &["secret/s created"]);
        k.says("create namespace demo", "", &["namespace/demo created"]);
        k.says("get ns", "", &["demo", "Active", "kube-system"]);
        k.says("run p --image=busybox --restart=Never -- sleep 1", "", &["pod/p created"]);
        k.says("get pods", "", &["p", "Pending"]);
        k.says("wait --for=jsonpath={.status.phase}=Pending pod/p --timeout=5s", "", &["condition met"]);
        k.says("delete pod p", "", &["pod \"p\" deleted"]);
        k.says(
            "delete deploy,svc,cm web",
            "",
            &["deployment.apps \"web\" deleted", "service \"web\" deleted"],
        );
        k.fails("get deploy web", "", "NotFound");
    })
    .await
    .expect("kubectl is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_explain_themselves_and_mistakes_are_named() {
    let desk = Desk::new().await;
    let kubectl = serve(&desk).await;
    tokio::task::spawn_blocking(move || {
        let k = &kubectl;
        k.says("api-resources", "", &["virtualmachines", "vm", "compute.yunfan.io/v1", "deployments"]);
        k.says("api-versions", "", &["compute.yunfan.io/v1", "apps/v1"]);
        k.says("explain deployment.spec.replicas", "", &["replicas", "integer"]);
        k.says("explain vm.spec", "", &["flavor", "Flavor"]);
        k.says("auth can-i create pods", "", &["yes"]);
        k.says("auth whoami", "", &["admin", "system:masters"]);
        k.says("get crds", "", &["flavors.compute.yunfan.io"]);
        let flavor = "apiVersion: compute.yunfan.io/v1\nkind: Flavor\nmetadata: {name: small}\nspec: {vcpus: 1, memoryMib: 128}\n";
        k.says("apply -f -", flavor, &["flavor.compute.yunfan.io/small created"]);
        k.says("apply -f -", &flavor.replace("128", "256"), &["flavor.compute.yunfan.io/small configured"]);
        k.says("get flavors", "", &["VCPUS", "small", "256"]);
        k.says("describe flavor small", "", &["Memory Mib:", "256"]);
        k.fails("apply -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndato: {a: b}\n", "unknown field \"dato\"");
        k.fails("apply -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n", "metadata.name");
        k.fails("create -f -", &flavor.replace("vcpus: 1", "vcpus: one").replace("small", "other"), "spec.vcpus");
        k.fails("get nothings", "", "doesn't have a resource type");
        k.fails("delete ns default", "", "may not be deleted");
        k.fails("delete crd flavors.compute.yunfan.io", "", "belongs to the cloud itself");
    })
    .await
    .expect("kubectl is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_happens() {
    let desk = Desk::new().await;
    let kubectl = serve(&desk).await;
    tokio::task::spawn_blocking(move || {
        let watch = Command::new("timeout")
            .args(["4", "kubectl", "--kubeconfig"])
            .arg(kubectl.config.path())
            .arg("--cache-dir")
            .arg(kubectl.cache.path())
            .args(["get", "cm", "--watch"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl is on the PATH");
        std::thread::sleep(std::time::Duration::from_secs(1));
        kubectl.run("create cm seen --from-literal=a=b", "");
        let output = watch.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("seen"), "{text}");
    })
    .await
    .expect("kubectl is well");
}
