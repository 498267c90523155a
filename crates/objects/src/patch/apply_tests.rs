use super::*;
use crate::builtin;

fn writer<'a>(manager: &'a str, at: &str) -> Writer<'a> {
    Writer { manager, subresource: "", api_version: "apps/v1", now: at.parse().unwrap() }
}

const T1: &str = "2024-01-01T00:00:01Z";
const T2: &str = "2024-01-01T00:00:02Z";
const T3: &str = "2024-01-01T00:00:03Z";

fn schema(kind: &str) -> SchemaRef {
    builtin::descriptors().into_iter().find(|each| each.kind == kind).unwrap().schema
}

fn deployment(spec: Value) -> Object {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": spec})
}

fn containers(items: Value) -> Value {
    json!({"template": {"spec": {"containers": items}}})
}

fn entry<'a>(object: &'a Object, manager: &str) -> &'a Value {
    list_of(object).iter().find(|entry| entry["manager"] == manager).unwrap_or(&Value::Null)
}

fn list_of(object: &Object) -> &[Value] {
    crate::lookup::list(object, &["metadata", "managedFields"])
}

#[test]
fn an_apply_owns_what_it_names() {
    let config = deployment(json!({"replicas": 3, "template": {"spec": {"containers": [
        {"name": "web", "image": "nginx", "ports": [{"containerPort": 80}], "args": ["a", "b"]}]}}}));
    let out = apply(None, &config, &writer("kubectl", T1), false, &schema("Deployment")).unwrap();
    assert_eq!(
        list_of(&out),
        [json!({
            "manager": "kubectl", "operation": "Apply", "apiVersion": "apps/v1", "time": T1, "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                    ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}
                }}}}}
            }
        })]
    );
    // The same again changes nothing, not even the time.
    let again = apply(Some(&out), &config, &writer("kubectl", T2), false, &schema("Deployment")).unwrap();
    assert_eq!(again, out);
}

#[test]
fn what_is_no_longer_applied_is_removed_unless_others_own_it() {
    let schema = schema("Deployment");
    let config =
        deployment(json!({"replicas": 3, "minReadySeconds": 5, "template": {"spec": {"containers": [
        {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}}));
    let mut live = apply(None, &config, &writer("one", T1), false, &schema).unwrap();
    // The server fills in defaults that nobody owns.
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    live["spec"]["paused"] = json!(false);
    // Another applier shares one field.
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 3}});
    let live = apply(Some(&live), &other, &writer("two", T2), false, &schema).unwrap();
    let smaller = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": containers(json!([{"name": "a", "image": "1"}]))});
    let out = apply(Some(&live), &smaller, &writer("one", T3), false, &schema).unwrap();
    assert_eq!(out["spec"]["replicas"], 3, "still owned by two");
    assert!(out["spec"].get("minReadySeconds").is_none());
    assert_eq!(out["spec"]["template"]["spec"]["containers"], json!([{"name": "a", "image": "1"}]));
    assert_eq!(out["spec"]["paused"], false, "a default that nobody owns stays");
    assert!(out["metadata"].get("labels").is_none());
    assert_eq!(entry(&out, "one")["time"], T3);
    // What it wanted was there already.
    assert_eq!(entry(&out, "two").get("time"), None);
}

#[test]
fn conflicts_are_worded_as_kubectl_shows_them() {
    let schema = schema("Deployment");
    let mut live = deployment(json!({"replicas": 1}));
    track_update(None, &mut live, &writer("kubectl-create", T1), &schema);
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2}});
    let error = apply(Some(&live), &config, &writer("me", T2), false, &schema).unwrap_err();
    assert_eq!(error.code(), 409);
    assert_eq!(
        error.message(),
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas"
    );
    let cause = &error.to_status()["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldManagerConflict");
    assert_eq!(cause["field"], ".spec.replicas");

    let forced = apply(Some(&live), &config, &writer("me", T2), true, &schema).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert!(entry(&forced, "kubectl-create")["fieldsV1"].get("f:spec").is_none());
    // The same value is no conflict: both own it.
    let same = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 1}});
    let shared = apply(Some(&live), &same, &writer("me", T2), false, &schema).unwrap();
    assert_eq!(entry(&shared, "kubectl-create")["fieldsV1"]["f:spec"], json!({"f:replicas": {}}));
    assert_eq!(entry(&shared, "me")["fieldsV1"]["f:spec"], json!({"f:replicas": {}}));
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let schema = schema("Deployment");
    let first = deployment(
        json!({"replicas": 1, "template": {"spec": {"containers": [{"name": "web", "image": "1"}]}}}),
    );
    let live = apply(None, &first, &writer("one", T1), false, &schema).unwrap();
    let second = deployment(
        json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "web", "image": "2"}]}}}),
    );
    let error = apply(Some(&live), &second, &writer("two", T2), false, &schema).unwrap_err();
    assert_eq!(
        error.message(),
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"web\"].image"
    );
}

