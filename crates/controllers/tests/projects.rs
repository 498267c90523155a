//! Projects and their namespaces, through the API.

mod support;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use support::{Cloud, SPACE, start, until_some};
use yunfan_resources::iam::Project;
use yunfan_resources::names::{POD_SECURITY_LABEL, PROJECT_LABEL};

/// The labels of a namespace once it is a project's.
async fn owned(cloud: &Cloud, name: &str) -> Value {
    let namespaces = Api::<Namespace>::all(cloud.client.clone());
    until_some(&format!("namespace {name} did not become a project's"), async || {
        let namespace = namespaces.get_opt(name).await.expect("an answer");
        let labels = json!(namespace.and_then(|namespace| namespace.metadata.labels));
        if labels[PROJECT_LABEL] == *name { Ok(labels) } else { Err(labels) }
    })
    .await
}

async fn make_abroad(cloud: &Cloud, namespace: &str) -> kube::Result<Pod> {
    let spec = json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]});
    let pod = json!({"metadata": {"name": "abroad"}, "spec": spec});
    let pod = serde_json::from_value(pod).expect("a Pod");
    Api::<Pod>::namespaced(cloud.client.clone(), namespace).create(&PostParams::default(), &pod).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projects_pods_are_kept_from_the_node_and_an_operators_are_not() {
    let cloud = start(&["n1"]).await;
    let project = json!({"metadata": {"name": "stranger"}, "spec": {"displayName": "stranger", "domain": "default", "enabled": true}});
    let project = serde_json::from_value(project).expect("a project");
    let projects = Api::<Project>::all(cloud.client.clone());
    projects.create(&PostParams::default(), &project).await.expect("a created project");

    assert_eq!(owned(&cloud, "stranger").await[POD_SECURITY_LABEL], "baseline");
    let refused = make_abroad(&cloud, "stranger").await.expect_err("a refusal").to_string();
    assert!(refused.contains("violates PodSecurity \"baseline:latest\""), "{refused}");
    // The test made this one, as an operator would.
    assert_eq!(owned(&cloud, SPACE).await[POD_SECURITY_LABEL], Value::Null);
    make_abroad(&cloud, SPACE).await.expect("a created Pod");
}
