//! Amounts of resources: what they may be called, and what containers and Pods ask for.

use std::collections::{BTreeSet, HashSet};

use crate::builtin::field::Field;
use crate::builtin::formats::Rule;
use crate::error::{FieldError, FieldErrorKind};
use crate::lookup::entries;
use crate::meta::{Wrongs, dns_label, qualified_name};
use crate::quantity::Quantity;

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
    "requests.storage",
];
const OF_CONTAINERS: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Counted in whole objects.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const NEGATIVE: &str = "must be greater than or equal to 0";

/// Whether it is a size of huge pages.
pub(super) fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || COUNTED.contains(&name) || is_huge_in_quota(name)
}

fn is_huge_in_quota(name: &str) -> bool {
    is_huge(name) || name.starts_with("requests.hugepages-")
}

/// Whether a quota can be set on it.
pub(super) fn is_quota(name: &str) -> bool {
    is_standard(name) && name != "storage"
}

/// Whether it is Kubernetes' own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether it is of a device plugin or the like.
pub(super) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}

/// What is wrong with the name of a resource.
pub(super) fn resource(name: &str) -> Wrongs {
    let wrong = qualified_name(name);
    if wrong.is_empty() && !name.contains('/') && !is_standard(name) {
        return vec!["must be a standard resource type or fully qualified".to_owned()];
    }
    wrong
}

/// What is wrong with the name of a resource of a container.
pub(super) fn container_resource(name: &str) -> Wrongs {
    let mut wrong = resource(name);
    if !name.contains('/') {
        if !OF_CONTAINERS.contains(&name) && !is_huge(name) {
            wrong.push("must be a standard resource for containers".to_owned());
        }
    } else if !is_native(name) && !is_extended(name) {
        wrong.push("doesn't follow extended resource name standard".to_owned());
    }
    wrong
}

/// What is wrong with the name of a resource that a quota limits.
pub(super) fn quota_resource(name: &str) -> Wrongs {
    let mut wrong = resource(name);
    if !name.contains('/') && !is_quota(name) {
        wrong.push("must be a standard resource for quota".to_owned());
    }
    wrong
}

/// Checks an amount: not below zero, and whole where objects or devices are counted. The field's value is the amount.
pub(super) fn amount(field: &Field<'_>, name: &str) -> Vec<FieldError> {
    let Ok(amount) = Quantity::from_json(field.value) else { return Vec::new() }; // decoding refuses it
    let shown = |why: &str| FieldError::invalid(field.path.as_str(), amount.to_string(), why);
    let mut errors = Vec::new();
    if amount.is_negative() {
        errors.push(shown(NEGATIVE));
    }
    if (COUNTED.contains(&name) || is_extended(name)) && amount.milli() % 1000 != 0 {
        errors.push(shown("must be an integer"));
    }
    errors
}

/// The amounts of a map of resources, each by its own path as `limits[cpu]`.
pub(super) fn amounts<'a>(map: &Field<'a>) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
    let path = map.path.clone();
    entries(map.value, &[])
        .map(move |(name, value)| (name.as_str(), Field { value, path: format!("{path}[{name}]") }))
}

/// Checks a map of resources: names and amounts.
pub(super) fn named_amounts(map: &Field<'_>, rule: Rule) -> Vec<FieldError> {
    let check = |(name, field): (&str, Field<'_>)| {
        let names = crate::meta::all_wrong(&field.path, name, rule(name));
        names.chain(amount(&field, name)).collect::<Vec<_>>()
    };
    amounts(map).flat_map(check).collect()
}

/// Checks what a container asks for. `claims` are the names of the Pod's resource claims.
pub(super) fn of_container(field: &Field<'_>, claims: &BTreeSet<&str>) -> Vec<FieldError> {
    requirements(field, container_resource, claims)
}

/// Checks what a Pod as a whole asks for.
pub(super) fn of_pod(field: &Field<'_>, claims: &BTreeSet<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if field.at("claims").is_given() {
        errors.push(field.at("claims").forbidden("claims may not be set for Resources at pod-level"));
    }
    errors.extend(requirements(field, resource, claims));
    for map in [field.at("limits"), field.at("requests")] {
        for (name, amount) in amounts(&map).filter(|(name, _)| resource(name).is_empty()) {
            if !matches!(name, "cpu" | "memory") && !is_huge(name) {
                let supported = ["cpu", "hugepages-", "memory"];
                errors.push(FieldError::not_supported(amount.path, name, &supported));
            }
        }
    }
    errors
}

