//! Pod Security Standards: what a namespace lets Pods ask of their node, by its labels (`pod-security.kubernetes.io/enforce`, `warn`
//! and their versions).

mod baseline;
mod policy;
mod restricted;
mod subject;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use yunfan_objects::{ApiError, FieldError};
use yunfan_resources::names::PROJECT_LABEL;

use self::policy::{Level, Policy, Standard};
use self::subject::{Finding, Subject};
use super::{Attempt, Operation, Refusal, View};

/// Pods of a namespace that are looked at when its labels change.
const MAX_PODS: usize = 3000;

/// Annotations of the audit log: the standard that is enforced, and what breaks the one that is only recorded.
const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
const VIOLATIONS: &str = "pod-security.kubernetes.io/audit-violations";

/// Refuses Pods that ask for more than their namespace lets them have, and warns of templates of such Pods.
pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    if attempt.operation == Operation::Delete || attempt.is_marked_now() {
        return Ok(());
    }
    if attempt.is("", "namespaces") {
        return namespace(view, attempt);
    }
    let is_pod = attempt.is("", "pods");
    let concerned = if is_pod {
        matches!(attempt.subresource, "" | "ephemeralcontainers" | "resize")
            && attempt.old.is_none_or(|old| runs_other_images(attempt.object, old))
    } else {
        attempt.subresource.is_empty()
    };
    let template = if is_pod { Some(&*attempt.object) } else { template_of(attempt) };
    let (true, Some(template)) = (concerned, template) else { return Ok(()) };
    let Some(space) = view.get("", "namespaces", "", attempt.namespace) else { return Ok(()) };
    let (policy, _) = Policy::of(&space.value()["metadata"]["labels"]);
    let subject = Subject::new(template);
    attempt.warnings.note(ENFORCED, || policy.enforce.to_string());
    if attempt.warnings.keeps_notes() {
        let found = findings(policy.audit, &subject);
        if !found.is_empty() {
            let violations =
                || format!("would violate PodSecurity \"{}\": {}", policy.audit, in_detail(&found));
            attempt.warnings.note(VIOLATIONS, violations);
        }
    }
    if is_pod {
        let found = findings(policy.enforce, &subject);
        if !found.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, in_detail(&found));
            return Err(attempt.forbidden(&why));
        }
    }
    let found = findings(policy.warn, &subject);
    if !found.is_empty() {
        let warning = format!("would violate PodSecurity \"{}\": {}", policy.warn, in_detail(&found));
        attempt.warnings.extend([warning]);
    }
    Ok(())
}

/// Whether a namespace is one of a tenant, who is kept from the node.
pub(super) fn is_confined(view: &View<'_>, namespace: &str) -> bool {
    view.get("", "namespaces", "", namespace).is_some_and(|space| {
        let labels = &space.value()["metadata"]["labels"];
        labels[PROJECT_LABEL].is_string() && Policy::of(labels).0.enforce.level != Level::Privileged
    })
}

/// What of a Pod breaks a standard.
fn findings(standard: Standard, subject: &Subject<'_>) -> Vec<Finding> {
    let version = standard.number();
    match standard.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline::CHECKS.iter().filter_map(|(check, _)| check(subject, version)).collect(),
        Level::Restricted => {
            // Some checks of this level go further than one of the level below, and take its place.
            let below =
                baseline::CHECKS.iter().filter(|(_, until)| until.is_none_or(|until| version < until));
            let below = below.filter_map(|(check, _)| check(subject, version));
            below.chain(restricted::CHECKS.iter().filter_map(|check| check(subject, version))).collect()
        }
    }
}

fn in_detail(found: &[Finding]) -> String {
    let all = found.iter().map(|finding| format!("{} ({})", finding.reason, finding.detail));
    all.collect::<Vec<_>>().join(", ")
}

