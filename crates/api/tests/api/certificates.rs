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

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_a_certificate_of_its_own_key_for_as_long_as_it_says() {
    const PATH: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
    let desk = Desk::new().await;
    let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let asked = CertificateParams::default().serialize_request(&key).and_then(|asked| asked.pem());
    // What stands between the first line of PEM and the last is the request in base64.
    let asked: String = asked.expect("a request").lines().filter(|line| !line.starts_with('-')).collect();
    let spec = json!({"signerName": "example.com/x", "podName": "p", "podUID": "1", "serviceAccountName": "a",
        "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3", "maxExpirationSeconds": 86400,
        "stubPKCS10Request": asked});
    desk.call("POST", PATH, Some(json!({"metadata": {"name": "r"}, "spec": spec}))).await.expect(201);
    let now = jiff::Timestamp::now().as_second();
    let time = |second: i64| jiff::Timestamp::from_second(second).expect("a time").to_string();
    // The status of a certificate of this key that lasts from and until so many seconds from now, as it says itself.
    let status = |key: &KeyPair, from: i64, until: i64| {
        let mut params = CertificateParams::default();
        let at = |second: i64| {
            let since = std::time::Duration::from_secs(u64::try_from(second).expect("after 1970"));
            std::time::SystemTime::UNIX_EPOCH + since
        };
        (params.not_before, params.not_after) = (at(now + from).into(), at(now + until).into());
        let chain = params.self_signed(key).expect("a certificate").pem();
        json!({"conditions": [{"type": "Issued", "status": "True", "reason": "r", "message": "m", "lastTransitionTime": time(now)}],
            "certificateChain": chain, "notBefore": time(now + from), "notAfter": time(now + until),
            "beginRefreshAt": time(now + 1200)})
    };
    let send = async |status: Value| {
        let body = json!({"status": status}).to_string();
        desk.patch("merge-patch+json", &format!("{PATH}/r/status"), body).await
    };
    let mut early = status(&key, 0, 7200);
    early["notBefore"] = json!(time(now - 1));
    let mut late = status(&key, 0, 7200);
    late["notAfter"] = json!(time(now + 7201));
    for (status, why) in [
        (status(&other, 0, 7200), "leaf certificate was not issued to the requested public key"),
        (early, "must be set to the NotBefore time encoded in the leaf certificate"),
        (status(&key, -3600, 7200), "must be set to within 5 minutes of kube-apiserver's current time"),
        (late, "must be set to the NotAfter time encoded in the leaf certificate"),
        (status(&key, 0, 3000), "leaf certificate lifetime must be >= 1 hour"),
        (status(&key, 0, 90_000), "leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)"),
    ] {
        let refused = send(status).await.refused(422);
        assert!(refused.contains(why), "{why} is not in {refused}");
    }
    send(status(&key, 0, 7200)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_served_in_the_version_that_older_clients_know() {
    const GROUP: &str = "/apis/certificates.k8s.io";
    let desk = Desk::new().await;
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem();
    let bundle = json!({"apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
        "metadata": {"name": "b"}, "spec": {"trustBundle": authority}});
    let made = desk.call("POST", &format!("{GROUP}/v1beta1/clustertrustbundles"), Some(bundle)).await;
    assert_eq!(made.expect(201)["apiVersion"], "certificates.k8s.io/v1beta1");
    for version in ["v1", "v1beta1"] {
        let path = format!("{GROUP}/{version}/clustertrustbundles/b");
        let read = desk.call("GET", &path, None).await.expect(200);
        assert_eq!(read["apiVersion"], format!("certificates.k8s.io/{version}"));
        assert_eq!(read["spec"]["trustBundle"], authority);
        let asked = [("accept", yunfan_objects::protobuf::MEDIA_TYPE)];
        let answer = desk.raw(crate::support::admin(), "GET", &path, "", &asked, String::new()).await;
        assert_eq!(answer.status().as_u16(), 200, "{version} in protobuf");
    }
}
