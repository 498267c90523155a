//! The kinds of resource.k8s.io: what devices there are, and who wants which.

mod selectors;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::inner::Part;
use crate::builtin::inner::devices::{RESOURCE_CLAIM_SPEC, RESOURCE_CLAIM_TEMPLATE_SPEC};
use crate::builtin::pods::template;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::{METADATA, Rules};
use crate::builtin::storage::driver_name;
use crate::builtin::{ColumnSpec, formats, resources};
use crate::error::{FieldError, FieldErrorKind};
use crate::lookup::{at_mut, entries, list, list_mut, number, set_default, text};
use crate::meta::{SUBDOMAIN_LIMIT, all_wrong, dns_label, dns_subdomain, qualified_name};

/// Most requests, constraints, configurations, selectors, allocated devices.
const MOST: usize = 32;
/// Most bytes of an expression, or of parameters for a driver.
const TEXT_LIMIT: usize = 10 * 1024;
/// Most bytes of the name of an attribute or a capacity, its domain aside.
const MOST_NAME: usize = 32;

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
        selectors::validate(&spec.at("selectors"), &mut errors);
        configurations(&spec.at("config"), None, &mut errors);
        let name = spec.at("extendedResourceName");
        if name.is_given() && !resources::is_extended(name.text()) {
            errors.push(name.invalid("must be a valid extended resource name"));
        }
        errors
    },
    ..Rules::BASE
};

pub(in crate::builtin) const CLAIM: Rules = Rules {
    default: |claim| claim_defaults(claim, &["spec", "devices", "requests"]),
    validate: |claim| device_claim(&Field::root(claim).under(&["spec", "devices"])),
    validate_update: |new, old| spec_is_kept(new, old, RESOURCE_CLAIM_SPEC),
    validate_status: claim_status,
    kept_by_status: METADATA,
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
    validate_update: |new, old| spec_is_kept(new, old, RESOURCE_CLAIM_TEMPLATE_SPEC),
    ..Rules::UNCOUNTED
};

fn spec_is_kept(new: &Object, old: &Object, parts: &[Part]) -> Vec<FieldError> {
    let spec = Field::root(new).at("spec");
    let changed = spec.value != &old["spec"];
    changed.then(|| spec.invalid_object(parts, "field is immutable")).into_iter().collect()
}

/// Checks each item, then that none has the key of an earlier one. Of too many, no more is told.
fn set<'a>(
    field: &Field<'a>,
    most: usize,
    errors: &mut Vec<FieldError>,
    check: impl Fn(&Field<'a>, &mut Vec<FieldError>),
    key: impl Fn(&Value) -> String,
) {
    let too_many = field.at_most(most);
    if too_many.is_some() {
        return errors.extend(too_many);
    }
    field.items().for_each(|item| check(&item, errors));
    let mut seen = HashSet::new();
    for item in field.items() {
        let key = key(item.value);
        if !seen.insert(key.clone()) {
            errors.push(FieldError::duplicate(item.path, key));
        }
    }
}

fn by_name(item: &Value) -> String {
    text(item, &["name"]).to_owned()
}

fn claim_defaults(object: &mut Object, requests: &[&str]) {
    let one = |request: &mut Value| {
        set_default(request, "allocationMode", "ExactCount");
        if text(request, &["allocationMode"]) == "ExactCount" && number(request, &["count"]).unwrap_or(0) == 0
        {
            request["count"] = json!(1);
        }
    };
    // The list is written also where there is none.
    if let Some((last, above)) = requests.split_last()
        && let Some(devices) = at_mut(object, above).and_then(Value::as_object_mut)
    {
        devices.entry(*last).or_insert(Value::Null);
    }
    for request in list_mut(object, requests) {
        if let Some(exact) = request.get_mut("exactly").filter(|exact| exact.is_object()) {
            one(exact);
        }
        list_mut(request, &["firstAvailable"]).iter_mut().for_each(one);
    }
}

fn device_claim(devices: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    set(&devices.at("requests"), MOST, &mut errors, device_request, by_name);
    let known = request_names(devices.value);
    let constraints = devices.at("constraints");
    let too_many = constraints.at_most(MOST);
    for constraint in constraints.items().filter(|_| too_many.is_none()) {
        request_references(&constraint.at("requests"), &known, &mut errors);
        let (same, different) = (constraint.at("matchAttribute"), constraint.at("distinctAttribute"));
        if same.is_given() || different.is_given() {
            let attribute = if same.is_given() { same } else { different };
            qualified(attribute.text(), &attribute.path, &mut errors);
            if !attribute.text().contains('/') {
                let why = "a fully qualified name must be a domain and a name separated by a slash";
                errors.push(attribute.invalid(why));
            }
        } else {
            let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errors.push(constraint.required(why));
        }
    }
    errors.extend(too_many);
    configurations(&devices.at("config"), Some(&known), &mut errors);
    errors
}

/// A name of an attribute or a capacity: an identifier, with a domain and a slash before it or without.
fn qualified(name: &str, path: &str, errors: &mut Vec<FieldError>) {
    let parts: Vec<&str> = name.split('/').collect();
    let own = match parts.as_slice() {
        [own] => own,
        [domain, own] => {
            if domain.is_empty() {
                errors.push(FieldError::invalid(path, "", "the domain must not be empty"));
            } else {
                let value = json!(domain);
                errors.extend(driver_name(&Field { value: &value, path: path.to_owned() }));
            }
            if own.is_empty() {
                return errors.push(FieldError::invalid(path, "", "the name must not be empty"));
            }
            own
        }
        // Of more parts nothing is said, as upstream has it.
        _ => return,
    };
    if own.len() > MOST_NAME {
        errors.push(FieldError::too_long(path, MOST_NAME as u64));
    }
    errors.extend(all_wrong(path, own, formats::c_identifier(own)));
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
            let check = |alternative: &Field<'_>, errors: &mut Vec<FieldError>| {
                errors.extend(alternative.at("name").needs(dns_label));
                wanted_devices(alternative, errors);
            };
            set(&first, MOST_ALTERNATIVES, errors, check, by_name);
        }
    }
}

