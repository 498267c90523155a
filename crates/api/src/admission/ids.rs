//! `spec.id`: the immutable id of our own kinds. It is the object's uid where the client chose none
//! (without dashes for projects and users, as Keystone writes ids), and unique in its kind.

use serde_json::{Value, json};
use yunfan_objects::FieldError;
use yunfan_resources::names::COMPONENTS_GROUP;
use yunfan_resources::storage::MOVES_TO;

use super::{Attempt, Operation, Refusal};

/// Groups whose kinds have ids, as long as their schema says so.
const OWN: &str = ".yunfan.io";
/// Longest id that a client may choose.
const MAX: usize = 255;

/// Whether the kind is one of ours that has `spec.id`.
pub(super) fn has_id(attempt: &Attempt<'_>) -> bool {
    attempt.kind.resource.system
        && attempt.kind.descriptor.group.ends_with(OWN)
        && attempt.kind.resource.has_id
}

pub(super) fn admit(attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    if !has_id(attempt) || attempt.operation == Operation::Delete {
        return Ok(());
    }
    let before = attempt.old.and_then(|old| old["spec"]["id"].as_str()).unwrap_or_default();
    let given = attempt.object["spec"]["id"].as_str().unwrap_or_default().to_owned();
    if !before.is_empty() {
        if given.is_empty() {
            attempt.object["spec"]["id"] = json!(before);
        } else if given != before && !gives_away(attempt) {
            return Err(attempt.invalid(FieldError::invalid("spec.id", given, "field is immutable")));
        }
        return Ok(());
    }
    if given.is_empty() {
        let uid = attempt.object["metadata"]["uid"].as_str().unwrap_or_default();
        let plain = attempt.kind.descriptor.group == "iam.yunfan.io";
        let id = if plain { uid.replace('-', "") } else { uid.to_owned() };
        if let Some(spec) = attempt.object.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("id".to_owned(), json!(id));
        }
    } else if given.len() > MAX || given.chars().any(|c| c.is_control() || c == '/') {
        let why = "must be at most 255 characters, without slashes or control characters";
        return Err(attempt.invalid(FieldError::invalid("spec.id", given, why)));
    } else if attempt.is("image.yunfan.io", "images") && !names_files(&given) {
        let why = "must be at most 128 of a-z, A-Z, 0-9, '-', '_' and '.', and not begin with '.'";
        return Err(attempt.invalid(FieldError::invalid("spec.id", given, why)));
    }
    Ok(())
}

/// Whether the cloud writes that a Volume goes over to another namespace, where another has its id from then on, or that it stays.
fn gives_away(attempt: &Attempt<'_>) -> bool {
    let goes = |volume: &Value| volume["metadata"]["annotations"][MOVES_TO].is_string();
    attempt.is("storage.yunfan.io", "volumes")
        && attempt.user.groups.iter().any(|group| group == COMPONENTS_GROUP)
        && (goes(attempt.object) || attempt.old.is_some_and(goes))
}

/// Whether an id can be the name of files on nodes, as an image's is: no two ids are one there.
fn names_files(id: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    id.len() <= 128 && !id.starts_with('.') && id.bytes().all(letters)
}
