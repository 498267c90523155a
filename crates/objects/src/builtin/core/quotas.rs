//! ResourceQuota.

use std::collections::BTreeSet;

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::resources;
use crate::error::FieldError;
use crate::lookup::entries;

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
const OF_PODS: &[&str] =
    &["cpu", "limits.cpu", "limits.memory", "memory", "pods", "requests.cpu", "requests.memory"];
/// Scopes that have no values.
const BARE: &[&str] =
    &["BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "Terminating"];

/// All that is wrong with a quota.
pub(in crate::builtin) fn validate(quota: &Object) -> Vec<FieldError> {
    let spec = Field::root(quota).at("spec");
    let mut errors = resources::named_amounts(&spec.at("hard"), resources::quota_resource);
    let scopes = spec.at("scopes");
    let wrong = |why: &str| scopes.invalid(why);
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.text()) {
            errors.push(wrong("unsupported scope"));
        }
        errors.extend(unfit(&spec, scope.text()).map(|()| wrong("unsupported scope applied to resource")));
    }
    let names: BTreeSet<&str> = scopes.items().map(|scope| scope.text()).collect();
    errors.extend(conflicts(&names).map(|()| wrong("conflicting scopes")));
    errors.extend(selector(&spec, &scopes));
    errors
}

/// One for each limit that does not count what the scope selects.
fn unfit<'a>(spec: &Field<'a>, scope: &'a str) -> impl Iterator<Item = ()> + use<'a> {
    let fits = move |name: &str| match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => !SCOPES.contains(&scope) || OF_PODS.contains(&name),
    };
    let limits = entries(spec.value, &["hard"]);
    limits.filter(move |(name, _)| resources::is_quota(name) && !fits(name)).map(|_| ())
}

fn conflicts(scopes: &BTreeSet<&str>) -> impl Iterator<Item = ()> {
    let pairs = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
    pairs.into_iter().filter(|pair| pair.iter().all(|scope| scopes.contains(scope))).map(|_| ())
}

fn selector(spec: &Field<'_>, scopes: &Field<'_>) -> Vec<FieldError> {
    let selector = spec.at("scopeSelector");
    let list = selector.at("matchExpressions");
    let (mut errors, mut names) = (Vec::new(), BTreeSet::new());
    for expression in list.items() {
        // Upstream names the list, and not the item.
        let named = |key: &str| Field { path: format!("{}.{key}", list.path), ..expression.at(key) };
        let (scope, operator, values) = (named("scopeName"), named("operator"), named("values"));
        if !SCOPES.contains(&scope.text()) {
            errors.push(scope.invalid("unsupported scope"));
        }
        let unfit = unfit(spec, scope.text()).map(|()| {
            let shown = format!("{{\"MatchExpressions\":{}}}", expressions(&list));
            let kind = crate::error::FieldErrorKind::InvalidAs(shown);
            let detail = "unsupported scope applied to resource".to_owned();
            FieldError { field: list.path.clone(), kind, detail }
        });
        errors.extend(unfit);
        if BARE.contains(&scope.text()) && operator.text() != "Exists" {
            errors.push(operator.invalid("must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"));
        }
        match operator.text() {
            "In" | "NotIn" if values.list().is_empty() => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(values.required(why));
            }
            "Exists" | "DoesNotExist" if !values.list().is_empty() => {
                let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(values.invalid(why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        names.insert(scope.text());
    }
    errors.extend(conflicts(&names).map(|()| scopes.invalid("conflicting scopes")));
    errors
}

fn expressions(list: &Field<'_>) -> String {
    use crate::builtin::inner::{Is, Part, shown};
    const PARTS: &[Part] = &[
        Part("ScopeName", "scopeName", Is::Text),
        Part("Operator", "operator", Is::Text),
        Part("Values", "values", Is::Optional),
    ];
    let all: Vec<String> = list.list().iter().map(|each| shown(each, PARTS)).collect();
    format!("[{}]", all.join(","))
}

/// The scopes of a quota stay.
pub(in crate::builtin) fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let names = |quota| -> BTreeSet<String> {
        Field::root(quota).under(&["spec", "scopes"]).items().map(|scope| scope.text().to_owned()).collect()
    };
    let changed = names(new) != names(old);
    let scopes = Field::root(new).under(&["spec", "scopes"]);
    changed.then(|| scopes.invalid("field is immutable")).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scopes_fit_what_is_limited() {
        let quota = json!({"spec": {"hard": {"pods": "-1", "services": "1", "x": "1"},
            "scopes": ["Some", "BestEffort", "NotBestEffort"],
            "scopeSelector": {"matchExpressions": [{"scopeName": "Terminating", "operator": "In"}]}}});
        let found: Vec<String> = validate(&quota).iter().map(ToString::to_string).collect();
        let beginnings = [
            "spec.hard[pods]: Invalid value: \"-1\": must be greater",
            "spec.hard[x]: Invalid value: \"x\": must be a standard resource type or fully qualified",
            "spec.hard[x]: Invalid value: \"x\": must be a standard resource for quota",
            "spec.scopes: Invalid value: [\"Some\",\"BestEffort\",\"NotBestEffort\"]: unsupported scope",
            "spec.scopes: Invalid value: [\"Some\",\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied",
            "spec.scopes: Invalid value: [\"Some\",\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied",
            "spec.scopes: Invalid value: [\"Some\",\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            "spec.scopeSelector.matchExpressions: Invalid value: {\"MatchExpressions\":[{\"ScopeName\":\"Terminating\",\"Operator\":\"In\",\"Values\":null}]}: unsupported",
            "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exists' when",
            "spec.scopeSelector.matchExpressions.values: Required value: must be at least one",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
        let other = json!({"spec": {"scopes": ["Terminating"]}});
        assert_eq!(validate_update(&other, &quota).len(), 1);
        assert_eq!(validate_update(&quota, &quota).len(), 0);
    }
}
