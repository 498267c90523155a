//! Nobody reads through a policy what they may not read themselves: its expressions see its parameters, and its messages tell of
//! them. Who names a kind of parameters must be allowed to get all objects of that kind, who binds a policy to some must be allowed
//! to read those. (Kubernetes' rule, `authz.go` of these kinds' registries: what is not known is asked as `*`.)

use serde_json::Value;
use yunfan_identity::user::MASTERS_GROUP;
use yunfan_identity::{Attributes, UserInfo};
use yunfan_objects::FieldError;

use super::{Attempt, Operation, Refusal, View};

const GROUP: &str = "admissionregistration.k8s.io";

/// What is to be read, as authorization names it.
struct Resource {
    group: String,
    version: String,
    plural: String,
}

pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let descriptor = &attempt.kind.descriptor;
    let exempt = attempt.system || attempt.user.in_group(MASTERS_GROUP);
    if descriptor.group != GROUP || exempt || attempt.operation == Operation::Delete {
        return Ok(());
    }
    match descriptor.plural.as_str() {
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => of_policy(view, attempt),
        "validatingadmissionpolicybindings" => of_binding(view, attempt, "validatingadmissionpolicies"),
        "mutatingadmissionpolicybindings" => of_binding(view, attempt, "mutatingadmissionpolicies"),
        _ => Ok(()),
    }
}

/// Whether one of these parts of the spec is other than before.
fn changes(attempt: &Attempt<'_>, parts: &[&str]) -> bool {
    let same = |old: &Value| parts.iter().all(|part| old["spec"][*part] == attempt.object["spec"][*part]);
    !attempt.old.is_some_and(same)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What a `paramKind` names: all of its group where that kind is not known, and all there is where none is named.
fn named(view: &View<'_>, kind: Option<&Value>) -> Resource {
    let all = "*".to_owned();
    let Some(kind) = kind else { return Resource { group: all.clone(), version: all.clone(), plural: all } };
    let api_version = text(&kind["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let table = view.kinds.table();
    let mut known = table.of_version(group, version).into_iter().flat_map(|kinds| kinds.values());
    let found = known.find(|known| known.descriptor.kind == text(&kind["kind"]));
    let plural = found.map_or(all, |known| known.descriptor.plural.clone());
    Resource { group: group.to_owned(), version: version.to_owned(), plural }
}

impl Resource {
    fn may(&self, view: &View<'_>, user: &UserInfo, verb: &str, namespace: &str, name: &str) -> bool {
        let asked = Attributes::resource(user, verb, &self.group, &self.plural);
        let asked = Attributes { version: &self.version, namespace, name, ..asked };
        view.judge.authorize_here(&asked).is_allowed()
    }
}

fn of_policy(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let kind = &attempt.object["spec"]["paramKind"];
    if kind.is_null() || !changes(attempt, &["paramKind"]) {
        return Ok(());
    }
    if named(view, Some(kind)).may(view, attempt.user, "get", "*", "*") {
        return Ok(());
    }
    let why = format!(
        "user {:?} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
        attempt.user.name,
        text(&kind["kind"]),
        text(&kind["apiVersion"])
    );
    Err(attempt.invalid(FieldError::forbidden("spec.paramKind", why)))
}

fn of_binding(view: &View<'_>, attempt: &Attempt<'_>, policies: &str) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let reference = &spec["paramRef"];
    if reference.is_null() || !changes(attempt, &["paramRef", "policyName"]) {
        return Ok(());
    }
    let policy =
        view.get(GROUP, policies, "", text(&spec["policyName"])).map(|policy| policy.decode_stored());
    let kind = policy.as_ref().map(|policy| &policy["spec"]["paramKind"]).filter(|kind| !kind.is_null());
    let resource = named(view, kind);
    let name = text(&reference["name"]);
    let verb = if name.is_empty() { "list" } else { "get" };
    // Without a namespace they are in whichever the request is about: that is a right on all.
    if resource.may(view, attempt.user, verb, text(&reference["namespace"]), name) {
        return Ok(());
    }
    let user = &attempt.user.name;
    let why = match (&policy, kind) {
        (None, _) => format!(
            "unable to get policy {} to determine minimum required permissions and user {user:?} does not have \"{verb}\" permission for all groups, versions and resources",
            text(&spec["policyName"])
        ),
        (Some(_), Some(kind)) if resource.plural == "*" => format!(
            "unable to resolve paramKind {}, {} to determine minimum required permissions and user {user:?} does not have \"{verb}\" permission for all groups, versions and resources",
            text(&kind["apiVersion"]),
            text(&kind["kind"])
        ),
        _ => {
            format!("user {user:?} does not have \"{verb}\" permission on the object referenced by paramRef")
        }
    };
    Err(attempt.invalid(FieldError::forbidden("spec.paramRef", why)))
}
