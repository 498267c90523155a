//! The containers of a Pod: those that run, those that run before, and those that are added later.

use std::collections::{BTreeSet, HashSet};

use crate::builtin::field::Field;
use crate::builtin::formats::port_name;
use crate::builtin::pods::mounts::Volumes;
use crate::builtin::pods::{env, handlers, mounts, security};
use crate::builtin::resources;
use crate::error::FieldError;
use crate::meta::dns_label;

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
/// What a container that is added to a running Pod may not have.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// What of a Pod its containers depend on.
pub(in crate::builtin) struct Around<'a> {
    pub(in crate::builtin) spec: &'a Field<'a>,
    pub(in crate::builtin) volumes: Volumes<'a>,
    pub(in crate::builtin) claims: BTreeSet<&'a str>,
    /// Seconds to end in.
    pub(in crate::builtin) grace: Option<i64>,
    pub(in crate::builtin) host_users: bool,
    /// Its operating system, where it names one.
    pub(in crate::builtin) os: Option<&'a str>,
}

/// All that is wrong with the containers of a Pod.
pub(in crate::builtin) fn validate(around: &Around<'_>) -> Vec<FieldError> {
    let mut errors = regular(around);
    errors.extend(initial(around));
    errors.extend(ephemeral(around));
    errors
}

/// The names in a list of containers.
fn names<'a>(spec: &Field<'a>, kind: &str) -> impl Iterator<Item = &'a str> {
    spec.at(kind).items().map(|container| container.at("name").text())
}

fn regular(around: &Around<'_>) -> Vec<FieldError> {
    let containers = around.spec.at("containers");
    let mut errors: Vec<FieldError> = containers.must_be_given("").into_iter().collect();
    let (mut seen, mut host_ports) = (HashSet::new(), HashSet::new());
    let mut conflicts = Vec::new();
    for container in containers.items() {
        errors.extend(common(&container, around));
        let name = container.at("name");
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(name.path.as_str(), name.text()));
        }
        errors.extend(handlers::lifecycle(&container, around.grace));
        errors.extend(handlers::probes(&container, around.grace));
        errors.extend(restarts(&container));
        conflicts.extend(host_port_conflicts(&container, &mut host_ports));
    }
    errors.extend(conflicts);
    errors
}

fn initial(around: &Around<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen: HashSet<&str> = names(around.spec, "containers").collect();
    for container in around.spec.at("initContainers").items() {
        errors.extend(common(&container, around));
        errors.extend(restarts(&container));
        let name = container.at("name");
        if seen.contains(name.text()) {
            errors.push(FieldError::duplicate(name.path.as_str(), name.text()));
        } else if !name.text().is_empty() {
            seen.insert(name.text());
        }
        // They run one after the other; upstream counts each as the first of the list.
        let first = format!("{}.initContainers[0]", around.spec.path);
        let alone = Field { path: first, ..container.clone() };
        errors.extend(host_port_conflicts(&alone, &mut HashSet::new()));
        if container.at("restartPolicy").text() == "Always" {
            errors.extend(handlers::lifecycle(&container, around.grace));
            errors.extend(handlers::probes(&container, around.grace));
            continue;
        }
        let kept = ["lifecycle"].iter().chain(handlers::PROBES).map(|key| container.at(key));
        let why = "may not be set for init containers without restartPolicy=Always";
        errors.extend(kept.filter(Field::is_given).map(|field| field.forbidden(why)));
        let policies = container.at("resizePolicy");
        let restarting = policies.items().map(|policy| policy.at("restartPolicy"));
        let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
        let wrong = restarting.filter(|policy| policy.text() == "RestartContainer");
        errors.extend(wrong.map(|policy| policy.invalid(why)));
    }
    errors
}

fn ephemeral(around: &Around<'_>) -> Vec<FieldError> {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let mut errors = Vec::new();
    let others: HashSet<&str> =
        names(around.spec, "containers").chain(names(around.spec, "initContainers")).collect();
    let mut seen = others.clone();
    for container in around.spec.at("ephemeralContainers").items() {
        errors.extend(common(&container, around));
        errors.extend(untrimmed_image(&container));
        let (name, target) = (container.at("name"), container.at("targetContainerName"));
        if !seen.insert(name.text()) {
            errors.push(FieldError::duplicate(name.path.as_str(), name.text()));
        }
        if !target.text().is_empty() && !others.contains(target.text()) {
            errors.push(FieldError::not_found(target.path.as_str(), target.text()));
        }
        let empty = |field: &Field<'_>| {
            field.value.as_object().is_some_and(serde_json::Map::is_empty)
                && field.path.ends_with(".resources")
        };
        let given = NOT_EPHEMERAL.iter().map(|key| container.at(key));
        let given = given.filter(|field| field.is_given() && !empty(field));
        errors.extend(given.map(|field| field.forbidden(WHY)));
        for mount in container.at("volumeMounts").items() {
            let parts = ["subPath", "subPathExpr"].map(|key| mount.at(key));
            let given = parts.into_iter().filter(|part| !part.text().is_empty());
            errors.extend(given.map(|part| part.forbidden(WHY)));
        }
    }
    errors
}

/// What holds for containers of Pods alone, and not for those of templates.
pub(in crate::builtin) fn only_of_pods(spec: &Field<'_>) -> Vec<FieldError> {
    let lists = ["containers", "initContainers"].map(|kind| spec.at(kind));
    lists.iter().flat_map(Field::items).filter_map(|container| untrimmed_image(&container)).collect()
}

