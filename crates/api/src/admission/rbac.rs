//! Nobody may give what they do not have: roles and bindings are checked against the writer's own rights.

use yunfan_identity::rbac::Escalation;
use yunfan_objects::ApiError;

use super::{Attempt, Operation, Refusal, View};

pub(super) fn admit(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let ours = attempt.kind.descriptor.group == "rbac.authorization.k8s.io";
    if !ours || attempt.operation == Operation::Delete || attempt.system || attempt.is_marked_now() {
        return Ok(());
    }
    if attempt.old.is_some_and(|old| {
        ["rules", "subjects", "roleRef", "aggregationRule"]
            .iter()
            .all(|field| old[*field] == attempt.object[*field])
    }) {
        return Ok(());
    }
    view.rbac.check_escalation(attempt.user, attempt.object).map_err(|why| match why {
        Escalation::Forbidden(why) => attempt.forbidden(&why),
        // Upstream names the binding's kind, and the role.
        Escalation::NoRole(name) => {
            ApiError::not_found(&attempt.kind.descriptor.group_resource(), &name).into()
        }
    })
}
