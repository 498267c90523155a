//! Options of lists and watches: which go together, and what is said where they do not.

use serde_json::json;

use crate::support::Desk;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const FORBIDDEN: &str = "resourceVersionMatch: Forbidden: ";

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_go_together_is_refused_in_kubernetes_words() {
    let desk = Desk::new().await;
    for (query, wanted) in [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersionMatch=NotOlderThan&resourceVersion=5&continue=x",
            "resourceVersionMatch is forbidden when continue is provided",
        ),
        (
            "watch=1&sendInitialEvents=true",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=1",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    ] {
        let message = desk.call("GET", &format!("{MAPS}?{query}"), None).await.refused(422);
        assert_eq!(message, format!("ListOptions.meta.k8s.io \"\" is invalid: {FORBIDDEN}{wanted}"));
    }
    for (query, part) in [
        (
            "resourceVersionMatch=Odd&resourceVersion=1",
            "resourceVersionMatch: Unsupported value: \"Odd\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        ("sendInitialEvents=false", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        (
            "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact",
            "Unsupported value: \"Exact\": supported values: \"NotOlderThan\"",
        ),
    ] {
        let message = desk.call("GET", &format!("{MAPS}?{query}"), None).await.refused(422);
        assert!(message.contains(part), "{query}: {message}");
    }
    // Kubernetes has no better code for this one.
    let unread = desk.call("GET", &format!("{MAPS}?watch=1&resourceVersion=x"), None).await.refused(500);
    assert!(unread.starts_with("resourceVersion: Invalid value: \"x\": strconv.ParseUint"), "{unread}");
    let answer = desk.call("GET", &format!("{MAPS}?continue=e30"), None).await;
    assert!(answer.refused(400).contains("invalid continue token"));
    // Refusals come in the form that was asked for.
    let refused = desk.get_as(&format!("{MAPS}?watch=1"), "application/yaml").await;
    assert_eq!(refused.status.as_u16(), 406);
    assert_eq!(refused.headers["content-type"], "application/yaml");
    assert!(refused.text.contains("reason: NotAcceptable"), "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_not_reached_says_so_in_a_cause() {
    let desk = Desk::new().await;
    for more in ["", "&resourceVersionMatch=Exact", "&timeoutSeconds=1"] {
        let query = format!("resourceVersion=99999999{more}");
        let answer = desk.call("GET", &format!("{MAPS}?{query}"), None).await;
        assert_eq!(answer.headers["retry-after"], "1");
        let status = answer.expect(504);
        assert_eq!(status["details"]["retryAfterSeconds"], 1);
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_whose_history_is_gone_says_how_to_go_on() {
    use yunfan_store::Store;
    let desk = Desk::new().await;
    for name in ["a", "b", "c"] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        desk.call("POST", MAPS, Some(object)).await.expect(201);
    }
    let page = desk.call("GET", &format!("{MAPS}?limit=1"), None).await.expect(200);
    let token = page["metadata"]["continue"].as_str().expect("a token").to_owned();
    // The snapshots that the cache keeps go with the process; the store's history goes by compaction.
    let dir = desk.close().await;
    let desk = Desk::open(dir.path()).await;
    desk.call("DELETE", &format!("{MAPS}/b"), None).await.expect(200);
    let page = desk.call("GET", &format!("{MAPS}?limit=1&continue={token}"), None).await.expect(200);
    assert_eq!(page["items"][0]["metadata"]["name"], "b", "the page is of the first page's moment");
    let now = desk.store.revision().await.expect("a revision");
    desk.store.compact(now).await.expect("compacts");
    let status = desk.call("GET", &format!("{MAPS}?limit=1&continue={token}"), None).await.expect(410);
    assert_eq!(status["reason"], "Expired");
    let next = status["metadata"]["continue"].as_str().expect("a token to go on with");
    let page = desk.call("GET", &format!("{MAPS}?limit=5&continue={next}"), None).await.expect(200);
    assert_eq!(page["items"][0]["metadata"]["name"], "c", "what there is now, from the same place on");
    let exact = desk.call("GET", &format!("{MAPS}?resourceVersion=2&resourceVersionMatch=Exact"), None).await;
    assert_eq!(exact.refused(410), "The resourceVersion for the provided list is too old.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_as_the_cache_has_it_is_never_paged() {
    let desk = Desk::new().await;
    for name in ["a", "b"] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        desk.call("POST", MAPS, Some(object)).await.expect(201);
    }
    let whole = |query: &'static str| {
        let desk = &desk;
        async move {
            let list = desk.call("GET", &format!("{MAPS}?{query}"), None).await.expect(200);
            list["items"].as_array().map(Vec::len).expect("items")
        }
    };
    // Every namespace has its ConfigMap of the cluster's CA.
    assert!(whole("limit=1&resourceVersion=0").await >= 2);
    assert_eq!(whole("limit=1").await, 1);
    assert!(whole("limit=-1").await >= 2);
}
