//! Empty values that Kubernetes' own programs leave out: they cannot tell them from absent ones, so an object that was
//! sent with them comes back without.

use serde_json::{Value, json};

use super::special::Special;
use super::table::{Field, Kind, Message, Shape, Table};

/// Lists that mean something else when they are empty than when they are absent: an autoscaler's scaling rules with no
/// policy are refused, those that say nothing of policies get the default ones; no managed fields is that all owners are forgotten.
const MEANT: [&str; 2] = ["policies", "managedFields"];

/// Drops the empty values of an object of one of Kubernetes' own kinds, as its programs do when they write it:
/// `paused: false`, `labels: {}`, `env: []`; not `replicas: 0`, which may be meant, and not the fields of the
/// status but for a Pod's: those who keep others up write them whole. A spec is there even if nothing is in it. Does nothing for a kind that is
/// not known.
pub(crate) fn drop_zeros(api_version: &str, kind: &str, object: &mut Value) {
    let table = Table::get();
    let Some(root) = table.root(api_version, kind) else { return };
    let Message::Fields(fields) = table.message(root) else { return };
    for field in fields.iter().filter(|field| field.name != "status" || kind == "Pod") {
        settle(table, field, object);
        if field.name == "spec"
            && let Some(map) = object.as_object_mut().filter(|_| field.always)
        {
            map.entry("spec").or_insert_with(|| blank(table, field));
        }
    }
}

/// Gives the status of one of Kubernetes' own kinds the form in which its programs write it: without the empty values that they leave
/// out (`readyReplicas: 0`), with what they always tell (a ReplicaSet's `replicas: 0`, the type of a condition). Does nothing for a kind
/// that is not known.
pub(crate) fn settle_status(api_version: &str, kind: &str, object: &mut Value) {
    let table = Table::get();
    let Some(root) = table.root(api_version, kind) else { return };
    let Message::Fields(fields) = table.message(root) else { return };
    let Some(field) = fields.iter().find(|field| field.name == "status") else { return };
    let Kind::Message(index) = field.kind else { return };
    if object["status"].is_null() {
        object["status"] = json!({});
    }
    settle(table, field, object);
    complete(table, index, &mut object["status"]);
}

/// Adds what is always written of a message, in it and in all that it is made of.
fn complete(table: &Table, index: usize, owner: &mut Value) {
    let (Message::Fields(fields), Some(map)) = (table.message(index), owner.as_object_mut()) else { return };
    for field in fields {
        if field.always
            && !map.contains_key(&field.name)
            && let Some(zero) = zero(table, field)
        {
            // A list that is not there is written so.
            map.insert(field.name.clone(), if field.shape == Shape::List { Value::Null } else { zero });
        }
        let Kind::Message(inner) = field.kind else { continue };
        match (field.shape, map.get_mut(&field.name)) {
            (Shape::One, Some(value)) => complete(table, inner, value),
            (Shape::List, Some(Value::Array(list))) => {
                list.iter_mut().for_each(|item| complete(table, inner, item));
            }
            (Shape::Map, Some(Value::Object(map))) => {
                map.values_mut().for_each(|item| complete(table, inner, item));
            }
            _ => {}
        }
    }
}

/// A message with nothing in it but the messages that are always there.
fn blank(table: &Table, field: &Field) -> Value {
    let mut out = json!({});
    if let Kind::Message(index) = field.kind
        && let Message::Fields(fields) = table.message(index)
    {
        for inner in fields.iter().filter(|inner| inner.always && inner.shape == Shape::One) {
            if matches!(inner.kind, Kind::Message(index) if matches!(table.message(index), Message::Fields(_)))
            {
                out[&inner.name] = blank(table, inner);
            }
        }
    }
    out
}

fn message(table: &Table, index: usize, value: &mut Value) {
    if let Message::Fields(fields) = table.message(index) {
        fields.iter().for_each(|field| settle(table, field, value));
    }
}

fn settle(table: &Table, field: &Field, owner: &mut Value) {
    if field.shape == Shape::Inline {
        if let Kind::Message(index) = field.kind {
            message(table, index, owner);
        }
        return;
    }
    let Some(map) = owner.as_object_mut() else { return };
    let Some(value) = map.get_mut(&field.name) else { return };
    if !field.keep && is_zero(field, value) {
        map.remove(&field.name);
        return;
    }
    let Kind::Message(index) = field.kind else { return };
    match (field.shape, value) {
        (Shape::List, Value::Array(list)) => list.iter_mut().for_each(|item| message(table, index, item)),
        (Shape::Map, Value::Object(map)) => map.values_mut().for_each(|item| message(table, index, item)),
        (Shape::One, value) => message(table, index, value),
        _ => {}
    }
}

