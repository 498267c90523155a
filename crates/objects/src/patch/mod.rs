//! The four ways to patch an object.
//!
//! JSON patch and merge patch need no schema; a strategic merge patch ([`strategic`]) needs merge
//! keys, and server-side apply ([`apply`]) needs list types.

pub mod apply;
mod fields;
mod last_applied;
mod managers;
pub mod scale;
mod strategic;
mod typed;
mod versions;

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hash;

use json_patch::{AddOperation, PatchOperation};
use serde::Deserialize;
use serde_json::Value;

pub use fields::{Comparison, FieldSet, compare};
pub use managers::{manager_name, validate_manager};
pub use strategic::strategic;
pub(crate) use typed::check_configuration;

use crate::codec::MAX_DEPTH;
use crate::{ApiError, Object, golang};

/// Most operations in one JSON patch.
pub const MAX_OPERATIONS: usize = 10_000;

/// Most bytes that the `copy` operations of one JSON patch may copy together, so that a patch that
/// doubles a list again and again cannot fill the memory.
const MAX_COPIED: usize = 3 << 20;

/// Where each key stands first.
fn first_places<K: Hash + Eq>(keys: impl Iterator<Item = (K, usize)>) -> HashMap<K, usize> {
    let mut places = HashMap::new();
    for (key, at) in keys {
        places.entry(key).or_insert(at);
    }
    places
}

/// Why a JSON patch could not be applied.
#[derive(Debug)]
pub enum Unpatched {
    /// It is malformed, or an operation does not fit.
    Wrong(ApiError),
    /// One of its tests does not hold.
    Test(ApiError),
}

impl From<ApiError> for Unpatched {
    fn from(error: ApiError) -> Self {
        Self::Wrong(error)
    }
}

/// Applies a JSON patch (RFC 6902). All of it or nothing.
///
/// As Kubernetes reads it, `null` is a patch that does nothing, and `replace` also makes a member that was not there.
///
/// # Errors
/// 400 for what is no list of objects, 413 for too many operations, 422 where an operation is malformed or does not
/// fit.
pub fn json(document: &Object, patch: &Value) -> Result<Object, ApiError> {
    json_tested(document, patch).map_err(|why| match why {
        Unpatched::Wrong(error) | Unpatched::Test(error) => error,
    })
}

/// Applies a JSON patch as [`json`] does, and tells apart a test that does not hold.
///
/// # Errors
/// As [`json`].
pub fn json_tested(document: &Object, patch: &Value) -> Result<Object, Unpatched> {
    const OPERATIONS: &str = "[]handlers.jsonPatchOp";
    let operations = match patch {
        Value::Null => return Ok(document.clone()),
        Value::Array(list) => list,
        other => return Err(undecodable(other, OPERATIONS).into()),
    };
    if let Some(other) = operations.iter().find(|each| !each.is_object()) {
        return Err(undecodable(other, OPERATIONS.trim_start_matches("[]")).into());
    }
    if operations.len() > MAX_OPERATIONS {
        let message = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        );
        return Err(ApiError::new(413, crate::Reason::RequestEntityTooLarge, message).into());
    }
    let mut out = document.clone();
    let mut copied = 0;
    let mut depth = Depth { most: depth_of(&out), looks: 0 };
    for operation in operations {
        let operation = with_value(operation);
        let operation = PatchOperation::deserialize(&*operation).map_err(|_| ApiError::rejected())?;
        depth.grows_by(&operation);
        if let PatchOperation::Copy(copy) = &operation {
            let source = out.pointer(copy.from.as_str());
            copied += source.map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED {
                return Err(ApiError::too_large(MAX_COPIED).into());
            }
        }
        if holds_of_nothing(&operation, &out) {
            continue;
        }
        let operation = [or_add(operation, &out)];
        // On an error the half-patched copy is dropped, so each step need not be undone.
        if json_patch::patch_unsafe(&mut out, &operation).is_err() {
            let compared = matches!(&operation, [PatchOperation::Test(test)] if has_place(&out, &test.path));
            let error = ApiError::rejected();
            return Err(if compared { Unpatched::Test(error) } else { Unpatched::Wrong(error) });
        }
        depth.check(&out)?;
    }
    Ok(out)
}

/// Keeps a patch from making an object that nests deeper than a body may: nobody could read it back.
struct Depth {
    /// It nests no deeper than this.
    most: usize,
    /// Times that the whole object was looked at.
    looks: usize,
}

impl Depth {
    /// Times that one patch may make us look at the whole object.
    const MAX_LOOKS: usize = 16;

    fn grows_by(&mut self, operation: &PatchOperation) {
        let count = |path: &json_patch::jsonptr::Pointer| path.tokens().count();
        let grown = match operation {
            PatchOperation::Add(add) => count(&add.path) + depth_of(&add.value),
            PatchOperation::Replace(replace) => count(&replace.path) + depth_of(&replace.value),
            PatchOperation::Copy(copy) => count(&copy.path) + self.most.saturating_sub(count(&copy.from)),
            PatchOperation::Move(shift) => count(&shift.path) + self.most.saturating_sub(count(&shift.from)),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
        };
        self.most = self.most.max(grown);
    }

