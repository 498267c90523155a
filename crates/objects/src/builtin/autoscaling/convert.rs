//! HorizontalPodAutoscaler as `autoscaling/v1` and `autoscaling/v2`.
//!
//! The older version knows a share of the requested CPU and nothing else. What it has no field for it carries in
//! annotations, so that a client that reads and writes it loses nothing: metrics and their states in the shape
//! that they once had in that version, the behaviour with the names of Go's fields.

use serde_json::{Map, Value, json};

use crate::Object;
use crate::builtin::autoscaling::hpa::{DEFAULT_CPU_UTILIZATION, cpu_metric};
use crate::builtin::{definitions, inner};
use crate::lookup::{at, at_mut, list, remove, set_default, text};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const METRIC_STATUSES: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
/// Once used; never carried on.
const FORMER: [&str; 2] = [
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

/// Annotations that carry parts of the spec.
pub(in crate::builtin) const SPEC: [&str; 2] = [METRICS, BEHAVIOR];
/// Annotations that carry parts of the status.
pub(in crate::builtin) const STATUS: [&str; 2] = [METRIC_STATUSES, CONDITIONS];

/// Where the parts of a metric are: its field, the place in the newer version, the name in the older one.
const PARTS: &[(&str, &[&str], &str)] = &[
    ("object", &["describedObject"], "target"),
    ("object", &["metric", "name"], "metricName"),
    ("object", &["metric", "selector"], "selector"),
    ("object", &["target", "value"], "targetValue"),
    ("object", &["target", "averageValue"], "averageValue"),
    ("object", &["current", "value"], "currentValue"),
    ("object", &["current", "averageValue"], "averageValue"),
    ("pods", &["metric", "name"], "metricName"),
    ("pods", &["metric", "selector"], "selector"),
    ("pods", &["target", "averageValue"], "targetAverageValue"),
    ("pods", &["current", "averageValue"], "currentAverageValue"),
    ("external", &["metric", "name"], "metricName"),
    ("external", &["metric", "selector"], "metricSelector"),
    ("external", &["target", "value"], "targetValue"),
    ("external", &["target", "averageValue"], "targetAverageValue"),
    ("external", &["current", "value"], "currentValue"),
    ("external", &["current", "averageValue"], "currentAverageValue"),
    ("resource", &["name"], "name"),
    ("resource", &["target", "averageUtilization"], "targetAverageUtilization"),
    ("resource", &["target", "averageValue"], "targetAverageValue"),
    ("resource", &["current", "averageUtilization"], "currentAverageUtilization"),
    ("resource", &["current", "averageValue"], "currentAverageValue"),
    ("containerResource", &["container"], "container"),
    ("containerResource", &["name"], "name"),
    ("containerResource", &["target", "averageUtilization"], "targetAverageUtilization"),
    ("containerResource", &["target", "averageValue"], "targetAverageValue"),
    ("containerResource", &["current", "averageUtilization"], "currentAverageUtilization"),
    ("containerResource", &["current", "averageValue"], "currentAverageValue"),
];

/// Amounts that the older version always wrote, though there was none.
const NEEDED: &[(&str, &str, &str)] = &[
    ("object", "target", "targetValue"),
    ("object", "current", "currentValue"),
    ("pods", "target", "targetAverageValue"),
    ("pods", "current", "currentAverageValue"),
    ("external", "current", "currentValue"),
    ("resource", "current", "currentAverageValue"),
    ("containerResource", "current", "currentAverageValue"),
];

/// Makes the older version of the newer one.
pub(in crate::builtin) fn v2_to_v1(autoscaler: &mut Object) {
    drop_annotations(autoscaler);
    autoscaler["apiVersion"] = json!("autoscaling/v1");
    let taken = |part: Option<&mut Value>, key: &str| part.and_then(|part| remove(part, key));
    let metrics = taken(autoscaler.get_mut("spec"), "metrics");
    let behavior = taken(autoscaler.get_mut("spec"), "behavior");
    let states = taken(autoscaler.get_mut("status"), "currentMetrics");
    let mut conditions = taken(autoscaler.get_mut("status"), "conditions");
    for condition in conditions.as_mut().and_then(Value::as_array_mut).into_iter().flatten() {
        set_default(condition, "lastTransitionTime", Value::Null);
    }
    let mut others = Vec::new();
    for metric in metrics.as_ref().map(|metrics| list(metrics, &[])).unwrap_or_default() {
        match at(metric, &["resource", "target", "averageUtilization"]) {
            Some(share) if is_cpu(metric) => {
                set_default(&mut autoscaler["spec"], "targetCPUUtilizationPercentage", share.clone());
            }
            _ => others.push(older_metric(metric, "target")),
        }
    }
    let states = states.as_ref().map(|states| list(states, &[])).unwrap_or_default();
    for state in states.iter().filter(|state| is_cpu(state)) {
        if let Some(share) = at(state, &["resource", "current", "averageUtilization"]) {
            autoscaler["status"]["currentCPUUtilizationPercentage"] = share.clone();
        }
    }
    // The older version has both numbers, always.
    set_default(autoscaler, "status", Map::new());
    set_default(&mut autoscaler["status"], "currentReplicas", 0);
    set_default(&mut autoscaler["status"], "desiredReplicas", 0);
    let states: Vec<Value> = states.iter().map(|state| older_metric(state, "current")).collect();
    let filled = |items: Vec<Value>| Some(Value::Array(items)).filter(|items| !list(items, &[]).is_empty());
    for (key, value) in [
        (METRICS, filled(others)),
        (METRIC_STATUSES, filled(states)),
        (CONDITIONS, conditions.filter(|conditions| !list(conditions, &[]).is_empty())),
    ] {
        set_annotation(autoscaler, key, value.map(|value| json!(in_order(&value))));
    }
    let behavior = behavior.map(|behavior| json!(inner::shown(&behavior, inner::SCALING_BEHAVIOR)));
    set_annotation(autoscaler, BEHAVIOR, behavior);
}

/// Makes the newer version of the older one.
pub(in crate::builtin) fn v1_to_v2(autoscaler: &mut Object) {
    autoscaler["apiVersion"] = json!("autoscaling/v2");
    let carried = |key: &str| -> Option<Value> {
        serde_json::from_str(text(autoscaler, &["metadata", "annotations", key])).ok()
    };
    let newer = |carried: Value, side: &str| -> Value {
        list(&carried, &[]).iter().map(|metric| newer_metric(metric, side)).collect()
    };
    let metrics = carried(METRICS).and_then(|it| shaped("spec", "metrics", newer(it, "target")));
    let behavior = carried(BEHAVIOR).map(|behavior| renamed(behavior, str::to_lowercase));
    let behavior = behavior.and_then(|behavior| shaped("spec", "behavior", behavior));
    let states =
        carried(METRIC_STATUSES).and_then(|it| shaped("status", "currentMetrics", newer(it, "current")));
    let conditions = carried(CONDITIONS).and_then(|it| shaped("status", "conditions", it));
    drop_annotations(autoscaler);
    set_default(autoscaler, "spec", Map::new());
    let spec = &mut autoscaler["spec"];
    let mut all = metrics.as_ref().map(|metrics| list(metrics, &[]).to_vec()).unwrap_or_default();
    all.extend(remove(spec, "targetCPUUtilizationPercentage").map(cpu_metric));
    if all.is_empty() {
        all.push(cpu_metric(DEFAULT_CPU_UTILIZATION));
    }
    spec["metrics"] = Value::Array(all);
    if let Some(behavior) = behavior.filter(|it| it.as_object().is_some_and(|map| !map.is_empty())) {
        spec["behavior"] = behavior;
    }
    let cpu = autoscaler.get_mut("status").and_then(|s| remove(s, "currentCPUUtilizationPercentage"));
    if let Some(status) = autoscaler.get_mut("status").filter(|status| status["currentReplicas"] == 0) {
        remove(status, "currentReplicas");
    }
    // The newer version has the list, also where there is none.
    if let Some(status) = autoscaler.get_mut("status") {
        set_default(status, "currentMetrics", Value::Null);
    }
    // What was carried says more than the one number.
    let states = states.or_else(|| {
        let current = json!({"averageUtilization": cpu?});
        Some(json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]))
    });
    for (key, value) in [("currentMetrics", states), ("conditions", conditions)] {
        if let Some(value) = value {
            set_default(autoscaler, "status", Map::new());
            autoscaler["status"][key] = value;
        }
    }
}

