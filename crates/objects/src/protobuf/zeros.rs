//! Empty values that Kubernetes' own programs leave out: they cannot tell them from absent ones, so an object that was
//! sent with them comes back without.

use serde_json::Value;

use super::table::{Field, Kind, Message, Shape, Table};

/// The one list that means something else when it is empty than when it is absent: an autoscaler's scaling rules with no
/// policy are refused, those that say nothing of policies get the default ones.
const MEANT: &str = "policies";

/// Drops the empty values of an object of one of Kubernetes' own kinds, as its programs do when they write it:
/// `paused: false`, `labels: {}`, `env: []`; not `replicas: 0`, which may be meant, and not the fields of the
/// status, which those who keep it up write whole. Does nothing for a kind that is not known.
pub(crate) fn drop_zeros(api_version: &str, kind: &str, object: &mut Value) {
    let table = Table::get();
    let Some(root) = table.root(api_version, kind) else { return };
    let Message::Fields(fields) = table.message(root) else { return };
    for field in fields.iter().filter(|field| field.name != "status") {
        settle(table, field, object);
    }
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
        (Shape::List, _) => field.name != MEANT && value.as_array().is_some_and(Vec::is_empty),
        (Shape::Map, _) => value.as_object().is_some_and(serde_json::Map::is_empty),
        (_, Kind::Text | Kind::Bytes) => value.as_str() == Some(""),
        (_, Kind::Bool) => *value == Value::Bool(false),
        (_, Kind::Int32 | Kind::Int64 | Kind::Double) => value.as_f64() == Some(0.0),
        (_, Kind::Message(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn other_kinds_stay_as_they_are() {
        let mut object = json!({"spec": {"a": []}});
        drop_zeros("example.com/v1", "Boat", &mut object);
        assert_eq!(object, json!({"spec": {"a": []}}));
    }
}
