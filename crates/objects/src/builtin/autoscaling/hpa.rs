//! HorizontalPodAutoscaler: defaults, rows and rules. What is stored is `autoscaling/v2`; the older version,
//! which knows of no metric but the CPU, is made of it in `hpa_convert`.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::Object;
use crate::builtin::ColumnSpec;
use crate::builtin::autoscaling::{convert, validate};
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::Rules;
use crate::lookup::{at, list, number, set_default, text};

/// Share of the requested CPU that is aimed at where no metric is given, percent.
pub(in crate::builtin) const DEFAULT_CPU_UTILIZATION: i64 = 80;
/// Metrics that a row shows; of further ones it says how many there are.
const SHOWN_METRICS: usize = 2;

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Reference", "string", 0),
    ("Targets", "string", 0),
    ("MinPods", "string", 0),
    ("MaxPods", "string", 0),
    ("Replicas", "string", 0),
    ("Age", "string", 0),
];

/// `autoscaling/v2`.
pub(in crate::builtin) const V2: Rules = Rules {
    tells_of_missing: true,
    default: defaults,
    prepare_create: |autoscaler| autoscaler["status"] = json!({"currentMetrics": null, "desiredReplicas": 0}),
    validate_update: validate::update,
    validate_create: validate::create,
    validate_status: validate::status,
    ..Rules::UNCOUNTED
};

/// `autoscaling/v1`: held to the rules of what it is stored as.
pub(in crate::builtin) const V1: Rules = Rules {
    tells_of_missing: true,
    // What it is stored as has the defaults, and shows what of the annotations is understood.
    default: |autoscaler| {
        convert::v1_to_v2(autoscaler);
        defaults(autoscaler);
        convert::v2_to_v1(autoscaler);
    },
    validate_update: |new, old| validate::update(&in_v2(new), &in_v2(old)),
    validate_create: |autoscaler| validate::create(&in_v2(autoscaler)),
    validate_status: |new, old| validate::status(&in_v2(new), &in_v2(old)),
    prepare_create: |autoscaler| {
        autoscaler["status"] = json!({"currentReplicas": 0, "desiredReplicas": 0});
        keep_annotations(autoscaler, &Value::Null, &convert::STATUS);
    },
    prepare_update: |new, old| keep_annotations(new, old, &convert::STATUS),
    prepare_status_update: |new, old| {
        keep_annotations(new, old, &convert::SPEC);
        // The share of the CPU is among the states of metrics, which an annotation tells.
        convert::v1_to_v2(new);
        convert::v2_to_v1(new);
    },
    ..Rules::UNCOUNTED
};

fn in_v2(autoscaler: &Object) -> Object {
    let mut autoscaler = autoscaler.clone();
    convert::v1_to_v2(&mut autoscaler);
    autoscaler
}

/// What the older version has no fields for is in annotations: those that a request has no say in stay as they were.
fn keep_annotations(new: &mut Object, old: &Object, keys: &[&str]) {
    for key in keys {
        let kept = at(old, &["metadata", "annotations", *key]).cloned();
        convert::set_annotation(new, key, kept);
    }
}

fn spec_of(autoscaler: &mut Object) -> &mut Value {
    set_default(autoscaler, "spec", Map::new());
    &mut autoscaler["spec"]
}

fn defaults(autoscaler: &mut Object) {
    let spec = spec_of(autoscaler);
    set_default(spec, "minReplicas", 1);
    if list(spec, &["metrics"]).is_empty() {
        spec["metrics"] = json!([cpu_metric(DEFAULT_CPU_UTILIZATION)]);
    }
    if spec["behavior"].is_object() {
        let up = json!([
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ]);
        let down = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
        for (direction, policies) in [("scaleUp", up), ("scaleDown", down)] {
            set_default(&mut spec["behavior"], direction, Map::new());
            let rules = &mut spec["behavior"][direction];
            set_default(rules, "selectPolicy", "Max");
            set_default(rules, "policies", policies);
        }
        // How long to wait before scaling down is a setting of the controller.
        set_default(&mut spec["behavior"]["scaleUp"], "stabilizationWindowSeconds", 0);
    }
}

/// The metric of the CPU: a share of what is requested, percent.
pub(in crate::builtin) fn cpu_metric(utilization: impl Into<Value>) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": utilization.into()});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

pub(in crate::builtin) fn cells(autoscaler: &Object, now: Timestamp) -> Vec<Value> {
    let count = |path: &[&str]| number(autoscaler, path);
    let target = |key: &str| text(autoscaler, &["spec", "scaleTargetRef", key]).to_owned();
    let least = count(&["spec", "minReplicas"]).map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    vec![
        name(autoscaler),
        json!(format!("{}/{}", target("kind"), target("name"))),
        json!(metrics(autoscaler)),
        json!(least),
        json!(count(&["spec", "maxReplicas"]).unwrap_or(0)),
        json!(count(&["status", "currentReplicas"]).unwrap_or(0)),
        since_creation(autoscaler, now),
    ]
}

/// The row of the older version, which shows the same.
pub(in crate::builtin) fn v1_cells(autoscaler: &Object, now: Timestamp) -> Vec<Value> {
    cells(&in_v2(autoscaler), now)
}

fn metrics(autoscaler: &Object) -> String {
    let metrics = list(autoscaler, &["spec", "metrics"]);
    let states = list(autoscaler, &["status", "currentMetrics"]);
    let shown: Vec<String> = metrics
        .iter()
        .take(SHOWN_METRICS)
        .enumerate()
        .map(|(index, metric)| one_metric(metric, states.get(index).unwrap_or(&Value::Null)))
        .collect();
    match metrics.len() {
        0 => "<none>".to_owned(),
        all if all > SHOWN_METRICS => format!("{} + {} more...", shown.join(", "), all - SHOWN_METRICS),
        _ => shown.join(", "),
    }
}

/// `CURRENT/TARGET` of one metric.
fn one_metric(metric: &Value, state: &Value) -> String {
    let (source, is_resource) = match text(metric, &["type"]) {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let target = |key: &str| at(metric, &[source, "target", key]).map(plain);
    let current =
        |key: &str| at(state, &[source, "current", key]).map_or_else(|| "<unknown>".to_owned(), plain);
    let percent = |text: String| if text.starts_with('<') { text } else { format!("{text}%") };
    let shown = match (target("averageValue"), is_resource) {
        (Some(target), _) => {
            let average = if matches!(source, "external" | "object") { " (avg)" } else { "" };
            format!("{}/{target}{average}", current("averageValue"))
        }
        (None, true) => {
            let target = target("averageUtilization").unwrap_or_else(|| "<auto>".to_owned());
            format!("{}/{}", percent(current("averageUtilization")), percent(target))
        }
        (None, false) => format!("{}/{}", current("value"), target("value").unwrap_or_default()),
    };
    match is_resource {
        true => format!("{}: {shown}", text(metric, &[source, "name"])),
        false => shown,
    }
}