/// The template of the Pods that an object makes.
fn template_of<'a>(attempt: &'a Attempt<'_>) -> Option<&'a Value> {
    let spec = &attempt.object["spec"];
    let template = match (attempt.kind.descriptor.group.as_str(), attempt.kind.descriptor.plural.as_str()) {
        ("", "podtemplates") => &attempt.object["template"],
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &spec["template"],
        ("batch", "cronjobs") => &spec["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template["spec"].is_object().then_some(template)
}

/// Whether a change of a Pod brings containers or images that it did not have.
fn runs_other_images(new: &Value, old: &Value) -> bool {
    let images = |pod: &Value, kind: &str| -> BTreeMap<String, Value> {
        let containers = pod["spec"][kind].as_array().into_iter().flatten();
        containers
            .map(|each| (each["name"].as_str().unwrap_or_default().to_owned(), each["image"].clone()))
            .collect()
    };
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .any(|kind| images(new, kind) != images(old, kind))
}

/// Labels of a namespace must be understood; who sets stricter ones is told which Pods break them.
fn namespace(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    if !attempt.subresource.is_empty() {
        return Ok(());
    }
    let of = |object: &Value| Policy::of(&object["metadata"]["labels"]);
    let (new, wrong) = of(attempt.object);
    let before = attempt.old.map(of);
    if !wrong.is_empty() && before.as_ref().is_none_or(|(_, known)| *known != wrong) {
        let gvk = attempt.kind.descriptor.gvk();
        return Err(ApiError::invalid(&gvk, attempt.name, &errors(&wrong)).into());
    }
    let Some((old, _)) = before else { return Ok(()) };
    let relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
    if new.enforce != old.enforce && new.enforce.level != Level::Privileged && !relaxed {
        attempt.warnings.extend(existing(view, attempt.name, new.enforce));
    }
    Ok(())
}

fn errors(wrong: &[policy::Wrong]) -> Vec<FieldError> {
    let error = |(label, value, why): &policy::Wrong| {
        FieldError::invalid(format!("metadata.labels[{label}]"), value.clone(), why.clone())
    };
    wrong.iter().map(error).collect()
}

/// What the namespace's Pods break of a standard, as warnings.
fn existing(view: &View<'_>, namespace: &str, standard: Standard) -> Vec<String> {
    let pods = view.list("", "pods", namespace);
    let mut by_reason: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS) {
        let pod = pod.decode_stored();
        let found = findings(standard, &Subject::new(&pod));
        if !found.is_empty() {
            let reasons: Vec<&str> = found.iter().map(|finding| finding.reason.as_str()).collect();
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            by_reason.entry(reasons.join(", ")).or_default().insert(name);
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MAX_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {} existing pods",
            pods.len()
        ));
    }
    if !by_reason.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut each: Vec<String> = by_reason
        .iter()
        .map(|(reason, names)| {
            let first = names.iter().next().map(String::as_str).unwrap_or_default();
            match names.len() {
                1 => format!("{first}: {reason}"),
                2 => format!("{first} (and 1 other pod): {reason}"),
                many => format!("{first} (and {} other pods): {reason}", many - 1),
            }
        })
        .collect();
    each.sort();
    warnings.extend(each);
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn broken(level: Level, version: Option<u32>, pod: &Value) -> String {
        in_detail(&findings(Standard { level, version }, &Subject::new(pod)))
    }

    #[test]
    fn a_plain_pod_is_fine_by_baseline_and_not_by_restricted() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(broken(Level::Baseline, None, &pod), "");
        assert_eq!(
            broken(Level::Restricted, None, &pod),
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        let good = json!({"spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
            "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert_eq!(broken(Level::Restricted, None, &good), "");
    }

    #[test]
    fn checks_of_the_higher_level_take_the_place_of_lower_ones() {
        let pod = json!({"spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "Unconfined"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["SYS_TIME"]}}}],
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "nfs": {}}]}});
        assert_eq!(
            broken(Level::Restricted, None, &pod),
            "unrestricted capabilities (container \"a\" must not include \"SYS_TIME\" in securityContext.capabilities.add), restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\"), seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")"
        );
        assert_eq!(
            broken(Level::Baseline, Some(18), &pod),
            "non-default capabilities (container \"a\" must not include \"SYS_TIME\" in securityContext.capabilities.add), hostPath volumes (volume \"v\")"
        );
    }

    #[test]
    fn only_new_images_are_looked_at() {
        let pod = |image: &str| json!({"spec": {"containers": [{"name": "a", "image": image}]}});
        assert!(runs_other_images(&pod("b"), &pod("a")) && !runs_other_images(&pod("a"), &pod("a")));
        let mut debugged = pod("a");
        debugged["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "d"}]);
        assert!(runs_other_images(&debugged, &pod("a")));
    }
}
