//! Namespace lifecycle: nothing is made in a namespace that is not there or is going away, and the
//! system's namespaces stay.

use yunfan_objects::error::Cause;
use yunfan_objects::{ApiError, GroupResource};

use super::{Attempt, Operation, Refusal, View, WritePlan};
use crate::keys;

/// Namespaces that can't be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    if attempt.is("", "namespaces") {
        let marked = attempt.operation == Operation::Delete || attempt.is_marked_now();
        if marked && IMMORTAL.contains(&attempt.name) {
            return Err(attempt.forbidden("this namespace may not be deleted"));
        }
        return Ok(());
    }
    if attempt.operation != Operation::Create || attempt.namespace.is_empty() {
        return Ok(());
    }
    let Some(entry) = view.get("", "namespaces", "", attempt.namespace) else {
        return Err(ApiError::not_found(&GroupResource::new("", "namespaces"), attempt.namespace).into());
    };
    if !entry.value()["metadata"]["deletionTimestamp"].is_null() {
        return Err(terminating(attempt).into());
    }
    // Were the namespace marked for deletion meanwhile, this write must fail, not slip in.
    let prefix = keys::kind_prefix("", "namespaces");
    plan.unchanged(keys::object_key(&prefix, "", attempt.namespace), entry.revision);
    Ok(())
}

/// Controllers know by the cause that there is nothing to be done about it.
fn terminating(attempt: &Attempt<'_>) -> ApiError {
    let why = format!(
        "unable to create new content in namespace {} because it is being terminated",
        attempt.namespace
    );
    let refusal = ApiError::forbidden(&attempt.resource(), attempt.name, &why);
    let mut details = refusal.details().cloned().unwrap_or_default();
    details.causes.push(Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {} is being terminated", attempt.namespace),
        field: "metadata.namespace".to_owned(),
    });
    refusal.with_details(details)
}
