//! Annotations of Pods and templates that upstream gives a meaning.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::builtin::field::Field;
use crate::builtin::pods::validate::all_containers;
use crate::builtin::pods::{placement, warnings};
use crate::builtin::volumes::sources::descending;
use crate::error::FieldError;
use crate::golang::json_error;
use crate::lookup::{at, entries, list, set_default, text};

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// All that is wrong with the annotations, which are at `path`.
pub(in crate::builtin) fn validate(metadata: &Value, spec: &Field<'_>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let annotations =
        || entries(metadata, &["annotations"]).filter_map(|(key, value)| Some((key, value.as_str()?)));
    let told = |key: &str| at(metadata, &["annotations", key]).and_then(Value::as_str);
    let wrong = |key: &str, why: &str| FieldError::invalid(format!("{path}[{key}]"), told(key), why);
    if told(MIRROR).is_some() && spec.at("nodeName").text().is_empty() {
        errors.push(wrong(MIRROR, "must set spec.nodeName if mirror pod annotation is set"));
    }
    if let Some(given) = told(TOLERATIONS).filter(|given| !given.is_empty()) {
        errors.extend(tolerations(given, path));
    }
    if told(DELETION_COST).is_some_and(|cost| !is_cost(cost)) {
        errors.push(wrong(DELETION_COST, "must be a 32bit integer"));
    }
    for (key, value) in annotations() {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            errors.extend(seccomp(value, format!("{path}.{key}")));
        }
    }
    let containers = all_containers(spec);
    let names: HashSet<&str> = containers.iter().map(|each| text(each.value, &["name"])).collect();
    for (key, value) in annotations() {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let wrong = |shown: &str, why: String| FieldError::invalid(format!("{path}[{key}]"), shown, why);
        if !names.contains(container) {
            errors.push(wrong(container, "container not found".to_owned()));
        }
        if !matches!(value, "" | "runtime/default" | "unconfined") && !value.starts_with("localhost/") {
            errors.push(wrong(value, format!("invalid AppArmor profile name: {value:?}")));
        }
    }
    errors
}

/// The containers of a Pod whose profile is told by an annotation and not by a field: the list that each is in, its place
/// there, the annotation's key, and the profile where the annotation names one.
fn told_profiles(pod: &Value) -> Vec<(&'static str, usize, String, Option<Value>)> {
    let mut found = Vec::new();
    if text(pod, &["spec", "os", "name"]) == "windows" {
        return found;
    }
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in list(pod, &["spec", kind]).iter().enumerate() {
            let key = format!("{APP_ARMOR}{}", text(container, &["name"]));
            let told = at(pod, &["metadata", "annotations", &key]).and_then(Value::as_str);
            let given = at(container, &["securityContext", "appArmorProfile"]).is_some_and(Value::is_object);
            if let Some(told) = told.filter(|_| !given) {
                let profile = Some(warnings::app_armor(told)).filter(Value::is_object);
                found.push((kind, index, key, profile));
            }
        }
    }
    found
}

/// Whether a container needs the field in order to have a profile other than the Pod's.
fn is_of_container(pod: &Value, profile: &Value) -> bool {
    at(pod, &["spec", "securityContext", "appArmorProfile"]) != Some(profile)
}

/// Writes the profiles that annotations tell of to the fields that came after them.
pub(in crate::builtin) fn profiles_to_fields(pod: &mut Value) {
    for (kind, index, _, profile) in told_profiles(pod) {
        let Some(profile) = profile.filter(|profile| is_of_container(pod, profile)) else { continue };
        let container = &mut pod["spec"][kind][index];
        set_default(container, "securityContext", json!({}));
        container["securityContext"]["appArmorProfile"] = profile;
    }
}

/// What is said of annotations that tell profiles.
pub(in crate::builtin) fn old_profiles(pod: &Value) -> Vec<String> {
    let told = told_profiles(pod).into_iter();
    let told = told.filter(|(.., profile)| profile.as_ref().is_none_or(|own| is_of_container(pod, own)));
    let why = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
    told.map(|(_, _, key, _)| format!("metadata.annotations[{key}]: {why}")).collect()
}

/// Checks the tolerations that are told by an annotation.
fn tolerations(given: &str, path: &str) -> Vec<FieldError> {
    if let Some(why) = json_error(given.as_bytes()) {
        return vec![FieldError::invalid(path, TOLERATIONS, why)];
    }
    let list: Value = serde_json::from_str(given).unwrap_or_default();
    placement::tolerations(&Field { value: &list, path: format!("{path}.{TOLERATIONS}") })
}

/// A cost has no sign but a minus, and no zero before it.
fn is_cost(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let plain = digits == "0" || !digits.starts_with(['0', '+']);
    plain && value.parse::<i32>().is_ok()
}

