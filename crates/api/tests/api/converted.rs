//! Kinds whose definition changes, or goes, while they are listed and watched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use yunfan_identity::pki;

use crate::hooks::{Server, configure};
use crate::support::Desk;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const ONE: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gauges.example.com";
const V1: &str = "/apis/example.com/v1/namespaces/default/gauges";
const V2: &str = "/apis/example.com/v2/namespaces/default/gauges";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Two versions with one field each, whose names differ; stored is the first.
fn definition() -> Value {
    let version = |name: &str, field: &str| {
        json!({"name": name, "served": true, "storage": name == "v1",
            "selectableFields": [{"jsonPath": format!(".spec.{field}")}],
            "additionalPrinterColumns": [{"name": "Value", "type": "integer", "jsonPath": format!(".spec.{field}")}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {field: {"type": "integer"}}}}}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gauges.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "gauges", "singular": "gauge", "kind": "Gauge", "listKind": "GaugeList"},
            "versions": [version("v1", "low"), version("v2", "high")]}})
}

fn gauge(name: &str, value: u32) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Gauge", "metadata": {"name": name}, "spec": {"low": value}})
}

/// Renames the field as the version has it, and counts what it was asked.
async fn convert(State(asked): State<Arc<AtomicUsize>>, body: Bytes) -> axum::Json<Value> {
    asked.fetch_add(1, Ordering::Relaxed);
    let review: Value = serde_json::from_slice(&body).expect("a review");
    let wanted = &review["request"]["desiredAPIVersion"];
    let mut objects = review["request"]["objects"].clone();
    for object in objects.as_array_mut().expect("objects") {
        let [from, to] = if wanted == "example.com/v2" { ["low", "high"] } else { ["high", "low"] };
        object["apiVersion"] = wanted.clone();
        let spec = object["spec"].as_object_mut().expect("a spec");
        let value = spec.remove(from).unwrap_or_default();
        spec.insert(to.to_owned(), value);
    }
    axum::Json(json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": {
        "uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects}}))
}

/// Defines the kind with a hook that listens over TLS; gives how often that was asked.
async fn hooked(desk: &Desk) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/convert", listener.local_addr().expect("an address"));
    let identity = desk.authority.issue_server("hook", &["127.0.0.1"], 1).expect("a certificate");
    let tls = pki::server_config(&identity, None).expect("a TLS configuration");
    let router = Router::new().fallback(convert).with_state(asked.clone());
    tokio::spawn(yunfan_serve::serve_tls(listener, Arc::new(tls), router, std::future::pending()));
    let bundle = STANDARD.encode(desk.authority.certificate_pem());
    let mut made = definition();
    made["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"], "clientConfig": {"url": url, "caBundle": bundle}}});
    desk.call("POST", CRDS, Some(made)).await.expect(201);
    asked
}

