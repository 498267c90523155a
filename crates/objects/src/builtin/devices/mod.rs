//! The kinds of resource.k8s.io: what devices there are, and who wants which. Whether a selector's
//! expression compiles is not checked here.

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::ColumnSpec;
use crate::builtin::field::Field;
use crate::builtin::pods::template;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::Rules;
use crate::builtin::storage::driver_name;
use crate::error::FieldError;
use crate::lookup::{list, list_mut, number, set_default, text};
use crate::meta::{SUBDOMAIN_LIMIT, Wrongs, all_wrong, dns_label, dns_subdomain, qualified_name};

/// Most requests, constraints, configurations, selectors, allocated devices.
const MOST: usize = 32;
/// Most bytes of an expression, or of parameters for a driver.
const TEXT_LIMIT: usize = 10 * 1024;

pub(in crate::builtin) const CLAIM_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("State", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn claim_cells(claim: &Object, now: Timestamp) -> Vec<Value> {
    let deleted = claim["metadata"]["deletionTimestamp"].is_string();
    let allocated = claim["status"]["allocation"].is_object();
    let reserved = allocated && !list(claim, &["status", "reservedFor"]).is_empty();
    let states = [
        (deleted, "deleted"),
        (!allocated && !deleted, "pending"),
        (allocated, "allocated"),
        (reserved, "reserved"),
    ];
    let state: Vec<&str> = states.into_iter().filter(|(holds, _)| *holds).map(|(_, word)| word).collect();
    vec![name(claim), json!(state.join(",")), since_creation(claim, now)]
}

pub(in crate::builtin) const SLICE_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Node", "string", 0),
    ("Driver", "string", 0),
    ("Pool", "string", 0),
    ("Age", "string", 0),
];

pub(in crate::builtin) fn slice_cells(slice: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(slice),
        json!(text(slice, &["spec", "nodeName"])),
        json!(text(slice, &["spec", "driver"])),
        json!(text(slice, &["spec", "pool", "name"])),
        since_creation(slice, now),
    ]
}

pub(in crate::builtin) const CLASS: Rules = Rules {
    validate: |class| {
        let spec = Field::root(class).at("spec");
        let mut errors = Vec::new();
        selectors(&spec.at("selectors"), &mut errors);
        configurations(&spec.at("config"), None, &mut errors);
        errors
    },
    ..Rules::BASE
};

pub(in crate::builtin) const CLAIM: Rules = Rules {
    default: |claim| claim_defaults(claim, &["spec", "devices", "requests"]),
    validate: |claim| device_claim(&Field::root(claim).under(&["spec", "devices"])),
    validate_update: spec_is_kept,
    validate_status: claim_status,
    ..Rules::UNCOUNTED
};

pub(in crate::builtin) const TEMPLATE: Rules = Rules {
    default: |template| claim_defaults(template, &["spec", "spec", "devices", "requests"]),
    validate: |template| {
        let spec = Field::root(template).at("spec");
        let mut errors = template::claim_metadata(&spec.at("metadata"));
        errors.extend(device_claim(&spec.under(&["spec", "devices"])));
        errors
    },
    validate_update: spec_is_kept,
    ..Rules::UNCOUNTED
};

fn spec_is_kept(new: &Object, old: &Object) -> Vec<FieldError> {
    Field::root(new).at("spec").same_as(&Field::root(old).at("spec")).into_iter().collect()
}

fn claim_defaults(object: &mut Object, requests: &[&str]) {
    let one = |request: &mut Value| {
        set_default(request, "allocationMode", "ExactCount");
        if text(request, &["allocationMode"]) == "ExactCount" && number(request, &["count"]).unwrap_or(0) == 0
        {
            request["count"] = json!(1);
        }
    };
    for request in list_mut(object, requests) {
        if let Some(exact) = request.get_mut("exactly").filter(|exact| exact.is_object()) {
            one(exact);
        }
        list_mut(request, &["firstAvailable"]).iter_mut().for_each(one);
    }
}

