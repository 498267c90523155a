//! Tokens: those that the front desk gives to service accounts, and what it says of any.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use yunfan_api::ApiConfig;
use yunfan_identity::UserInfo;
use yunfan_identity::pki::Identity;
use yunfan_identity::token::{Claims, ISSUER};

use crate::support::{Answer, Desk, nameless};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const ROBOT: &str = "/api/v1/namespaces/default/serviceaccounts/robot";

/// A front desk with the service account `robot` in the namespace `default`.
async fn with_robot() -> Desk {
    let desk = Desk::new().await;
    desk.call("POST", ACCOUNTS, Some(json!({"metadata": {"name": "robot"}}))).await.expect(201);
    desk
}

async fn ask(desk: &Desk, spec: Value) -> Answer {
    desk.call("POST", &format!("{ROBOT}/token"), Some(json!({"spec": spec}))).await
}

async fn token(desk: &Desk, spec: Value) -> String {
    let answer = ask(desk, spec).await.expect(201);
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

/// What a TokenReview says.
async fn review(desk: &Desk, spec: Value) -> Value {
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    desk.call("POST", path, Some(json!({"spec": spec}))).await.expect(201)["status"].take()
}

/// The code of a request with this token.
async fn with(desk: &Desk, token: &str, path: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    desk.send(None, "GET", path, "", &[("authorization", &bearer)], String::new()).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_token_is_looked_at_for_others() {
    let desk = Desk::new().await;
    let token = desk.tokens.issue(&Claims::new("ann", "7", 600)).expect("a token");
    let known = review(&desk, json!({"token": token})).await;
    assert_eq!(known["authenticated"], true);
    assert_eq!(known["user"]["username"], "ann");
    let audience = known["audiences"].clone();
    assert_eq!(review(&desk, json!({"token": token, "audiences": audience})).await["authenticated"], true);
    for spec in [json!({"token": "nonsense"}), json!({"token": token, "audiences": ["vault"]})] {
        let status = review(&desk, spec.clone()).await;
        assert_eq!(status["authenticated"], Value::Null, "{spec}");
        assert_eq!(status["user"], json!({}), "{spec}");
    }
    desk.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", Some(json!({}))).await.refused(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_acts_with_its_token_until_it_is_gone() {
    let desk = with_robot().await;
    let given = ask(&desk, json!({})).await.expect(201);
    assert_eq!(given["kind"], "TokenRequest");
    assert_eq!(
        given["spec"],
        json!({"audiences": [ISSUER], "boundObjectRef": null, "expirationSeconds": 3600})
    );
    let account = desk.call("GET", ROBOT, None).await.expect(200);
    assert_eq!(given["metadata"]["uid"], account["metadata"]["uid"]);
    let token = given["status"]["token"].as_str().expect("a token");
    let status = review(&desk, json!({"token": token})).await;
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(status["user"]["uid"], account["metadata"]["uid"]);
    assert_eq!(status["audiences"], json!([ISSUER]));
    // The roles of its groups are its own, and no more.
    assert_eq!(with(&desk, token, "/openid/v1/jwks").await, 200);
    assert_eq!(with(&desk, token, "/api/v1/nodes").await, 403);
    desk.call("DELETE", ROBOT, None).await.expect(200);
    assert_eq!(with(&desk, token, "/openid/v1/jwks").await, 401);
    let status = review(&desk, json!({"token": token})).await;
    assert_eq!(status["error"], "[invalid bearer token, service account token has been invalidated]");
    // Another account of the same name is another one.
    desk.call("POST", ACCOUNTS, Some(json!({"metadata": {"name": "robot"}}))).await.expect(201);
    assert_eq!(with(&desk, token, "/openid/v1/jwks").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_for_its_audiences_alone() {
    let desk = with_robot().await;
    let token = token(&desk, json!({"audiences": ["vault", "bank"]})).await;
    assert_eq!(with(&desk, &token, "/openid/v1/jwks").await, 401);
    let status = review(&desk, json!({"token": token})).await;
    assert_eq!(status["authenticated"], Value::Null);
    let why = format!(
        "[invalid bearer token, token audiences [\"vault\", \"bank\"] is invalid for the target audiences [\"{ISSUER}\"]]"
    );
    assert_eq!(status["error"], why.as_str());
    let status = review(&desk, json!({"token": token, "audiences": ["shop", "vault"]})).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["vault"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_audiences_are_chosen() {
    let audiences = ["api", "https://api.example"].map(str::to_owned).to_vec();
    let desk = Desk::with(ApiConfig { audiences, ..ApiConfig::default() }).await;
    desk.call("POST", ACCOUNTS, Some(json!({"metadata": {"name": "robot"}}))).await.expect(201);
    let asked = ask(&desk, json!({})).await.expect(201);
    assert_eq!(asked["spec"]["audiences"], json!(["api", "https://api.example"]));
    let plain = asked["status"]["token"].as_str().expect("a token").to_owned();
    assert_eq!(with(&desk, &plain, "/openid/v1/jwks").await, 200);
    let one = token(&desk, json!({"audiences": ["vault", "https://api.example"]})).await;
    assert_eq!(with(&desk, &one, "/openid/v1/jwks").await, 200, "one of them is enough");
    let before = token(&desk, json!({"audiences": [ISSUER]})).await;
    assert_eq!(with(&desk, &before, "/openid/v1/jwks").await, 401, "the issuer's name is no audience then");
    let status = review(&desk, json!({"token": one})).await;
    assert_eq!(
        (&status["authenticated"], &status["audiences"]),
        (&json!(true), &json!(["https://api.example"]))
    );
    // A user's token names no audience: it is for the API server by whichever name.
    let user = desk.tokens.issue(&Claims::new("ann", "7", 600)).expect("a token");
    let status = review(&desk, json!({"token": user, "audiences": ["x", "api"]})).await;
    assert_eq!(status["audiences"], json!(["api"]));
    let status = review(&desk, json!({"token": user, "audiences": [ISSUER]})).await;
    assert_eq!(status["authenticated"], Value::Null);
}

/// Whom a request is from that shows this certificate, and these headers.
async fn shown(desk: &Desk, certificate: &Identity, authorization: &str) -> Result<String, u16> {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers: &[(&str, &str)] = match authorization {
        "" => &[],
        value => &[("authorization", value)],
    };
    let answer = desk.post_with(certificate, path, headers, "{}").await;
    match answer.status.as_u16() {
        201 => Ok(answer.body["status"]["userInfo"]["username"].as_str().unwrap_or_default().to_owned()),
        code => Err(code),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_goes_before_a_token() {
    let desk = with_robot().await;
    let robot = format!("Bearer {}", token(&desk, json!({})).await);
    let ann = desk.authority.issue_client("ann", &["dev"], 1).expect("a certificate");
    assert_eq!(shown(&desk, &ann, "").await, Ok("ann".to_owned()));
    assert_eq!(shown(&desk, &ann, &robot).await, Ok("ann".to_owned()));
    assert_eq!(shown(&desk, &ann, "Bearer nonsense").await, Ok("ann".to_owned()));
    // One that is nobody's leaves it to the token.
    let nobody = nameless();
    let account = "system:serviceaccount:default:robot".to_owned();
    assert_eq!(shown(&desk, &nobody, &robot).await, Ok(account));
    assert_eq!(shown(&desk, &nobody, "").await, Err(401));
    assert_eq!(shown(&desk, &nobody, "Bearer nonsense").await, Err(401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_ends_with_what_it_is_bound_to() {
    let desk = with_robot().await;
    desk.account("default", "other").await;
    let pods = "/api/v1/namespaces/default/pods";
    let node = json!({"metadata": {"name": "n1"}});
    let node = desk.call("POST", "/api/v1/nodes", Some(node)).await.expect(201);
    for (account, pod) in [("robot", "p"), ("other", "q")] {
        let spec = json!({"serviceAccountName": account, "nodeName": "n1", "containers": [{"name": "c", "image": "i"}]});
        desk.call("POST", pods, Some(json!({"metadata": {"name": pod}, "spec": spec}))).await.expect(201);
    }
    let secret = json!({"metadata": {"name": "s"}});
    desk.call("POST", "/api/v1/namespaces/default/secrets", Some(secret)).await.expect(201);
    let bound =
        |kind: &str, name: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}});
    for (kind, name, path) in [
        ("Pod", "p", format!("{pods}/p?gracePeriodSeconds=0")),
        ("Secret", "s", "/api/v1/namespaces/default/secrets/s".to_owned()),
        ("Node", "n1", "/api/v1/nodes/n1".to_owned()),
    ] {
        let token = token(&desk, bound(kind, name)).await;
        let extra = review(&desk, json!({"token": token})).await["user"]["extra"].take();
        let of = |key: &str| extra[format!("authentication.kubernetes.io/{key}")][0].clone();
        if kind != "Secret" {
            assert_eq!((of("node-name"), of("node-uid")), (json!("n1"), node["metadata"]["uid"].clone()));
        }
        assert_eq!(of("pod-name"), if kind == "Pod" { json!("p") } else { Value::Null });
        assert!(of("credential-id").as_str().is_some_and(|id| id.starts_with("JTI=")), "{extra}");
        assert_eq!(with(&desk, &token, "/openid/v1/jwks").await, 200, "{kind}");
        desk.call("DELETE", &path, None).await.expect(200);
        assert_eq!(with(&desk, &token, "/openid/v1/jwks").await, 401, "{kind}");
    }
    let other = ask(&desk, bound("Pod", "q")).await.refused(400);
    assert!(other.contains("cannot bind token for serviceaccount \"robot\" to pod running with"), "{other}");
    ask(&desk, bound("Pod", "none")).await.refused(404);
    let odd = ask(&desk, bound("ConfigMap", "x")).await.refused(400);
    assert_eq!(odd, "cannot bind token to object of type /v1, Kind=ConfigMap");
}

/// A session dies with whom it is of: one that went on would show what they may not see any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_whom_it_is_of() {
    let desk = with_robot().await;
    let group = "rbac.authorization.k8s.io";
    let binding = json!({"metadata": {"name": "view"}, "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "view"}});
    let bindings = format!("/apis/{group}/v1/namespaces/default/rolebindings");
    desk.call("POST", &bindings, Some(binding)).await.expect(201);
    let token = token(&desk, json!({})).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut watch = desk.watch_with(&token, &format!("{maps}?watch=1")).await;
    let user = desk
        .tokens
        .issue(&Claims { groups: vec!["system:masters".to_owned()], ..Claims::new("ann", "7", 600) });
    let user = user.expect("a token");
    let mut anns = desk.watch_with(&user, &format!("{maps}?watch=1")).await;
    desk.call("DELETE", ROBOT, None).await.expect(200);
    assert_eq!(with(&desk, &token, maps).await, 401);
    assert_eq!(watch.next().await, None);
    desk.call("POST", maps, Some(json!({"metadata": {"name": "late"}}))).await.expect(201);
    assert_eq!(anns.step().await, ("ADDED".to_owned(), "late".to_owned()));
    desk.tokens.revocations().revoke_user("ann", u64::MAX).expect("room");
    assert_eq!(anns.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_checked() {
    let desk = with_robot().await;
    for (seconds, why) in [(599, "less than 10 minutes"), ((1_i64 << 32) + 1, "larger than 2^32 seconds")] {
        let message = ask(&desk, json!({"expirationSeconds": seconds})).await.refused(422);
        assert!(
            message.contains(&format!("spec.expirationSeconds: Invalid value: {seconds}: may not")),
            "{message}"
        );
        assert!(message.contains(why), "{message}");
    }
    ask(&desk, json!({"expirationSeconds": 1_i64 << 32})).await.expect(201);
    let send = |metadata: Value| {
        desk.call(
            "POST",
            "/api/v1/namespaces/default/serviceaccounts/robot/token",
            Some(json!({"metadata": metadata})),
        )
    };
    assert!(send(json!({"name": "x"})).await.refused(422).contains("must match the service account name"));
    assert!(send(json!({"uid": "x"})).await.refused(409).contains("the UID in the token request (x)"));
    desk.call("POST", &format!("{ACCOUNTS}/none/token"), Some(json!({}))).await.refused(404);
    let mut pod = json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": "s", "uid": "x"}});
    let secret = json!({"metadata": {"name": "s"}});
    desk.call("POST", "/api/v1/namespaces/default/secrets", Some(secret)).await.expect(201);
    ask(&desk, pod.clone()).await.refused(409);
    pod["boundObjectRef"]["apiVersion"] = json!("apps/v1");
    ask(&desk, pod).await.refused(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_find_what_verifies_a_token_also_after_a_restart() {
    let desk = with_robot().await;
    let token = token(&desk, json!({})).await;
    let host = [("host", "cloud:6443")];
    let path = "/.well-known/openid-configuration";
    let about = desk.send(crate::support::admin(), "GET", path, "", &host, String::new()).await.expect(200);
    assert_eq!(about["issuer"], ISSUER);
    assert_eq!(about["jwks_uri"], "https://cloud:6443/openid/v1/jwks");
    let keys = desk.call("GET", "/openid/v1/jwks", None).await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    let keys = keys.expect(200);
    let header = token.split('.').next().expect("a header");
    let header = URL_SAFE_NO_PAD.decode(header).expect("is base64");
    let header: Value = serde_json::from_slice(&header).expect("is JSON");
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);
    let dir = desk.close().await;
    let desk = Desk::open(dir.path()).await;
    assert_eq!(with(&desk, &token, "/openid/v1/jwks").await, 200);
    assert_eq!(desk.call("GET", "/openid/v1/jwks", None).await.expect(200), keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_tokens_of_its_own_pods_alone() {
    let desk = with_robot().await;
    let token = |audience: &str| json!({"serviceAccountToken": {"path": "t", "audience": audience}});
    let volume = json!({"name": "v", "projected": {"sources": [token("vault"), token("")]}});
    let spec = json!({"serviceAccountName": "robot", "nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        "volumes": [volume]});
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    let pod = desk.call("POST", "/api/v1/namespaces/default/pods", Some(pod)).await.expect(201);
    let uid = pod["metadata"]["uid"].clone();
    let bound = |uid: &Value| json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
    // Somebody let it ask for another audience than those of its Pods.
    let group = "rbac.authorization.k8s.io";
    let rule = json!({"apiGroups": [""], "resources": ["shop"], "verbs": ["request-serviceaccounts-token-audience"], "resourceNames": ["robot"]});
    let role = json!({"metadata": {"name": "shop"}, "rules": [rule]});
    desk.call("POST", &format!("/apis/{group}/v1/clusterroles"), Some(role)).await.expect(201);
    let binding = json!({"metadata": {"name": "shop"}, "subjects": [{"kind": "Group", "name": "system:nodes", "apiGroup": group}],
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "shop"}});
    desk.call("POST", &format!("/apis/{group}/v1/clusterrolebindings"), Some(binding)).await.expect(201);
    for (node, spec, refusal) in [
        ("n1", json!({"boundObjectRef": bound(&uid), "audiences": ["shop"]}), None),
        (
            "n1",
            json!({"boundObjectRef": bound(&uid), "audiences": ["vault", ""]}),
            Some("may only request 0 or 1 audiences"),
        ),
        ("n1", json!({"boundObjectRef": bound(&uid)}), None),
        ("n1", json!({"boundObjectRef": bound(&uid), "audiences": ["vault"]}), None),
        (
            "n1",
            json!({"boundObjectRef": bound(&uid), "audiences": ["bank"]}),
            Some("audience \"bank\" not found"),
        ),
        ("n1", json!({"boundObjectRef": bound(&Value::Null)}), Some("without a uid")),
        ("n1", json!({}), Some("not bound to a pod")),
        ("n2", json!({"boundObjectRef": bound(&uid)}), Some("no relationship found between node 'n2'")),
    ] {
        let user = Some(UserInfo::authenticated(format!("system:node:{node}"), ["system:nodes"]));
        let body = json!({"spec": spec}).to_string();
        let path = format!("{ROBOT}/token");
        let answer = desk.send(user, "POST", &path, "application/json", &[], body).await;
        match refusal {
            None => drop(answer.expect(201)),
            Some(why) => assert!(answer.refused(403).contains(why), "{spec}"),
        }
    }
}
