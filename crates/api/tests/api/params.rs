//! Whoever makes a policy look at objects must be allowed to read them.

use serde_json::{Value, json};
use yunfan_identity::UserInfo;

use crate::support::{Answer, Desk};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const RBAC: &str = "rbac.authorization.k8s.io";
/// Kind and plural of a policy, then of its binding.
const PAIRS: [[(&str, &str); 2]; 2] = [
    [
        ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
        ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
    ],
    [
        ("MutatingAdmissionPolicy", "mutatingadmissionpolicies"),
        ("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings"),
    ],
];

fn ann() -> Option<UserInfo> {
    Some(UserInfo::authenticated("ann", Vec::<String>::new()))
}

/// Gives ann a role: in a namespace, or in the whole cluster.
async fn grant(desk: &Desk, namespace: &str, name: &str, rules: Value) {
    let (kind, base) = match namespace {
        "" => ("ClusterRole", format!("/apis/{RBAC}/v1/cluster")),
        _ => ("Role", format!("/apis/{RBAC}/v1/namespaces/{namespace}/")),
    };
    let role = json!({"metadata": {"name": name}, "rules": rules});
    let subject = json!({"kind": "User", "name": "ann", "apiGroup": RBAC});
    let binding = json!({"metadata": {"name": name}, "subjects": [subject],
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name}});
    desk.call("POST", &format!("{base}roles"), Some(role)).await.expect(201);
    desk.call("POST", &format!("{base}rolebindings"), Some(binding)).await.expect(201);
}

async fn desk() -> Desk {
    let desk = Desk::new().await;
    let policies =
        json!([{"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}]);
    grant(&desk, "", "policies", policies).await;
    desk
}

fn policy(kind: &str, of: &str) -> Value {
    let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
    let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "paramKind": {"apiVersion": "v1", "kind": of},
        "failurePolicy": "Fail"});
    let mut object = json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "p"}, "spec": spec});
    if kind == "ValidatingAdmissionPolicy" {
        object["spec"]["validations"] =
            json!([{"expression": "false", "messageExpression": "string(params.data.a)"}]);
    } else {
        let step = json!({"expression": "[JSONPatch{op: 'add', path: '/data', value: {'a': string(params.data.a)}}]"});
        object["spec"]["mutations"] = json!([{"patchType": "JSONPatch", "jsonPatch": step}]);
        object["spec"]["reinvocationPolicy"] = json!("Never");
    }
    object
}

fn binding(kind: &str, reference: &Value) -> Value {
    let mut spec = json!({"policyName": "p", "paramRef": reference});
    spec["paramRef"]["parameterNotFoundAction"] = json!("Deny");
    if kind == "ValidatingAdmissionPolicyBinding" {
        spec["validationActions"] = json!(["Deny"]);
    }
    json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "b"}, "spec": spec})
}

async fn as_ann(desk: &Desk, method: &str, path: &str, object: &Value) -> Answer {
    desk.send(ann(), method, &format!("{GROUP}/{path}"), "application/json", &[], object.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_a_kind_of_parameters_may_get_all_of_it() {
    let desk = desk().await;
    for [(kind, plural), _] in PAIRS {
        let said = as_ann(&desk, "POST", plural, &policy(kind, "Secret")).await.refused(422);
        let why = "spec.paramKind: Forbidden: user \"ann\" must have \"get\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)";
        assert!(said.ends_with(why), "{said}");
    }
    // All of them: those of a namespace, or of a name, are too few.
    let one =
        json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get"]}]);
    grant(&desk, "", "one", one).await;
    let get = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    grant(&desk, "default", "near", get).await;
    for [(kind, plural), _] in PAIRS {
        as_ann(&desk, "POST", plural, &policy(kind, "Secret")).await.refused(422);
    }
    let maps = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]);
    grant(&desk, "", "maps", maps).await;
    for [(kind, plural), _] in PAIRS {
        as_ann(&desk, "POST", plural, &policy(kind, "ConfigMap")).await.expect(201);
        let place = format!("{plural}/p");
        let other = json!({"spec": {"paramKind": {"kind": "Secret"}}}).to_string();
        let path = format!("{GROUP}/{place}");
        desk.send(ann(), "PATCH", &path, "application/merge-patch+json", &[], other.clone())
            .await
            .refused(422);
        // What the operator made stays what it is when somebody else writes something else of it.
        desk.patch("merge-patch+json", &path, other).await.expect(200);
        let label = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
        desk.send(ann(), "PATCH", &path, "application/merge-patch+json", &[], label).await.expect(200);
        // Of what nobody knows: all of its group.
        let mut unknown = policy(kind, "Nothing");
        unknown["metadata"]["name"] = json!("q");
        as_ann(&desk, "POST", plural, &unknown).await.refused(422);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_binds_a_policy_may_read_its_parameters() {
    let desk = desk().await;
    desk.namespace("other").await;
    let named = json!({"name": "s", "namespace": "other"});
    for [_, (kind, plural)] in PAIRS {
        let said = as_ann(&desk, "POST", plural, &binding(kind, &named)).await.refused(422);
        assert!(said.contains("spec.paramRef: Forbidden: unable to get policy p to determine"), "{said}");
    }
    for [(kind, plural), (bound, bindings)] in PAIRS {
        desk.call("POST", &format!("{GROUP}/{plural}"), Some(policy(kind, "Secret"))).await.expect(201);
        let said = as_ann(&desk, "POST", bindings, &binding(bound, &named)).await.refused(422);
        let why = "spec.paramRef: Forbidden: user \"ann\" does not have \"get\" permission on the object referenced by paramRef";
        assert!(said.ends_with(why), "{said}");
    }
    let get =
        json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get"]}]);
    grant(&desk, "other", "one", get).await;
    for [_, (kind, plural)] in PAIRS {
        as_ann(&desk, "POST", plural, &binding(kind, &named)).await.expect(201);
        let path = format!("{GROUP}/{plural}/b");
        let all = json!({"selector": {}, "namespace": "other"});
        for other in [json!({"name": "s"}), json!({"name": "s", "namespace": "default"}), all.clone()] {
            let mut object = binding(kind, &other);
            object["metadata"]["name"] = json!("c");
            as_ann(&desk, "POST", plural, &object).await.refused(422);
        }
        let elsewhere = json!({"spec": {"paramRef": {"name": "t"}}}).to_string();
        let kind = "application/merge-patch+json";
        desk.send(ann(), "PATCH", &path, kind, &[], elsewhere.clone()).await.refused(422);
        desk.patch("merge-patch+json", &path, elsewhere).await.expect(200);
        let label = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
        desk.send(ann(), "PATCH", &path, kind, &[], label).await.expect(200);
    }
    let list = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]);
    grant(&desk, "other", "all", list).await;
    for [_, (kind, plural)] in PAIRS {
        let mut object = binding(kind, &json!({"selector": {}, "namespace": "other"}));
        object["metadata"]["name"] = json!("c");
        as_ann(&desk, "POST", plural, &object).await.expect(201);
    }
}
