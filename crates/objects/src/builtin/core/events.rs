//! Event: what a recorder must say. The kind is served in two groups, with other names for the same fields; what is
//! stored is the core group's. Recorders that came with `events.k8s.io` are held to more, and say so by giving an
//! `eventTime`.

use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::rules::Rules;
use crate::error::FieldError;
use crate::lookup::{remove, set_default, text};
use crate::meta::{all_wrong, dns_subdomain, qualified_name};

/// Longest `reportingInstance`, `action` and `reason`, bytes.
const SHORT: usize = 128;
/// Longest message, bytes.
const LONG: usize = 1024;

/// A field's name in the core group, and in `events.k8s.io`.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// What an event of `events.k8s.io` may not change.
const FIXED: &[&str] = &[
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
];

/// The core group's.
pub(in crate::builtin) const CORE: Rules = Rules {
    default: always_shown,
    validate: |event| legacy(&Field::root(event), "reportingComponent"),
    tells_of_missing: true,
    ..Rules::UNCOUNTED
};

/// Fills in what upstream shows also where nobody gave it.
fn always_shown(event: &mut Object) {
    let absent = [("source", json!({})), ("reportingComponent", json!("")), ("reportingInstance", json!(""))];
    let times = ["eventTime", "firstTimestamp", "lastTimestamp"].map(|key| (key, Value::Null));
    for (key, value) in absent.into_iter().chain(times) {
        set_default(event, key, value);
    }
}

/// That of `events.k8s.io`.
pub(in crate::builtin) const EVENTS: Rules = Rules {
    default: |event| {
        to_core(event);
        always_shown(event);
        from_core(event);
    },
    validate: |event| legacy(&Field::root(&in_core(event)), "reportingController"),
    validate_create: |event| strict_create(&Field::root(&in_core(event))),
    validate_update: |new, old| strict_update(&Field::root(&in_core(new)), &Field::root(&in_core(old))),
    tells_of_missing: true,
    ..Rules::UNCOUNTED
};

/// Makes the core group's version of that of `events.k8s.io`.
pub(in crate::builtin) fn to_core(event: &mut Object) {
    rename(event, "v1", |(core, events)| (events, core));
}

/// Makes the version of `events.k8s.io` of the core group's.
pub(in crate::builtin) fn from_core(event: &mut Object) {
    rename(event, "events.k8s.io/v1", |names| names);
}

fn rename(
    event: &mut Object,
    api_version: &str,
    order: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    for (from, to) in NAMES.iter().copied().map(order) {
        if let Some(value) = remove(event, from) {
            event[to] = value;
        }
    }
    // The newer group leaves out what is empty in these two, the older one does not.
    for key in ["reportingController", "reportingInstance"] {
        if event.get(key).is_some_and(|value| value == "") && api_version != "v1" {
            remove(event, key);
        }
    }
    event["apiVersion"] = json!(api_version);
}

pub(in crate::builtin) fn in_core(event: &Object) -> Object {
    let mut event = event.clone();
    to_core(&mut event);
    event
}

/// What holds for all events. `reporter` is what the reporting component is called.
fn legacy(event: &Field<'_>, reporter: &str) -> Vec<FieldError> {
    let own = text(event.value, &["metadata", "namespace"]);
    let about = event.under(&["involvedObject", "namespace"]);
    let mismatch =
        || FieldError::invalid(about.path.as_str(), about.text(), "does not match event.namespace");
    let mut errors = Vec::new();
    if !event.at("eventTime").is_given() {
        let fits = match about.text() {
            // Events about objects of the whole cluster live in the namespace `default`.
            "" => matches!(own, "" | "default"),
            namespace => namespace == own,
        };
        errors.extend((!fits).then(mismatch));
    } else {
        if about.text().is_empty() && !matches!(own, "default" | "kube-system") {
            errors.push(mismatch());
        }
        let component = event.at("reportingComponent").text();
        if component.is_empty() {
            errors.push(FieldError::required(reporter, ""));
        }
        errors.extend(all_wrong(reporter, component, qualified_name(component)));
        for (key, limit, needed) in [
            ("reportingInstance", SHORT, true),
            ("action", SHORT, true),
            ("reason", SHORT, true),
            ("message", LONG, false),
        ] {
            let given = event.at(key);
            if needed && given.text().is_empty() {
                errors.push(given.required(""));
            }
            if given.text().len() > limit {
                let why = format!("can have at most {limit} characters");
                errors.push(FieldError::invalid(key, "", why));
            }
        }
    }
    errors.extend(all_wrong("namespace", own, dns_subdomain(own)));
    errors
}

fn series(event: &Field<'_>) -> Vec<FieldError> {
    let series = event.at("series");
    let mut errors = Vec::new();
    if series.is_given() {
        if series.at("count").number().unwrap_or(0) < 2 {
            errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
        }
        if !series.at("lastObservedTime").is_given() {
            errors.push(series.at("lastObservedTime").required(""));
        }
    }
    errors
}

fn strict_create(event: &Field<'_>) -> Vec<FieldError> {
    let mut errors = series(event);
    if !event.at("eventTime").is_given() {
        errors.push(event.at("eventTime").required(""));
    }
    let kind = event.at("type").text();
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
    }
    let is_set = |key: &str| match event.at(key).value {
        Value::Null => false,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Object(source) => source.values().any(|part| part != ""),
        _ => true,
    };
    for key in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if is_set(key) {
            errors.push(FieldError::invalid(key, "", "needs to be unset"));
        }
    }
    errors
}

