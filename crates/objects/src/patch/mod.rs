//! The four ways to patch an object.
//!
//! JSON patch and merge patch need no schema; a strategic merge patch ([`strategic`]) needs merge
//! keys, and server-side apply ([`apply`]) needs list types.

pub mod apply;
mod fields;
mod managers;
mod strategic;

use serde_json::Value;

pub use fields::{Comparison, FieldSet, compare};
pub use managers::{manager_name, validate_manager};
pub use strategic::strategic;

use crate::{ApiError, Object};

/// Most operations in one JSON patch.
pub const MAX_OPERATIONS: usize = 10_000;

/// Most bytes that the `copy` operations of one JSON patch may copy together, so that a patch that
/// doubles a list again and again cannot fill the memory.
const MAX_COPIED: usize = 3 << 20;

/// Applies a JSON patch (RFC 6902), given as its bytes. All of it or nothing.
///
/// # Errors
/// 400 for a malformed patch, 413 for too many operations, 422 where an operation does not fit.
pub fn json(document: &Object, patch: &[u8]) -> Result<Object, ApiError> {
    let patch: json_patch::Patch = serde_json::from_slice(patch)
        .map_err(|error| ApiError::bad_request(format!("the body is no valid JSON patch: {error}")))?;
    if patch.0.len() > MAX_OPERATIONS {
        let message = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            patch.0.len()
        );
        return Err(ApiError::new(413, crate::Reason::RequestEntityTooLarge, message));
    }
    let mut out = document.clone();
    let mut copied = 0;
    for (index, operation) in patch.0.iter().enumerate() {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            let source = out.pointer(copy.from.as_str());
            copied += source.map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED {
                return Err(ApiError::too_large(MAX_COPIED));
            }
        }
        // On an error the half-patched copy is dropped, so each step need not be undone.
        json_patch::patch_unsafe(&mut out, std::slice::from_ref(operation)).map_err(|error| {
            let message = format!(
                "the server rejected our request due to an error in our request: operation {index} ({}): {}",
                operation.path(),
                error.kind
            );
            ApiError::new(422, crate::Reason::Invalid, message)
        })?;
    }
    Ok(out)
}

/// Applies a JSON merge patch (RFC 7386).
///
/// # Errors
/// 400 where the patch is no object: it would replace the whole object.
pub fn merge(document: &Object, patch: &Value) -> Result<Object, ApiError> {
    if !patch.is_object() {
        return Err(ApiError::bad_request("a merge patch must be a JSON object"));
    }
    let mut out = document.clone();
    json_patch::merge(&mut out, patch);
    Ok(out)
}