#[test]
fn an_update_takes_what_it_changes() {
    let schema = schema("Deployment");
    let config = deployment(json!({"replicas": 1, "minReadySeconds": 2}));
    let live = apply(None, &config, &writer("one", T1), false, &schema).unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(5);
    scaled["spec"].as_object_mut().unwrap().remove("minReadySeconds");
    track_update(Some(&live), &mut scaled, &writer("hpa", T2), &schema);
    assert!(entry(&scaled, "one")["fieldsV1"].get("f:spec").is_none());
    assert_eq!(entry(&scaled, "hpa")["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(entry(&scaled, "hpa")["operation"], "Update");
    assert_eq!(entry(&scaled, "one")["time"], T1);
    // No change: no new time.
    let mut same = scaled.clone();
    track_update(Some(&scaled), &mut same, &writer("hpa", T3), &schema);
    assert_eq!(same, scaled);
    // A status writer is an entry of its own.
    let mut with_status = scaled.clone();
    with_status["status"] = json!({"replicas": 5});
    let status = Writer { subresource: "status", ..writer("hpa", T3) };
    track_update(Some(&scaled), &mut with_status, &status, &schema);
    let found = list_of(&with_status).iter().find(|entry| entry["subresource"] == "status").unwrap();
    assert_eq!(found["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn managed_fields_can_be_reset_but_not_lost_by_accident() {
    let schema = schema("Deployment");
    let mut live = deployment(json!({"replicas": 1}));
    track_update(None, &mut live, &writer("a", T1), &schema);
    let given = |value: Value| {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = value;
        track_update(Some(&live), &mut new, &writer("b", T2), &schema);
        new
    };
    assert_eq!(given(Value::Null), live);
    for reset in [json!([]), json!([{}])] {
        assert!(given(reset)["metadata"].get("managedFields").is_none());
    }
    // What cannot be read, and what comes by another way, is no answer either.
    let entry = list_of(&live)[0].clone();
    for (key, value) in
        [("operation", json!("Guess")), ("apiVersion", json!("")), ("fieldsType", json!("V0"))]
    {
        let mut broken = entry.clone();
        broken[key] = value;
        assert_eq!(given(json!([entry, broken])), live, "{key}");
    }
    let mut by_status = live.clone();
    by_status["metadata"]["managedFields"] = json!([{}]);
    track_update(Some(&live), &mut by_status, &Writer { subresource: "status", ..writer("b", T2) }, &schema);
    assert_eq!(by_status, live);
}

#[test]
fn sets_and_atomic_parts_follow_the_schema() {
    let pods = schema("Pod");
    let pod = |finalizers: Value, selector: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": finalizers}, "spec": {"nodeSelector": selector}});
    let live =
        apply(None, &pod(json!(["a/x"]), json!({"k": "1"})), &writer("one", T1), false, &pods).unwrap();
    assert_eq!(
        entry(&live, "one")["fieldsV1"],
        json!({"f:metadata": {"f:finalizers": {"v:\"a/x\"": {}}}, "f:spec": {"f:nodeSelector": {}}})
    );
    // A set is shared item by item, an atomic map is not.
    let second = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": ["b/x"]}});
    let live = apply(Some(&live), &second, &writer("two", T2), false, &pods).unwrap();
    assert_eq!(live["metadata"]["finalizers"], json!(["a/x", "b/x"]));
    let error =
        apply(Some(&live), &pod(json!([]), json!({"j": "2"})), &writer("two", T3), false, &pods).unwrap_err();
    assert!(error.message().ends_with("conflict with \"one\": .spec.nodeSelector"), "{error}");
}

#[test]
fn items_keep_their_places() {
    let schema = schema("Deployment");
    let mut live = deployment(containers(json!([{"name": "sidecar"}, {"name": "a"}, {"name": "b"}])));
    track_update(None, &mut live, &writer("x", T1), &schema);
    let config = deployment(containers(json!([{"name": "b"}, {"name": "new"}, {"name": "a"}])));
    let out = apply(Some(&live), &config, &writer("y", T2), false, &schema).unwrap();
    let names: Vec<&str> = out["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["sidecar", "b", "new", "a"]);
}

#[test]
fn a_configuration_says_nothing_of_owners() {
    let config = json!({"metadata": {"managedFields": []}});
    let error = apply(None, &config, &writer("x", T1), false, &schema("Deployment")).unwrap_err();
    assert_eq!((error.code(), error.message()), (400, "metadata.managedFields must be nil"));
}

#[test]
fn many_updaters_are_put_together() {
    let schema = schema("ConfigMap");
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {}});
    for index in 0..15 {
        let old = (index > 0).then(|| object.clone());
        object["data"][format!("k{index}")] = json!("v");
        let at = format!("2024-01-01T00:00:{index:02}Z");
        track_update(old.as_ref(), &mut object, &writer(&format!("m{index}"), &at), &schema);
    }
    assert_eq!(list_of(&object).len(), 10);
    let ancient = entry(&object, "ancient-changes");
    assert_eq!(ancient["fieldsV1"]["f:data"].as_object().unwrap().len(), 7, "six keys and the map itself");
}

#[test]
fn an_untyped_custom_resource_is_owned_field_by_field() {
    let schema = SchemaRef::anything();
    let config = json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "n"}, "spec": {"a": {"b": 1}, "list": [1, 2]}});
    let live = apply(None, &config, &writer("one", T1), false, &schema).unwrap();
    assert_eq!(
        entry(&live, "one")["fieldsV1"],
        json!({"f:spec": {".": {}, "f:a": {".": {}, "f:b": {}}, "f:list": {}}})
    );
}