fn device_claim(devices: &Field<'_>) -> Vec<FieldError> {
    let (requests, constraints) = (devices.at("requests"), devices.at("constraints"));
    let mut errors: Vec<FieldError> =
        [requests.at_most(MOST), constraints.at_most(MOST)].into_iter().flatten().collect();
    errors.extend(requests.distinct_by("name"));
    for request in requests.items() {
        device_request(&request, &mut errors);
    }
    let known = request_names(devices.value);
    for constraint in constraints.items() {
        request_references(&constraint.at("requests"), &known, &mut errors);
        let (same, different) = (constraint.at("matchAttribute"), constraint.at("distinctAttribute"));
        for attribute in [&same, &different] {
            errors.extend(attribute.follows(attribute_name));
        }
        if !same.is_given() && !different.is_given() {
            let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.push(constraint.required(why));
        }
    }
    configurations(&devices.at("config"), Some(&known), &mut errors);
    errors
}

fn attribute_name(name: &str) -> Wrongs {
    match name.contains('/') {
        true => qualified_name(name),
        false => vec!["must include a domain".to_owned()],
    }
}

fn device_request(request: &Field<'_>, errors: &mut Vec<FieldError>) {
    const MOST_ALTERNATIVES: usize = 8;
    let (exact, first) = (request.at("exactly"), request.at("firstAvailable"));
    errors.extend(request.at("name").needs(dns_label));
    match (exact.is_given(), !first.list().is_empty()) {
        (false, false) => {
            errors.push(request.required("exactly one of `exactly` or `firstAvailable` is required"));
        }
        (true, true) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(FieldError::invalid(request.path.as_str(), Value::Null, why));
        }
        (true, false) => wanted_devices(&exact, errors),
        (false, true) => {
            errors.extend(first.at_most(MOST_ALTERNATIVES));
            errors.extend(first.distinct_by("name"));
            for alternative in first.items() {
                errors.extend(alternative.at("name").needs(dns_label));
                wanted_devices(&alternative, errors);
            }
        }
    }
}

fn wanted_devices(request: &Field<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(request.at("deviceClassName").needs(dns_subdomain));
    selectors(&request.at("selectors"), errors);
    let (mode, count) = (request.at("allocationMode"), request.at("count"));
    let given = count.number().unwrap_or(0);
    match mode.text() {
        "All" if given != 0 => {
            errors.push(count.invalid("must not be specified when allocationMode is 'All'"));
        }
        "ExactCount" if given <= 0 => errors.push(count.invalid("must be greater than zero")),
        "All" | "ExactCount" => {}
        other => errors.push(FieldError::not_supported(mode.path.as_str(), other, &["All", "ExactCount"])),
    }
    for toleration in request.at("tolerations").items() {
        let (key, operator) = (toleration.at("key"), toleration.at("operator"));
        errors.extend(key.may_follow(qualified_name));
        errors.extend(operator.one_of(&["Equal", "Exists"]));
        errors.extend(toleration.at("effect").one_of(&["NoExecute", "NoSchedule", "None"]));
    }
}

fn selectors(field: &Field<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(field.at_most(MOST));
    for selector in field.items() {
        let cel = selector.at("cel");
        if !cel.is_given() {
            errors.push(cel.required(""));
            continue;
        }
        errors.extend(cel.at("expression").no_longer_than(TEXT_LIMIT));
    }
}

/// Names of the requests of a claim, and `request/alternative` of those with alternatives.
fn request_names(devices: &Value) -> HashSet<String> {
    let mut names = HashSet::new();
    for request in list(devices, &["requests"]) {
        let own = text(request, &["name"]);
        names.insert(own.to_owned());
        let alternatives = list(request, &["firstAvailable"]).iter();
        names.extend(alternatives.map(|alternative| format!("{own}/{}", text(alternative, &["name"]))));
    }
    names
}

