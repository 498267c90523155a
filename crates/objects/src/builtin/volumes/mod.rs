//! PersistentVolume and PersistentVolumeClaim.

mod elsewhere;
pub(in crate::builtin) mod projected;
pub(in crate::builtin) mod sources;
pub(in crate::builtin) mod warnings;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::builtin::field::Field;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::{ColumnSpec, diff, formats, inner};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{at, copy_key, entries, list, remove, set_default, text};
use crate::meta::{all_wrong, dns_subdomain, time};
use crate::{Object, Quantity};

pub(in crate::builtin) const VOLUME_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Capacity", "string", 0),
    ("Access Modes", "string", 0),
    ("Reclaim Policy", "string", 0),
    ("Status", "string", 0),
    ("Claim", "string", 0),
    ("StorageClass", "string", 0),
    ("VolumeAttributesClass", "string", 0),
    ("Reason", "string", 0),
    ("Age", "string", 0),
    ("VolumeMode", "string", 1),
];

pub(in crate::builtin) const CLAIM_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Status", "string", 0),
    ("Volume", "string", 0),
    ("Capacity", "string", 0),
    ("Access Modes", "string", 0),
    ("StorageClass", "string", 0),
    ("VolumeAttributesClass", "string", 0),
    ("Age", "string", 0),
    ("VolumeMode", "string", 1),
];

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const MODES: &[(&str, &str)] = &[
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

fn modes(of: &Value) -> Value {
    let given = list(of, &["accessModes"]);
    let short: Vec<&str> = MODES
        .iter()
        .filter(|(long, _)| given.iter().any(|mode| mode == long))
        .map(|(_, short)| *short)
        .collect();
    json!(short.join(","))
}

fn class(object: &Object) -> Value {
    match text(object, &["metadata", "annotations", CLASS_ANNOTATION]) {
        "" => json!(text(object, &["spec", "storageClassName"])),
        class => json!(class),
    }
}

fn or_unset(object: &Object, key: &str) -> Value {
    json!(at(object, &["spec", key]).and_then(Value::as_str).unwrap_or("<unset>"))
}

fn phase(object: &Object) -> Value {
    if text(object, &["metadata", "deletionTimestamp"]).is_empty() {
        json!(text(object, &["status", "phase"]))
    } else {
        json!("Terminating")
    }
}

fn amount(value: Option<&Value>) -> String {
    value.and_then(|value| Quantity::from_json(value).ok()).unwrap_or(Quantity::ZERO).to_string()
}

pub(in crate::builtin) fn volume_cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let claim = at(object, &["spec", "claimRef"])
        .map(|claim| format!("{}/{}", text(claim, &["namespace"]), text(claim, &["name"])));
    vec![
        name(object),
        json!(amount(at(object, &["spec", "capacity", "storage"]))),
        modes(&object["spec"]),
        json!(text(object, &["spec", "persistentVolumeReclaimPolicy"])),
        phase(object),
        json!(claim.unwrap_or_default()),
        class(object),
        or_unset(object, "volumeAttributesClassName"),
        json!(text(object, &["status", "reason"])),
        since_creation(object, now),
        or_unset(object, "volumeMode"),
    ]
}

pub(in crate::builtin) fn claim_cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let volume = text(object, &["spec", "volumeName"]);
    let (capacity, modes) = if volume.is_empty() {
        (json!(""), json!(""))
    } else {
        (json!(amount(at(object, &["status", "capacity", "storage"]))), modes(&object["status"]))
    };
    vec![
        name(object),
        phase(object),
        json!(volume),
        capacity,
        modes,
        class(object),
        or_unset(object, "volumeAttributesClassName"),
        since_creation(object, now),
        or_unset(object, "volumeMode"),
    ]
}