fn strict_update(new: &Field<'_>, old: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if new.at("series").value != old.at("series").value {
        errors.extend(series(new));
    }
    for key in FIXED {
        let shown = if *key == "reportingComponent" { "reportingController" } else { key };
        let changed = new.at(key).same_as(&old.at(key));
        errors.extend(changed.map(|error| FieldError { field: shown.to_owned(), ..error }));
    }
    if micros(&new.at("eventTime")) != micros(&old.at("eventTime")) {
        errors.extend(new.at("eventTime").same_as(&old.at("eventTime")));
    }
    errors
}

/// A time in microseconds: finer parts may be lost on their way through a client.
fn micros(time: &Field<'_>) -> Option<i64> {
    time.text().parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Descriptor;
    use crate::builtin::tests::created;

    fn kind(group: &str) -> Descriptor {
        let all = crate::builtin::descriptors();
        all.into_iter().find(|each| each.kind == "Event" && each.group == group).unwrap()
    }

    fn event() -> Object {
        json!({
            "metadata": {"name": "e", "namespace": "demo"}, "eventTime": "2026-01-01T00:00:00.000001Z",
            "reportingController": "c.io/x", "reportingInstance": "x-1", "action": "Run", "reason": "Ran", "type": "Normal",
            "note": "it ran", "regarding": {"kind": "Pod", "namespace": "demo", "name": "p"},
        })
    }

    fn refused(group: &str, object: Object) -> String {
        created(&kind(group), object).err().map(|error| error.message().to_owned()).unwrap_or_default()
    }

    fn with(change: Value) -> Object {
        crate::patch::merge(&event(), &change).unwrap()
    }

    #[test]
    fn both_groups_show_the_same_event() {
        let mut object = event();
        object["apiVersion"] = json!("events.k8s.io/v1");
        object["deprecatedCount"] = json!(3);
        let before = object.clone();
        to_core(&mut object);
        assert_eq!(object["apiVersion"], "v1");
        assert_eq!(object["involvedObject"]["name"], "p");
        assert_eq!([&object["message"], &object["reportingComponent"]], ["it ran", "c.io/x"]);
        assert_eq!(object["count"], 3);
        assert_eq!(object.get("note"), None);
        from_core(&mut object);
        assert_eq!(object, before);
        let cells = kind("events.k8s.io").cells.unwrap()(&before, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!([&cells[3], &cells[5], &cells[6]], ["pod/p", "c.io/x, x-1", "it ran"]);
    }

    #[test]
    fn recorders_of_the_newer_group_are_held_to_more() {
        assert_eq!(refused("events.k8s.io", event()), "");
        for (change, wanted) in [
            (json!({"eventTime": null}), "eventTime: Required value"),
            (json!({"type": "Odd"}), "type: Invalid value: \"\": has invalid value: Odd"),
            (json!({"deprecatedCount": 1}), "count: Invalid value: \"\": needs to be unset"),
            (json!({"deprecatedSource": {"host": "h"}}), "source: Invalid value: \"\": needs to be unset"),
            (json!({"reportingController": ""}), "reportingController: Required value"),
            (json!({"action": ""}), "action: Required value"),
            (
                json!({"note": "x".repeat(1025)}),
                "message: Invalid value: \"\": can have at most 1024 characters",
            ),
            (json!({"series": {"count": 1}}), "series.count: Invalid value: \"\": should be at least 2"),
            (
                json!({"regarding": {"namespace": null}}),
                "involvedObject.namespace: Invalid value: \"\": does not match",
            ),
        ] {
            let message = refused("events.k8s.io", with(change.clone()));
            assert!(message.contains(wanted), "{change}: {message}");
        }
        let kind = kind("events.k8s.io");
        let old = created(&kind, event()).unwrap();
        let mut new = old.clone();
        new["eventTime"] = json!("2026-01-01T00:00:00.0000012Z");
        new["series"] = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01Z"});
        new["metadata"]["labels"] = json!({"a": "b"});
        kind.validate_update(&new, &old).unwrap();
        new["note"] = json!("it did not");
        new["reportingController"] = json!("c.io/y");
        let message = kind.validate_update(&new, &old).unwrap_err().message().to_owned();
        assert!(message.contains("message: Invalid value: \"it did not\": field is immutable"), "{message}");
        assert!(
            message.contains("reportingController: Invalid value: \"c.io/y\": field is immutable"),
            "{message}"
        );
    }

    #[test]
    fn the_core_group_asks_for_a_namespace_that_fits() {
        let event = |namespace: &str, about: Value| json!({"metadata": {"name": "e", "namespace": namespace}, "involvedObject": about, "type": "Odd"});
        for (namespace, about, good) in [
            ("demo", json!({"namespace": "demo"}), true),
            ("demo", json!({"namespace": "other"}), false),
            ("demo", json!({}), false),
            ("default", json!({}), true),
        ] {
            let object = event(namespace, about.clone());
            assert_eq!(
                legacy(&Field::root(&object), "reportingComponent").is_empty(),
                good,
                "{namespace} {about}"
            );
        }
    }
}