fn request_references(references: &Field<'_>, known: &HashSet<String>, errors: &mut Vec<FieldError>) {
    const WHY: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    errors.extend(references.at_most(MOST));
    errors.extend(references.distinct());
    let unknown = |reference: &Field<'_>| !known.contains(reference.text());
    errors.extend(references.items().filter(unknown).map(|reference| reference.invalid(WHY)));
}

/// Configurations for drivers; `known` are the names of requests that they may be for.
fn configurations(field: &Field<'_>, known: Option<&HashSet<String>>, errors: &mut Vec<FieldError>) {
    errors.extend(field.at_most(MOST));
    for configuration in field.items() {
        if let Some(known) = known {
            request_references(&configuration.at("requests"), known, errors);
        }
        let opaque = configuration.at("opaque");
        if !opaque.is_given() {
            errors.push(opaque.required(""));
            continue;
        }
        errors.extend(driver_name(&opaque.at("driver")));
        let parameters = opaque.at("parameters");
        if !parameters.is_given() {
            errors.push(parameters.required(""));
        } else if parameters.value.to_string().len() > TEXT_LIMIT {
            errors.push(FieldError::too_long(parameters.path.as_str(), TEXT_LIMIT as u64));
        }
    }
}

fn claim_status(new: &Object, old: &Object) -> Vec<FieldError> {
    const MOST_CONSUMERS: usize = 256;
    let root = Field::root(new);
    let (allocation, consumers) =
        (root.under(&["status", "allocation"]), root.under(&["status", "reservedFor"]));
    let mut errors: Vec<FieldError> = consumers.at_most(MOST_CONSUMERS).into_iter().collect();
    errors.extend(consumers.distinct_by("uid"));
    for consumer in consumers.items() {
        let needed = ["resource", "name", "uid"];
        errors.extend(needed.iter().filter_map(|key| consumer.at(key).must_be_given("")));
    }
    if !consumers.list().is_empty() && !allocation.is_given() {
        errors.push(consumers.forbidden("may not be specified when `allocated` is not set"));
    }
    let before = Field::root(old).under(&["status", "allocation"]);
    if allocation.is_given() && before.is_given() {
        errors.extend(allocation.same_as(&before));
        return errors;
    }
    let known = request_names(&new["spec"]["devices"]);
    let results = allocation.under(&["devices", "results"]);
    errors.extend(results.at_most(MOST));
    for result in results.items() {
        let request = result.at("request");
        if !known.contains(request.text()) {
            let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            errors.push(FieldError::invalid(request.path.as_str(), request.text(), why));
        }
        errors.extend(driver_name(&result.at("driver")));
        errors.extend(pool_name(&result.at("pool")));
        errors.extend(result.at("device").needs(dns_label));
    }
    errors
}

fn pool_name(field: &Field<'_>) -> Vec<FieldError> {
    if field.text().is_empty() {
        return vec![field.required("")];
    }
    let wrong = field.text().split('/').flat_map(|part| all_wrong(&field.path, part, dns_subdomain(part)));
    field.no_longer_than(SUBDOMAIN_LIMIT).into_iter().chain(wrong).collect()
}

pub(in crate::builtin) const SLICE: Rules = Rules {
    validate: validate_slice,
    validate_update: |new, old| {
        let kept: [&[&str]; 3] = [&["spec", "pool", "name"], &["spec", "driver"], &["spec", "nodeName"]];
        let changed = |path: &&[&str]| Field::root(new).under(path).same_as(&Field::root(old).under(path));
        kept.iter().filter_map(changed).collect()
    },
    ..Rules::BASE
};