#[test]
fn of_an_empty_list_with_keys_nobody_owns_anything() {
    let schema = schema("Deployment");
    let config = deployment(
        json!({"paused": true, "template": {"spec": {"containers": [], "nodeSelector": {}, "hostAliases": []}}}),
    );
    let live = apply(None, &config, &writer("one", T1), false, &schema).unwrap();
    let inner = json!({"f:spec": {"f:nodeSelector": {}}});
    assert_eq!(entry(&live, "one")["fieldsV1"]["f:spec"], json!({"f:paused": {}, "f:template": inner}));
}

/// A Deployment as `kubectl apply` makes it without the server's help.
fn applied_by_the_client(config: &Object) -> Object {
    let mut live = config.clone();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: config.to_string()});
    track_update(None, &mut live, &writer("kubectl-client-side-apply", T1), &schema("Deployment"));
    live
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

#[test]
fn kubectl_goes_over_from_the_clients_side_to_the_servers() {
    let schema = schema("Deployment");
    let before = deployment(json!({"replicas": 1, "minReadySeconds": 2}));
    let live = applied_by_the_client(&before);
    let after = deployment(json!({"replicas": 3, "minReadySeconds": 2}));
    let out = apply(Some(&live), &after, &writer("kubectl", T2), false, &schema).unwrap();
    assert_eq!(out["spec"]["replicas"], 3);
    assert_eq!(
        entry(&out, "kubectl")["fieldsV1"]["f:spec"],
        json!({"f:minReadySeconds": {}, "f:replicas": {}})
    );
    let theirs = &entry(&out, "kubectl-client-side-apply")["fieldsV1"]["f:spec"];
    assert_eq!(*theirs, json!({"f:minReadySeconds": {}}), "what was taken is theirs no more");
    let kept: Value =
        serde_json::from_str(out["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap()).unwrap();
    assert_eq!(kept, after);

    // Under any other name it is a conflict.
    assert_eq!(apply(Some(&live), &after, &writer("me", T2), false, &schema).unwrap_err().code(), 409);
    // So it is where another has changed the field since, and only that field is named.
    let mut changed = live.clone();
    changed["spec"]["replicas"] = json!(7);
    track_update(Some(&live), &mut changed, &writer("kubectl-scale", T2), &schema);
    let after = deployment(json!({"replicas": 3, "minReadySeconds": 4}));
    let error = apply(Some(&changed), &after, &writer("kubectl", T3), false, &schema).unwrap_err();
    assert_eq!(
        error.message(),
        "Apply failed with 1 conflict: conflict with \"kubectl-scale\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn an_object_without_owners_has_none_until_it_is_applied() {
    let schema = schema("Deployment");
    let mut live = deployment(json!({"replicas": 1}));
    track_update(None, &mut live, &writer("me", T1), &schema);
    let mut reset = live.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track_update(Some(&live), &mut reset, &writer("me", T2), &schema);
    let mut updated = reset.clone();
    updated["spec"]["replicas"] = json!(2);
    track_update(Some(&reset), &mut updated, &writer("me", T2), &schema);
    assert!(updated["metadata"].get("managedFields").is_none());

    let descriptor = builtin::descriptors().into_iter().find(|each| each.kind == "Deployment").unwrap();
    let apply = |live: &Object, config: &Object, writer: &Writer<'_>| {
        descriptor.apply(Some(live), config, writer, false, &|_, _| None)
    };
    let error = apply(&updated, &deployment(json!({"replicas": 3})), &writer("you", T3)).unwrap_err();
    assert_eq!(
        error.message(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
    // What was there is owned as far as a write at the same path could have set it: a status by none who writes the object.
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "status": {"observedGeneration": 1}});
    updated["status"] = status["status"].clone();
    let out = apply(&updated, &deployment(json!({"replicas": 2})), &writer("you", T3)).unwrap();
    let before = entry(&out, "before-first-apply");
    assert_eq!(before["operation"], "Update");
    assert_eq!(before["fieldsV1"]["f:spec"], json!({"f:replicas": {}}));
    assert_eq!(before["fieldsV1"].get("f:status"), None);
    let at_status = Writer { subresource: "status", ..writer("you", T3) };
    let out = apply(&updated, &status, &at_status).unwrap();
    let before = entry(&out, "before-first-apply");
    assert_eq!(before["subresource"], "status");
    assert_eq!(before["fieldsV1"], json!({"f:status": {"f:observedGeneration": {}}}));
    // Nothing changed but that there is an owner more: the moment of that is none of a change.
    assert_eq!(entry(&out, "you").get("time"), None);
}

#[test]
fn what_changed_as_another_version_shows_it_is_lost_to_those_who_wrote_in_that_version() {
    let schema = schema("Deployment");
    // The other version says as a text of the spec what this one counts.
    let shown = |object: &Object, version: &str| {
        (version == "apps/v0").then(|| {
            let mut other = object.clone();
            other["apiVersion"] = json!(version);
            let count = other["spec"]["replicas"].take();
            other["spec"] = json!({"size": count.to_string(), "kept": "k"});
            (other, schema.clone())
        })
    };
    let theirs = |version: &str, manager: &str, fields: Value| {
        json!({"manager": manager, "operation": "Update", "apiVersion": version, "time": T1, "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": fields}})
    };
    let old = deployment(json!({"replicas": 1}));
    let mut new = deployment(json!({"replicas": 2}));
    let both = json!({"f:size": {}, "f:kept": {}});
    let entries = [
        theirs("apps/v0", "lost", both.clone()),
        theirs("apps/v1", "same", both.clone()),
        theirs("apps/v9", "unknown", both.clone()),
    ];
    new["metadata"]["managedFields"] = json!(entries);
    lose_elsewhere(&old, &mut new, "apps/v1", &shown);
    assert_eq!(entry(&new, "lost")["fieldsV1"], json!({"f:spec": {"f:kept": {}}}));
    // Who wrote in the version of the request lost what changed there already; a version that there is no way to keeps its own.
    assert_eq!(entry(&new, "same")["fieldsV1"]["f:spec"], both);
    assert_eq!(entry(&new, "unknown")["fieldsV1"]["f:spec"], both);

    let before = new.clone();
    lose_elsewhere(&old, &mut new, "apps/v0", &shown);
    assert_eq!(new, before, "the only other version that can be shown is the request's own");
}

#[test]
fn who_applies_entries_of_a_map_owns_them_and_not_only_what_is_in_them() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "integer"}}}},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "object"}}},
        "one": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
    }}}});
    let schema = SchemaRef::from_openapi(&schema).unwrap();
    let config = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}, "spec": {
        "map": {"m": {"x": 1}}, "open": {"known": {"b": 1}, "free": {"a": {"b": 1}}},
        "one": {"metadata": {"name": "n", "labels": {"a": "b"}}}}});
    let out = apply(None, &config, &writer("me", T1), false, &schema).unwrap();
    assert_eq!(
        entry(&out, "me")["fieldsV1"]["f:spec"],
        json!({
            "f:map": {"f:m": {".": {}, "f:x": {}}},
            "f:open": {"f:known": {"f:b": {}}, "f:free": {".": {}, "f:a": {".": {}, "f:b": {}}}},
            "f:one": {"f:metadata": {"f:labels": {"f:a": {}}, "f:name": {}}},
        })
    );
}

