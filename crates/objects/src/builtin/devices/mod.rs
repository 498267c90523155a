//! The kinds of resource.k8s.io: what devices there are, and who wants which.

mod selectors;
mod slices;
pub(in crate::builtin) mod taints;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::inner::Part;
use crate::builtin::inner::devices::{RESOURCE_CLAIM_SPEC, RESOURCE_CLAIM_TEMPLATE_SPEC};
use crate::builtin::pods::affinity::node_selector;
use crate::builtin::pods::template;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::{METADATA, Rules};
use crate::builtin::storage::driver_name;
use crate::builtin::{ColumnSpec, conditions, formats, resources};
use crate::error::{FieldError, FieldErrorKind};
use crate::lookup::{at_mut, list, list_mut, number, set_default, text};
use crate::meta::{SUBDOMAIN_LIMIT, all_wrong, dns_label, dns_subdomain};

/// Most requests, constraints, configurations, selectors, allocated devices.
const MOST: usize = 32;
/// Most bytes of an expression, or of parameters for a driver.
const TEXT_LIMIT: usize = 10 * 1024;
/// Most bytes of the name of an attribute or a capacity, its domain aside.
const MOST_NAME: usize = 32;

pub(in crate::builtin) use slices::SLICE;

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
        configurations(&spec.at("config"), None, MOST, &mut errors);
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
    configurations(&devices.at("config"), Some(&known), MOST, &mut errors);
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
    const MOST_TOLERATIONS: usize = 16;
    let tolerations = request.at("tolerations");
    errors.extend(tolerations.at_most(MOST_TOLERATIONS));
    tolerations.items().for_each(|one| taints::toleration(&one, errors));
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
    let check =
        |reference: &Field<'_>, errors: &mut Vec<FieldError>| request_reference(reference, known, errors);
    set(references, MOST, errors, check, |name| name.as_str().unwrap_or_default().to_owned());
}

fn request_reference(reference: &Field<'_>, known: &HashSet<String>, errors: &mut Vec<FieldError>) {
    const WHY: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let parts: Vec<&str> = reference.text().split('/').collect();
    if parts.len() <= 2 {
        let wrong = parts.iter().flat_map(|part| match *part {
            "" => vec![reference.required("")],
            part => all_wrong(&reference.path, part, dns_label(part)).collect(),
        });
        errors.extend(wrong);
    }
    if !known.contains(reference.text()) {
        errors.push(FieldError::invalid(reference.path.as_str(), reference.text(), WHY));
    }
}

/// Configurations for drivers; `known` are the names of requests that they may be for.
fn configurations(
    field: &Field<'_>,
    known: Option<&HashSet<String>>,
    most: usize,
    errors: &mut Vec<FieldError>,
) {
    let too_many = field.at_most(most);
    if too_many.is_some() {
        return errors.extend(too_many);
    }
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
        raw(&opaque.at("parameters"), errors);
    }
}

/// An object for a driver.
fn raw(data: &Field<'_>, errors: &mut Vec<FieldError>) {
    if !data.is_given() {
        errors.push(data.required(""));
    } else if data.value.to_string().len() > TEXT_LIMIT {
        errors.push(FieldError::too_long(data.path.as_str(), TEXT_LIMIT as u64));
    } else if !data.value.is_object() {
        let why = "must be a valid JSON object";
        errors.push(FieldError::invalid(data.path.as_str(), "<value omitted>", why));
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
    } else if new["metadata"]["deletionTimestamp"].is_string() {
        let before = list(old, &["status", "reservedFor"]);
        if consumers.list().iter().any(|consumer| !before.contains(consumer)) {
            let why =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(consumers.forbidden(why));
        }
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
        request_reference(&request, &known, &mut errors);
        errors.extend(driver_name(&result.at("driver")));
        errors.extend(pool_name(&result.at("pool")));
        errors.extend(result.at("device").needs(dns_label));
        slices::binding_conditions(&result, &mut errors);
        share(&result, &mut errors);
    }
    // Of the class and of the claim.
    const MOST_CONFIGURATIONS: usize = 2 * MOST;
    let given = allocation.under(&["devices", "config"]);
    for one in given.items() {
        errors.extend(one.at("source").must_be_one_of(&["FromClaim", "FromClass"]));
    }
    configurations(&given, Some(&known), MOST_CONFIGURATIONS, &mut errors);
    let nodes = allocation.at("nodeSelector");
    if nodes.is_given() {
        errors.extend(node_selector(&nodes));
    }
    errors
}

/// A share of a device is named by a uid.
fn share(device: &Field<'_>, errors: &mut Vec<FieldError>) {
    let id = device.at("shareID");
    if id.is_given() && !is_uid(id.text()) {
        let why = "must be a lowercase UUID in 8-4-4-4-12 format";
        errors.push(id.invalid(why));
    }
}

fn is_uid(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && text.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f'))
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
        share(&device, errors);
        if !given.contains(&id(device.value)) {
            errors.push(FieldError {
                field: device.path.clone(),
                kind: FieldErrorKind::InvalidAs(shown(device.value)),
                detail: "must be an allocated device in the claim".to_owned(),
            });
        }
        told(&device, errors);
    }
    let mut seen = HashSet::new();
    for device in devices.items().filter(|device| !seen.insert(id(device.value))) {
        let kind = FieldErrorKind::DuplicateAs(shown(device.value));
        errors.push(FieldError { field: device.path, kind, detail: String::new() });
    }
}

/// What a driver tells of a device beside its name.
fn told(device: &Field<'_>, errors: &mut Vec<FieldError>) {
    const MOST_CONDITIONS: usize = 8;
    const MOST_ADDRESSES: usize = 16;
    const MOST_INTERFACE: usize = 256;
    const MOST_HARDWARE: usize = 128;
    let (states, data, network) = (device.at("conditions"), device.at("data"), device.at("networkData"));
    errors.extend(states.at_most(MOST_CONDITIONS));
    errors.extend(conditions::validate(&states));
    if data.is_given() {
        raw(&data, errors);
    }
    errors.extend(network.at("interfaceName").no_longer_than(MOST_INTERFACE));
    errors.extend(network.at("hardwareAddress").no_longer_than(MOST_HARDWARE));
    let check = |address: &Field<'_>, errors: &mut Vec<FieldError>| {
        let read = address.text().split_once('/').and_then(|(ip, length)| {
            let (ip, length) = (ip.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
            let most = if ip.is_ipv4() { 32 } else { 128 };
            (length <= most).then(|| format!("{ip}/{length}"))
        });
        match read {
            Some(canonical) if canonical == address.text() => {}
            Some(canonical) => {
                errors.push(address.invalid(format!("must be in canonical form ({canonical:?})")))
            }
            None => {
                let why = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
                errors.push(address.invalid(why));
            }
        }
    };
    let of_text = |address: &Value| address.as_str().unwrap_or_default().to_owned();
    set(&network.at("ips"), MOST_ADDRESSES, errors, check, of_text);
}

fn pool_name(field: &Field<'_>) -> Vec<FieldError> {
    if field.text().is_empty() {
        return vec![field.required("")];
    }
    let wrong = field.text().split('/').flat_map(|part| all_wrong(&field.path, part, dns_subdomain(part)));
    field.no_longer_than(SUBDOMAIN_LIMIT).into_iter().chain(wrong).collect()
}
