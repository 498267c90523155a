//! managedFields of writes that are no server-side apply.

use jiff::Timestamp;
use serde_json::Value;
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
        apply::settle(old, new, &kind.descriptor.schema);
        return unless_only_times(old, new);
    }
    // A binding is the scheduler's word, and no field that anybody manages.
    if subresource == "binding" {
        return;
    }
    let api_version = kind.descriptor.api_version();
    let who = apply::Writer {
        manager: writer.manager,
        subresource,
        api_version: &api_version,
        now: Timestamp::now(),
    };
    track_update(old, new, &who, &kind.descriptor.schema);
    unless_only_times(old, new);
}

/// Puts the old entries back where nothing but their times changed: a write without effect is none.
fn unless_only_times(old: Option<&Value>, new: &mut Value) {
    let Some(old) = old else { return };
    let (before, after) = (&old["metadata"]["managedFields"], &new["metadata"]["managedFields"]);
    let (Some(one), Some(other)) = (before.as_array(), after.as_array()) else { return };
    let timeless = |list: &[Value]| {
        let mut list = list.to_vec();
        for entry in list.iter_mut().filter_map(Value::as_object_mut) {
            entry.remove("time");
        }
        list
    };
    if before == after || timeless(one) != timeless(other) {
        return;
    }
    let before = before.clone();
    let after = std::mem::replace(&mut new["metadata"]["managedFields"], before);
    let revision = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let asked = revision(new);
    new["metadata"]["resourceVersion"] = revision(old);
    let same = new == old;
    new["metadata"]["resourceVersion"] = asked;
    if !same {
        new["metadata"]["managedFields"] = after;
    }
}
