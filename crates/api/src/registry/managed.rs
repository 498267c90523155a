//! managedFields of writes that are no server-side apply.

use serde_json::Value;
use yunfan_objects::patch;
use yunfan_objects::patch::apply::{self, track_update};

use super::Writer;
use crate::kinds::Kind;

/// Notes in `new` which fields the writer owns now.
pub(super) fn track(
    writer: &Writer<'_>,
    kind: &Kind,
    subresource: &str,
    old: Option<&Value>,
    new: &mut Value,
) {
    if writer.applies {
        // It is noted already, in its own way.
        return unless_only_times(old, new);
    }
    // A binding is the scheduler's word, and no field that anybody manages. What the server itself adds is nobody's.
    if writer.manager.is_empty() || subresource == "binding" {
        return;
    }
    let api_version = kind.descriptor.api_version();
    let who = writer.of_fields(subresource, &api_version);
    if let ("scale", Some(old)) = (subresource, old) {
        // What is written through a Scale has one.
        let _ = patch::scale::track_update(&kind.descriptor, old, new, &who);
        return unless_only_times(Some(old), new);
    }
    // A status that comes with anything else is not taken over, so its writer owns nothing of it.
    let unread = old.is_none() && kind.descriptor.status_subresource;
    let status = new.as_object_mut().filter(|_| unread).and_then(|object| object.remove("status"));
    track_update(old, new, &who, &kind.descriptor.schema);
    if let (Some(old), Some(converter)) = (old, &kind.resource.converter) {
        apply::lose_elsewhere(old, new, &api_version, &|object, version| {
            converter.in_version(object, version)
        });
    }
    if let Some(status) = status {
        new["status"] = status;
    }
    unless_only_times(old, new);
}

/// Puts the old entries back where nothing but their times changed: a write without effect is none.
fn unless_only_times(old: Option<&Value>, new: &mut Value) {
    let Some(old) = old else { return };
    let (before, after) = (&old["metadata"]["managedFields"], &new["metadata"]["managedFields"]);
    let (Some(one), Some(other)) = (before.as_array(), after.as_array()) else { return };
    if before == after || one.len() != other.len() || !one.iter().zip(other).all(|(a, b)| same_but_time(a, b))
    {
        return;
    }
    let before = before.clone();
    let after = std::mem::replace(&mut new["metadata"]["managedFields"], before);
    // The revision that the writer expects, if any, is no part of what is written.
    let asked = put_revision(new, old["metadata"].get("resourceVersion").cloned());
    let same = new == old;
    put_revision(new, asked);
    if !same {
        new["metadata"]["managedFields"] = after;
    }
}

fn same_but_time(one: &Value, other: &Value) -> bool {
    match (one.as_object(), other.as_object()) {
        (Some(one), Some(other)) => {
            let (one, other) = (one.iter(), other.iter());
            one.filter(|(key, _)| *key != "time").eq(other.filter(|(key, _)| *key != "time"))
        }
        _ => one == other,
    }
}

/// Sets or removes the revision; returns the one before.
fn put_revision(object: &mut Value, revision: Option<Value>) -> Option<Value> {
    let meta = object.get_mut("metadata")?.as_object_mut()?;
    match revision {
        Some(revision) => meta.insert("resourceVersion".to_owned(), revision),
        None => meta.remove("resourceVersion"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_write_that_changes_times_alone_keeps_the_old_ones_and_its_own_revision() {
        let object = |time: &str, value: &str, revision: Option<&str>| {
            let entry = json!({"manager": "m", "operation": "Update", "time": time});
            let mut object =
                json!({"metadata": {"name": "a", "managedFields": [entry]}, "data": {"k": value}});
            put_revision(&mut object, revision.map(|revision| json!(revision)));
            object
        };
        let old = object("1", "same", Some("7"));
        for revision in [None, Some("7"), Some("6")] {
            let mut new = object("2", "same", revision);
            unless_only_times(Some(&old), &mut new);
            assert_eq!(new, object("1", "same", revision));
            let mut new = object("2", "other", revision);
            unless_only_times(Some(&old), &mut new);
            assert_eq!(new, object("2", "other", revision));
        }
    }
}
