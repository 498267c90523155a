//! Validating admission policies.

use serde_json::{Value, json};

use crate::support::{Answer, Desk};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// Makes a policy about ConfigMaps, and a binding of the same name.
async fn policy(desk: &Desk, name: &str, spec: Value, binding: Value) {
    let rule = json!({"operations": ["*"], "apiGroups": ["", "apps"], "apiVersions": ["*"],
        "resources": ["configmaps", "deployments", "deployments/scale", "namespaces"]});
    let mut own = json!({"matchConstraints": {"resourceRules": [rule]}});
    let mut bound = json!({"policyName": name, "validationActions": ["Deny"]});
    for (object, changes) in [(&mut own, &spec), (&mut bound, &binding)] {
        for (key, value) in changes.as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
    }
    for (kind, plural, spec) in [
        ("ValidatingAdmissionPolicy", "validatingadmissionpolicies", own),
        ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", bound),
    ] {
        let object = json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1",
            "metadata": {"name": name}, "spec": spec});
        desk.call("DELETE", &format!("{GROUP}/{plural}/{name}"), None).await;
        desk.call("POST", &format!("{GROUP}/{plural}"), Some(object)).await.expect(201);
    }
}

async fn make(desk: &Desk, name: &str, data: Value) -> Answer {
    desk.call("POST", MAPS, Some(json!({"metadata": {"name": name}, "data": data}))).await
}

