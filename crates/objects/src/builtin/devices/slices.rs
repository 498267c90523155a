//! ResourceSlice: the devices of a pool, and what they are like. (Kubernetes' pkg/apis/resource/validation.)

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::{by_name, pool_name, qualified, set, taints};
use crate::builtin::field::Field;
use crate::builtin::pods::affinity::node_selector;
use crate::builtin::rules::Rules;
use crate::builtin::storage::driver_name;
use crate::error::FieldError;
use crate::lookup::{entries, list, list_mut, text};
use crate::meta::{all_wrong, dns_label, dns_subdomain, qualified_name};
use crate::{Object, Quantity};

/// Most bytes of an attribute's value.
const MOST_VALUE: usize = 64;

pub(in crate::builtin) const SLICE: Rules = Rules {
    default: |slice| {
        for device in list_mut(slice, &["spec", "devices"]) {
            list_mut(device, &["taints"]).iter_mut().for_each(taints::begin);
        }
    },
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
    let each = spec.at("perDeviceNodeSelection").value == &json!(true);
    slice_devices(&devices, each, &mut errors);
    const MOST_COUNTER_SETS: usize = 8;
    let check = |set: &Field<'_>, errors: &mut Vec<FieldError>| {
        errors.extend(set.at("name").needs(dns_label));
        counted(&set.at("counters"), errors);
    };
    set(&counters, MOST_COUNTER_SETS, &mut errors, check, by_name);
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
        errors.extend(node_selector(&selector));
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

fn slice_devices(devices: &Field<'_>, each: bool, errors: &mut Vec<FieldError>) {
    const MOST_DEVICES: usize = 128;
    /// Where a device has taints, takes of counters or has lists of values, since those are costly to look at.
    const MOST_COSTLY: usize = 64;
    const MOST_ATTRIBUTES: usize = 32;
    const MOST_VALUES: usize = 48;
    const MOST_TAINTS: usize = 16;
    const MOST_CONSUMED: usize = 2;
    let has = |key: &str| devices.list().iter().any(|device| !list(device, &[key]).is_empty());
    let has_lists = devices.list().iter().any(|device| {
        entries(device, &["attributes"])
            .any(|(_, value)| value.as_object().is_some_and(|of| of.values().any(Value::is_array)))
    });
    let costly = has("taints") || has("consumesCounters") || has_lists;
    let check = |device: &Field<'_>, errors: &mut Vec<FieldError>| {
        errors.extend(device.at("name").needs(dns_label));
        let size = |key: &str| device.at(key).value.as_object().map_or(0, Map::len);
        let total = size("attributes") + size("capacity");
        if total > MOST_ATTRIBUTES {
            let why =
                format!("the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES}");
            errors.push(FieldError::invalid(device.path.as_str(), total, why));
        }
        let values: usize = entries(device.value, &["attributes"]).map(|(_, value)| values_in(value)).sum();
        if values > MOST_VALUES {
            let why = format!("the total number of attribute values must not exceed {MOST_VALUES}");
            errors.push(FieldError::invalid(device.path.as_str(), values, why));
        }
        let path = format!("{}.attributes", device.path);
        for (key, value) in entries(device.value, &["attributes"]) {
            qualified(key, &path, errors);
            attribute(&Field { value, path: format!("{path}[{key}]") }, errors);
        }
        let shared = device.at("allowMultipleAllocations").value == &json!(true);
        let path = format!("{}.capacity", device.path);
        for (key, value) in entries(device.value, &["capacity"]) {
            qualified(key, &path, errors);
            capacity(&Field { value, path: format!("{path}[{key}]") }, shared, errors);
        }
        let all = device.at("taints");
        match all.at_most(MOST_TAINTS) {
            Some(too_many) => errors.push(too_many),
            None => all.items().for_each(|one| taints::taint(&one, errors)),
        }
        let consumed = |one: &Field<'_>, errors: &mut Vec<FieldError>| {
            errors.extend(one.at("counterSet").needs(dns_label));
            counted(&one.at("counters"), errors);
        };
        let of_set = |one: &Value| text(one, &["counterSet"]).to_owned();
        set(&device.at("consumesCounters"), MOST_CONSUMED, errors, consumed, of_set);
        device_place(device, each, errors);
        binding_conditions(device, errors);
        mappings(device, errors);
    };
    set(devices, if costly { MOST_COSTLY } else { MOST_DEVICES }, errors, check, by_name);
}

