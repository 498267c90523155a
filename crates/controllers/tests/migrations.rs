//! Objects that are written anew in the version that their kind is stored in today, through the API.

mod support;

use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use support::{Cloud, SPACE, start, until_some};

const DEFINITION: &str = "things.example.org";

/// The versions of the kind, of which this one is stored.
fn versions(stored: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = |name: &str| {
        json!({"name": name, "served": true, "storage": name == stored,
            "schema": {"openAPIV3Schema": schema}})
    };
    json!([version("v1"), version("v2")])
}

fn definitions(cloud: &Cloud) -> Api<CustomResourceDefinition> {
    Api::all(cloud.client.clone())
}

fn things(cloud: &Cloud) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "example.org".to_owned(),
        version: "v1".to_owned(),
        api_version: "example.org/v1".to_owned(),
        kind: "Thing".to_owned(),
        plural: "things".to_owned(),
    };
    Api::namespaced_with(cloud.client.clone(), SPACE, &resource)
}

async fn make_thing(cloud: &Cloud, name: &str) {
    let thing = json!({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": name}});
    let thing: DynamicObject = serde_json::from_value(thing).expect("a thing");
    until_some("the kind is not served", async || {
        let made = things(cloud).create(&PostParams::default(), &thing).await;
        made.map(|_| ()).map_err(|error| json!(error.to_string()))
    })
    .await;
}

async fn revision(cloud: &Cloud, name: &str) -> String {
    things(cloud).get(name).await.expect("a thing").resource_version().unwrap_or_default()
}

async fn migrate(cloud: &Cloud, name: &str, group: &str, resource: &str) {
    let migration =
        json!({"metadata": {"name": name}, "spec": {"resource": {"group": group, "resource": resource}}});
    let migration = serde_json::from_value(migration).expect("a migration");
    migrations(cloud).create(&PostParams::default(), &migration).await.expect("a made migration");
}

fn migrations(cloud: &Cloud) -> Api<StorageVersionMigration> {
    Api::all(cloud.client.clone())
}

/// The status of a migration once it says this.
async fn told(cloud: &Cloud, name: &str, kind: &str, holds: &str) -> Value {
    until_some(&format!("{name} never says {kind}={holds}"), async || {
        let status = json!(migrations(cloud).get(name).await.expect("a migration"))["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        match conditions.iter().any(|one| one["type"] == kind && one["status"] == holds) {
            true => Ok(status),
            false => Err(status),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_in_an_older_version_is_written_anew() {
    let cloud = start(&[]).await;
    let definition = json!({"metadata": {"name": DEFINITION}, "spec": {"group": "example.org", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": versions("v1")}});
    let definition = serde_json::from_value(definition).expect("a definition");
    definitions(&cloud).create(&PostParams::default(), &definition).await.expect("a made definition");
    make_thing(&cloud, "old").await;
    let stored_in_v2 = Patch::Merge(json!({"spec": {"versions": versions("v2")}}));
    definitions(&cloud).patch(DEFINITION, &PatchParams::default(), &stored_in_v2).await.expect("a change");
    make_thing(&cloud, "new").await;
    let (old, new) = (revision(&cloud, "old").await, revision(&cloud, "new").await);

    migrate(&cloud, "first", "example.org", "things").await;
    migrate(&cloud, "second", "example.org", "things").await;
    for name in ["first", "second"] {
        let status = told(&cloud, name, "Running", "False").await;
        assert_eq!(status["conditions"][0]["reason"], "StorageVersionMigrationSucceeded", "{status}");
        assert!(status["resourceVersion"].as_str().is_some_and(|revision| revision.parse::<u64>().is_ok()));
    }
    assert_ne!(revision(&cloud, "old").await, old, "it was stored in v1");
    assert_eq!(revision(&cloud, "new").await, new, "it was stored in v2");
    let definition = json!(definitions(&cloud).get(DEFINITION).await.expect("a definition"));
    assert_eq!(definition["status"]["storedVersions"], json!(["v2"]));
    let conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let migrating = conditions.iter().find(|condition| condition["type"] == "StorageMigrating");
    assert_eq!(
        migrating.map(|one| (&one["status"], &one["reason"])),
        Some((&json!("False"), &json!("MigrationSucceeded")))
    );

    // Kubernetes' own kinds have no definition; and what nobody has heard of may come yet.
    migrate(&cloud, "own", "", "namespaces").await;
    told(&cloud, "own", "Succeeded", "True").await;
    migrate(&cloud, "unknown", "example.org", "others").await;
    let status = told(&cloud, "unknown", "Running", "True").await;
    assert_eq!(status["conditions"].as_array().map(Vec::len), Some(1), "{status}");
}
