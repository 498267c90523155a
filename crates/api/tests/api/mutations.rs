//! Mutating admission policies.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Desk};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// Makes a policy with these mutations, and a binding of the same name.
async fn policy(desk: &Desk, name: &str, spec: Value, binding: Value) {
    let rule = json!({"operations": ["CREATE", "UPDATE"], "apiGroups": ["", "apps"], "apiVersions": ["*"],
        "resources": ["configmaps", "deployments"]});
    let mut own = json!({"matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never"});
    let mut bound = json!({"policyName": name});
    for (object, changes) in [(&mut own, &spec), (&mut bound, &binding)] {
        for (key, value) in changes.as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
    }
    for (kind, plural, spec) in [
        ("MutatingAdmissionPolicy", "mutatingadmissionpolicies", own),
        ("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", bound),
    ] {
        let object = json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1",
            "metadata": {"name": name}, "spec": spec});
        desk.call("DELETE", &format!("{GROUP}/{plural}/{name}"), None).await;
        desk.call("POST", &format!("{GROUP}/{plural}"), Some(object)).await.expect(201);
    }
}

fn fields(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn steps(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

async fn make(desk: &Desk, name: &str, data: Value) -> Answer {
    desk.call("POST", MAPS, Some(json!({"metadata": {"name": name}, "data": data}))).await
}

fn deployment(name: &str) -> Option<Value> {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
        {"name": "c", "image": "i"}, {"name": "d", "image": "j", "args": ["x"]}]}});
    Some(
        json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_laid_over_the_object() {
    let desk = Desk::new().await;
    let expression = "Object{metadata: Object.metadata{annotations: {'by': request.userInfo.username}},
        spec: Object.spec{replicas: 7, template: Object.spec.template{spec: Object.spec.template.spec{
            containers: [Object.spec.template.spec.containers{name: 'd', image: 'k'}]}}}}";
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]});
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "mutations": [fields(expression)]});
    policy(&desk, "p", spec.clone(), json!({})).await;
    let made = desk.call("POST", DEPLOYMENTS, deployment("a")).await.expect(201);
    assert_eq!(
        (&made["spec"]["replicas"], &made["metadata"]["annotations"]["by"]),
        (&json!(7), &json!("admin"))
    );
    let containers = &made["spec"]["template"]["spec"]["containers"];
    let seen = |index: usize| (containers[index]["name"].clone(), containers[index]["image"].clone());
    assert_eq!((seen(0), seen(1)), ((json!("c"), json!("i")), (json!("d"), json!("k"))));
    assert_eq!(containers[1]["args"], json!(["x"]));

    // A part of what is owned as a whole can't be changed by itself, and what does not fit is refused.
    for (wrong, why) in [
        (
            "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'c'}}}}",
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
        ),
        ("Object{spec: Object.spec{replicas: 'many'}}", "error applying patch: failed to "),
        ("Object{spec: Object.spec{replicas: object.none}}", "resulted in error: no such key: none"),
    ] {
        let mut spec = spec.clone();
        spec["mutations"] = json!([fields(wrong)]);
        policy(&desk, "p", spec.clone(), json!({})).await;
        let refused = desk.call("POST", DEPLOYMENTS, deployment("b")).await.got(403).body;
        let message = refused["message"].as_str().expect("a message");
        assert!(message.starts_with("policy 'p' with binding 'p' denied request: "), "{message}");
        assert!(message.contains(why), "{message}");
        assert_eq!(refused["reason"], "Invalid");
        spec["failurePolicy"] = json!("Ignore");
        policy(&desk, "p", spec, json!({})).await;
        desk.call("POST", &format!("{DEPLOYMENTS}?dryRun=All"), deployment("b")).await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_conditions_variables_and_parameters_work_together() {
    let desk = Desk::new().await;
    make(&desk, "settings", json!({"a.b": "from settings"})).await.expect(201);
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConditions": [{"name": "not-settings", "expression": "object.metadata.name != 'settings'"}],
        "variables": [{"name": "value", "expression": "params.data['a.b']"}],
        "mutations": [
            steps("[JSONPatch{op: 'test', path: '/data/x', value: '1'}, JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('y'), value: variables.value}]"),
            steps("has(object.data.y) ? [JSONPatch{op: 'add', path: '/metadata/labels', value: {'seen': 'y'}}] : []"),
        ],
    });
    let binding = json!({"paramRef": {"name": "settings", "parameterNotFoundAction": "Deny"}});
    policy(&desk, "p", spec, binding).await;
    let made = make(&desk, "a", json!({"x": "1"})).await.expect(201);
    assert_eq!(made["data"]["y"], "from settings");
    assert_eq!(made["metadata"]["labels"], json!({"seen": "y"}));
    // Where a test fails, the other steps are not done.
    let made = make(&desk, "b", json!({"x": "2"})).await.expect(201);
    assert_eq!((&made["data"], made["metadata"].get("labels")), (&json!({"x": "2"}), None));
    desk.call("DELETE", &format!("{MAPS}/settings"), None).await.expect(200);
    let message = make(&desk, "c", json!({"x": "1"})).await.refused(403);
    let why = "policy 'p' with binding 'p' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
    assert_eq!(message, why);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_run_again_where_a_later_one_changed_the_object() {
    let desk = Desk::new().await;
    let count = "[JSONPatch{op: 'add', path: '/data/count', value: string(int(object.data.count) + 1)}]";
    let spec = |again: &str| json!({"mutations": [steps(count)], "reinvocationPolicy": again});
    policy(&desk, "a", spec("IfNeeded"), json!({})).await;
    let made = make(&desk, "one", json!({"count": "0"})).await.expect(201);
    assert_eq!(made["data"]["count"], "2", "its own change counts as well, as in Kubernetes");
    policy(&desk, "b", spec("Never"), json!({})).await;
    let made = make(&desk, "two", json!({"count": "0"})).await.expect(201);
    assert_eq!(made["data"]["count"], "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tests_in_a_patch_cost_no_more_than_they_are() {
    let desk = Desk::new().await;
    let tests = "object.data.map(k, JSONPatch{op: 'test', path: '/data/' + k, value: object.data[k]})
        + [JSONPatch{op: 'test', path: '/data/k1', value: 'no'}]";
    policy(&desk, "p", json!({"mutations": [steps(tests)]}), json!({})).await;
    let data: Value =
        (0..9000).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    // To do the steps anew for each test takes minutes.
    let made = tokio::time::timeout(Duration::from_secs(60), make(&desk, "a", data.clone())).await;
    assert_eq!(made.expect("in time").expect(201)["data"], data);
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_of_access_and_tokens_are_no_policys_business() {
    let desk = Desk::new().await;
    let all = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]);
    let refusing =
        json!({"matchConstraints": {"resourceRules": all}, "validations": [{"expression": "false"}]});
    let changing = json!({"matchConstraints": {"resourceRules": all}, "reinvocationPolicy": "Never",
        "mutations": [steps("[JSONPatch{op: 'add', path: '/metadata/labels', value: {'seen': 'yes'}}]")]});
    for (sort, spec, bound) in [
        ("validating", refusing, json!({"policyName": "p", "validationActions": ["Deny"]})),
        ("mutating", changing, json!({"policyName": "p"})),
    ] {
        for (plural, spec) in [("policies", spec), ("policybindings", bound)] {
            let object = json!({"metadata": {"name": "p"}, "spec": spec});
            desk.call("POST", &format!("{GROUP}/{sort}admission{plural}"), Some(object)).await.expect(201);
        }
    }
    make(&desk, "a", json!({})).await.refused(422);
    let (who, what) = ("/apis/authentication.k8s.io/v1", "/apis/authorization.k8s.io/v1");
    let attributes = json!({"verb": "get", "resource": "pods", "namespace": "default"});
    let access = json!({"spec": {"user": "ann", "resourceAttributes": attributes}});
    for (path, review) in [
        (format!("{who}/selfsubjectreviews"), json!({})),
        (format!("{who}/tokenreviews"), json!({"spec": {"token": "x"}})),
        (format!("{what}/selfsubjectaccessreviews"), json!({"spec": {"resourceAttributes": attributes}})),
        (format!("{what}/selfsubjectrulesreviews"), json!({"spec": {"namespace": "default"}})),
        (format!("{what}/subjectaccessreviews"), access.clone()),
        (format!("{what}/namespaces/default/localsubjectaccessreviews"), access),
    ] {
        let answer = desk.call("POST", &path, Some(review)).await.expect(201);
        assert_eq!(answer["metadata"].get("labels"), None, "{path}");
    }
}
