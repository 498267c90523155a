//! What is told of validating policies, through the API.

mod support;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use support::{Cloud, start};

fn policies(cloud: &Cloud) -> Api<ValidatingAdmissionPolicy> {
    Api::all(cloud.client.clone())
}

/// Makes a policy about a kind, with one expression.
async fn make(cloud: &Cloud, name: &str, kind: [&str; 3], params: Value, expression: &str) {
    let [group, version, plural] = kind;
    let rule = json!({"apiGroups": [group], "apiVersions": [version], "resources": [plural], "operations": ["CREATE"]});
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "paramKind": params,
        "validations": [{"expression": expression}]});
    let policy = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a policy");
    policies(cloud).create(&PostParams::default(), &policy).await.expect("a made policy");
}

/// The status of a policy, once its present state was looked at.
async fn checked(cloud: &Cloud, name: &str) -> Value {
    for _ in 0..1500 {
        let policy = json!(policies(cloud).get(name).await.expect("a policy"));
        if policy["status"]["observedGeneration"] == policy["metadata"]["generation"] {
            return policy["status"].clone();
        }
        tokio::time::sleep(support::LOOK).await;
    }
    panic!("policy {name} was never looked at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_tell_what_their_kinds_do_not_have() {
    let cloud = start(&[]).await;
    let deployments = ["apps", "v1", "deployments"];
    make(&cloud, "good", deployments, Value::Null, "object.spec.replicas > 1").await;
    assert_eq!(checked(&cloud, "good").await["typeChecking"], json!({}));
    make(&cloud, "wrong", deployments, Value::Null, "object.spec.replicas > '1'").await;
    let warnings = checked(&cloud, "wrong").await["typeChecking"]["expressionWarnings"].clone();
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    let text = warnings[0]["warning"].as_str().expect("a text");
    assert!(
        text.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload"),
        "{text}"
    );
    // What was mended is told no longer.
    let mended = Patch::Merge(json!({"spec": {"validations": [{"expression": "object.spec.replicas > 2"}]}}));
    policies(&cloud).patch("wrong", &PatchParams::default(), &mended).await.expect("a mended policy");
    assert_eq!(checked(&cloud, "wrong").await["typeChecking"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_kinds_are_known_by_their_definitions() {
    let cloud = start(&[]).await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
    let definition = json!({"metadata": {"name": "things.example.org"}, "spec": {"group": "example.org", "scope": "Cluster",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let definition: CustomResourceDefinition = serde_json::from_value(definition).expect("a definition");
    let all: Api<CustomResourceDefinition> = Api::all(cloud.client.clone());
    all.create(&PostParams::default(), &definition).await.expect("a made definition");
    let things = ["example.org", "v1", "things"];
    make(&cloud, "good", things, Value::Null, "object.spec.size > 1 && object.metadata.labels['a'] == 'b'")
        .await;
    assert_eq!(checked(&cloud, "good").await["typeChecking"], json!({}));
    let params = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    make(&cloud, "wrong", things, params, "object.spec.length > params.date.size()").await;
    let warnings = checked(&cloud, "wrong").await["typeChecking"]["expressionWarnings"].clone();
    let text = warnings[0]["warning"].as_str().expect("a text");
    assert!(text.starts_with("example.org/v1, Kind=Thing: ERROR"), "{text}");
    assert!(text.contains("undefined field 'length'") && text.contains("undefined field 'date'"), "{text}");
    // The definition learns what the policy asks of it, and forgets what another does.
    let told = async |name: &str, wanted: &str| {
        for _ in 0..1500 {
            let text = checked(&cloud, name).await["typeChecking"].to_string();
            if if wanted.is_empty() { text == "{}" } else { text.contains(wanted) } {
                return;
            }
            tokio::time::sleep(support::LOOK).await;
        }
        panic!("policy {name} never told of {wanted:?}");
    };
    make(&cloud, "later", things, Value::Null, "object.spec.length > 1").await;
    told("later", "undefined field 'length'").await;
    let schema = |field: &str| {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {field: {"type": "integer"}}}}});
        Patch::Merge(
            json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}}),
        )
    };
    all.patch("things.example.org", &PatchParams::default(), &schema("length"))
        .await
        .expect("a changed definition");
    told("later", "").await;
    told("good", "undefined field 'size'").await;
    all.delete("things.example.org", &DeleteParams::default()).await.expect("no definition");
    told("good", "").await;
    // Of what nobody has heard of, nothing is odd.
    make(&cloud, "unknown", ["example.org", "v1", "others"], Value::Null, "object.none == 1").await;
    assert_eq!(checked(&cloud, "unknown").await["typeChecking"], json!({}));
}