fn seccomp(profile: &str, path: String) -> Vec<FieldError> {
    if matches!(profile, "runtime/default" | "docker/default" | "unconfined") {
        return Vec::new();
    }
    match profile.strip_prefix("localhost/") {
        Some(file) => descending(&Field { value: &Value::from(file), path }),
        None => vec![FieldError::invalid(path, profile, "must be a valid seccomp profile")],
    }
}

/// Refuses annotations that say something else than the fields that came after them.
pub(in crate::builtin) fn match_fields(metadata: &Value, spec: &Field<'_>) -> Vec<FieldError> {
    let annotation = |key: &str| text(metadata, &["annotations", key]).to_owned();
    let containers = all_containers(spec);
    let mut errors = Vec::new();
    errors.extend(differs(
        &spec.under(&["securityContext", "seccompProfile"]),
        None,
        &annotation(SECCOMP_POD),
        "seccomp",
    ));
    for container in &containers {
        let given = annotation(&format!("{SECCOMP_CONTAINER}{}", container.at("name").text()));
        errors.extend(differs(
            &container.under(&["securityContext", "seccompProfile"]),
            None,
            &given,
            "seccomp",
        ));
    }
    if spec.under(&["os", "name"]).text() == "windows" {
        return errors;
    }
    let of_pod = spec.under(&["securityContext", "appArmorProfile"]);
    for container in &containers {
        let given = annotation(&format!("{APP_ARMOR}{}", container.at("name").text()));
        let own = container.under(&["securityContext", "appArmorProfile"]);
        errors.extend(differs(&own, Some(&of_pod), &given, "apparmor"));
    }
    errors
}

/// Compares a profile, or the one that stands in for it, with an annotation.
fn differs(
    profile: &Field<'_>,
    instead: Option<&Field<'_>>,
    annotation: &str,
    what: &str,
) -> Option<FieldError> {
    let used = if profile.is_given() { profile } else { instead.unwrap_or(profile) };
    if !used.is_given() || annotation.is_empty() {
        return None;
    }
    let same_type = match used.at("type").text() {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || (what == "seccomp" && annotation == "docker/default")
        }
        "Localhost" => annotation.starts_with("localhost/"),
        _ => true,
    };
    if !same_type {
        let why = format!("{what} type in annotation and field must match");
        return Some(profile.at("type").forbidden(why));
    }
    let file = annotation.strip_prefix("localhost/").filter(|_| used.at("type").text() == "Localhost");
    let other = file.is_some_and(|file| used.at("localhostProfile").value != file);
    let why = format!("{what} profile in annotation and field must match");
    other.then(|| profile.at("localhostProfile").forbidden(why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_with_a_meaning_are_checked() {
        let metadata = json!({"annotations": {MIRROR: "x", DELETION_COST: "007", SECCOMP_POD: "localhost/../x",
            format!("{SECCOMP_CONTAINER}a"): "odd", format!("{APP_ARMOR}b"): "odd", format!("{APP_ARMOR}a"): "unconfined"}});
        let spec = json!({"containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}],
            "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}}});
        let spec = Field { value: &spec, path: "spec".to_owned() };
        let mut found = validate(&metadata, &spec, "annotations");
        found.extend(match_fields(&metadata, &spec));
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let beginnings = [
            "annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName",
            "annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"007\": must be a 32bit integer",
            "annotations.container.seccomp.security.alpha.kubernetes.io/a: Invalid value: \"odd\": must be a valid seccomp",
            "annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"../x\": must not contain '..'",
            "annotations[container.apparmor.security.beta.kubernetes.io/b]: Invalid value: \"b\": container not found",
            "annotations[container.apparmor.security.beta.kubernetes.io/b]: Invalid value: \"odd\": invalid AppArmor",
            "spec.securityContext.seccompProfile.localhostProfile: Forbidden: seccomp profile in annotation",
            "spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }

    #[test]
    fn profiles_in_annotations_become_fields() {
        let key = |name: &str| format!("{APP_ARMOR}{name}");
        let mut pod = json!({
            "metadata": {"annotations": {key("a"): "localhost/x", key("b"): "odd", key("c"): "unconfined", TOLERATIONS: "[{"}},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}],
                "securityContext": {"appArmorProfile": {"type": "Unconfined"}}},
        });
        let told = old_profiles(&pod);
        let told: Vec<&str> = told.iter().filter_map(|text| text.split(": ").next()).collect();
        assert_eq!(told, ["a", "b"].map(|name| format!("metadata.annotations[{}]", key(name))));
        profiles_to_fields(&mut pod);
        let profile = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}});
        assert_eq!(
            pod["spec"]["containers"],
            json!([{"name": "a", "securityContext": profile}, {"name": "b"}, {"name": "c"}, {"name": "d"}])
        );
        let found = validate(&pod["metadata"], &Field::root(&pod).at("spec"), "annotations");
        assert_eq!(
            found[0].to_string(),
            format!("annotations: Invalid value: {TOLERATIONS:?}: unexpected end of JSON input")
        );
    }
}
