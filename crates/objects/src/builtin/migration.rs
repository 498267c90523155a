//! StorageVersionMigration: all objects of a resource are written anew, as the server stores them today. (Kubernetes'
//! pkg/apis/storagemigration/validation.)

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::rows::name;
use crate::builtin::rules::Rules;
use crate::builtin::{ColumnSpec, conditions};
use crate::error::FieldError;
use crate::lookup::{list, text};
use crate::meta::{dns_subdomain, dns1035_label};

pub(super) const COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Resource", "string", 0), ("Status", "string", 0)];

pub(super) fn cells(migration: &Object, _: Timestamp) -> Vec<Value> {
    let of = |key: &str| text(migration, &["spec", "resource", key]);
    let resource = if of("group").is_empty() {
        of("resource").to_owned()
    } else {
        format!("{}.{}", of("resource"), of("group"))
    };
    let states = list(migration, &["status", "conditions"]).iter().filter(|one| one["status"] == "True");
    let mut states = states.map(|one| text(one, &["type"]));
    let state = states.rfind(|kind| ["Running", "Failed", "Succeeded"].contains(kind));
    vec![name(migration), json!(resource), json!(state.unwrap_or("Unknown"))]
}

pub(super) const MIGRATION: Rules = Rules {
    validate: |migration| {
        let of = Field::root(migration).under(&["spec", "resource"]);
        let (group, resource) = (of.at("group"), of.at("resource"));
        let mut errors = Vec::new();
        if resource.text().is_empty() {
            errors.push(resource.required("resource is required to be set"));
        } else {
            errors.extend(resource.obeys(dns1035_label));
        }
        if !group.text().is_empty() {
            errors.extend(group.obeys(dns_subdomain));
        }
        errors
    },
    validate_update: |new, old| {
        let spec = |object| Field::root(object).at("spec");
        spec(new).same_as(&spec(old)).into_iter().collect()
    },
    validate_status: |new, old| {
        let status = Field::root(new).at("status");
        let (revision, all) = (status.at("resourceVersion"), status.at("conditions"));
        let mut errors = Vec::new();
        let given = revision.text();
        if !given.is_empty() && (given.starts_with('0') || !given.bytes().all(|byte| byte.is_ascii_digit())) {
            errors.push(revision.invalid("resource version is not well formed"));
        }
        errors.extend(conditions::validate(&all));
        let before = text(old, &["status", "resourceVersion"]);
        if !before.is_empty() && before != given {
            errors.push(revision.invalid("field is immutable"));
        }
        let is = |object: &Object, kind: &str| {
            list(object, &["status", "conditions"])
                .iter()
                .any(|one| one["type"] == kind && one["status"] == "True")
        };
        if is(new, "Succeeded") && is(new, "Failed") {
            errors.push(wrong_state(
                &all,
                "Both success and failed conditions cannot be true at the same time",
            ));
        }
        for (kind, word) in [("Succeeded", "Success"), ("Failed", "Failed")] {
            if is(old, kind) && !is(new, kind) {
                let why = format!("{word} condition cannot be set to false once it is true");
                errors.push(wrong_state(&all, &why));
            }
        }
        errors
    },
    ..Rules::UNCOUNTED
};

fn wrong_state(conditions: &Field<'_>, why: &str) -> FieldError {
    conditions.invalid(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row, status_refusal};

    #[test]
    fn a_migration_is_of_one_resource_and_ends_once() {
        const KIND: &str = "StorageVersionMigration";
        let of = |group: &str, resource: &str| json!({"metadata": {"name": "m"}, "spec": {"resource": {"group": group, "resource": resource}}});
        let old = created(&kind(KIND), of("apps", "deployments")).unwrap();
        assert_eq!(row(KIND, &old), ["m", "deployments.apps", "Unknown"]);
        assert!(refusal(KIND, of("", "")).contains("resource is required to be set"));
        assert!(refusal(KIND, of("A", "pods")).contains("spec.resource.group: Invalid value: \"A\""));
        let (_, found) = changed(KIND, &old, json!({"spec": {"resource": {"resource": "pods"}}}));
        assert!(found.contains("spec: Invalid value") && found.contains("field is immutable"), "{found}");
        let is = |kind: &str| json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let found = status_refusal(KIND, &old, json!({"conditions": [is("Succeeded"), is("Failed")]}));
        assert!(found.contains("cannot be true at the same time"), "{found}");
        let mut over = old.clone();
        over["status"] = json!({"resourceVersion": "5", "conditions": [is("Succeeded")]});
        let found = status_refusal(KIND, &over, json!({"resourceVersion": "06", "conditions": []}));
        for why in ["not well formed", "field is immutable", "Success condition cannot be set to false"] {
            assert!(found.contains(why), "{found}\n{why}");
        }
    }
}