#[test]
fn who_applies_a_null_owns_what_it_stands_for_and_changes_nothing_of_others() {
    let descriptor = builtin::descriptors().into_iter().find(|each| each.kind == "ConfigMap").unwrap();
    let config = |with: Value| {
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        object.as_object_mut().unwrap().extend(with.as_object().cloned().unwrap_or_default());
        descriptor.shape_applied(&mut object).unwrap();
        object
    };
    let apply = |live: Option<&Object>, with: Value, manager: &'static str| {
        let writer = Writer { api_version: "v1", ..writer(manager, T1) };
        descriptor.apply(live, &config(with), &writer, false, &|_, _| None)
    };
    let live = apply(None, json!({"data": {"a": "1"}}), "one").unwrap();
    let both = apply(Some(&live), json!({"data": null, "immutable": null}), "two").unwrap();
    assert_eq!(both["data"], json!({"a": "1"}));
    assert_eq!(both.get("immutable"), None);
    assert_eq!(entry(&both, "two")["fieldsV1"], json!({"f:data": {}, "f:immutable": {}}));
    assert_eq!(entry(&both, "one")["fieldsV1"], json!({"f:data": {"f:a": {}}}));
    let none = apply(Some(&live), json!({"data": null}), "one").unwrap();
    assert_eq!(none.get("data").filter(|data| **data != json!({})), None);
    assert_eq!(entry(&none, "one")["fieldsV1"], json!({"f:data": {}}));
    // Of a map of texts the key counts.
    let error = apply(Some(&live), json!({"data": {"a": null}}), "two").unwrap_err();
    assert!(error.message().ends_with("conflict with \"one\": .data.a"), "{error}");
}

