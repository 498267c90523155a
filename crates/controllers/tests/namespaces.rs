//! Namespaces that go away, through the API.

mod support;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use support::{SPACE, start, until_some};

/// A server that is away may hold objects of the namespace: it waits, and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_waits_for_servers_that_are_away() {
    let cloud = start(&["n1"]).await;
    let away = json!({"metadata": {"name": "v1.away.example.com"}, "spec": {"group": "away.example.com", "version": "v1",
        "groupPriorityMinimum": 100, "versionPriority": 10, "insecureSkipTLSVerify": true,
        "service": {"namespace": SPACE, "name": "none", "port": 443}}});
    let services = Api::<APIService>::all(cloud.client.clone());
    let away = serde_json::from_value(away).expect("an APIService");
    services.create(&PostParams::default(), &away).await.expect("a created APIService");
    let namespaces = Api::<Namespace>::all(cloud.client.clone());
    namespaces.delete(SPACE, &DeleteParams::default()).await.expect("a marked namespace");
    let what = "the namespace does not say what it waits for";
    let why = until_some(what, async || {
        let namespace = json!(namespaces.get(SPACE).await.expect("it is there"));
        let conditions = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let failed =
            |one: &&Value| one["type"] == "NamespaceDeletionDiscoveryFailure" && one["status"] == "True";
        conditions.iter().find(failed).cloned().ok_or(namespace)
    })
    .await;
    let message = why["message"].as_str().unwrap_or_default();
    assert!(message.contains("stale GroupVersion discovery: away.example.com/v1"), "{message}");

    services.delete("v1.away.example.com", &DeleteParams::default()).await.expect("a deleted APIService");
    until_some("the namespace does not go", async || {
        match namespaces.get_opt(SPACE).await.expect("an answer") {
            None => Ok(()),
            Some(still) => Err(json!(still)),
        }
    })
    .await;
}