/// Amounts by the names of their counters.
fn counted(counters: &Field<'_>, errors: &mut Vec<FieldError>) {
    const MOST_COUNTERS: usize = 32;
    let Some(all) = counters.value.as_object().filter(|all| !all.is_empty()) else {
        return errors.push(counters.required(""));
    };
    if all.len() > MOST_COUNTERS {
        let too_many = FieldError::too_many(counters.path.as_str(), all.len() as u64, MOST_COUNTERS as u64);
        return errors.push(too_many);
    }
    for name in all.keys() {
        errors.extend(all_wrong(&counters.path, name, dns_label(name)));
    }
}

/// How many values an attribute has: one, or those of its list.
fn values_in(attribute: &Value) -> usize {
    let lists = attribute.as_object().into_iter().flat_map(Map::values).filter_map(Value::as_array);
    lists.map(Vec::len).sum::<usize>().max(1)
}

fn attribute(attribute: &Field<'_>, errors: &mut Vec<FieldError>) {
    let string = |field: &Field<'_>, errors: &mut Vec<FieldError>| {
        errors.extend(field.no_longer_than(MOST_VALUE));
    };
    let version = |field: &Field<'_>, errors: &mut Vec<FieldError>| {
        if !is_version(field.text()) {
            errors.push(field.invalid("must be a string compatible with semver.org spec 2.0.0"));
        }
        errors.extend(field.no_longer_than(MOST_VALUE));
    };
    let given = |key: &str| Some(attribute.at(key)).filter(Field::is_given);
    if let Some(one) = given("string") {
        string(&one, errors);
    }
    if let Some(one) = given("version") {
        version(&one, errors);
    }
    for key in ["bools", "ints", "strings", "versions"] {
        let Some(all) = given(key) else { continue };
        if all.list().is_empty() {
            errors.push(all.invalid("must not be empty if specified"));
        }
        match key {
            "strings" => all.items().for_each(|one| string(&one, errors)),
            "versions" => all.items().for_each(|one| version(&one, errors)),
            _ => {}
        }
    }
    let kinds =
        attribute.value.as_object().map_or(0, |kinds| kinds.values().filter(|one| !one.is_null()).count());
    if kinds != 1 {
        let shown = if kinds == 0 { json!("") } else { attribute.value.clone() };
        errors.push(FieldError::invalid(
            attribute.path.as_str(),
            shown,
            "exactly one value must be specified",
        ));
    }
}

/// A version as semver.org 2.0.0 has it.
fn is_version(text: &str) -> bool {
    static VERSION: LazyLock<Regex> = LazyLock::new(|| {
        const NUMBER: &str = r"(0|[1-9][0-9]*)";
        const BEFORE: &str = r"(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)";
        const BUILD: &str = r"[0-9a-zA-Z-]+";
        let whole =
            format!(r"^{NUMBER}\.{NUMBER}\.{NUMBER}(-{BEFORE}(\.{BEFORE})*)?(\+{BUILD}(\.{BUILD})*)?$");
        // A constant, which the tests compile.
        Regex::new(&whole).expect("a good expression")
    });
    VERSION.is_match(text)
}

