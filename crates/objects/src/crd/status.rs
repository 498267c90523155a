//! What becomes of a definition: names accepted or not, established, approved, terminating.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::Object;
use crate::error::FieldError;
use crate::lookup::{list, text};

/// Annotation that approves a kind of Kubernetes' own groups.
const APPROVED: &str = "api-approved.kubernetes.io";
/// Where the rule about it is explained.
const WHY: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// Names that others of the same group have.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Plurals, singulars and short names.
    pub resources: Vec<String>,
    /// Kinds and kinds of lists.
    pub kinds: Vec<String>,
}

impl Taken {
    /// Adds what a definition has been given.
    pub fn add(&mut self, accepted: &Value) {
        let one = |key: &str| Some(text(accepted, &[key]).to_owned()).filter(|name| !name.is_empty());
        self.resources.extend([one("plural"), one("singular")].into_iter().flatten());
        self.resources
            .extend(list(accepted, &["shortNames"]).iter().filter_map(Value::as_str).map(str::to_owned));
        self.kinds.extend([one("kind"), one("listKind")].into_iter().flatten());
    }
}

/// Whether a condition is True.
fn is_true(crd: &Object, kind: &str) -> bool {
    list(crd, &["status", "conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True")
}

/// Whether the kind is served.
pub fn is_established(crd: &Object) -> bool {
    is_true(crd, "Established")
}

/// Whether a definition is going, and takes no new objects.
pub fn is_terminating(crd: &Object) -> bool {
    is_true(crd, "Terminating")
}

/// The status after a write: `before` is the status until then, `taken` what others of the group have, `now` the
/// time. What was established stays so: its objects must stay within reach.
pub fn compute(crd: &Object, before: &Value, taken: &Taken, now: &str) -> Value {
    let mut status = if before.is_object() { before.clone() } else { json!({}) };
    let mut stored: Vec<Value> = list(&status, &["storedVersions"]).to_vec();
    let mut versions = list(crd, &["spec", "versions"]).iter();
    if let Some(version) = versions.find(|version| version["storage"] == true)
        && version["name"].is_string()
        && !stored.contains(&version["name"])
    {
        stored.push(version["name"].clone());
    }
    status["storedVersions"] = Value::Array(stored);
    let conflict = accept(&crd["spec"]["names"], &mut status, taken);
    let established =
        list(before, &["conditions"]).iter().any(|c| c["type"] == "Established" && c["status"] == "True");
    match conflict {
        None => {
            set(&mut status, now, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
            let why = "the initial names have been accepted";
            set(&mut status, now, "Established", "True", "InitialNamesAccepted", why);
        }
        Some((reason, message)) => {
            set(&mut status, now, "NamesAccepted", "False", reason, &message);
            if !established {
                set(&mut status, now, "Established", "False", "NotAccepted", "not all names are accepted");
            }
        }
    }
    if let Some((state, message)) = approval(crd) {
        let (word, reason) = match state {
            Approval::Given => ("True", "ApprovedAnnotation"),
            Approval::Bypassed => ("False", "UnapprovedAnnotation"),
            Approval::Missing => ("False", "MissingAnnotation"),
            Approval::Invalid => ("False", "InvalidAnnotation"),
        };
        set(&mut status, now, "KubernetesAPIApprovalPolicyConformant", word, reason, &message);
    }
    let held = list(crd, &["metadata", "finalizers"]).iter().any(|f| f == super::CLEANUP);
    if !crd["metadata"]["deletionTimestamp"].is_null() && held {
        let message = "CustomResource deletion is in progress";
        set(&mut status, now, "Terminating", "True", "InstanceDeletionInProgress", message);
    }
    status
}

/// Takes over the names that are free; the last conflict is the one that is told.
fn accept(wanted: &Value, status: &mut Value, taken: &Taken) -> Option<(&'static str, String)> {
    if !status["acceptedNames"].is_object() {
        status["acceptedNames"] = json!({"plural": "", "kind": ""});
    }
    let mut conflict = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (key, names, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        let given = match &wanted[key] {
            Value::Array(several) => several.as_slice(),
            one => std::slice::from_ref(one),
        };
        let kept = &status["acceptedNames"][key];
        let each_kept: HashSet<&Value> = kept.as_array().into_iter().flatten().collect();
        let is_kept = |name: &Value| kept == name || each_kept.contains(name);
        let refused = given.iter().filter(|name| !is_kept(name)).filter_map(Value::as_str);
        let refused: Vec<String> =
            refused.filter(|name| names.iter().any(|known| known == name)).map(in_use).collect();
        let accepted = status["acceptedNames"].as_object_mut()?;
        match (refused.as_slice(), &wanted[key]) {
            ([one], _) => conflict = Some((reason, one.clone())),
            ([], Value::Array(several)) if several.is_empty() => drop(accepted.remove(key)),
            ([], Value::Null) if key == "shortNames" => drop(accepted.remove(key)),
            ([], Value::Null) => {}
            ([], name) => drop(accepted.insert(key.to_owned(), name.clone())),
            (many, _) => conflict = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    let accepted = status["acceptedNames"].as_object_mut()?;
    match &wanted["categories"] {
        Value::Array(categories) if !categories.is_empty() => {
            accepted.insert("categories".to_owned(), json!(categories));
        }
        _ => drop(accepted.remove("categories")),
    }
    conflict
}

fn set(status: &mut Value, now: &str, kind: &str, word: &str, reason: &str, message: &str) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let mut condition = json!({
        "type": kind, "status": word, "reason": reason, "message": message, "lastTransitionTime": now,
    });
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if old["status"] == word {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
}

/// Whether a kind of Kubernetes' own groups was approved by its community.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Approval {
    Given,
    Bypassed,
    Missing,
    Invalid,
}

/// The approval, in words too; `None` for groups that need none.
pub(super) fn approval(crd: &Object) -> Option<(Approval, String)> {
    let group = text(crd, &["spec", "group"]);
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|lead| lead.is_empty() || lead.ends_with('.')));
    if !protected {
        return None;
    }
    let given = text(crd, &["metadata", "annotations", APPROVED]);
    let is_url = given.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && rest.split('/').next().is_some_and(|host| !host.is_empty())
    });
    Some(if given.is_empty() {
        (Approval::Missing, format!("protected groups must have approval annotation {APPROVED:?}, {WHY}"))
    } else if given.starts_with("unapproved") {
        (Approval::Bypassed, format!("not approved: {given:?}"))
    } else if is_url {
        (Approval::Given, format!("approved in {given}"))
    } else {
        let message = format!(
            "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {WHY}"
        );
        (Approval::Invalid, message)
    })
}

/// What is wrong with the approval.
pub(super) fn approval_error(crd: &Object) -> Option<FieldError> {
    let field = format!("metadata.annotations[{APPROVED}]");
    match approval(crd)? {
        (Approval::Missing, why) => Some(FieldError::required(field, why)),
        (Approval::Invalid, why) => {
            Some(FieldError::invalid(field, text(crd, &["metadata", "annotations", APPROVED]), why))
        }
        _ => None,
    }
}