fn untrimmed_image(container: &Field<'_>) -> Option<FieldError> {
    let image = container.at("image");
    let padded = image.text().trim() != image.text();
    padded.then(|| image.invalid("must not have leading or trailing whitespace"))
}

fn common(container: &Field<'_>, around: &Around<'_>) -> Vec<FieldError> {
    let mut errors = container.at("name").needs(dns_label);
    errors.extend(container.at("image").must_be_given(""));
    let message = container.at("terminationMessagePolicy");
    errors.extend(message.one_of(&["File", "FallbackToLogsOnError"]));
    errors.extend(ports(&container.at("ports")));
    errors.extend(env::validate(container));
    errors.extend(mounts::validate(container, &around.volumes));
    errors.extend(container.at("imagePullPolicy").one_of(PULL_POLICIES));
    errors.extend(resources::of_container(&container.at("resources"), &around.claims));
    errors.extend(resizing(&container.at("resizePolicy"), around.spec.at("restartPolicy").text()));
    errors.extend(security::of_container(&container.at("securityContext"), around.host_users));
    errors
}

fn ports(list: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut names = HashSet::new();
    for port in list.items() {
        let (name, inner, outer) = (port.at("name"), port.at("containerPort"), port.at("hostPort"));
        let wrong = name.may_follow(port_name);
        if !wrong.is_empty() {
            errors.extend(wrong);
        } else if !name.text().is_empty() && !names.insert(name.text()) {
            errors.push(name.duplicate());
        }
        match inner.number().unwrap_or(0) {
            0 => errors.push(inner.required("")),
            _ => errors.extend(inner.port()),
        }
        if outer.number() != Some(0) {
            errors.extend(outer.port());
        }
        errors.extend(port.at("protocol").must_be_one_of(&["SCTP", "TCP", "UDP"]));
    }
    errors
}

fn host_port_conflicts<'a>(
    container: &Field<'a>,
    taken: &mut HashSet<(&'a str, &'a str, i64)>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for port in container.at("ports").items() {
        let number = port.at("hostPort").number().unwrap_or(0);
        let (protocol, ip) = (port.at("protocol").text(), port.at("hostIP").text());
        if number != 0 && !taken.insert((protocol, ip, number)) {
            let shown = format!("{protocol}/{ip}/{number}");
            errors.push(FieldError::duplicate(port.at("hostPort").path, shown));
        }
    }
    errors
}

/// With the host's network, a port is the same inside and outside.
pub(in crate::builtin) fn host_network_ports(spec: &Field<'_>, of_pod: bool) -> Vec<FieldError> {
    if *spec.at("hostNetwork").value != true {
        return Vec::new();
    }
    let ports = spec.at("containers").items().flat_map(|container| container.at("ports").items());
    let wrong = |port: Field<'_>| {
        let number = |key: &str| port.at(key).number().unwrap_or(0);
        let (outer, inner) = (number("hostPort"), number("containerPort"));
        let why = "must match `containerPort` when `hostNetwork` is true";
        ((of_pod || outer != 0) && outer != inner)
            .then(|| FieldError::invalid(port.at("hostPort").path, outer, why))
    };
    ports.filter_map(wrong).collect()
}

/// Checks when a container is started again.
fn restarts(container: &Field<'_>) -> Vec<FieldError> {
    let (policy, rules) = (container.at("restartPolicy"), container.at("restartPolicyRules"));
    let mut errors = Vec::new();
    if policy.is_given() {
        errors.extend(policy.one_of(&["Always", "Never", "OnFailure"]));
    } else if !rules.list().is_empty() {
        errors.push(policy.required("must specify restartPolicy when restart rules are used"));
    }
    errors.extend(rules.at_most(MAX_RESTART_RULES));
    for rule in rules.items() {
        let (action, codes) = (rule.at("action"), rule.at("exitCodes"));
        let actions = ["Restart", "RestartAllContainers"];
        if !actions.contains(&action.text()) {
            errors.push(FieldError::not_supported(action.path.as_str(), action.text(), &actions));
        }
        if codes.is_given() {
            let operator = codes.at("operator");
            let operators = ["In", "NotIn"];
            if !operators.contains(&operator.text()) {
                errors.push(FieldError::not_supported(operator.path.as_str(), operator.text(), &operators));
            }
            errors.extend(codes.at("values").at_most(MAX_EXIT_CODES));
        } else {
            errors.push(codes.required("must be specified"));
        }
    }
    errors
}

/// Checks what a change of resources does. Upstream names the list, and not the item.
fn resizing(policies: &Field<'_>, pod_policy: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for policy in policies.items() {
        let named = |key: &str| Field { path: policies.path.clone(), ..policy.at(key) };
        let (resource, restart) = (named("resourceName"), named("restartPolicy"));
        if !seen.insert(resource.text()) {
            errors.push(FieldError::duplicate(policy.path.as_str(), resource.text()));
        }
        errors.extend(resource.must_be_one_of(&["cpu", "memory"]));
        errors.extend(restart.must_be_one_of(&["NotRequired", "RestartContainer"]));
        if pod_policy == "Never" && restart.text() != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(restart.path.as_str(), restart.text(), why));
        }
    }
    errors
}