fn requirements(field: &Field<'_>, rule: Rule, claims: &BTreeSet<&str>) -> Vec<FieldError> {
    let (limits, requests) = (field.at("limits"), field.at("requests"));
    let mut errors = Vec::new();
    let (mut computes, mut huge) = (false, false);
    for (map, is_request) in [(&limits, false), (&requests, true)] {
        for (name, own) in amounts(map) {
            errors.extend(crate::meta::all_wrong(&own.path, name, rule(name)));
            errors.extend(amount(&own, name));
            if is_request {
                errors.extend(within_limit(name, &own, &limits, &requests.path));
            }
            if is_huge(name) {
                huge = true;
                errors.extend(whole_pages(name, &own));
            }
            computes |= matches!(name, "cpu" | "memory");
        }
    }
    if huge && !computes {
        errors.push(field.forbidden("HugePages require cpu or memory"));
    }
    errors.extend(claimed(&field.at("claims"), claims));
    errors
}

fn within_limit(name: &str, own: &Field<'_>, limits: &Field<'_>, path: &str) -> Option<FieldError> {
    let shared = is_native(name) && !is_huge(name);
    let request = Quantity::from_json(own.value).ok()?;
    let Some(limit) = limits.value.get(name).and_then(|limit| Quantity::from_json(limit).ok()) else {
        let why = "Limit must be set for non overcommitable resources";
        return (!shared).then(|| FieldError::required(limits.path.as_str(), why));
    };
    let wrong = |why: &str| {
        let why = format!("must be {why} to {name} limit of {limit}");
        Some(FieldError::invalid(path, request.to_string(), why))
    };
    match (shared, request == limit, request > limit) {
        (false, false, _) => wrong("equal"),
        (true, _, true) => wrong("less than or equal"),
        _ => None,
    }
}

fn whole_pages(name: &str, own: &Field<'_>) -> Option<FieldError> {
    let amount = Quantity::from_json(own.value).ok()?;
    let size = name.strip_prefix("hugepages-").and_then(|size| size.parse::<Quantity>().ok());
    let size = size.map(|size| size.milli()).filter(|size| *size > 0 && size % 1000 == 0);
    let fits = size.is_some_and(|size| amount.milli() % size == 0);
    let why = format!("{amount} is not positive integer multiple of {name}");
    (!fits).then(|| FieldError::invalid(own.path.as_str(), amount.to_string(), why))
}

/// Refuses names of claims that the Pod does not have, or that are given twice.
fn claimed(list: &Field<'_>, known: &BTreeSet<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (mut whole, mut single, mut parts) = (HashSet::new(), HashSet::new(), HashSet::new());
    for claim in list.items() {
        let (name, request) = (claim.at("name").text(), claim.at("request"));
        if name.is_empty() {
            errors.push(claim.required(""));
            continue;
        }
        let again = |shown: String| FieldError::duplicate(claim.path.as_str(), shown);
        if whole.contains(name) {
            errors.push(again(name.to_owned()));
        } else if request.text().is_empty() {
            errors.extend(single.contains(name).then(|| again(name.to_owned())));
            whole.insert(name);
        } else {
            errors.extend(request.obeys(dns_label));
            single.insert(name);
            if !parts.insert((name, request.text())) {
                errors.push(again(format!("{name}/{}", request.text())));
            }
        }
        if !known.contains(name) {
            let names: Vec<&str> = known.iter().copied().collect();
            let which = if names.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", names.join(", "))
            };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{which}");
            let kind = FieldErrorKind::NotFound(name.into());
            errors.push(FieldError { field: claim.path.clone(), kind, detail });
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_standard_or_qualified() {
        for good in ["cpu", "hugepages-2Mi", "example.com/gpu"] {
            assert!(container_resource(good).is_empty(), "{good}");
        }
        assert_eq!(container_resource("bad resource").len(), 2);
        assert_eq!(container_resource("pods"), ["must be a standard resource for containers"]);
        assert_eq!(container_resource("requests.example.com/x").len(), 1);
        assert_eq!(quota_resource("storage"), ["must be a standard resource for quota"]);
        assert!(quota_resource("count/pods").is_empty());
    }

    #[test]
    fn requests_stay_within_limits() {
        let object = json!({"requests": {"cpu": "2", "example.com/gpu": "1", "hugepages-2Mi": "3Mi"},
            "limits": {"cpu": "1", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"},
            "claims": [{"name": "a"}, {"name": "a"}, {"name": "b", "request": "x"}, {"name": ""}]});
        let field = Field { value: &object, path: "r".to_owned() };
        let texts: Vec<String> =
            of_container(&field, &BTreeSet::from(["a"])).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "r.requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2",
                "r.requests: Invalid value: \"3Mi\": must be equal to hugepages-2Mi limit of 4Mi",
                "r.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "r.claims[1]: Duplicate value: \"a\"",
                "r.claims[2]: Not found: \"b\": must be one of the names in pod.spec.resourceClaims: a",
                "r.claims[3]: Required value",
            ]
        );
    }
}