/// The keys of metrics and conditions, in the order in which upstream writes them.
const ORDER: &[&str] = &[
    "type",
    "status",
    "lastTransitionTime",
    "reason",
    "message",
    "kind",
    "name",
    "apiVersion",
    "target",
    "metricName",
    "metricSelector",
    "targetAverageUtilization",
    "currentAverageUtilization",
    "targetValue",
    "currentValue",
    "targetAverageValue",
    "currentAverageValue",
    "selector",
    "averageValue",
    "container",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
];

/// JSON with the keys of objects in upstream's order.
fn in_order(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            let place = |key: &str| ORDER.iter().position(|known| *known == key).unwrap_or(ORDER.len());
            fields.sort_by_key(|(key, _)| place(key));
            let shown = fields.into_iter().map(|(key, value)| format!("{}:{}", json!(key), in_order(value)));
            format!("{{{}}}", shown.collect::<Vec<_>>().join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(in_order).collect::<Vec<_>>().join(",")),
        value => value.to_string(),
    }
}

/// What an annotation says for this field of the newer version; nothing where it has not that field's shape: it
/// is a text that anybody may have written.
fn shaped(part: &str, field: &str, value: Value) -> Option<Value> {
    let schema = definitions().reference("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler");
    let mut object = json!({part: {field: value}});
    schema.drop_nulls(&mut object);
    if !schema.type_errors_at(&object, "").is_empty() {
        return None;
    }
    schema.canonical(&mut object);
    schema.prune(&mut object);
    at_mut(&mut object, &[part, field]).map(Value::take)
}