fn deployment(name: &str, replicas: u32) -> Option<Value> {
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    Some(json!({"metadata": {"name": name}, "spec": spec}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_held_to_what_must_be_true() {
    let desk = Desk::new().await;
    desk.namespace("other").await;
    let validations = json!([
        {"expression": "!has(object.spec) || !has(object.spec.replicas) || object.spec.replicas > 1",
            "messageExpression": "'wants replicas > 1, got ' + string(object.spec.replicas)", "reason": "Forbidden"},
        {"expression": "request.operation != 'CREATE' || namespaceObject.metadata.name == 'default'"},
    ]);
    policy(&desk, "p", json!({"validations": validations}), json!({})).await;
    let denied = desk.call("POST", DEPLOYMENTS, deployment("d", 1)).await.got(403).body;
    let why = "ValidatingAdmissionPolicy 'p' with binding 'p' denied request: wants replicas > 1, got 1";
    assert_eq!(denied["message"], format!("deployments.apps \"d\" is forbidden: {why}"));
    assert_eq!(
        (&denied["reason"], &denied["details"]["causes"][0]["message"]),
        (&json!("Forbidden"), &json!(why))
    );
    desk.call("POST", DEPLOYMENTS, deployment("d", 2)).await.expect(201);
    let scale = r#"{"spec":{"replicas":1}}"#;
    desk.patch("merge-patch+json", &format!("{DEPLOYMENTS}/d/scale"), scale).await.refused(403);
    let object = json!({"metadata": {"name": "a"}});
    let message = desk.call("POST", "/api/v1/namespaces/other/configmaps", Some(object)).await.refused(422);
    let why =
        "failed expression: request.operation != 'CREATE' || namespaceObject.metadata.name == 'default'";
    assert!(message.ends_with(why), "{message}");

    // A binding that only warns lets it through, and one for other objects says nothing.
    let validations = json!([{"expression": "false", "message": "never"}]);
    policy(&desk, "p", json!({"validations": validations}), json!({"validationActions": ["Warn", "Audit"]}))
        .await;
    let warned = make(&desk, "a", json!({})).await.got(201);
    let text = "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'p': never\"";
    assert_eq!(warned.headers["warning"], text);
    let resources = json!({"objectSelector": {"matchLabels": {"a": "b"}}});
    policy(&desk, "p", json!({"validations": validations}), json!({"matchResources": resources})).await;
    make(&desk, "b", json!({})).await.expect(201);
    let excluded = json!({"resourceRules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["*"]}],
        "excludeResourceRules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"], "resourceNames": ["c"]}]});
    policy(&desk, "p", json!({"validations": validations, "matchConstraints": excluded}), json!({})).await;
    make(&desk, "c", json!({})).await.expect(201);
    make(&desk, "d", json!({})).await.refused(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_build_on_one_another_and_failures_count_as_the_policy_says() {
    let desk = Desk::new().await;
    let variables = json!([
        {"name": "size", "expression": "has(object.data) ? size(object.data) : 0"},
        {"name": "double", "expression": "variables.size * 2"},
        {"name": "broken", "expression": "object.none.at.all"},
    ]);
    let spec = |expression: &str, failure: &str| {
        json!({"variables": variables, "failurePolicy": failure, "validations": [{"expression": expression}],
            "matchConditions": [{"name": "made", "expression": "request.operation == 'CREATE'"}]})
    };
    policy(&desk, "p", spec("variables.double < 4", "Fail"), json!({})).await;
    make(&desk, "a", json!({"a": "1"})).await.expect(201);
    make(&desk, "b", json!({"a": "1", "b": "2"})).await.refused(422);
    desk.patch("merge-patch+json", &format!("{MAPS}/a"), r#"{"data":{"b":"2"}}"#).await.expect(200);
    // What is broken matters where it is needed alone.
    policy(&desk, "p", spec("variables.double < 4 || variables.broken", "Fail"), json!({})).await;
    make(&desk, "c", json!({"a": "1"})).await.expect(201);
    let message = make(&desk, "d", json!({"a": "1", "b": "2"})).await.refused(422);
    assert!(
        message.contains("composited variable \"broken\" fails to evaluate: no such key: none"),
        "{message}"
    );
    policy(&desk, "p", spec("variables.broken == 1", "Ignore"), json!({})).await;
    make(&desk, "d", json!({"a": "1", "b": "2"})).await.expect(201);
    // No expression may take for ever.
    let costly = "[1,2,3,4,5,6,7,8].all(a, [1,2,3,4,5,6,7,8].all(b, [1,2,3,4,5,6,7,8].all(c, [1,2,3,4,5,6,7,8].all(d, [1,2,3,4,5,6,7,8].all(e, [1,2,3,4,5,6,7,8].all(f, a + b + c + d + e + f > 0))))))";
    policy(&desk, "p", spec(costly, "Fail"), json!({})).await;
    let message = make(&desk, "e", json!({})).await.refused(422);
    assert!(message.contains("operation cancelled: actual cost limit exceeded"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_objects_that_bindings_name() {
    let desk = Desk::new().await;
    for (name, most, team) in [("limits", "1", "a"), ("more", "2", "b")] {
        let object = json!({"metadata": {"name": name, "labels": {"team": team}}, "data": {"most": most}});
        desk.call("POST", MAPS, Some(object)).await.expect(201);
    }
    let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "size(object.data) <= int(params.data.most)", "messageExpression": "'at most ' + params.data.most"}]});
    let by = |reference: Value| json!({"paramRef": reference});
    let two = json!({"a": "1", "b": "2"});
    policy(&desk, "p", spec.clone(), by(json!({"name": "limits", "parameterNotFoundAction": "Deny"}))).await;
    assert!(make(&desk, "a", two.clone()).await.refused(422).ends_with("at most 1"));
    policy(
        &desk,
        "p",
        spec.clone(),
        by(json!({"name": "more", "namespace": "default", "parameterNotFoundAction": "Deny"})),
    )
    .await;
    make(&desk, "a", two.clone()).await.expect(201);
    let all = json!({"selector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}, "parameterNotFoundAction": "Deny"});
    policy(&desk, "p", spec.clone(), by(all)).await;
    make(&desk, "b", two.clone()).await.refused(422);
    policy(&desk, "p", spec.clone(), by(json!({"name": "none", "parameterNotFoundAction": "Allow"}))).await;
    make(&desk, "b", two.clone()).await.expect(201);
    policy(&desk, "p", spec.clone(), by(json!({"name": "none", "parameterNotFoundAction": "Deny"}))).await;
    let message = make(&desk, "c", two).await.refused(422);
    let why =
        "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert!(message.ends_with(why), "{message}");
    desk.call("POST", "/api/v1/namespaces", Some(json!({"metadata": {"name": "x"}}))).await.refused(422);
    let unknown = json!({"paramKind": {"apiVersion": "none.io/v1", "kind": "None"}, "validations": [{"expression": "true"}]});
    policy(&desk, "p", unknown, by(json!({"name": "x", "parameterNotFoundAction": "Deny"}))).await;
    let message = make(&desk, "c", json!({})).await.refused(422);
    assert!(
        message.ends_with("failed to find resource referenced by paramKind: 'none.io/v1, Kind=None'"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_asked_before_a_revision_of_something_new_is_refused() {
    let desk = Desk::new().await;
    policy(&desk, "p", json!({"validations": [{"expression": "object.metadata.name != 'a'"}]}), json!({}))
        .await;
    let made = async |name: &str, revision: &str| {
        let object = json!({"metadata": {"name": name, "resourceVersion": revision}});
        desk.call("POST", MAPS, Some(object)).await
    };
    let message = made("a", "5").await.refused(422);
    assert!(message.ends_with("failed expression: object.metadata.name != 'a'"), "{message}");
    let why = "resourceVersion should not be set on objects to be created";
    assert_eq!(made("b", "5").await.refused(500), why);
    let object = json!({"metadata": {"name": "b", "resourceVersion": "5"}});
    let tried = desk.call("POST", &format!("{MAPS}?dryRun=All"), Some(object)).await.expect(201);
    assert_eq!(tried["metadata"]["resourceVersion"], "5");
    made("b", "0").await.expect(201);
    assert_eq!(made("b", "5").await.refused(500), why, "also where there is one");
}