fn capacity(capacity: &Field<'_>, shared: bool, errors: &mut Vec<FieldError>) {
    let policy = capacity.at("requestPolicy");
    if !policy.is_given() {
        return;
    }
    if !shared {
        return errors.push(policy.forbidden("allowMultipleAllocations must be true"));
    }
    let (values, range, default) = (policy.at("validValues"), policy.at("validRange"), policy.at("default"));
    let has_values = !values.list().is_empty();
    if has_values && range.is_given() {
        let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        return errors.push(policy.forbidden(why));
    }
    if !has_values && !range.is_given() {
        return;
    }
    if !default.is_given() {
        let which = if has_values { "validValues" } else { "validRange" };
        return errors.push(default.required(&format!("required when {which} is defined")));
    }
    let most = capacity.at("value");
    if has_values {
        options(&values, &default, &most, errors)
    } else {
        within(&range, &default, &most, errors)
    }
}

fn amount(field: &Field<'_>) -> Quantity {
    Quantity::from_json(field.value).unwrap_or(Quantity::ZERO)
}

/// An amount as it is written.
fn shown(field: &Field<'_>) -> String {
    field.value.as_str().map_or_else(|| field.value.to_string(), str::to_owned)
}

/// What may be asked for of a capacity: one of these values.
fn options(values: &Field<'_>, default: &Field<'_>, most: &Field<'_>, errors: &mut Vec<FieldError>) {
    const MOST_OPTIONS: usize = 10;
    let all: Vec<Field<'_>> = values.items().collect();
    for pair in all.windows(2) {
        if amount(&pair[0]) > amount(&pair[1]) {
            let path = pair[1].path.as_str();
            errors.push(FieldError::invalid(
                path,
                shown(&pair[1]),
                "values must be sorted in ascending order",
            ));
        }
    }
    let check = |option: &Field<'_>, errors: &mut Vec<FieldError>| {
        if amount(option) > amount(most) {
            let why = format!("option is larger than capacity value: {}", shown(most));
            errors.push(FieldError::invalid(option.path.as_str(), shown(option), why));
        }
    };
    let units = |option: &Value| Quantity::from_json(option).unwrap_or(Quantity::ZERO).units().to_string();
    set(values, MOST_OPTIONS, errors, check, units);
    if !all.iter().any(|option| amount(option) == amount(default)) {
        let why = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(values.path.as_str(), shown(default), why));
    }
}

/// What may be asked for of a capacity: what is in a range.
fn within(range: &Field<'_>, default: &Field<'_>, capacity: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (min, max, step) = (range.at("min"), range.at("max"), range.at("step"));
    if !min.is_given() {
        return errors.push(min.required("required when validRange is defined"));
    }
    let whole = amount(capacity);
    let mut refuse = |holds: bool, at: &Field<'_>, value: &Field<'_>, why: String| {
        if holds {
            errors.push(FieldError::invalid(at.path.as_str(), shown(value), why));
        }
    };
    let (least, wanted) = (amount(&min), amount(default));
    refuse(least > whole, &min, &min, format!("min is larger than capacity value: {}", shown(capacity)));
    refuse(wanted < least, &min, default, format!("default is less than min: {}", shown(&min)));
    if max.is_given() {
        let most = amount(&max);
        refuse(least > most, &max, &min, format!("min is larger than max: {}", shown(&max)));
        refuse(most > whole, &max, &max, format!("max is larger than capacity value: {}", shown(capacity)));
        refuse(wanted > most, &max, default, format!("default is more than max: {}", shown(&max)));
    }
    if step.is_given() {
        let one = amount(&step).units();
        let added = amount(&min).units().saturating_add(one);
        let why = format!("one step {added} is larger than capacity value: {}", shown(capacity));
        refuse(added > whole.units(), &step, &step, why);
        for value in [default, &max].into_iter().filter(|value| value.is_given()) {
            let above = amount(value).units().saturating_sub(amount(&min).units());
            let why =
                format!("value is not a multiple of a given step ({}) from ({})", shown(&step), shown(&min));
            refuse(above.checked_rem(one) != Some(0), &step, value, why);
        }
    }
}