fn is_cpu(metric: &Value) -> bool {
    text(metric, &["type"]) == "Resource" && text(metric, &["resource", "name"]) == "cpu"
}

/// A metric, or its state, in the shape of the older version. `side` is `target` or `current`.
fn older_metric(metric: &Value, side: &str) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (source, place, old) in PARTS.iter().filter(|(_, place, _)| is_of(place, side)) {
        let Some(from) = metric.get(source) else { continue };
        set_default(&mut out, source, Map::new());
        if let Some(value) = at(from, place) {
            out[*source][*old] = value.clone();
        }
    }
    for (source, _, field) in NEEDED.iter().filter(|(_, needed_on, _)| *needed_on == side) {
        if let Some(source) = out.get_mut(source) {
            set_default(source, field, "0");
        }
    }
    out
}

/// A metric, or its state, in the shape of the newer version.
fn newer_metric(metric: &Value, side: &str) -> Value {
    let mut out = json!({"type": metric["type"]});
    for (source, place, old) in PARTS.iter().filter(|(_, place, _)| is_of(place, side)) {
        let Some(from) = metric.get(source) else { continue };
        set_default(&mut out, source, json!({side: {}}));
        let Some(value) = from.get(old).filter(|value| !value.is_null()) else { continue };
        let slot = place.iter().fold(&mut out[*source], |slot, key| &mut slot[*key]);
        *slot = value.clone();
    }
    if side == "target" {
        for source in ["object", "pods", "external", "resource", "containerResource"] {
            if let Some(target) = at_mut(&mut out, &[source, "target"]) {
                set_target_type(source, target);
            }
        }
    }
    out
}

/// The older version did not say what a target is: it is what is given.
fn set_target_type(source: &str, target: &mut Value) {
    let given = |key: &str| target.get(key).is_some();
    let kind = match source {
        "pods" => "AverageValue",
        "object" if given("averageValue") => "AverageValue",
        "external" if !given("value") => "AverageValue",
        "object" | "external" => "Value",
        _ if given("averageUtilization") => "Utilization",
        _ => "AverageValue",
    };
    // Beside an average the older version could not leave the value out.
    if source == "object" && kind == "AverageValue" && target["value"] == "0" {
        remove(target, "value");
    }
    target["type"] = json!(kind);
}

/// Whether a place belongs to this side, or to both.
fn is_of(place: &[&str], side: &str) -> bool {
    place[0] == side || !matches!(place[0], "target" | "current")
}

/// The same with the first letter of each key changed.
fn renamed(value: Value, change: fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| {
                let first = key.chars().next().map_or(0, char::len_utf8);
                (change(&key[..first]) + &key[first..], renamed(value, change))
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(|item| renamed(item, change)).collect(),
        other => other,
    }
}

/// Sets an annotation, or takes it away; an empty map of them goes with its last one.
pub(in crate::builtin) fn set_annotation(object: &mut Object, key: &str, value: Option<Value>) {
    let Some(metadata) = object.get_mut("metadata") else { return };
    match value {
        Some(value) => {
            set_default(metadata, "annotations", Map::new());
            metadata["annotations"][key] = value;
        }
        None => {
            let Some(annotations) = metadata.get_mut("annotations") else { return };
            let removed = remove(annotations, key).is_some();
            if removed && annotations.as_object().is_some_and(Map::is_empty) {
                remove(metadata, "annotations");
            }
        }
    }
}

