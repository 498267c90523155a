//! Claims of devices: access as an administrator, which gives also what others have, is for namespaces that are marked for it.

use serde_json::Value;
use yunfan_objects::{ApiError, FieldError};

use super::{Attempt, Operation, Refusal, Validate, View};
use crate::errors;

const GROUP: &str = "resource.k8s.io";
/// Label of a namespace.
const ADMIN_ACCESS: &str = "resource.kubernetes.io/admin-access";

/// Refuses such access elsewhere, together with all that is wrong with the object itself.
pub(super) fn admit(view: &View<'_>, attempt: &Attempt<'_>, valid: Validate<'_>) -> Result<(), Refusal> {
    let Some(field) = asked(attempt) else { return Ok(()) };
    let namespace = view.get("", "namespaces", "", attempt.namespace);
    if namespace.is_some_and(|namespace| namespace.labels()[ADMIN_ACCESS] == "true") {
        return Ok(());
    }
    let why = format!(
        "admin access to devices requires the `{ADMIN_ACCESS}: true` label on the containing namespace"
    );
    let finding = FieldError::forbidden(field, why);
    let refused = ApiError::invalid(&attempt.kind.descriptor.gvk(), attempt.name, &[finding]);
    Err(match valid(attempt.object) {
        Err(error) => errors::joined(&refused, error),
        Ok(()) => refused,
    }
    .into())
}

/// The field by which such access is asked for, where this write is the first to do so. Specs do not change.
fn asked(attempt: &Attempt<'_>) -> Option<String> {
    if attempt.operation == Operation::Delete {
        return None;
    }
    if attempt.is(GROUP, "resourceclaims") && attempt.subresource == "status" {
        if attempt.old.is_some_and(|old| granted(old).is_some()) {
            return None;
        }
        return granted(attempt.object)
            .map(|index| format!("status.allocation.devices.results[{index}].adminAccess"));
    }
    let spec = match attempt.operation {
        Operation::Create if attempt.is(GROUP, "resourceclaims") => &attempt.object["spec"],
        Operation::Create if attempt.is(GROUP, "resourceclaimtemplates") => &attempt.object["spec"]["spec"],
        _ => return None,
    };
    let index = first(&spec["devices"]["requests"], |request| &request["exactly"])?;
    Some(format!("spec.devices.requests[{index}].adminAccess"))
}

fn granted(claim: &Value) -> Option<usize> {
    first(&claim["status"]["allocation"]["devices"]["results"], |result| result)
}

fn first(list: &Value, holder: impl Fn(&Value) -> &Value) -> Option<usize> {
    list.as_array()?.iter().position(|item| holder(item)["adminAccess"] == true)
}
