//! CertificateSigningRequests through the API: who decides, what is signed, and whom the certificate is of.

mod support;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, Patch, PatchParams, PostParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::{Value, json};
use support::Cloud;
use yunfan_identity::pki::CertificateUser;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_USAGES: [&str; 3] = ["digital signature", "key encipherment", "client auth"];

/// A request in PEM, base64 as the API has it.
fn asked(common_name: &str, organization: &str, dns: Option<&str>) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names =
        dns.map(|name| SanType::DnsName(name.try_into().unwrap())).into_iter().collect();
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!(ByteString(pem.into_bytes()))
}

fn requests(cloud: &Cloud) -> Api<CertificateSigningRequest> {
    Api::all(cloud.client.clone())
}

fn object(name: &str, signer: &str, usages: &[&str], request: Value) -> CertificateSigningRequest {
    let object = json!({"metadata": {"name": name}, "spec": {"signerName": signer, "usages": usages,
        "request": request, "expirationSeconds": 3600}});
    serde_json::from_value(object).unwrap()
}

async fn ask(
    cloud: &Cloud,
    name: &str,
    signer: &str,
    usages: &[&str],
    request: Value,
) -> kube::Result<CertificateSigningRequest> {
    requests(cloud).create(&PostParams::default(), &object(name, signer, usages, request)).await
}

async fn approve(cloud: &Cloud, name: &str) {
    let patch = json!({"status": {"conditions": [
        {"type": "Approved", "status": "True", "reason": "Test", "message": "by a test"}]}});
    let patch = Patch::Merge(patch);
    requests(cloud).patch_subresource("approval", name, &PatchParams::default(), &patch).await.unwrap();
}

/// Waits until the request's status says what is asked of it.
async fn until(cloud: &Cloud, name: &str, is: impl Fn(&Value) -> bool) -> CertificateSigningRequest {
    let mut last = None;
    for _ in 0..1500 {
        let request = requests(cloud).get(name).await.unwrap();
        if is(&json!(request.status)) {
            return request;
        }
        last = Some(request);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{name} did not become as expected: {last:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_request_becomes_a_certificate_of_its_user() {
    let cloud = support::start(&["a"]).await;
    ask(&cloud, "ann", CLIENT, &["client auth"], asked("ann", "staff", None)).await.unwrap();
    approve(&cloud, "ann").await;
    let signed = until(&cloud, "ann", |status| !status["certificate"].is_null()).await.status.unwrap();
    let condition = &signed.conditions.unwrap()[0];
    assert!(condition.last_update_time.is_some() && condition.last_transition_time.is_some());
    let pem = signed.certificate.unwrap().0;
    let ends = CertificateUser::pem_ends(&pem).unwrap();
    let left = ends - condition.last_update_time.as_ref().unwrap().0.as_second();
    assert!((3590..=3660).contains(&left), "{left} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_requests_are_approved_and_others_wait() {
    let cloud = support::start(&["a"]).await;
    // It comes first: when the next one is signed, the controller has looked at it.
    let odd = asked("system:node:a", "system:nodes", Some("a.example"));
    ask(&cloud, "odd", NODE_CLIENT, &NODE_USAGES, odd).await.unwrap();
    let node = asked("system:node:a", "system:nodes", None);
    ask(&cloud, "node", NODE_CLIENT, &NODE_USAGES, node).await.unwrap();
    let approved = until(&cloud, "node", |status| !status["certificate"].is_null()).await;
    let condition = approved.status.unwrap().conditions.unwrap().remove(0);
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("Approved", Some("AutoApproved")));
    let message = "Auto approving kubelet client certificate after SubjectAccessReview.";
    assert_eq!(condition.message.as_deref(), Some(message));

    // A node's request for a name that it may not have as a client waits, and fails when it is approved all the same.
    assert_eq!(requests(&cloud).get("odd").await.unwrap().status.and_then(|status| status.conditions), None);
    approve(&cloud, "odd").await;
    let failed = until(&cloud, "odd", |status| status["conditions"][1]["type"] == "Failed").await;
    let status = failed.status.unwrap();
    assert!(status.certificate.is_none());
    let conditions = status.conditions.unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("Test"), "nobody else has approved it");
    let condition = &conditions[1];
    assert_eq!(condition.reason.as_deref(), Some("SignerValidationFailure"));
    assert_eq!(condition.message.as_deref(), Some("DNS subjectAltNames are not allowed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_asks_for_itself_and_who_has_no_right_waits() {
    let cloud = support::start(&["a"]).await;
    let role = json!({"metadata": {"name": "askers"}, "rules": [
        {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["create"]}]});
    let binding = |name: &str, role: &str, users: &[&str]| {
        let group = "rbac.authorization.k8s.io";
        let users: Vec<_> =
            users.iter().map(|user| json!({"kind": "User", "apiGroup": group, "name": user})).collect();
        let binding = json!({"metadata": {"name": name}, "subjects": users,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role}});
        serde_json::from_value::<ClusterRoleBinding>(binding).unwrap()
    };
    let node = "system:node:a";
    let params = PostParams::default();
    let roles: Api<ClusterRole> = Api::all(cloud.client.clone());
    roles.create(&params, &serde_json::from_value(role).unwrap()).await.unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(cloud.client.clone());
    let of_itself = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    for made in [binding("askers", "askers", &["eve", node]), binding("nodes", of_itself, &[node])] {
        bindings.create(&params, &made).await.unwrap();
    }
    // Those who must wait come first: when the last is signed, the controller has looked at them.
    for (name, user, groups, wanted) in
        [("stranger", "eve", &[][..], node), ("self", node, &["system:nodes"][..], node)]
    {
        let all: Api<CertificateSigningRequest> = Api::all(cloud.client_as(user, groups));
        let request = object(name, NODE_CLIENT, &NODE_USAGES, asked(wanted, "system:nodes", None));
        all.create(&params, &request).await.unwrap();
    }
    // For another node it may not even ask.
    let all: Api<CertificateSigningRequest> = Api::all(cloud.client_as(node, &["system:nodes"]));
    let request = object("other", NODE_CLIENT, &NODE_USAGES, asked("system:node:b", "system:nodes", None));
    let refused = all.create(&params, &request).await.unwrap_err().to_string();
    assert!(refused.contains("can only create a node CSR with CN=system:node:a"), "{refused}");
    let approved = until(&cloud, "self", |status| !status["certificate"].is_null()).await;
    let condition = approved.status.unwrap().conditions.unwrap().remove(0);
    let message = "Auto approving self kubelet client certificate after SubjectAccessReview.";
    assert_eq!(condition.message.as_deref(), Some(message));
    let status = requests(&cloud).get("stranger").await.unwrap().status;
    assert_eq!(status.and_then(|status| status.conditions), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_asks_to_be_a_master() {
    let cloud = support::start(&["a"]).await;
    let request = asked("eve", "system:masters", None);
    let refused =
        ask(&cloud, "eve", CLIENT, &["client auth"], request.clone()).await.unwrap_err().to_string();
    let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    assert!(refused.contains(why), "{refused}");
    ask(&cloud, "other", "example.com/x", &["client auth"], request).await.unwrap();
}
