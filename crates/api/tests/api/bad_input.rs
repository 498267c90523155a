//! What can't be understood is refused with the field at fault.

use serde_json::json;

use crate::support::{Desk, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_make_no_sense() {
    let desk = Desk::new().await;
    let post = |content_type: &'static str, body: &str| {
        desk.send(admin(), "POST", MAPS, content_type, &[], body.to_owned())
    };
    post("application/json", "{").await.refused(400);
    post("application/json", "").await.refused(400);
    post("application/json", "[]").await.refused(400);
    post("application/yaml", "a: [").await.refused(400);
    post("application/vnd.kubernetes.protobuf", "k8s").await.refused(400);
    post("application/cbor", "k8s").await.refused(415);
    post("application/json", &"[".repeat(100_000)).await.refused(400);
    post("application/json", &format!("\"{}\"", "x".repeat(4 << 20))).await.refused(413);
    let other = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#;
    post("application/json", other).await.refused(400);
    let other = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"elsewhere"}}"#;
    post("application/json", other).await.refused(400);
    let made = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  a: '1'\n";
    post("application/yaml", made).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_are_wrong() {
    let desk = Desk::new().await;
    let create = |object: serde_json::Value| desk.call("POST", MAPS, Some(object));
    let base = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    for name in ["Upper", "a_b", "-a", ""] {
        let message = create(base(name)).await.refused(422);
        assert!(message.contains("metadata.name") || message.contains("name or generateName"), "{message}");
    }
    let mut wrong = base("a");
    wrong["data"] = json!({"a": 1});
    assert!(create(wrong).await.refused(400).contains("data"));
    let mut label = base("a");
    label["metadata"]["labels"] = json!({"a b": "c"});
    assert!(create(label).await.refused(422).contains("metadata.labels"));
    create(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": "7"}}),
    )
    .await
    .refused(500);

    let mut unknown = base("unknown");
    unknown["dato"] = json!({"a": "b"});
    let strict = desk.call("POST", &format!("{MAPS}?fieldValidation=Strict"), Some(unknown.clone())).await;
    assert!(strict.refused(400).contains("unknown field \"dato\""));
    let warned = desk.call("POST", MAPS, Some(unknown)).await;
    let warning = warned.headers.get("warning").and_then(|w| w.to_str().ok()).unwrap_or_default().to_owned();
    assert!(warning.contains("unknown field \\\"dato\\\""), "{warning}");
    assert!(warned.expect(201).get("dato").is_none());
    desk.call("POST", &format!("{MAPS}?fieldValidation=Odd"), Some(base("b"))).await.refused(422);
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"t"},"data":{"a":"1","a":"2"}}"#;
    let path = format!("{MAPS}?fieldValidation=Strict");
    let answer = desk.send(admin(), "POST", &path, "application/json", &[], twice.to_owned()).await;
    assert!(answer.refused(400).contains("duplicate field"));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_queries_that_are_wrong() {
    let desk = Desk::new().await;
    desk.call("GET", "/api/v1/namespaces/default/nothings", None).await.refused(404);
    desk.call("GET", "/apis/no.such.group/v1/things", None).await.expect_no_page();
    desk.call("GET", "/nowhere", None).await.expect_no_page();
    desk.call("GET", "/apis/apps/v9", None).await.refused(404);
    desk.call("GET", "/api/v1/namespaces/default/nodes", None).await.refused(404);
    desk.call("POST", "/api/v1/configmaps", Some(json!({"metadata": {"name": "a"}}))).await.refused(405);
    desk.call("GET", "/api/v1/configmaps/a", None).await.refused(404);
    desk.call("DELETE", "/api/v1/configmaps", None).await.refused(405);
    let message = desk.call("DELETE", "/api/v1/namespaces", None).await.refused(405);
    assert_eq!(message, "the server does not allow this method on the requested resource");
    for query in [
        "limit=x",
        "labelSelector=a%3D%3D%3Db",
        "fieldSelector=spec.nothing%3Dx",
        "resourceVersion=abc",
        "continue=abc",
    ] {
        desk.call("GET", &format!("{MAPS}?{query}"), None).await.refused(400);
    }
    desk.call("GET", &format!("{MAPS}?watch=1&sendInitialEvents=true"), None).await.refused(422);
    desk.get_as(MAPS, "text/html").await.refused(406);
    desk.call("PUT", MAPS, Some(json!({}))).await.refused(405);
    let future = desk.call("GET", &format!("{MAPS}?resourceVersion=99999999"), None).await;
    assert!(future.refused(504).contains("Too large resource version"));
    let mismatch = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}});
    desk.call("POST", MAPS, Some(json!({"metadata": {"name": "a"}}))).await.expect(201);
    desk.call("PUT", &format!("{MAPS}/a"), Some(mismatch)).await.refused(400);
}
