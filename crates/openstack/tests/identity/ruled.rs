//! Application credentials whose tokens are good for some requests alone.

use http::Method;
use serde_json::{Value, json};

use super::{V3, auth};
use crate::support::client::{Client, send, tenant, text};
use crate::support::{PASSWORD, start};

#[tokio::test]
async fn a_ruled_token_is_good_for_what_its_rules_name() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let user = text(&admin.get(&format!("{V3}/users?name=demo")).await["users"][0]["id"]).to_owned();
    let (credentials, rules) =
        (format!("{V3}/users/{user}/application_credentials"), format!("{V3}/users/{user}/access_rules"));
    let wanted = json!([
        {"service": "compute", "method": "GET", "path": "/v2.1/servers/*"},
        {"service": "volumev3", "method": "GET", "path": "/v3/{project}/volumes"},
    ]);
    let body =
        |name: &str, rules: &Value| json!({"application_credential": {"name": name, "access_rules": rules}});
    for wrong in [
        json!({"service": "compute"}),
        json!({"service": "a b", "method": "GET", "path": "/"}),
        json!({"id": "x"}),
    ] {
        assert!(
            [400, 404].contains(&demo.ask("POST", &credentials, body("x", &json!([wrong]))).await.status)
        );
    }
    let made =
        demo.must(201, "POST", &credentials, body("one", &wanted)).await["application_credential"].clone();
    assert_eq!(made["access_rules"][1]["path"], "/v3/{project}/volumes");
    // What is asked for once more is the same rule.
    let again =
        demo.must(201, "POST", &credentials, body("two", &wanted)).await["application_credential"].clone();
    assert_eq!(again["access_rules"], made["access_rules"]);
    let identity = json!({"methods": ["application_credential"], "application_credential": {
        "id": made["id"], "secret": made["secret"]}});
    let signed = auth(&cloud, identity, None).await;
    assert_eq!(signed.body["token"]["application_credential"]["access_rules"], made["access_rules"]);
    let token = signed.headers["x-subject-token"].to_str().expect("a token").to_owned();
    let ruled = Client { router: cloud.router.clone(), token: token.clone() };
    ruled.get("/compute/v2.1/servers/detail").await;
    ruled.get(&format!("/volume/v3/{project}/volumes")).await;
    for (method, path) in [
        ("GET", "/compute/v2.1/servers".to_owned()),
        ("GET", "/compute/v2.1/flavors/detail".to_owned()),
        ("DELETE", "/compute/v2.1/servers/x".to_owned()),
        ("GET", format!("/volume/v3/{project}/snapshots")),
        ("GET", "/volume/v3/volumes".to_owned()),
        ("GET", "/network/v2.0/networks".to_owned()),
    ] {
        assert_eq!(ruled.ask(method, &path, Value::Null).await.status, 401, "{method} {path}");
    }
    // No rule can speak of the Kubernetes API.
    let bearer = format!("Bearer {token}");
    let path = "/api/v1/namespaces/demo/pods";
    let answer =
        send(&cloud.router, Method::GET, path, &[("authorization", bearer.as_str())], Vec::new()).await;
    assert_eq!(answer.status, 401, "{}", answer.body);

    // Rules stay when their credential is gone, and not the other way round.
    let listed = demo.get(&rules).await["access_rules"].clone();
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    let one = format!("{rules}/{}", text(&made["access_rules"][0]["id"]));
    assert_eq!(demo.get(&one).await["access_rule"]["path"], "/v2.1/servers/*");
    demo.must(403, "DELETE", &one, Value::Null).await;
    for credential in [&made, &again] {
        let path = format!("{credentials}/{}", text(&credential["id"]));
        demo.must(204, "DELETE", &path, Value::Null).await;
    }
    let by_id = json!([{"id": made["access_rules"][0]["id"]}]);
    let third =
        demo.must(201, "POST", &credentials, body("three", &by_id)).await["application_credential"].clone();
    assert_eq!(third["access_rules"][0], made["access_rules"][0]);
    assert!([403, 404].contains(&other.ask("GET", &one, Value::Null).await.status));
    demo.must(204, "DELETE", &format!("{credentials}/{}", text(&third["id"])), Value::Null).await;
    demo.must(204, "DELETE", &one, Value::Null).await;
    demo.must(404, "GET", &one, Value::Null).await;
}