fn revision(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().expect("a revision")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_is_asked_once_for_all_that_a_watch_has_to_show() {
    let desk = Desk::new().await;
    let asked = hooked(&desk).await;
    let first = desk.call("POST", V1, Some(gauge("a", 0))).await.expect(201);
    for value in 1..6 {
        let body = json!({"spec": {"low": value}}).to_string();
        desk.patch("merge-patch+json", &format!("{V1}/a"), body).await.expect(200);
    }
    desk.call("DELETE", &format!("{V1}/a"), None).await.expect(200);
    assert_eq!(asked.load(Ordering::Relaxed), 0, "the version that is stored needs no hook");
    let mut watch = desk.watch(&format!("{V2}?watch=1&resourceVersion={}", revision(&first))).await;
    for value in 1..6 {
        let event = watch.next().await.expect("an event");
        assert_eq!((&event["type"], &event["object"]["spec"]), (&json!("MODIFIED"), &json!({"high": value})));
        assert_eq!(event["object"]["apiVersion"], "example.com/v2");
    }
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["spec"]), (&json!("DELETED"), &json!({"high": 5})));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_by_a_field_that_only_one_version_has_are_one_snapshot() {
    let desk = Desk::new().await;
    hooked(&desk).await;
    for (name, value) in [("a", 1), ("b", 1), ("c", 2), ("d", 1), ("e", 1)] {
        desk.call("POST", V1, Some(gauge(name, value))).await.expect(201);
    }
    let list = format!("{V2}?fieldSelector=spec.high%3D1&limit=2");
    let mut page = desk.call("GET", &list, None).await.expect(200);
    let (mut seen, at) = (Vec::new(), revision(&page).to_owned());
    desk.call("DELETE", &format!("{V1}/d"), None).await.expect(200);
    desk.patch("merge-patch+json", &format!("{V1}/e"), r#"{"spec":{"low":7}}"#).await.expect(200);
    loop {
        assert_eq!(revision(&page), at);
        let items = page["items"].as_array().expect("items");
        seen.extend(
            items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()),
        );
        let Some(token) = page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) else {
            break;
        };
        page = desk.call("GET", &format!("{list}&continue={token}"), None).await.expect(200);
    }
    assert_eq!(seen, ["a", "b", "d", "e"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_watch_shows_the_kind_as_it_is_defined_now() {
    let desk = Desk::new().await;
    desk.call("POST", CRDS, Some(definition())).await.expect(201);
    let made = desk.call("POST", V1, Some(gauge("a", 1))).await.expect(201);
    let mut watch = desk.watch_as(&format!("{V1}?watch=1&resourceVersion={}", revision(&made)), TABLE).await;
    desk.patch("merge-patch+json", &format!("{V1}/a"), r#"{"spec":{"low":2}}"#).await.expect(200);
    let cells = |event: &Value| event["object"]["rows"][0]["cells"].clone();
    assert_eq!(cells(&watch.next().await.expect("an event")), json!(["a", 2]));
    // All of it is there before the watch goes on, so that it never waits in between.
    let columns = r#"[{"op":"replace","path":"/spec/versions/0/additionalPrinterColumns","value":[
        {"name":"Kind","type":"string","jsonPath":".kind"}]}]"#;
    desk.patch("json-patch+json", ONE, columns).await.expect(200);
    desk.patch("merge-patch+json", &format!("{V1}/a"), r#"{"spec":{"low":3}}"#).await.expect(200);
    let event = watch.next().await.expect("an event");
    assert_eq!(cells(&event), json!(["a", "Gauge"]));
    assert_eq!(event["object"]["columnDefinitions"][1]["name"], "Kind", "the columns are told anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_of_each_deletion_before_it_ends_with_its_definition() {
    let desk = Desk::new().await;
    desk.call("POST", CRDS, Some(definition())).await.expect(201);
    let made = desk.call("POST", V1, Some(gauge("a", 1))).await.expect(201);
    let path = format!("{V1}?watch=1&resourceVersion={}", revision(&made));
    let mut watches = Vec::new();
    for _ in 0..16 {
        let mut watch = desk.watch(&path).await;
        // Each waits for whatever comes first.
        assert!(futures::poll!(Box::pin(watch.next())).is_pending());
        watches.push(watch);
    }
    desk.call("DELETE", ONE, None).await.expect(200);
    let gone = async {
        while desk.call("GET", ONE, None).await.status.as_u16() != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("the definition goes");
    for watch in &mut watches {
        assert_eq!(watch.step().await, ("DELETED".to_owned(), "a".to_owned()));
        assert!(watch.next().await.is_none(), "it ends behind that");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_see_the_same_version_share_one_conversion() {
    let desk = Desk::new().await;
    let asked = hooked(&desk).await;
    let server = Server::start(&desk).await;
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v2"], "resources": ["gauges"]});
    let mut hooks = [server.hook("allow", &[], json!({"rules": [rule]})), Value::Null];
    hooks[1] = hooks[0].clone();
    hooks[1]["name"] = json!("other.example.com");
    configure(&desk, "ValidatingWebhookConfiguration", "v", json!(hooks)).await;
    let before = asked.load(Ordering::Relaxed);
    desk.call("POST", V1, Some(gauge("a", 7))).await.expect(201);
    assert_eq!(asked.load(Ordering::Relaxed), before + 1);
    let seen: Vec<Value> =
        server.take().into_iter().map(|(_, review)| review["request"]["object"]["spec"].clone()).collect();
    assert_eq!(seen, [json!({"high": 7}), json!({"high": 7})]);
}