#[test]
fn metadata_that_may_change_along_with_the_status_is_applied_with_it() {
    let apply = |kind: &str| {
        let descriptor = builtin::descriptors().into_iter().find(|each| each.kind == kind).unwrap();
        let api_version = descriptor.api_version();
        let object = |with: Value| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a", "labels": with, "annotations": {"a": "b"}}});
        let who = Writer { api_version: &api_version, ..writer("one", T1) };
        let live = descriptor.apply(None, &object(json!({"a": "1"})), &who, false, &|_, _| None).unwrap();
        let who = Writer { subresource: "status", manager: "two", ..who };
        descriptor.apply(Some(&live), &object(json!({"a": "2"})), &who, false, &|_, _| None)
    };
    let error = apply("Service").unwrap_err();
    assert!(error.message().ends_with("conflict with \"one\": .metadata.labels.a"), "{error}");
    let deployment = apply("Deployment").expect("labels stay as they are");
    assert_eq!(entry(&deployment, "two")["fieldsV1"], json!({"f:metadata": {"f:annotations": {"f:a": {}}}}));
    assert_eq!(entry(&apply("FlowSchema").expect("all metadata stays"), "two"), &Value::Null);
}

#[test]
fn an_item_that_is_no_longer_applied_goes_whole_where_others_own_only_parts_of_it() {
    let schema = schema("Deployment");
    let config = |ports: Value, env: Value| {
        deployment(containers(json!([{"name": "c", "image": "i", "ports": ports, "env": env}])))
    };
    let both = config(
        json!([{"containerPort": 80}, {"containerPort": 81}]),
        json!([{"name": "A", "value": "x"}, {"name": "B"}]),
    );
    let live = apply(None, &both, &writer("one", T1), false, &schema).unwrap();
    let mut changed = live.clone();
    let container = &mut changed["spec"]["template"]["spec"]["containers"][0];
    container["ports"][1]["name"] = json!("pa");
    container["env"][1]["value"] = json!("v");
    track_update(Some(&live), &mut changed, &writer("two", T2), &schema);
    let fewer = config(json!([{"containerPort": 80}]), json!([{"name": "A", "value": "x"}]));
    let out = apply(Some(&changed), &fewer, &writer("one", T3), false, &schema).unwrap();
    let left = &out["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(left["ports"], json!([{"containerPort": 80}]));
    assert_eq!(left["env"], json!([{"name": "A", "value": "x"}]));
    assert_eq!(entry(&out, "two"), &Value::Null, "what it owned is gone");
    // Who applies the item itself keeps it.
    let theirs = deployment(containers(json!([{"name": "c", "ports": [{"containerPort": 81}]}])));
    let shared = apply(Some(&changed), &theirs, &writer("three", T2), false, &schema).unwrap();
    let out = apply(Some(&shared), &fewer, &writer("one", T3), false, &schema).unwrap();
    let left = &out["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(left["ports"], json!([{"containerPort": 80}, {"containerPort": 81, "name": "pa"}]));
}

/// What is there, what is applied, and what comes of it.
const ORDERS: [(&str, &str, &str); 11] = [
    ("cab", "ac", "abc"),
    ("abc", "e", "abce"),
    ("abcd", "bcea", "bcdea"),
    ("abc", "dcae", "bdcae"),
    ("dabc", "cdb", "acdb"),
    ("dabc", "eabd", "eabcd"),
    ("cab", "eadc", "eabdc"),
    ("cab", "bcd", "abcd"),
    ("dabc", "deba", "debca"),
    ("abcd", "cbae", "cdbae"),
    ("abcd", "baed", "bcaed"),
];

#[test]
fn applied_items_come_in_their_order_and_the_others_behind_their_neighbours() {
    let schema = schema("Deployment");
    let items = |names: &str| {
        let each = names.chars().map(|name| json!({"name": name.to_string(), "image": "i"}));
        deployment(containers(each.collect()))
    };
    // As Kubernetes' own merge library answers.
    for (live, applied, wanted) in ORDERS {
        let there = apply(None, &items(live), &writer("one", T1), false, &schema).unwrap();
        let out = apply(Some(&there), &items(applied), &writer("two", T2), true, &schema).unwrap();
        let names: String = crate::lookup::list(&out, &["spec", "template", "spec", "containers"])
            .iter()
            .map(|container| container["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, wanted, "{live} and {applied}");
    }
}

#[test]
fn a_conflict_names_what_is_at_one_level_before_what_is_below_it() {
    let schema = schema("Deployment");
    let config = |image: &str, pause: bool| {
        let mut config = deployment(containers(json!([{"name": "c", "image": image}])));
        config["spec"]["paused"] = json!(pause);
        config["spec"]["strategy"] = json!({"type": if pause { "Recreate" } else { "RollingUpdate" }});
        config
    };
    let live = apply(None, &config("a", false), &writer("one", T1), false, &schema).unwrap();
    let error = apply(Some(&live), &config("b", true), &writer("two", T2), false, &schema).unwrap_err();
    assert_eq!(
        error.message(),
        "Apply failed with 3 conflicts: conflicts with \"one\":\n- .spec.paused\n- .spec.strategy.type\n- .spec.template.spec.containers[name=\"c\"].image"
    );
}
