//! Watches.

use serde_json::json;
use yunfan_store::Store;

use crate::support::Desk;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(desk: &Desk, name: &str, label: &str) -> String {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"l": label}}});
    let made = desk.call("POST", MAPS, Some(object)).await.expect(201);
    made["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned()
}

fn step(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_revision_every_change_comes_once_and_in_order() {
    let desk = Desk::new().await;
    let revision = make(&desk, "a", "x").await;
    make(&desk, "b", "x").await;
    let mut watch = desk.watch(&format!("{MAPS}?watch=true&resourceVersion={revision}")).await;
    assert_eq!(watch.step().await, step("ADDED", "b"));
    desk.patch("merge-patch+json", &format!("{MAPS}/a"), r#"{"data":{"k":"v"}}"#).await.expect(200);
    assert_eq!(watch.step().await, step("MODIFIED", "a"));
    desk.call("DELETE", &format!("{MAPS}/b"), None).await.expect(200);
    let event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("b")));
    // The deletion's own revision, so that a watch can go on from it.
    let at = event["object"]["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    make(&desk, "c", "x").await;
    let mut later = desk.watch(&format!("{MAPS}?watch=true&resourceVersion={at}")).await;
    assert_eq!(later.step().await, step("ADDED", "c"));
    // Another namespace's objects do not show.
    desk.namespace("other").await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "z"}});
    desk.call("POST", "/api/v1/namespaces/other/configmaps", Some(object)).await.expect(201);
    make(&desk, "d", "x").await;
    assert_eq!(later.step().await, step("ADDED", "d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_makes_objects_come_and_go() {
    let desk = Desk::new().await;
    let revision = make(&desk, "a", "out").await;
    let mut watch =
        desk.watch(&format!("{MAPS}?watch=1&labelSelector=l%3Din&resourceVersion={revision}")).await;
    let label = |value: &str| format!(r#"{{"metadata":{{"labels":{{"l":"{value}"}}}}}}"#);
    let path = format!("{MAPS}/a");
    desk.patch("merge-patch+json", &path, label("in")).await.expect(200);
    assert_eq!(watch.step().await, step("ADDED", "a"));
    desk.patch("merge-patch+json", &path, r#"{"data":{"k":"v"}}"#).await.expect(200);
    assert_eq!(watch.step().await, step("MODIFIED", "a"));
    desk.patch("merge-patch+json", &path, label("out")).await.expect(200);
    let event = watch.next().await.expect("an event");
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["l"], "in", "shown as it was when it last matched");
    desk.call("DELETE", &path, None).await.expect(200);
    make(&desk, "b", "in").await;
    assert_eq!(watch.step().await, step("ADDED", "b"), "a deletion of what did not match does not show");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_list_ends_with_a_bookmark() {
    let desk = Desk::new().await;
    make(&desk, "a", "x").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = desk.watch(&format!("{MAPS}?{query}&timeoutSeconds=3")).await;
    assert_eq!(watch.step().await, step("ADDED", "a"));
    let mark = watch.next().await.expect("a bookmark");
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(mark["object"]["kind"], "ConfigMap");
    make(&desk, "b", "x").await;
    assert_eq!(watch.step().await, step("ADDED", "b"));
    let end = watch.next().await.expect("a last bookmark");
    assert_eq!(end["type"], "BOOKMARK");
    assert!(watch.next().await.is_none(), "timeoutSeconds ends it");
    // A last word comes two seconds before the end, or not at all, as with kube-apiserver.
    let query = "watch=1&resourceVersion=0&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    let brief = format!("{MAPS}?{query}&allowWatchBookmarks=true&timeoutSeconds=1");
    assert!(desk.watch(&brief).await.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_without_revision_begins_with_what_is_there() {
    let desk = Desk::new().await;
    make(&desk, "a", "x").await;
    for query in ["watch=1", "watch=1&resourceVersion=0"] {
        let mut watch = desk.watch(&format!("{MAPS}?{query}")).await;
        assert_eq!(watch.step().await, step("ADDED", "a"));
    }
    // A watch on one object, which only the old path asks for: the other one is that of a read.
    desk.call("GET", &format!("{MAPS}/b?watch=1"), None).await.refused(404);
    let mut watch = desk.watch("/api/v1/watch/namespaces/default/configmaps/b").await;
    make(&desk, "c", "x").await;
    make(&desk, "b", "x").await;
    assert_eq!(watch.step().await, step("ADDED", "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_over_a_restart_until_its_history_is_gone() {
    let desk = Desk::new().await;
    let from = make(&desk, "a", "x").await;
    make(&desk, "b", "y").await;
    let label = r#"{"metadata":{"labels":{"l":"y"}}}"#;
    desk.patch("merge-patch+json", &format!("{MAPS}/a"), label).await.expect(200);
    desk.call("DELETE", &format!("{MAPS}/b"), None).await.expect(200);
    let dir = desk.close().await;
    let desk = Desk::open(dir.path()).await;
    let mut all = desk.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let mut some = desk.watch(&format!("{MAPS}?watch=1&labelSelector=l%3Dx&resourceVersion={from}")).await;
    let last = make(&desk, "c", "x").await;
    for wanted in [step("ADDED", "b"), step("MODIFIED", "a"), step("DELETED", "b"), step("ADDED", "c")] {
        assert_eq!(all.step().await, wanted);
    }
    assert_eq!(some.step().await, step("DELETED", "a"), "it no longer matched");
    assert_eq!(some.step().await, step("ADDED", "c"));

    desk.store.compact(last.parse().expect("a number")).await.expect("compacts");
    // In the stream: clients start over only when it is told there.
    let answer = desk.call("GET", &format!("{MAPS}?watch=1&resourceVersion={from}"), None).await.expect(200);
    assert_eq!((&answer["type"], &answer["object"]["code"]), (&"ERROR".into(), &410.into()), "{answer}");
    assert_eq!(answer["object"]["reason"], "Expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn informers_of_kube_rs_work_in_process() {
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::{WatchStreamExt, watcher};
    let desk = Desk::new().await;
    make(&desk, "a", "x").await;
    let client = desk.api.handle().client_as(crate::support::admin().expect("the admin"));
    let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client, "default");
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut stream = Box::pin(watcher(maps.clone(), config).applied_objects());
        let first = stream.next().await.expect("an event").expect("no error");
        assert_eq!(first.metadata.name.as_deref(), Some("a"));
        desk.patch("merge-patch+json", &format!("{MAPS}/a"), r#"{"data":{"k":"v"}}"#).await.expect(200);
        let second = stream.next().await.expect("an event").expect("no error");
        assert!(second.data.is_some());
        desk.patch("merge-patch+json", &format!("{MAPS}/a"), r#"{"data":null}"#).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_paths_of_watches_are_served() {
    let desk = Desk::new().await;
    make(&desk, "a", "x").await;
    make(&desk, "b", "x").await;
    let mut one = desk.watch("/api/v1/watch/namespaces/default/configmaps/b").await;
    assert_eq!(one.step().await, step("ADDED", "b"));
    let mut all = desk.watch("/api/v1/watch/namespaces/default/configmaps").await;
    assert_eq!(all.step().await, step("ADDED", "a"));
    desk.call("POST", "/api/v1/watch/configmaps", Some(json!({}))).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_table_tells_its_columns_once() {
    let desk = Desk::new().await;
    make(&desk, "a", "x").await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = desk.watch_as(&format!("{MAPS}?watch=1&labelSelector=l%3Dx"), table).await;
    let first = watch.next().await.expect("an event");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    make(&desk, "b", "x").await;
    let second = watch.next().await.expect("an event");
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["object"]["metadata"]["name"], "b");
    // What a bookmark tells stands in the object of its only row.
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = desk.watch_as(&format!("{MAPS}?{query}&labelSelector=l%3Dnone"), table).await;
    let mark = watch.next().await.expect("a bookmark");
    let row = &mark["object"]["rows"][0];
    assert_eq!((&mark["type"], &row["cells"][0]), (&json!("BOOKMARK"), &json!("")));
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], row["object"]["metadata"]["resourceVersion"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_may_begin_at_a_revision_that_is_still_to_come() {
    let desk = Desk::new().await;
    let now: u64 = make(&desk, "a", "x").await.parse().expect("a number");
    let mut watch = desk.watch(&format!("{MAPS}?watch=1&resourceVersion={}", now + 1)).await;
    make(&desk, "b", "x").await;
    make(&desk, "c", "x").await;
    assert_eq!(watch.step().await, step("ADDED", "c"), "nothing up to the revision comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_is_too_slow_is_let_go_and_counted() {
    let desk = Desk::new().await;
    make(&desk, "a", "x").await;
    // Nobody reads it while more is written than is kept for the slow.
    let mut watch = desk.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Da")).await;
    for number in 0..40 {
        let text = number.to_string().repeat(500_000);
        let patch = json!({ "data": { "large": text } });
        desk.patch("merge-patch+json", &format!("{MAPS}/a"), patch.to_string()).await.expect(200);
    }
    while let Some(frame) = watch.frame().await {
        assert!(!frame.contains("ERROR"), "it only ends, and its client goes on from the last event");
    }
    let metrics = desk.call("GET", "/metrics", None).await.text;
    let counted = "apiserver_terminated_watchers_total{group=\"\",version=\"v1\",resource=\"configmaps\"} 1";
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}
