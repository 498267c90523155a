//! Rows of the smaller kinds.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::ColumnSpec;
use crate::builtin::rows::{name, or_none, since_creation};
use crate::lookup::{entries, list, map, number, text};
use crate::table::age;

fn count(object: &Object, fields: &[&str]) -> Value {
    let sizes = fields.iter().filter_map(|field| map(object, &[field])).map(serde_json::Map::len);
    json!(sizes.sum::<usize>())
}

pub(in crate::builtin) fn namespace(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, &["status", "phase"])), since_creation(object, now)]
}

pub(in crate::builtin) fn component_status(object: &Object, _: Timestamp) -> Vec<Value> {
    let healthy = list(object, &["conditions"]).iter().find(|each| text(each, &["type"]) == "Healthy");
    let cell = |key: &str| json!(healthy.map(|condition| text(condition, &[key])).unwrap_or_default());
    let status = if cell("status") == "True" { "Healthy" } else { "Unhealthy" };
    vec![name(object), json!(status), cell("message"), cell("error")]
}

pub(in crate::builtin) fn config_map(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), count(object, &["data", "binaryData"]), since_creation(object, now)]
}

pub(in crate::builtin) fn secret(object: &Object, now: Timestamp) -> Vec<Value> {
    let kind = json!(text(object, &["type"]));
    vec![name(object), kind, count(object, &["data"]), since_creation(object, now)]
}

pub(in crate::builtin) fn lease(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, &["spec", "holderIdentity"])), since_creation(object, now)]
}

pub(in crate::builtin) fn resource_quota(object: &Object, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in entries(object, &["spec", "hard"]) {
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let used = object["status"]["used"].get(resource).map_or_else(|| "0".to_owned(), plain);
        let text = format!("{resource}: {used}/{}", plain(hard));
        if resource.starts_with("limits") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(object), json!(requests.join(", ")), json!(limits.join(", ")), since_creation(object, now)]
}

pub(in crate::builtin) const EVENT_COLUMNS: &[ColumnSpec] = &[
    ("Last Seen", "string", 0),
    ("Type", "string", 0),
    ("Reason", "string", 0),
    ("Object", "string", 0),
    ("Subobject", "string", 1),
    ("Source", "string", 1),
    ("Message", "string", 0),
    ("First Seen", "string", 1),
    ("Count", "string", 1),
    ("Name", "string", 1),
];

pub(in crate::builtin) fn event(event: &Object, now: Timestamp) -> Vec<Value> {
    let first_of = |paths: &[&[&str]]| {
        let found = paths.iter().map(|path| text(event, path)).find(|at| !at.is_empty());
        found.map_or_else(|| "<unknown>".to_owned(), |at| age(at, now))
    };
    let about = &event["involvedObject"];
    let either = |old: &[&str], new: &[&str]| {
        Some(text(event, old)).filter(|old| !old.is_empty()).unwrap_or_else(|| text(event, new)).to_owned()
    };
    let instance = either(&["source", "host"], &["reportingInstance"]);
    let component = either(&["source", "component"], &["reportingComponent"]);
    let source = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    let times = number(event, &["series", "count"]).or(number(event, &["count"])).filter(|n| *n > 0);
    vec![
        json!(first_of(&[
            &["series", "lastObservedTime"],
            &["lastTimestamp"],
            &["eventTime"],
            &["firstTimestamp"]
        ])),
        json!(text(event, &["type"])),
        or_none(text(event, &["reason"])),
        json!(format!("{}/{}", text(about, &["kind"]).to_lowercase(), text(about, &["name"]))),
        json!(text(about, &["fieldPath"])),
        json!(source),
        json!(text(event, &["message"]).trim()),
        json!(first_of(&[&["firstTimestamp"], &["eventTime"]])),
        json!(times.unwrap_or(1)),
        name(event),
    ]
}