fn wanted_devices(request: &Field<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(request.at("deviceClassName").needs(dns_subdomain));
    selectors::validate(&request.at("selectors"), errors);
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
    let check = |reference: &Field<'_>, errors: &mut Vec<FieldError>| {
        let parts: Vec<&str> = reference.text().split('/').collect();
        if parts.len() <= 2 {
            let wrong = parts.iter().flat_map(|part| match *part {
                "" => vec![reference.required("")],
                part => all_wrong(&reference.path, part, dns_label(part)).collect(),
            });
            errors.extend(wrong);
        }
        if !known.contains(reference.text()) {
            errors.push(reference.invalid(WHY));
        }
    };
    set(references, MOST, errors, check, |name| name.as_str().unwrap_or_default().to_owned());
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
        } else if !parameters.value.is_object() {
            let why = "must be a valid JSON object";
            errors.push(FieldError::invalid(parameters.path.as_str(), "<value omitted>", why));
        }
    }
}

fn claim_status(new: &Object, old: &Object) -> Vec<FieldError> {
    const MOST_CONSUMERS: usize = 256;
    let root = Field::root(new);
    let (allocation, consumers) =
        (root.under(&["status", "allocation"]), root.under(&["status", "reservedFor"]));
    let mut errors = Vec::new();
    let check = |consumer: &Field<'_>, errors: &mut Vec<FieldError>| {
        let needed = ["resource", "name", "uid"];
        errors.extend(needed.iter().filter_map(|key| consumer.at(key).must_be_given("")));
    };
    let uid = |consumer: &Value| text(consumer, &["uid"]).to_owned();
    set(&consumers, MOST_CONSUMERS, &mut errors, check, uid);
    device_statuses(&root.under(&["status", "devices"]), &allocation, &mut errors);
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

/// What drivers tell of devices; of those alone that the claim has been given.
fn device_statuses(devices: &Field<'_>, allocation: &Field<'_>, errors: &mut Vec<FieldError>) {
    const PARTS: [(&str, &str); 4] =
        [("Driver", "driver"), ("Pool", "pool"), ("Device", "device"), ("ShareID", "shareID")];
    let results = allocation.under(&["devices", "results"]);
    let id = |device: &Value| PARTS.map(|(_, key)| text(device, &[key]).to_owned());
    let given: HashSet<[String; 4]> = results.list().iter().map(id).collect();
    let shown = |device: &Value| {
        let parts =
            PARTS.iter().zip(id(device)).map(|((name, _), part)| format!("\"{name}\":{}", json!(part)));
        format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
    };
    for device in devices.items() {
        errors.extend(driver_name(&device.at("driver")));
        errors.extend(pool_name(&device.at("pool")));
        errors.extend(device.at("device").needs(dns_label));
        if !given.contains(&id(device.value)) {
            errors.push(FieldError {
                field: device.path.clone(),
                kind: FieldErrorKind::InvalidAs(shown(device.value)),
                detail: "must be an allocated device in the claim".to_owned(),
            });
        }
    }
    let mut seen = HashSet::new();
    for device in devices.items().filter(|device| !seen.insert(id(device.value))) {
        let kind = FieldErrorKind::DuplicateAs(shown(device.value));
        errors.push(FieldError { field: device.path, kind, detail: String::new() });
    }
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
    tells_of_missing: true,
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
    let given = count.number().unwrap_or(0);
    if given <= 0 {
        errors.push(FieldError::invalid(count.path.as_str(), given, "must be greater than zero"));
    }
    let generation = pool.at("generation");
    if generation.number().is_some_and(|given| given < 0) {
        errors.push(generation.invalid("must be greater than or equal to zero"));
    }
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
    let check = |device: &Field<'_>, errors: &mut Vec<FieldError>| {
        errors.extend(device.at("name").needs(dns_label));
        let size = |key: &str| device.at(key).value.as_object().map_or(0, serde_json::Map::len);
        let total = size("attributes") + size("capacity");
        if total > MOST_ATTRIBUTES {
            let why =
                format!("the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES}");
            errors.push(FieldError::invalid(device.path.as_str(), total, why));
        }
        for (key, value) in entries(device.value, &["attributes"]) {
            let path = format!("{}.attributes", device.path);
            qualified(key, &path, errors);
            if value.as_object().is_none_or(|kinds| kinds.len() != 1) {
                let kinds = value.as_object().filter(|kinds| !kinds.is_empty());
                let shown = kinds.map_or(json!(""), |kinds| json!(kinds));
                errors.push(FieldError::invalid(
                    format!("{path}[{key}]"),
                    shown,
                    "exactly one value must be specified",
                ));
            }
        }
        for (key, _) in entries(device.value, &["capacity"]) {
            qualified(key, &format!("{}.capacity", device.path), errors);
        }
        let taints = device.at("taints");
        errors.extend(taints.at_most(MOST_TAINTS));
        for taint in taints.items() {
            errors.extend(taint.at("key").needs(qualified_name));
            errors.extend(taint.at("effect").must_be_one_of(&["NoExecute", "NoSchedule", "None"]));
        }
    };
    set(devices, most, errors, check, by_name);
}
