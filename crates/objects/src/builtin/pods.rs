//! Pod: its strategy, and what may change in one.

use serde_json::{Value, json};

use super::{pod_defaults, pod_validate};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{at, list, list_mut, number, remove};
use crate::{Object, Quantity};

pub(super) struct PodStrategy;

impl Strategy for PodStrategy {
    fn default(&self, pod: &mut Object) {
        if let Some(spec) = pod.get_mut("spec") {
            pod_defaults::pod_only(spec);
            pod_defaults::pod_spec(spec);
        }
    }

    fn validate(&self, pod: &Object) -> Vec<FieldError> {
        match pod.get("spec") {
            Some(spec) => pod_validate::pod_spec(spec, "spec"),
            None => vec![FieldError::required("spec.containers", "")],
        }
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        const WHY: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        let mut errors = Vec::new();
        let path = ["spec", "activeDeadlineSeconds"];
        match (number(new, &path), number(old, &path)) {
            (Some(after), Some(before)) if after > before => {
                errors.push(FieldError::invalid(
                    "spec.activeDeadlineSeconds",
                    after,
                    format!("must be less than or equal to previous value ({before})"),
                ));
            }
            (None, Some(_)) => errors.push(FieldError::required(
                "spec.activeDeadlineSeconds",
                "must not be unset once it was set",
            )),
            _ => {}
        }
        let kept = list(new, &["spec", "tolerations"]);
        if !list(old, &["spec", "tolerations"]).iter().all(|each| kept.contains(each)) {
            errors.push(FieldError::forbidden(
                "spec.tolerations",
                "existing toleration can not be modified except its tolerationSeconds",
            ));
        }
        if frozen(new, old) != frozen(old, old) {
            errors.push(FieldError::forbidden("spec", WHY));
        }
        errors
    }

    fn prepare_create(&self, pod: &mut Object) {
        let class = qos_class(pod);
        pod["status"] = json!({"phase": "Pending", "qosClass": class});
        if let Some(spec) = pod.get_mut("spec") {
            // Only an ephemeral-containers request may add them, and there is none before the pod.
            remove(spec, "ephemeralContainers");
        }
    }
}

/// The part of a spec that may not change: the spec with the changeable fields as in `reference`.
fn frozen(pod: &Object, reference: &Object) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or_default();
    for key in ["activeDeadlineSeconds", "tolerations"] {
        remove(&mut spec, key);
    }
    if number(reference, &["spec", "terminationGracePeriodSeconds"]).is_some_and(|before| before < 0)
        && number(&spec, &["terminationGracePeriodSeconds"]) == Some(1)
    {
        spec["terminationGracePeriodSeconds"] = reference["spec"]["terminationGracePeriodSeconds"].clone();
    }
    for kind in ["containers", "initContainers"] {
        for container in list_mut(&mut spec, &[kind]) {
            remove(container, "image");
        }
    }
    spec
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn qos_class(pod: &Object) -> &'static str {
    let containers = ["containers", "initContainers"].into_iter().flat_map(|kind| list(pod, &["spec", kind]));
    let amount = |container: &Value, kind: &str, name: &str| {
        let value = at(container, &["resources", kind, name])?;
        Quantity::from_json(value).ok().filter(|amount| *amount > Quantity::ZERO)
    };
    let (mut any, mut all) = (false, true);
    for container in containers {
        for name in ["cpu", "memory"] {
            let limit = amount(container, "limits", name);
            let request = amount(container, "requests", name);
            any |= limit.is_some() || request.is_some();
            all &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