fn validate_slice(slice: &Object) -> Vec<FieldError> {
    let spec = Field::root(slice).at("spec");
    let (pool, devices, counters) = (spec.at("pool"), spec.at("devices"), spec.at("sharedCounters"));
    let mut errors = driver_name(&spec.at("driver"));
    errors.extend(pool_name(&pool.at("name")));
    let count = pool.at("resourceSliceCount");
    if count.number().unwrap_or(0) <= 0 {
        errors.push(count.invalid("must be greater than zero"));
    }
    errors.extend(pool.at("generation").at_least(0));
    slice_place(&spec, &mut errors);
    if counters.is_given() && devices.is_given() {
        errors.push(FieldError::invalid("spec", "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    slice_devices(&devices, &mut errors);
    const MOST_COUNTER_SETS: usize = 8;
    errors.extend(counters.at_most(MOST_COUNTER_SETS));
    errors.extend(counters.distinct_by("name"));
    for set in counters.items() {
        errors.extend(set.at("name").needs(dns_label));
        if set.at("counters").value.as_object().is_none_or(serde_json::Map::is_empty) {
            errors.push(set.at("counters").required(""));
        }
    }
    errors
}

/// Where the devices are: said in one way of four.
fn slice_place(spec: &Field<'_>, errors: &mut Vec<FieldError>) {
    const WHY: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut ways = Vec::new();
    let (node, selector) = (spec.at("nodeName"), spec.at("nodeSelector"));
    if node.is_given() {
        if node.text().is_empty() {
            errors.push(node.invalid("must be either unset or set to a non-empty string"));
        } else {
            ways.push("`nodeName`");
            errors.extend(node.follows(dns_subdomain));
        }
    }
    if selector.is_given() {
        ways.push("`nodeSelector`");
        let terms = selector.at("nodeSelectorTerms");
        if terms.list().len() != 1 {
            errors.push(terms.invalid("must have exactly one node selector term"));
        }
    }
    for (key, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        let given = spec.at(key);
        match given.value.as_bool() {
            Some(true) => ways.push(shown),
            Some(false) => errors.push(given.invalid("must be either unset or set to true")),
            None => {}
        }
    }
    match ways.len() {
        0 => errors.push(spec.required(WHY)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", ways.join(", "));
            let why = format!("{WHY}, but multiple fields are set");
            errors.push(FieldError::invalid(spec.path.as_str(), shown, why));
        }
    }
}

fn slice_devices(devices: &Field<'_>, errors: &mut Vec<FieldError>) {
    const MOST_DEVICES: usize = 128;
    /// Where a device has taints or takes of counters, since those are costly to look at.
    const MOST_COSTLY: usize = 64;
    const MOST_ATTRIBUTES: usize = 32;
    const MOST_TAINTS: usize = 16;
    let has = |key: &str| devices.list().iter().any(|device| !list(device, &[key]).is_empty());
    let most = if has("taints") || has("consumesCounters") { MOST_COSTLY } else { MOST_DEVICES };
    errors.extend(devices.at_most(most));
    errors.extend(devices.distinct_by("name"));
    for device in devices.items() {
        errors.extend(device.at("name").needs(dns_label));
        let size = |key: &str| device.at(key).value.as_object().map_or(0, serde_json::Map::len);
        let total = size("attributes") + size("capacity");
        if total > MOST_ATTRIBUTES {
            let why =
                format!("the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES}");
            errors.push(FieldError::invalid(device.path.as_str(), total, why));
        }
        for (key, value) in device.at("attributes").value.as_object().into_iter().flatten() {
            let field = format!("{}.attributes[{key}]", device.path);
            if value.as_object().is_none_or(|kinds| kinds.len() != 1) {
                errors.push(FieldError::required(field, "exactly one value must be specified"));
            }
        }
        let taints = device.at("taints");
        errors.extend(taints.at_most(MOST_TAINTS));
        for taint in taints.items() {
            errors.extend(taint.at("key").needs(qualified_name));
            errors.extend(taint.at("effect").must_be_one_of(&["NoExecute", "NoSchedule", "None"]));
        }
    }
}