/// Where one device is, as far as each says it itself.
fn device_place(device: &Field<'_>, each: bool, errors: &mut Vec<FieldError>) {
    const WHY: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    let (node, selector, everywhere) =
        (device.at("nodeName"), device.at("nodeSelector"), device.at("allNodes"));
    if !each {
        if node.is_given() || selector.is_given() || everywhere.is_given() {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.push(FieldError::invalid(device.path.as_str(), Value::Null, why));
        }
        return;
    }
    let mut ways = Vec::new();
    if node.is_given() {
        if node.text().is_empty() {
            errors.push(node.invalid("must not be empty"));
        } else {
            ways.push("`nodeName`");
            errors.extend(node.follows(dns_subdomain));
        }
    }
    if selector.is_given() {
        ways.push("`nodeSelector`");
        errors.extend(node_selector(&selector));
    }
    match everywhere.value.as_bool() {
        Some(true) => ways.push("`allNodes`"),
        Some(false) => errors.push(everywhere.invalid("must be either unset or set to true")),
        None => {}
    }
    match ways.len() {
        0 => errors.push(device.required(WHY)),
        1 => {}
        _ => errors.push(FieldError::invalid(device.path.as_str(), format!("{{{}}}", ways.join(", ")), WHY)),
    }
}

/// Conditions that must be there before a pod is bound, and those that end that.
pub(super) fn binding_conditions(device: &Field<'_>, errors: &mut Vec<FieldError>) {
    const MOST_CONDITIONS: usize = 4;
    let (wanted, failed) = (device.at("bindingConditions"), device.at("bindingFailureConditions"));
    for all in [&wanted, &failed] {
        match all.at_most(MOST_CONDITIONS) {
            Some(too_many) => errors.push(too_many),
            None => errors.extend(all.items().flat_map(|one| one.obeys(qualified_name))),
        }
    }
    errors.extend(wanted.distinct());
    let mut seen = HashSet::new();
    for one in failed.items() {
        if !seen.insert(one.text()) {
            errors.push(one.duplicate());
        }
        if wanted.list().contains(one.value) {
            errors.push(one.invalid("bindingFailureConditions must not overlap with bindingConditions"));
        }
    }
    let empty = (wanted.list().is_empty(), failed.list().is_empty());
    let shown =
        |field: &Field<'_>, why: &str| FieldError::invalid(field.path.as_str(), json!(field.list()), why);
    if empty == (true, false) {
        errors.push(shown(&wanted, "bindingConditions are required to use bindingFailureConditions"));
    }
    if empty == (false, true) {
        errors.push(shown(&failed, "bindingFailureConditions are required to use bindingConditions"));
    }
}

/// What of a node's own resources a device stands for.
fn mappings(device: &Field<'_>, errors: &mut Vec<FieldError>) {
    for (name, mapping) in entries(device.value, &["nodeAllocatableResourceMappings"]) {
        let path = format!("{}.nodeAllocatableResourceMappings[{name}]", device.path);
        let at = Field { value: mapping, path };
        if name.contains('/') && !name.contains("kubernetes.io/") {
            let why = "must be a node allocatable resource name";
            errors.push(FieldError::invalid(at.path.as_str(), name.as_str(), why));
        }
        let (times, key) = (at.at("allocationMultiplier"), at.at("capacityKey"));
        if !times.is_given() && !key.is_given() {
            let why = "at least one of allocationMultiplier or capacityKey must be set";
            errors.push(FieldError::invalid(at.path.as_str(), "", why));
        }
        if times.is_given() && amount(&times) <= Quantity::ZERO {
            errors.push(FieldError::invalid(times.path.as_str(), shown(&times), "must be positive"));
        }
        if key.is_given() && key.text().is_empty() {
            errors.push(key.invalid("capacityKey must not be an empty string"));
        } else if key.is_given() && device.value["capacity"].get(key.text()).is_none() {
            errors.push(FieldError::not_found(key.path.as_str(), key.text()));
        }
    }
}
