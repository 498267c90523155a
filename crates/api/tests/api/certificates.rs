//! Who may make a CertificateSigningRequest, and decide about one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use yunfan_identity::UserInfo;

use crate::support::Desk;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// A request for the name `ann`, made for this test and signed with a key that is thrown away.
const REQUEST: &str = include_str!("ann.csr.txt");

async fn grant(desk: &Desk, name: &str, user: &str, rule: Value) {
    let role = json!({"metadata": {"name": name}, "rules": [rule]});
    desk.call("POST", &format!("{RBAC}/clusterroles"), Some(role)).await.expect(201);
    let binding = json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    desk.call("POST", &format!("{RBAC}/clusterrolebindings"), Some(binding)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approver_needs_the_right_for_the_signer() {
    let desk = Desk::new().await;
    let group = "certificates.k8s.io";
    let own = ["certificatesigningrequests/approval", "certificatesigningrequests/status"];
    for user in ["bob", "eve"] {
        let rule = json!({"apiGroups": [group], "resources": own, "verbs": ["patch"]});
        grant(&desk, &format!("requests-{user}"), user, rule).await;
    }
    let signers = json!({"apiGroups": [group], "resources": ["signers"], "verbs": ["approve", "sign"],
        "resourceNames": ["example.com/*"]});
    grant(&desk, "signers", "bob", signers).await;
    let spec = json!({"request": REQUEST.trim(), "signerName": "example.com/x", "usages": ["client auth"]});
    desk.call("POST", REQUESTS, Some(json!({"metadata": {"name": "r"}, "spec": spec}))).await.expect(201);
    let approval = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "x", "message": "y"}]}})
    .to_string();
    let certificate = json!({"status": {"conditions": [
        {"type": "Failed", "status": "True", "reason": "x", "message": "y"}]}})
    .to_string();
    let send = |user: &str, part: &str, body: &str| {
        let user = Some(UserInfo::authenticated(user, Vec::<String>::new()));
        let path = format!("{REQUESTS}/r/{part}");
        let body = body.to_owned();
        let desk = &desk;
        async move { desk.send(user, "PATCH", &path, "application/merge-patch+json", &[], body).await }
    };
    let message = send("eve", "approval", &approval).await.refused(403);
    assert!(
        message.contains("user not permitted to approve requests with signerName \"example.com/x\""),
        "{message}"
    );
    let message = send("eve", "status", &certificate).await.refused(403);
    assert!(message.contains("user not permitted to sign requests with signerName"), "{message}");
    send("bob", "approval", &approval).await.expect(200);
}

/// A request for this name, as the API has it.
fn request_for(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, name);
    let request = params.serialize_request(&KeyPair::generate().expect("a key")).expect("a request");
    STANDARD.encode(request.pem().expect("PEM"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_asks_for_certificates_of_its_own_name_alone() {
    let desk = Desk::new().await;
    let rule = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["create"]});
    grant(&desk, "asks", "system:node:n", rule).await;
    let ask = async |signer: &str, request: String| {
        let user = UserInfo::authenticated("system:node:n", ["system:nodes"]);
        let usages = ["digital signature", "key encipherment", "client auth"];
        let object = json!({"metadata": {"generateName": "r-"},
            "spec": {"signerName": signer, "request": request, "usages": usages}});
        desk.send(Some(user), "POST", REQUESTS, "application/json", &[], object.to_string()).await
    };
    for signer in ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"] {
        for other in ["system:node:m", "n", "system:node:"] {
            let refused = ask(signer, request_for(other)).await.refused(403);
            assert!(refused.ends_with("can only create a node CSR with CN=system:node:n"), "{refused}");
        }
        ask(signer, request_for("system:node:n")).await.expect(201);
        let refused = ask(signer, STANDARD.encode("no request")).await.refused(403);
        assert!(refused.contains("unable to parse csr: "), "{refused}");
    }
    ask("example.com/x", request_for("system:node:m")).await.expect(201);
}