/// Whether a value is the empty one of its type. A message that is part of its owner is written even if it is empty.
fn is_zero(field: &Field, value: &Value) -> bool {
    match (field.shape, field.kind) {
        (Shape::List, _) => {
            !MEANT.contains(&field.name.as_str()) && value.as_array().is_some_and(Vec::is_empty)
        }
        (Shape::Map, _) => value.as_object().is_some_and(serde_json::Map::is_empty),
        (_, Kind::Text | Kind::Bytes) => value.as_str() == Some(""),
        (_, Kind::Bool) => *value == Value::Bool(false),
        (_, Kind::Int32 | Kind::Int64 | Kind::Double) => value.as_f64() == Some(0.0),
        (_, Kind::Message(_)) => false,
    }
}

/// Adds to the old state of an object of one of Kubernetes' own kinds what its programs write also where nothing was set
/// (`strategy: {}`, `containers: []`), as far as the new state has that: nobody owns a field for having found it so.
/// Does nothing within lists, and nothing for a kind that is not known.
pub(crate) fn fill_zeros(api_version: &str, kind: &str, old: &mut Value, new: &Value) {
    let table = Table::get();
    if let Some(root) = table.root(api_version, kind) {
        fill(table, root, old, new);
    }
}

fn fill(table: &Table, index: usize, old: &mut Value, new: &Value) {
    let (Message::Fields(fields), Some(map)) = (table.message(index), old.as_object_mut()) else { return };
    for field in fields {
        let Some(after) = new.get(&field.name) else { continue };
        if after.is_null() {
            map.entry(&field.name).or_insert(Value::Null);
            continue;
        }
        if field.always
            && !map.contains_key(&field.name)
            && let Some(zero) = zero(table, field)
        {
            map.insert(field.name.clone(), zero);
        }
        if let (Kind::Message(inner), Shape::One, Some(before)) =
            (field.kind, field.shape, map.get_mut(&field.name))
        {
            fill(table, inner, before, after);
        }
    }
}

/// Writes the times that Kubernetes' own programs write also where none was set, as `null`: within lists, too. Does
/// nothing for a kind that is not known.
pub(crate) fn fill_times(api_version: &str, kind: &str, object: &mut Value) {
    let table = Table::get();
    if let Some(root) = table.root(api_version, kind) {
        fill_time(table, root, object);
    }
}

fn fill_time(table: &Table, index: usize, owner: &mut Value) {
    let (Message::Fields(fields), Some(map)) = (table.message(index), owner.as_object_mut()) else { return };
    for field in fields {
        let Kind::Message(inner) = field.kind else { continue };
        let is_time = matches!(table.message(inner), Message::Special(Special::Time | Special::MicroTime));
        if is_time && field.always && field.shape == Shape::One {
            map.entry(&field.name).or_insert(Value::Null);
            continue;
        }
        match (field.shape, map.get_mut(&field.name)) {
            (Shape::One, Some(value)) => fill_time(table, inner, value),
            (Shape::List, Some(Value::Array(list))) => {
                list.iter_mut().for_each(|item| fill_time(table, inner, item));
            }
            (Shape::Map, Some(Value::Object(map))) => {
                map.values_mut().for_each(|item| fill_time(table, inner, item));
            }
            _ => {}
        }
    }
}

