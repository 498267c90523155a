//! What every namespace is given, through the API.

mod support;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{Api, PostParams};
use serde_json::{Value, from_value, json};
use support::{start, until_some};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_account_comes_where_the_certificate_is_refused() {
    let cloud = start(&["n1"]).await;
    let policy = json!({"metadata": {"name": "none"}, "spec": {
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "false"}]}});
    let binding =
        json!({"metadata": {"name": "none"}, "spec": {"policyName": "none", "validationActions": ["Deny"]}});
    let params = PostParams::default();
    let policies = Api::<ValidatingAdmissionPolicy>::all(cloud.client.clone());
    policies.create(&params, &from_value(policy).expect("a policy")).await.expect("made");
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(cloud.client.clone());
    bindings.create(&params, &from_value(binding).expect("a binding")).await.expect("made");
    let space = from_value(json!({"metadata": {"name": "closed"}})).expect("a namespace");
    Api::<Namespace>::all(cloud.client.clone()).create(&params, &space).await.expect("made");
    let accounts = Api::<ServiceAccount>::namespaced(cloud.client.clone(), "closed");
    until_some("the account does not come", async || {
        accounts.get_opt("default").await.expect("an answer").ok_or(Value::Null)
    })
    .await;
    let certificates = Api::<ConfigMap>::namespaced(cloud.client.clone(), "closed");
    assert!(certificates.get_opt("kube-root-ca.crt").await.expect("an answer").is_none());
    // It comes when it is let.
    bindings.delete("none", &Default::default()).await.expect("deleted");
    until_some("the certificate does not come", async || {
        certificates.get_opt("kube-root-ca.crt").await.expect("an answer").ok_or(Value::Null)
    })
    .await;
}
