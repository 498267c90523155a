//! How a container uses the volumes of its Pod.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::builtin::field::Field;
use crate::builtin::volumes::sources::{descending, no_steps_back};
use crate::error::FieldError;

/// The good volumes of a Pod by name.
pub(in crate::builtin) type Volumes<'a> = HashMap<&'a str, &'a Value>;

/// The names in a list, and the places that they have: of a name that is there twice the last one counts.
fn named<'a>(list: &Field<'a>, place: &str) -> (HashSet<&'a str>, HashSet<&'a str>) {
    let all: HashMap<&str, &str> =
        list.items().map(|item| (item.at("name").text(), item.at(place).text())).collect();
    (all.keys().copied().collect(), all.values().copied().collect())
}

/// All that is wrong with the mounts and the devices of a container.
pub(in crate::builtin) fn validate(container: &Field<'_>, volumes: &Volumes<'_>) -> Vec<FieldError> {
    let (mounts, devices) = (container.at("volumeMounts"), container.at("volumeDevices"));
    let privileged = *container.under(&["securityContext", "privileged"]).value == true;
    let mut errors = Vec::new();
    let (names, places) = named(&devices, "devicePath");
    let mut seen = HashSet::new();
    for mount in mounts.items() {
        let (name, place) = (mount.at("name"), mount.at("mountPath"));
        errors.extend(name.must_be_given(""));
        if !volumes.contains_key(name.text()) {
            errors.push(FieldError::not_found(name.path.as_str(), name.text()));
        }
        errors.extend(place.must_be_given(""));
        let wrong_place = |why: &str| FieldError::invalid(place.path.as_str(), place.text(), why);
        errors.extend((!seen.insert(place.text())).then(|| wrong_place("must be unique")));
        if names.contains(name.text()) {
            errors.push(name.invalid("must not already exist in volumeDevices"));
        }
        if places.contains(place.text()) {
            errors.push(wrong_place("must not already exist as a path in volumeDevices"));
        }
        // Upstream names the list here, and not the mount.
        errors.extend(part(&mount, &mounts.path));
        errors.extend(propagation(&mount, &mounts.path, privileged));
    }
    errors.extend(validate_devices(&devices, &mounts, volumes));
    errors
}

/// What of a volume is mounted.
fn part(mount: &Field<'_>, list: &str) -> Vec<FieldError> {
    let (sub, expression) = (mount.at("subPath"), mount.at("subPathExpr"));
    let named = |key: &str, field: &Field<'_>| {
        let field = Field { value: field.value, path: format!("{list}.{key}") };
        if field.text().is_empty() { Vec::new() } else { descending(&field) }
    };
    let mut errors = named("subPath", &sub);
    if !sub.text().is_empty() && !expression.text().is_empty() {
        errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
    }
    errors.extend(named("subPathExpr", &expression));
    errors
}

fn propagation(mount: &Field<'_>, list: &str, privileged: bool) -> Vec<FieldError> {
    let named = |key: &str| Field { path: format!("{list}.{key}"), ..mount.at(key) };
    let (propagation, recursive) = (named("mountPropagation"), named("recursiveReadOnly"));
    let mut errors: Vec<FieldError> =
        propagation.one_of(&["Bidirectional", "HostToContainer", "None"]).into_iter().collect();
    if propagation.text() == "Bidirectional" && !privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(propagation.forbidden(why));
    }
    match recursive.value.as_str() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if *mount.at("readOnly").value != true {
                errors.push(recursive.forbidden("may only be specified when readOnly is true"));
            }
            if !matches!(propagation.text(), "" | "None") {
                let why = "may only be specified when mountPropagation is None or not specified";
                errors.push(recursive.forbidden(why));
            }
        }
        Some(_) => errors.extend(recursive.one_of(&["Disabled", "Enabled", "IfPossible"])),
    }
    errors
}

fn validate_devices(devices: &Field<'_>, mounts: &Field<'_>, volumes: &Volumes<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (mut seen_names, mut seen_places) = (HashSet::new(), HashSet::new());
    let (names, places) = named(mounts, "mountPath");
    for device in devices.items() {
        let (name, place) = (device.at("name"), device.at("devicePath"));
        let wrong =
            |field: &Field<'_>, why: &str| FieldError::invalid(field.path.as_str(), field.text(), why);
        errors.extend(name.must_be_given(""));
        if !name.text().is_empty() && !seen_names.insert(name.text()) {
            errors.push(wrong(&name, "must be unique"));
        }
        let of_claim = |volume: &&Value| {
            ["persistentVolumeClaim", "ephemeral"].iter().any(|key| volume.get(*key).is_some())
        };
        match volumes.get(name.text()) {
            None => errors.push(FieldError::not_found(name.path.as_str(), name.text())),
            Some(volume) if of_claim(volume) => {}
            Some(_) => errors.push(wrong(
                &name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            )),
        }
        errors.extend(place.must_be_given(""));
        if seen_places.contains(place.text()) {
            errors.push(wrong(&place, "must be unique"));
        }
        if no_steps_back(&place).is_some() {
            errors.push(wrong(&place, "can not contain backsteps ('..')"));
        } else {
            seen_places.insert(place.text());
        }
        if names.contains(name.text()) {
            errors.push(wrong(&name, "must not already exist in volumeMounts"));
        }
        if places.contains(place.text()) {
            errors.push(wrong(&place, "must not already exist as a path in volumeMounts"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mounts_and_devices_do_not_overlap() {
        let (dir, claim) = (json!({"emptyDir": {}}), json!({"persistentVolumeClaim": {}}));
        let volumes = Volumes::from([("d", &dir), ("e", &dir), ("c", &claim)]);
        let container = json!({
            "volumeMounts": [
                {"name": "d", "mountPath": "/d", "subPath": "/x/../y", "subPathExpr": "$(A)"},
                {"name": "d", "mountPath": "/d", "mountPropagation": "Bidirectional", "recursiveReadOnly": "Enabled"},
                {"name": "", "mountPath": ""}],
            "volumeDevices": [{"name": "c", "devicePath": "/c"}, {"name": "e", "devicePath": "/../d"},
                {"name": "c", "devicePath": "/c"}]});
        let field = Field { value: &container, path: "c".to_owned() };
        let found: Vec<String> = validate(&field, &volumes).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "c.volumeMounts.subPath: Invalid value: \"/x/../y\": must be a relative path",
                "c.volumeMounts.subPath: Invalid value: \"/x/../y\": must not contain '..'",
                "c.volumeMounts[0].subPathExpr: Invalid value: \"$(A)\": subPathExpr and subPath are mutually exclusive",
                "c.volumeMounts[1].mountPath: Invalid value: \"/d\": must be unique",
                "c.volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
                "c.volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
                "c.volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified",
                "c.volumeMounts[2].name: Required value",
                "c.volumeMounts[2].name: Not found: \"\"",
                "c.volumeMounts[2].mountPath: Required value",
                "c.volumeDevices[1].name: Invalid value: \"e\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                "c.volumeDevices[1].devicePath: Invalid value: \"/../d\": can not contain backsteps ('..')",
                "c.volumeDevices[2].name: Invalid value: \"c\": must be unique",
                "c.volumeDevices[2].devicePath: Invalid value: \"/c\": must be unique",
            ]
        );
    }
}
