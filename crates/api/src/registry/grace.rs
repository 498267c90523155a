//! What a deletion does to an object: it goes at once, or waits for its grace or for its finalizers.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use yunfan_objects::meta;

use super::DeleteOptions;
use crate::kinds::Kind;

/// Finalizer of the garbage collector: dependents lose their owner.
const ORPHAN: &str = "orphan";
/// Finalizer of the garbage collector: dependents go first.
const FOREGROUND: &str = "foregroundDeletion";

/// What is to be done.
pub(super) enum Step {
    /// It goes; this is its last state.
    Remove(Value),
    /// It is marked, or its mark changes.
    Mark(Value),
    /// It waits already, and no longer than it is asked to.
    Wait,
}

/// Decides what a deletion does to `object` now.
pub(super) fn step(kind: &Kind, object: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut new = object.clone();
    if kind.is("", "namespaces") && has_content(&new) {
        return namespace(new, options, now);
    }
    let grace = if kind.is("", "pods") { pod(&mut new, options, now) } else { Grace::None };
    if grace == Grace::Pending {
        return Step::Wait;
    }
    if !kind.descriptor.has_no_dependents() {
        propagate(&mut new, options, kind.descriptor.orphans_dependents());
    }
    let held = new["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    match grace {
        Grace::Left => Step::Mark(new),
        Grace::Over if held => Step::Mark(new),
        _ if held => {
            mark(&mut new, now);
            Step::Mark(new)
        }
        _ => Step::Remove(new),
    }
}

