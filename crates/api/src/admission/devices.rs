//! Claims of devices: access as an administrator, which gives also what others have, is for namespaces that are marked for it; and what a
//! claim is given is said by who may give devices, what becomes of them by their drivers, whoever else may write its status.

use std::collections::BTreeSet;

use serde_json::Value;
use yunfan_identity::Attributes;
use yunfan_identity::user::EXTRA_NODE_NAME;
use yunfan_objects::{ApiError, FieldError};

use super::{Attempt, Operation, Refusal, Validate, View};
use crate::errors;

const GROUP: &str = "resource.k8s.io";
/// Label of a namespace.
const ADMIN_ACCESS: &str = "resource.kubernetes.io/admin-access";

/// Refuses what this writer may not say of the devices of a claim.
pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>, valid: Validate<'_>) -> Result<(), Refusal> {
    admit(view, attempt, valid)?;
    let (Some(old), false) = (attempt.old, attempt.system) else { return Ok(()) };
    if !attempt.is(GROUP, "resourceclaims") || attempt.subresource != "status" {
        return Ok(());
    }
    let (new, old) = (&attempt.object["status"], &old["status"]);
    let mut found = Vec::new();
    let given = ["allocation", "reservedFor"].iter().any(|key| new[key] != old[key]);
    if given && !may(view, attempt, &["update", "patch"], "binding", ("", "")) {
        let user = &attempt.user.name;
        let why = format!(
            "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"update\" permission: resourceclaims.resource.k8s.io is forbidden: User {user:?} cannot update resource \"resourceclaims/binding\" in API group \"resource.k8s.io\" at the cluster scope"
        );
        found.push(FieldError::forbidden("status.allocation", why));
    }
    // Without an allocation nothing is kept of devices.
    let drivers = if new["allocation"].is_null() { BTreeSet::new() } else { changed_drivers(new, old) };
    for driver in drivers {
        let here = is_on_node_of(attempt, &new["allocation"]);
        let anywhere = ["arbitrary-node:update", "arbitrary-node:patch"];
        let associated = ["associated-node:update", "associated-node:patch"];
        let place = (attempt.namespace, driver.as_str());
        let allowed = may(view, attempt, &anywhere, "driver", place)
            || (here && may(view, attempt, &associated, "driver", place));
        if !allowed {
            let user = &attempt.user.name;
            let why = format!(
                "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"arbitrary-node:update\" permission: User {user:?} has none for driver {driver:?}"
            );
            found.push(FieldError::forbidden("status.devices", why));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&attempt.kind.descriptor.gvk(), attempt.name, &found).into())
}

/// Whether the writer has one of these verbs on a part of claims that is there for this question alone; on which driver, if any, and in
/// which namespace.
fn may(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    verbs: &[&str],
    subresource: &str,
    (namespace, name): (&str, &str),
) -> bool {
    verbs.iter().any(|verb| {
        let asked = Attributes::resource(attempt.user, verb, GROUP, "resourceclaims");
        view.judge.authorize_here(&Attributes { subresource, namespace, name, ..asked }).is_allowed()
    })
}

/// The drivers of whose devices a status says something else than the one before.
fn changed_drivers(new: &Value, old: &Value) -> BTreeSet<String> {
    let devices = |status: &Value| status["devices"].as_array().cloned().unwrap_or_default();
    let (new, old) = (devices(new), devices(old));
    let changed = new.iter().filter(|device| !old.contains(device));
    let gone = old.iter().filter(|device| !new.contains(device));
    changed.chain(gone).map(|device| device["driver"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Whether the writer is a service account on the one node that the devices are on.
fn is_on_node_of(attempt: &Attempt<'_>, allocation: &Value) -> bool {
    let terms = allocation["nodeSelector"]["nodeSelectorTerms"].as_array().map_or(&[][..], Vec::as_slice);
    let [term] = terms else { return false };
    let some = |key: &str| term[key].as_array().map_or(&[][..], Vec::as_slice);
    let ([], [field]) = (some("matchExpressions"), some("matchFields")) else { return false };
    let names = attempt.user.extra.get(EXTRA_NODE_NAME).map_or(&[][..], Vec::as_slice);
    let values = field["values"].as_array().map_or(&[][..], Vec::as_slice);
    let ([name], [value]) = (names, values) else { return false };
    attempt.user.name.starts_with("system:serviceaccount:")
        && field["key"] == "metadata.name"
        && field["operator"] == "In"
        && value == name
}

/// Refuses access as an administrator elsewhere, together with all that is wrong with the object itself.
fn admit(view: &View<'_>, attempt: &Attempt<'_>, valid: Validate<'_>) -> Result<(), Refusal> {
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