fn validate_modes(spec: &Field<'_>) -> Vec<FieldError> {
    const SUPPORTED: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let modes = spec.at("accessModes");
    let mut errors = Vec::new();
    for mode in modes.list() {
        if !mode.as_str().is_some_and(|mode| SUPPORTED.contains(&mode)) {
            errors.push(FieldError::not_supported(modes.path.as_str(), mode.clone(), SUPPORTED));
        }
    }
    let (alone, others): (Vec<_>, Vec<_>) = modes
        .list()
        .iter()
        .filter(|mode| SUPPORTED.iter().any(|known| *mode == known))
        .partition(|mode| *mode == "ReadWriteOncePod");
    if !alone.is_empty() && !others.is_empty() {
        errors.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

fn positive(value: &Value, path: String) -> Option<FieldError> {
    let amount = Quantity::from_json(value).ok()?; // decoding refuses what is none
    (amount <= Quantity::ZERO).then(|| FieldError::invalid(path, value.clone(), "must be greater than zero"))
}

/// An amount of something may not be below zero.
fn amount_error(value: &Value, path: &str) -> Option<FieldError> {
    let given = Quantity::from_json(value).ok()?.units(); // decoding refuses what is none
    (given < 0).then(|| FieldError::invalid(path, given, "must be a valid resource quantity"))
}

fn class_names(spec: &Field<'_>, keys: &[&str]) -> Vec<FieldError> {
    let given = keys.iter().map(|key| spec.at(key)).filter(|class| !class.text().is_empty());
    given.flat_map(|class| class.follows(dns_subdomain)).collect()
}

pub(in crate::builtin) struct VolumeStrategy;

impl Strategy for VolumeStrategy {
    fn default(&self, volume: &mut Object) {
        set_default(volume, "status", json!({}));
        set_default(&mut volume["status"], "phase", "Pending");
        let Some(spec) = volume.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        sources::defaults(spec);
        if let Some(path) = spec.get_mut("hostPath") {
            set_default(path, "type", "");
        }
    }

    fn validate(&self, volume: &Object) -> Vec<FieldError> {
        let spec = Field::root(volume).at("spec");
        let mut errors: Vec<FieldError> = spec.at("accessModes").must_be_given("").into_iter().collect();
        errors.extend(validate_modes(&spec));
        let capacity = spec.at("capacity");
        let amounts = capacity.value.as_object();
        if amounts.is_none_or(Map::is_empty) {
            errors.push(capacity.required(""));
        }
        if !amounts.is_some_and(|map| map.len() == 1 && map.contains_key("storage")) {
            errors.push(FieldError::not_supported(
                capacity.path.as_str(),
                capacity.value.clone(),
                &["storage"],
            ));
        }
        for (name, value) in amounts.into_iter().flatten() {
            let path = format!("{}[{name}]", capacity.path);
            if name == "storage" {
                errors.extend(amount_error(value, &path));
            }
            errors.extend(positive(value, path));
        }
        let policy = spec.at("persistentVolumeReclaimPolicy");
        errors.extend(policy.one_of(&["Delete", "Recycle", "Retain"]));
        errors.extend(validate_affinity(&spec));
        errors.extend(sources::validate_one(&spec, true));
        let root = spec.under(&["hostPath", "path"]);
        let is_root = !root.text().is_empty() && root.text().split('/').all(|part| matches!(part, "" | "."));
        if is_root && policy.text() == "Recycle" {
            errors.push(policy.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
        }
        errors.extend(class_names(&spec, &["storageClassName"]));
        errors.extend(spec.at("volumeMode").one_of(&["Block", "Filesystem"]));
        errors.extend(class_names(&spec, &["volumeAttributesClassName"]));
        let attributes = spec.at("volumeAttributesClassName");
        if attributes.is_given() {
            if attributes.text().is_empty() {
                errors.push(attributes.required("an empty string is disallowed"));
            }
            if !spec.at("csi").is_given() {
                let why = "has to be specified when using volumeAttributesClassName";
                errors.push(spec.at("csi").required(why));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let (after, before) = (Field::root(new).at("spec"), Field::root(old).at("spec"));
        let mut errors = Vec::new();
        if sources::of(after.value, before.value) != sources::of(before.value, before.value) {
            let text =
                |source| inner::shown(&Value::Object(source), inner::volumes::PERSISTENT_VOLUME_SOURCE);
            let changed = diff::of_json(
                &text(sources::of(before.value, before.value)),
                &text(sources::of(after.value, before.value)),
            );
            let why = format!("spec.persistentvolumesource is immutable after creation\n{changed}");
            errors.push(FieldError::forbidden("spec.persistentvolumesource", why));
        }
        let same = |key: &str| Field { path: key.to_owned(), ..after.at(key) }.same_as(&before.at(key));
        errors.extend(same("volumeMode"));
        if before.at("nodeAffinity").is_given() {
            let why = "field is immutable, except for updating from beta label to GA";
            errors.extend(same("nodeAffinity").map(|error| FieldError { detail: why.to_owned(), ..error }));
        }
        let attributes = after.at("volumeAttributesClassName");
        if before.at("volumeAttributesClassName").is_given() && !attributes.is_given() {
            errors.push(attributes.forbidden("update from non-nil value to nil is forbidden"));
        }
        errors
    }

    fn prepare_create(&self, volume: &mut Object) {
        volume["status"] = json!({"phase": "Pending"});
        if let Some(now) = at(volume, &["metadata", "creationTimestamp"]).cloned() {
            volume["status"]["lastPhaseTransitionTime"] = now;
        }
    }

    fn prepare_status_update(&self, new: &mut Object, _old: &Object) {
        set_default(&mut new["status"], "phase", "Pending");
    }

    // The moment is the server's word, and nobody's field.
    fn keep_of_status(&self, new: &mut Object, old: &Object) {
        const SINCE: &str = "lastPhaseTransitionTime";
        let status = &mut new["status"];
        let before = &old["status"];
        let same = status["phase"] == before["phase"];
        // Whoever sets the moment itself knows it better.
        if status[SINCE].is_null() || !same && status[SINCE] == before[SINCE] {
            status[SINCE] = if same { before[SINCE].clone() } else { json!(time(Timestamp::now())) };
        }
        if status[SINCE].is_null() {
            remove(status, SINCE);
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        warnings::of_volume(new)
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn validate_affinity(spec: &Field<'_>) -> Vec<FieldError> {
    let affinity = spec.at("nodeAffinity");
    if !affinity.is_given() {
        let why = "Local volume requires node affinity";
        return spec.at("local").is_given().then(|| affinity.required(why)).into_iter().collect();
    }
    let required = affinity.at("required");
    if !required.is_given() {
        return vec![required.required("must specify required node constraints")];
    }
    crate::builtin::pods::affinity::node_selector(&required)
}

/// Fills in the defaults of a claim, also of one in a StatefulSet.
pub(in crate::builtin) fn default_claim(claim: &mut Value) {
    if let Some(spec) = claim.get_mut("spec") {
        set_default(spec, "volumeMode", "Filesystem");
        for source in ["dataSource", "dataSourceRef"] {
            // The group is written also where there is none.
            if let Some(source) = spec.get_mut(source).and_then(Value::as_object_mut) {
                source.entry("apiGroup").or_insert(Value::Null);
            }
        }
    }
}

/// All that is wrong with the spec of a claim, also of one in a StatefulSet or a Pod.
pub(in crate::builtin) fn validate_claim_spec(spec: &Field<'_>) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> =
        spec.at("accessModes").must_be_given("at least 1 access mode is required").into_iter().collect();
    errors.extend(spec.at("selector").label_selector());
    errors.extend(validate_modes(spec));
    let size_path = format!("{}.resources[storage]", spec.path);
    let size = spec.under(&["resources", "requests", "storage"]);
    if size.is_given() {
        errors.extend(positive(size.value, size_path));
    } else {
        errors.push(FieldError::required(size_path, ""));
    }
    errors.extend(class_names(spec, &["storageClassName"]));
    errors.extend(spec.at("volumeMode").one_of(&["Block", "Filesystem"]));
    errors.extend(validate_data_sources(spec));
    errors.extend(class_names(spec, &["volumeAttributesClassName"]));
    errors
}

fn validate_data_sources(spec: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (source, reference) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    for from in [&source, &reference].into_iter().filter(|from| from.is_given()) {
        errors.extend(from.at("name").must_be_given(""));
        errors.extend(from.at("kind").must_be_given(""));
        let (group, kind) = (from.at("apiGroup"), from.at("kind").text());
        errors.extend(group.may_follow(dns_subdomain));
        if group.text().is_empty() && kind != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(from.path.as_str(), kind, why));
        }
        errors.extend(from.at("namespace").may_follow(crate::meta::dns_label));
    }
    if source.is_given() && reference.is_given() {
        let same =
            ["apiGroup", "kind", "name"].iter().all(|key| source.at(key).value == reference.at(key).value);
        let why = if !reference.at("namespace").text().is_empty() {
            "may not be specified when dataSourceRef.namespace is specified"
        } else if same {
            return errors;
        } else {
            "must match dataSourceRef"
        };
        // Of the source, what is shown is empty.
        errors.push(FieldError::invalid(spec.path.as_str(), json!({}), why));
    }
    errors
}

pub(in crate::builtin) struct ClaimStrategy;

impl Strategy for ClaimStrategy {
    fn default(&self, claim: &mut Object) {
        default_claim(claim);
        set_default(claim, "status", json!({}));
        set_default(&mut claim["status"], "phase", "Pending");
    }

    fn validate(&self, claim: &Object) -> Vec<FieldError> {
        validate_claim_spec(&Field::root(claim).at("spec"))
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let (after, before) = (Field::root(new).at("spec"), Field::root(old).at("spec"));
        let mut errors = Vec::new();
        let (kept, kept_before) = fixed_parts(new, old);
        if kept != kept_before {
            let text = |spec| inner::shown(spec, inner::volumes::PERSISTENT_VOLUME_CLAIM_SPEC);
            let changed = diff::of_json(&text(&kept_before), &text(&kept));
            errors.push(after.forbidden(format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{changed}"
            )));
        }
        let amount = |value: Option<&Value>| {
            value.and_then(|value| Quantity::from_json(value).ok()).unwrap_or(Quantity::ZERO)
        };
        let path = ["spec", "resources", "requests", "storage"];
        let (size, size_before) = (amount(at(new, &path)), amount(at(old, &path)));
        if size < size_before && size <= amount(at(old, &["status", "capacity", "storage"])) {
            errors.push(FieldError::forbidden(path.join("."), "field can not be less than status.capacity"));
        }
        let mode = Field { path: "volumeMode".to_owned(), ..after.at("volumeMode") };
        errors.extend(mode.same_as(&before.at("volumeMode")));
        let attributes = after.at("volumeAttributesClassName");
        let current = at(old, &["status", "currentVolumeAttributesClassName"]).is_some();
        if current && attributes.text().is_empty() {
            let what = if attributes.is_given() { "empty string" } else { "nil" };
            let why = format!(
                "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
            );
            errors.push(attributes.forbidden(why));
        }
        errors
    }

    fn validate_status(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let status = Field::root(new).at("status");
        let mut errors = Vec::new();
        for (name, value) in entries(status.value, &["capacity"]) {
            errors.extend(amount_error(value, &format!("status.capacity[{name}]")));
        }
        let states = status.at("allocatedResourceStatuses").path;
        for (name, value) in entries(status.value, &["allocatedResourceStatuses"]) {
            const STATES: &[&str] = &[
                "ControllerResizeInProgress",
                "ControllerResizeInfeasible",
                "NodeResizeInProgress",
                "NodeResizeInfeasible",
                "NodeResizePending",
            ];
            errors.extend(resource_key(name, &states));
            if !value.as_str().is_some_and(|state| STATES.contains(&state)) {
                errors.push(FieldError::not_supported(states.as_str(), name.as_str(), STATES));
            }
        }
        let allocated = status.at("allocatedResources").path;
        for (name, value) in entries(status.value, &["allocatedResources"]) {
            let wrong = resource_key(name, &allocated);
            if wrong.is_empty() {
                errors.extend(amount_error(value, &format!("{allocated}[{name}]")));
            }
            errors.extend(wrong);
        }
        errors
    }

    fn prepare_status_update(&self, new: &mut Object, _old: &Object) {
        set_default(&mut new["status"], "phase", "Pending");
    }

    fn prepare_create(&self, claim: &mut Object) {
        claim["status"] = json!({"phase": "Pending"});
        let Some(spec) = claim.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        settle_data_source(spec, &Value::Null);
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        if let Some(spec) = new.get_mut("spec").filter(|spec| spec.is_object()) {
            settle_data_source(spec, &old["spec"]);
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        warnings::of_claim(new)
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Each of the two names for where the data comes from is filled in from the other. Of a claim that had no source until now (`old`), what
/// the older name could not say is not heard, and a source in another namespace neither, which has to be switched on upstream.
fn settle_data_source(spec: &mut Value, old: &Value) {
    const NAMES: [&str; 2] = ["dataSource", "dataSourceRef"];
    let had = |key: &str| !old[key].is_null();
    let elsewhere = !text(spec, &["dataSourceRef", "namespace"]).is_empty();
    if elsewhere && !had("dataSourceRef") {
        remove(spec, "dataSourceRef");
    }
    let known = matches!(
        (text(spec, &["dataSource", "apiGroup"]), text(spec, &["dataSource", "kind"])),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    if !known && spec["dataSourceRef"].is_null() && !NAMES.into_iter().any(had) {
        remove(spec, "dataSource");
    }
    let [source, reference] = NAMES.map(|key| spec.get(key).filter(|source| source.is_object()).cloned());
    match (source, reference) {
        (Some(source), None) => spec["dataSourceRef"] = source,
        (None, Some(mut reference)) if text(&reference, &["namespace"]).is_empty() => {
            remove(&mut reference, "namespace");
            spec["dataSource"] = reference;
        }
        _ => {}
    }
}

/// What a claim may have an amount of: storage, or what somebody named.
fn resource_key(name: &str, path: &str) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = all_wrong(path, name, formats::qualified(name)).collect();
    if errors.is_empty() && name != "storage" && (!name.contains('/') || name.contains("kubernetes.io/")) {
        errors.push(FieldError::not_supported(path, name, &["storage"]));
    }
    errors
}

/// The spec of a claim and the one that it had, as they must be the same: without what may change.
fn fixed_parts(new: &Object, old: &Object) -> (Value, Value) {
    let (mut after, mut before) = (new["spec"].clone(), old["spec"].clone());
    if text(&before, &["volumeName"]).is_empty() {
        let volume = after.clone();
        copy_key(&mut before, &volume, "volumeName");
    }
    if before.get("storageClassName").is_none()
        && text(old, &["metadata", "annotations", CLASS_ANNOTATION]).is_empty()
    {
        copy_key(&mut after, &old["spec"], "storageClassName");
    }
    if text(new, &["status", "phase"]) == "Bound" {
        if after["resources"]["requests"].is_object() {
            copy_key(&mut after["resources"]["requests"], &old["spec"]["resources"]["requests"], "storage");
        }
        copy_key(&mut after, &old["spec"], "volumeAttributesClassName");
    }
    (after, before)
}