    fn check(&mut self, object: &Object) -> Result<(), ApiError> {
        if self.most <= MAX_DEPTH {
            return Ok(());
        }
        (self.most, self.looks) = (depth_of(object), self.looks + 1);
        if self.most > MAX_DEPTH || self.looks > Self::MAX_LOOKS { Err(ApiError::rejected()) } else { Ok(()) }
    }
}

/// Levels of objects and lists.
fn depth_of(value: &Value) -> usize {
    match value {
        Value::Object(map) => 1 + map.values().map(depth_of).max().unwrap_or(0),
        Value::Array(list) => 1 + list.iter().map(depth_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// The operation with the value that it needs: one that is left out is null.
fn with_value(operation: &Value) -> Cow<'_, Value> {
    let needs = matches!(operation["op"].as_str(), Some("add" | "replace" | "test"));
    if !needs || operation.get("value").is_some() {
        return Cow::Borrowed(operation);
    }
    let mut whole = operation.clone();
    whole["value"] = Value::Null;
    Cow::Owned(whole)
}

/// Whether an object that is there lacks the member at a path.
fn lacks(document: &Object, path: &json_patch::jsonptr::Pointer) -> bool {
    let parent = path.parent().and_then(|parent| document.pointer(parent.as_str()));
    parent.is_some_and(Value::is_object) && document.pointer(path.as_str()).is_none()
}

/// Whether there is something at a path, or an object that could have it as a member: else a test does not fit, and compares
/// nothing.
fn has_place(document: &Object, path: &json_patch::jsonptr::Pointer) -> bool {
    document.pointer(path.as_str()).is_some() || lacks(document, path)
}

/// A test for null of a member that is not there holds.
fn holds_of_nothing(operation: &PatchOperation, document: &Object) -> bool {
    matches!(operation, PatchOperation::Test(test) if test.value.is_null() && lacks(document, &test.path))
}

/// A replacement of a member that an object does not have, as the addition that it is; so with a copy of one, which is
/// null.
fn or_add(operation: PatchOperation, document: &Object) -> PatchOperation {
    match operation {
        PatchOperation::Replace(replace) => {
            let parent = replace.path.parent().and_then(|parent| document.pointer(parent.as_str()));
            if parent.is_some_and(Value::is_object) {
                return PatchOperation::Add(AddOperation { path: replace.path, value: replace.value });
            }
            PatchOperation::Replace(replace)
        }
        PatchOperation::Copy(copy) if lacks(document, &copy.from) => {
            PatchOperation::Add(AddOperation { path: copy.path, value: Value::Null })
        }
        other => other,
    }
}

/// Applies a JSON merge patch (RFC 7386).
///
/// # Errors
/// 400 where the patch is no object: it would replace the whole object.
pub fn merge(document: &Object, patch: &Value) -> Result<Object, ApiError> {
    match patch {
        Value::Object(_) => {}
        Value::Null => return Err(ApiError::bad_request("Invalid JSON Patch")),
        other => return Err(undecodable(other, MAP)),
    }
    let mut out = document.clone();
    json_patch::merge(&mut out, patch);
    Ok(out)
}

/// An object's type in Go.
const MAP: &str = "map[string]interface {}";

fn undecodable(value: &Value, wanted: &str) -> ApiError {
    let what = golang::type_name(value);
    ApiError::bad_request(format!(
        "error decoding patch: json: cannot unmarshal {what} into Go value of type {wanted}"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_test_that_does_not_hold_is_told_apart() {
        let object = json!({"a": "1", "list": ["x"], "text": "t"});
        let test = |path: &str, value: Value| json!({"op": "test", "path": path, "value": value});
        let done = |steps: Value| json_tested(&object, &steps);
        for (path, value) in
            [("/a", json!("2")), ("/none", json!("1")), ("/list/0", json!("y")), ("", json!({}))]
        {
            let add = json!({"op": "add", "path": "/b", "value": 1});
            let steps = json!([add, test(path, value), {"op": "remove", "path": "/none/at/all"}]);
            assert!(matches!(done(steps), Err(Unpatched::Test(_))), "{path}");
        }
        // There is nothing to compare with, or it is another step that does not fit.
        for steps in [
            json!([test("/none/at/all", json!(1))]),
            json!([test("/list/1", json!(1))]),
            json!([test("/text/x", json!(1))]),
            json!([{"op": "test"}]),
            json!([{"op": "remove", "path": "/none"}, test("/a", json!("2"))]),
        ] {
            assert!(matches!(done(steps.clone()), Err(Unpatched::Wrong(_))), "{steps}");
        }
        assert_eq!(done(json!([test("/a", json!("1")), test("/none", Value::Null)])).expect("holds"), object);
    }
}