/// What is written of a field that was not set; none where that is no value of its type.
fn zero(table: &Table, field: &Field) -> Option<Value> {
    Some(match (field.shape, field.kind) {
        (Shape::Inline, _) => return None,
        (Shape::List, _) => json!([]),
        (Shape::Map, _) => json!({}),
        (Shape::One, Kind::Message(index)) => match table.message(index) {
            Message::Fields(_) => json!({}),
            Message::Special(_) => return None,
        },
        (Shape::One, Kind::Text | Kind::Bytes) => json!(""),
        (Shape::One, Kind::Bool) => json!(false),
        (Shape::One, Kind::Int32 | Kind::Int64 | Kind::Double) => json!(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_mean_something_stay_when_they_are_empty() {
        let mut object = json!({"metadata": {"managedFields": [], "finalizers": []}});
        drop_zeros("v1", "ConfigMap", &mut object);
        assert_eq!(object, json!({"metadata": {"managedFields": []}}));
    }

    #[test]
    fn what_cannot_be_told_from_absent_is_left_out() {
        let mut object = json!({
            "metadata": {"name": "a", "labels": {}, "finalizers": [], "annotations": {"a": ""}},
            "spec": {
                "replicas": 0, "paused": false, "strategy": {}, "minReadySeconds": 0,
                "template": {"spec": {"hostNetwork": false, "securityContext": {}, "containers": [
                    {"name": "c", "env": [], "args": [""], "resources": {"limits": {}}, "volumeMounts": [{"name": "v", "readOnly": false}]}
                ]}},
            },
            "status": {"replicas": 0},
        });
        drop_zeros("apps/v1", "Deployment", &mut object);
        let container = json!({"name": "c", "args": [""], "resources": {}, "volumeMounts": [{"name": "v"}]});
        assert_eq!(
            object,
            json!({
                "metadata": {"name": "a", "annotations": {"a": ""}},
                "spec": {
                    "replicas": 0, "strategy": {},
                    "template": {"spec": {"securityContext": {}, "containers": [container]}},
                },
                "status": {"replicas": 0},
            })
        );
    }

    #[test]
    fn a_status_that_counts_tells_what_it_always_tells() {
        let settled = |api_version: &str, kind: &str, status: Value| {
            let mut object = json!({"status": status});
            settle_status(api_version, kind, &mut object);
            object["status"].take()
        };
        let none = json!({"replicas": 0, "readyReplicas": 0, "availableReplicas": 0, "observedGeneration": 0, "conditions": []});
        for (api_version, kind, left) in [
            ("apps/v1", "Deployment", json!({})),
            ("apps/v1", "ReplicaSet", json!({"replicas": 0})),
            ("apps/v1", "StatefulSet", json!({"replicas": 0, "availableReplicas": 0})),
            ("v1", "ReplicationController", json!({"replicas": 0})),
        ] {
            assert_eq!(settled(api_version, kind, none.clone()), left, "{kind}");
            assert_eq!(settled(api_version, kind, Value::Null), left, "{kind}");
        }
        let all = ["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"];
        let all: Value = all.iter().map(|count| ((*count).to_owned(), json!(0))).collect();
        assert_eq!(settled("apps/v1", "DaemonSet", json!({"numberAvailable": 0})), all);
        // What may be absent is told even if it is zero, and what is there stays.
        let told = json!({"replicas": 2, "terminatingReplicas": 0, "collisionCount": 0});
        assert_eq!(settled("apps/v1", "Deployment", told.clone()), told);
        assert_eq!(settled("batch/v1", "Job", json!({"failed": 0, "ready": 0})), json!({"ready": 0}));
        let odd = json!({"currentHealthy": 0, "disruptedPods": {}, "conditions": [{"type": "A", "observedGeneration": 0}]});
        let told = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
            "conditions": [{"type": "A", "status": "", "reason": "", "message": ""}]});
        assert_eq!(settled("policy/v1", "PodDisruptionBudget", odd), told);
        let told = json!({"desiredReplicas": 0, "currentMetrics": null});
        assert_eq!(settled("autoscaling/v2", "HorizontalPodAutoscaler", Value::Null), told);
        assert_eq!(settled("v1", "Service", json!({})), json!({"loadBalancer": {}}));
    }

    #[test]
    fn times_are_written_also_where_none_is_set() {
        let mut object =
            json!({"metadata": {}, "status": {"conditions": [{"type": "A"}, {"lastUpdateTime": "t"}]}});
        fill_times("apps/v1", "Deployment", &mut object);
        assert_eq!(
            object,
            json!({"metadata": {}, "status": {"conditions": [
                {"type": "A", "lastUpdateTime": null, "lastTransitionTime": null},
                {"lastUpdateTime": "t", "lastTransitionTime": null},
            ]}})
        );
    }

    #[test]
    fn other_kinds_stay_as_they_are() {
        let mut object = json!({"spec": {"a": []}});
        drop_zeros("example.com/v1", "Boat", &mut object);
        assert_eq!(object, json!({"spec": {"a": []}}));
    }

    #[test]
    fn what_is_always_written_was_there_before() {
        let new = json!({"metadata": {"name": "a"}, "spec": {
            "replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}], "dnsPolicy": "Default"}},
        }, "status": {}});
        let mut old = json!({"metadata": {}});
        fill_zeros("apps/v1", "Deployment", &mut old, &new);
        let template = json!({"metadata": {}, "spec": {"containers": []}});
        let wanted = json!({"metadata": {}, "spec": {"strategy": {}, "template": template}, "status": {}});
        assert_eq!(old, wanted);
        let mut bare = json!({"metadata": {"name": "a"}});
        drop_zeros("apps/v1", "Deployment", &mut bare);
        assert_eq!(bare["spec"], json!({"strategy": {}, "template": {"metadata": {}, "spec": {}}}));
        fill_zeros("example.com/v1", "Boat", &mut old, &json!({"other": {}}));
        assert_eq!(old, wanted);
    }
}
