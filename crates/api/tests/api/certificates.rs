//! Who may decide about a CertificateSigningRequest.

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
