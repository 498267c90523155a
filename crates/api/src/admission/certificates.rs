//! CertificateSigningRequests: they say who asks as the server knows it, and what was decided about them stays.

use serde_json::Value;
use yunfan_objects::builtin::certificate_part_errors;
use yunfan_objects::{ApiError, Object};

use super::{Attempt, Operation, Refusal};

/// Who asks, as `spec` has it.
const REQUESTER: [&str; 4] = ["username", "uid", "groups", "extra"];

pub(super) fn admit(attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    if !attempt.is("certificates.k8s.io", "certificatesigningrequests") {
        return Ok(());
    }
    match (attempt.operation, attempt.old) {
        (Operation::Create, _) => {
            let user =
                serde_json::to_value(attempt.user).map_err(|error| ApiError::internal(error.to_string()))?;
            requested_by(attempt.object, user);
        }
        (Operation::Update, Some(old)) if matches!(attempt.subresource, "approval" | "status") => {
            let errors = certificate_part_errors(attempt.subresource, attempt.object, old);
            if !errors.is_empty() {
                return Err(ApiError::invalid(&attempt.kind.descriptor.gvk(), attempt.name, &errors).into());
            }
        }
        _ => {}
    }
    Ok(())
}

/// An approver trusts what stands here, so nothing that the client says of it is kept.
fn requested_by(request: &mut Object, mut user: Value) {
    let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for key in REQUESTER {
        match user.get_mut(key) {
            Some(value) => spec.insert(key.to_owned(), value.take()),
            None => spec.remove(key),
        };
    }
}
