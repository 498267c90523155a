//! History that the store has forgotten.

use std::time::Duration;

use serde_json::{Value, json};
use yunfan_api::ApiConfig;

use crate::support::Desk;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("items");
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_forgotten_revision_are_refused_and_the_list_goes_on_as_it_is_now() {
    let config = ApiConfig { compaction_interval: Duration::from_millis(20), ..ApiConfig::default() };
    let desk = Desk::with(config).await;
    for name in ["a", "b", "c", "d", "e"] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        desk.call("POST", MAPS, Some(object)).await.expect(201);
    }
    let page = desk.call("GET", &format!("{MAPS}?limit=2"), None).await.expect(200);
    assert_eq!(names(&page), ["a", "b"]);
    let (first, token) = (&page["metadata"]["resourceVersion"], page["metadata"]["continue"].as_str());
    let next = format!("{MAPS}?limit=2&continue={}", token.expect("a token"));
    let exact =
        format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={}", first.as_str().expect("a revision"));
    // The kind itself does not change any more: what is refused is what the cache could still answer.
    let other = "/api/v1/namespaces/default/secrets";
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    desk.call("POST", other, Some(object)).await.expect(201);
    let status = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let answer = desk.call("GET", &next, None).await;
            if answer.status.as_u16() != 200 {
                return answer.expect(410);
            }
            assert_eq!(names(&answer.body), ["c", "d"]);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let status = status.await.expect("the revision is forgotten");
    assert_eq!((&status["reason"], &status["status"]), (&json!("Expired"), &json!("Failure")));
    let message = status["message"].as_str().expect("a message");
    assert!(
        message.starts_with("The provided continue parameter is too old to display a consistent list"),
        "{message}"
    );
    let message = desk.call("GET", &exact, None).await.refused(410);
    assert_eq!(message, "The resourceVersion for the provided list is too old.");

    let token = status["metadata"]["continue"].as_str().expect("a token to go on with");
    let page = desk.call("GET", &format!("{MAPS}?limit=2&continue={token}"), None).await.expect(200);
    assert_eq!(names(&page), ["c", "d"]);
    let rest = page["metadata"]["remainingItemCount"].as_u64().expect("a number");
    assert_ne!(&page["metadata"]["resourceVersion"], first, "it is of now");
    let token = page["metadata"]["continue"].as_str().expect("a token");
    let page = desk.call("GET", &format!("{MAPS}?continue={token}"), None).await.expect(200);
    assert_eq!((names(&page)[0], names(&page).len() as u64), ("e", rest));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_all_history_has_it() {
    let desk = Desk::with(ApiConfig { compaction_interval: Duration::ZERO, ..ApiConfig::default() }).await;
    let exact = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion=2");
    desk.call("GET", &exact, None).await.expect(200);
}