/// Whether a namespace still waits for what is in it.
pub(super) fn has_content(namespace: &Value) -> bool {
    namespace["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// A namespace is only marked: what is in it goes first.
fn namespace(mut new: Value, options: &DeleteOptions, now: Timestamp) -> Step {
    if !new["metadata"]["deletionTimestamp"].is_null() {
        return Step::Wait;
    }
    propagate(&mut new, options, false);
    count(&mut new["metadata"]);
    new["metadata"]["deletionTimestamp"] = json!(meta::time(now));
    new["status"]["phase"] = json!("Terminating");
    Step::Mark(new)
}

/// Marks an object that has no time of its own.
fn mark(object: &mut Value, now: Timestamp) {
    let meta = &mut object["metadata"];
    let at: Option<Timestamp> = meta["deletionTimestamp"].as_str().and_then(|at| at.parse().ok());
    if at.is_none() {
        count(meta);
    }
    if at.is_none_or(|at| at > now) {
        meta["deletionTimestamp"] = json!(meta::time(now));
    }
    meta["deletionGracePeriodSeconds"] = json!(0);
}

/// A mark is a change of what the object should be.
fn count(meta: &mut Value) {
    if let Some(generation) = meta["generation"].as_i64().filter(|generation| *generation > 0) {
        meta["generation"] = json!(generation + 1);
    }
}

/// A Pod's time to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    /// Not asked for any more.
    None,
    /// It runs, and does not get shorter.
    Pending,
    /// The Pod's node has this long.
    Left,
    /// There is nothing to wait for.
    Over,
}

fn pod(pod: &mut Value, options: &DeleteOptions, now: Timestamp) -> Grace {
    // A negative time is the shortest one that is still graceful.
    let positive = |seconds: i64| if seconds < 0 { 1 } else { seconds };
    let asked = options.grace.map(positive);
    let second = |seconds: i64| SignedDuration::from_secs(seconds);
    let marked: Option<Timestamp> =
        pod["metadata"]["deletionTimestamp"].as_str().and_then(|at| at.parse().ok());
    if let Some(at) = marked {
        let before = positive(pod["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0));
        if before == 0 {
            return Grace::None;
        }
        let Some(mut period) = asked.filter(|period| *period < before) else { return Grace::Pending };
        let mut end = at.saturating_sub(second(before)).unwrap_or(now);
        end = end.saturating_add(second(period)).unwrap_or(now);
        if end < now {
            end = now;
            period = period.min(1);
        }
        return set(pod, end, period);
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    let mut period = asked.or(own).unwrap_or(0);
    let placed = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    if !placed || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        period = 0;
    }
    count(&mut pod["metadata"]);
    let period = positive(period);
    set(pod, now.saturating_add(second(period)).unwrap_or(now), period)
}

fn set(pod: &mut Value, end: Timestamp, period: i64) -> Grace {
    pod["metadata"]["deletionTimestamp"] = json!(meta::time(end));
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(period);
    if period == 0 { Grace::Over } else { Grace::Left }
}

/// Puts the garbage collector's finalizers in, or takes them out: what is asked for counts, then what
/// an earlier deletion asked for, then what is usual for the kind.
fn propagate(object: &mut Value, options: &DeleteOptions, orphans: bool) {
    let before = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let has = |finalizer: &str| before.iter().any(|each| each == finalizer);
    let wanted = match options.propagation.as_deref() {
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some(_) => None,
        None if has(ORPHAN) => Some(ORPHAN),
        None if has(FOREGROUND) => Some(FOREGROUND),
        None => orphans.then_some(ORPHAN),
    };
    if wanted.is_some_and(has) && !(has(ORPHAN) && has(FOREGROUND)) {
        return;
    }
    let mut list = before;
    list.retain(|each| each != ORPHAN && each != FOREGROUND);
    list.extend(wanted.map(|finalizer| json!(finalizer)));
    let Some(meta) = object["metadata"].as_object_mut() else { return };
    if list.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), Value::Array(list));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn running() -> Value {
        json!({"metadata": {"generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}})
    }

    fn asked(grace: Option<i64>) -> DeleteOptions {
        DeleteOptions { grace, ..DeleteOptions::default() }
    }

    #[test]
    fn a_pods_grace_gets_shorter_and_never_longer() {
        let start = at("2026-01-01T00:00:00Z");
        let mut object = running();
        assert_eq!(pod(&mut object, &asked(None), start), Grace::Left);
        let meta = &object["metadata"];
        assert_eq!(meta["deletionTimestamp"], "2026-01-01T00:00:30Z");
        assert_eq!((&meta["deletionGracePeriodSeconds"], &meta["generation"]), (&json!(30), &json!(2)));
        for longer in [None, Some(30), Some(60)] {
            assert_eq!(pod(&mut object, &asked(longer), start), Grace::Pending);
        }
        assert_eq!(pod(&mut object, &asked(Some(10)), start), Grace::Left);
        assert_eq!(object["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
        assert_eq!(object["metadata"]["generation"], 2);
        // What would have ended already ends now, and is still the node's to end.
        let late = at("2026-01-01T00:00:08Z");
        assert_eq!(pod(&mut object, &asked(Some(5)), late), Grace::Left);
        assert_eq!(object["metadata"]["deletionTimestamp"], "2026-01-01T00:00:08Z");
        assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 1);
        assert_eq!(pod(&mut object, &asked(Some(0)), late), Grace::Over);
        assert_eq!(pod(&mut object, &asked(None), late), Grace::None);
    }

    #[test]
    fn a_pod_without_a_node_or_with_nothing_left_to_do_has_no_grace() {
        let now = at("2026-01-01T00:00:00Z");
        let mut unplaced = json!({"metadata": {}, "spec": {"terminationGracePeriodSeconds": 30}});
        assert_eq!(pod(&mut unplaced, &asked(Some(5)), now), Grace::Over);
        let mut done = running();
        done["status"]["phase"] = json!("Succeeded");
        assert_eq!(pod(&mut done, &asked(None), now), Grace::Over);
        assert_eq!(pod(&mut running(), &asked(Some(-7)), now), Grace::Left);
    }

    #[test]
    fn propagation_is_as_asked_then_as_before_then_as_usual() {
        let of = |finalizers: Value, propagation: Option<&str>, orphans| {
            let mut object = json!({"metadata": {"finalizers": finalizers}});
            let options =
                DeleteOptions { propagation: propagation.map(str::to_owned), ..DeleteOptions::default() };
            propagate(&mut object, &options, orphans);
            object["metadata"]["finalizers"].clone()
        };
        assert_eq!(of(json!(["a/b"]), Some("Orphan"), false), json!(["a/b", ORPHAN]));
        assert_eq!(of(json!([ORPHAN]), Some("Foreground"), false), json!([FOREGROUND]));
        assert_eq!(of(json!([FOREGROUND]), Some("Background"), false), Value::Null);
        assert_eq!(of(json!([FOREGROUND]), None, true), json!([FOREGROUND]));
        assert_eq!(of(json!([]), None, true), json!([ORPHAN]));
        assert_eq!(of(json!([]), None, false), Value::Null);
    }

    #[test]
    fn a_mark_is_counted_once() {
        let mut object = json!({"metadata": {"generation": 3}});
        mark(&mut object, at("2026-01-01T00:00:00Z"));
        mark(&mut object, at("2026-01-01T00:00:09Z"));
        let meta = &object["metadata"];
        assert_eq!((&meta["generation"], &meta["deletionGracePeriodSeconds"]), (&json!(4), &json!(0)));
        assert_eq!(meta["deletionTimestamp"], "2026-01-01T00:00:00Z");
    }
}