fn drop_annotations(autoscaler: &mut Object) {
    for key in SPEC.iter().chain(&STATUS).chain(&FORMER) {
        set_annotation(autoscaler, key, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newer() -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a", "annotations": {"mine": "stays"}},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "minReplicas": 1, "maxReplicas": 9,
                "metrics": [
                    {"type": "Object", "object": {
                        "describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"},
                        "metric": {"name": "m", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "3"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "p"}, "target": {"type": "AverageValue", "averageValue": "10m"}}},
                    {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "Value", "value": "5"}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 60}}},
                    {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                        "target": {"type": "AverageValue", "averageValue": "1"}}},
                    cpu_metric(70),
                ],
                "behavior": {"scaleUp": {"selectPolicy": "Max", "stabilizationWindowSeconds": 0,
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}},
            },
            "status": {
                "currentReplicas": 2, "desiredReplicas": 3,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 33, "averageValue": "20m"}}},
                    {"type": "External", "external": {"metric": {"name": "e"}, "current": {"value": "4"}}},
                ],
            },
        })
    }

    fn annotation(object: &Value, key: &str) -> Value {
        serde_json::from_str(text(object, &["metadata", "annotations", key])).unwrap()
    }

    #[test]
    fn nothing_is_lost_on_the_way_through_the_older_version() {
        let mut object = newer();
        v2_to_v1(&mut object);
        assert_eq!(object["apiVersion"], "autoscaling/v1");
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 70);
        assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 33);
        assert_eq!(object["spec"].get("metrics").or(object["spec"].get("behavior")), None);
        let carried = annotation(&object, METRICS);
        assert_eq!(
            carried[0]["object"],
            json!({"target": {"kind": "Service", "name": "s", "apiVersion": "v1"}, "metricName": "m",
                "selector": {"matchLabels": {"a": "b"}}, "targetValue": "0", "averageValue": "3"})
        );
        assert_eq!(
            carried[4]["containerResource"],
            json!({"name": "cpu", "container": "c", "targetAverageValue": "1"})
        );
        assert_eq!(carried.as_array().unwrap().len(), 5, "the CPU has a field of its own");
        let behavior = annotation(&object, BEHAVIOR);
        assert_eq!(
            behavior["ScaleUp"]["Policies"][0],
            json!({"Type": "Pods", "Value": 4, "PeriodSeconds": 15})
        );
        v1_to_v2(&mut object);
        assert_eq!(object, newer());
    }

    #[test]
    fn what_the_older_version_says_in_its_own_words_is_understood() {
        let spec = json!({"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "w"}});
        let mut object = json!({"apiVersion": "autoscaling/v1", "metadata": {}, "spec": spec,
            "status": {"currentReplicas": 1, "currentCPUUtilizationPercentage": 12}});
        v1_to_v2(&mut object);
        assert_eq!(object["spec"]["metrics"], json!([cpu_metric(80)]), "the default");
        assert_eq!(object["status"]["currentMetrics"][0]["resource"]["current"]["averageUtilization"], 12);
        v2_to_v1(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 80);
        assert_eq!(object["status"]["currentCPUUtilizationPercentage"], 12);
    }

    #[test]
    fn an_annotation_of_another_shape_is_dropped() {
        for (key, value) in [
            (METRICS, r#"[{"type":"Pods","pods":{"metricName":{"a":1}}}]"#),
            (METRICS, "{broken"),
            (METRICS, "7"),
            (BEHAVIOR, r#"{"ScaleUp":"fast"}"#),
            (BEHAVIOR, "{}"),
            (CONDITIONS, r#"{"type":"x"}"#),
            (METRIC_STATUSES, r#"[[1]]"#),
            (FORMER[0], "1"),
        ] {
            let mut object = json!({"apiVersion": "autoscaling/v1", "metadata": {"annotations": {key: value}},
                "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 5}});
            v1_to_v2(&mut object);
            let wanted = json!({"apiVersion": "autoscaling/v2", "metadata": {},
                "spec": {"maxReplicas": 3, "metrics": [cpu_metric(5)]}});
            if key == METRIC_STATUSES {
                object.as_object_mut().unwrap().remove("status");
            }
            assert_eq!(object, wanted, "{key}: {value}");
        }
    }
}
