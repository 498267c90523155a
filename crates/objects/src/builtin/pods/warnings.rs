//! What a client is told of a Pod, or of a template, that is accepted but will hardly do what its writer means.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::builtin::field::Field;
use crate::builtin::odd;
use crate::builtin::pods::looks::Looks;
use crate::builtin::pods::paths;
use crate::builtin::pods::validate::all_containers;
use crate::lookup::entries;
use crate::meta::dns_label;

/// Annotations that mean nothing any more.
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    ("security.alpha.kubernetes.io/sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];

/// Kinds of volumes that are gone, or will be.
const OLD_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Resources that are counted in whole bytes.
const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];

const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR_OF_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// What a name that becomes part of others is not good for. `used` says what it is used in.
pub(in crate::builtin) fn name(name: &str, used: &str) -> Option<String> {
    let wrongs = dns_label(name);
    (!wrongs.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrongs.join(" ")
        )
    })
}

/// What is said of a Pod itself.
pub(in crate::builtin) fn of_pod(pod: &Value) -> Vec<String> {
    let mut out: Vec<String> =
        name(pod["metadata"]["name"].as_str().unwrap_or_default(), "the Pod's hostname")
            .into_iter()
            .collect();
    out.extend(of_template(&Field::root(pod), false));
    out
}

/// What is said of a template of Pods.
pub(in crate::builtin) fn of_template(template: &Field<'_>, is_template: bool) -> Vec<String> {
    let (spec, metadata) = (template.at("spec"), template.at("metadata"));
    let annotations = metadata.at("annotations");
    let mut out = placement(&spec);
    for (key, why) in OLD_ANNOTATIONS {
        if annotations.value.get(key).is_some() {
            out.push(format!("{}[{key}]: {why}", annotations.path));
        }
    }
    out.extend(volumes(&spec));
    out.extend(paths::overlaps(&spec));
    out.extend(repeated(&spec));
    let overhead = spec.at("overhead");
    out.extend(BYTES.iter().filter_map(|key| odd::fraction(&overhead, key)));
    if !spec.under(&["securityContext", "seccompProfile"]).is_given()
        && annotations.value.get(SECCOMP_OF_POD).is_some()
    {
        out.push(unused_seccomp(&annotations, SECCOMP_OF_POD));
    }
    let containers = all_containers(&spec);
    for container in &containers {
        out.extend(of_container(container, &spec, &annotations, is_template));
    }
    out.extend(ports(&containers));
    let grace = spec.at("terminationGracePeriodSeconds");
    if grace.number().is_some_and(|seconds| seconds < 0) {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            grace.path
        ));
    }
    out.extend(unselective(&spec));
    let servers = spec.under(&["dnsConfig", "nameservers"]);
    out.extend(odd::ips(servers.items()));
    out.extend(odd::ips(spec.at("hostAliases").items().map(|alias| alias.at("ip"))));
    out
}

/// What is said of addresses in a Pod's status.
pub(in crate::builtin) fn of_status(pod: &Value) -> Vec<String> {
    let status = Field::root(pod).at("status");
    let lists = ["podIPs", "hostIPs"].map(|key| status.at(key));
    odd::ips(lists.iter().flat_map(Field::items).map(|each| each.at("ip")))
}

fn placement(spec: &Field<'_>) -> Vec<String> {
    let mut out = Vec::new();
    let selector = spec.at("nodeSelector");
    for (key, _) in entries(selector.value, &[]) {
        out.extend(odd::label(key).map(|why| format!("{}[{key}]: {why}", selector.path)));
    }
    let affinity = spec.under(&["affinity", "nodeAffinity"]);
    let required = affinity.under(&["requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"]);
    out.extend(required.items().flat_map(|term| odd::selector_term(&term, false)));
    let preferred = affinity.at("preferredDuringSchedulingIgnoredDuringExecution");
    out.extend(preferred.items().flat_map(|term| odd::selector_term(&term.at("preference"), true)));
    for spread in spec.at("topologySpreadConstraints").items() {
        out.extend(odd::label_key(&spread.at("topologyKey")));
        let selector = spread.at("labelSelector");
        if !selector.is_given() {
            out.push(format!("{}: {NO_SELECTOR}", selector.path));
        }
    }
    out
}

fn volumes(spec: &Field<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for volume in spec.at("volumes").items() {
        for (key, why) in OLD_VOLUMES {
            if key == "cephfs" {
                out.extend(odd::claim(&volume.under(&["ephemeral", "volumeClaimTemplate", "spec"])));
            }
            if volume.at(key).is_given() {
                let shown = if key == "storageos" { "storageOS" } else { key };
                out.push(format!("{}: {why}", volume.at(shown).path));
            }
        }
    }
    out
}

/// What is there twice, and what has no name.
fn repeated(spec: &Field<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for (list, key, what) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let mut seen = HashSet::new();
        for field in spec.at(list).items().map(|item| item.at(key)) {
            if !seen.insert(field.text()) {
                out.push(format!("{}: duplicate {what} {:?}", field.path, field.text()));
            }
        }
    }
    let secrets = spec.at("imagePullSecrets").items().map(|secret| secret.at("name"));
    let unnamed = secrets.filter(|name| name.text().is_empty());
    out.extend(unnamed.map(|name| format!("{}: invalid empty name \"\"", name.path)));
    out
}

fn unused_seccomp(annotations: &Field<'_>, key: &str) -> String {
    format!("{}[{key}]: non-functional in v1.27+; use the \"seccompProfile\" field instead", annotations.path)
}

fn of_container(
    container: &Field<'_>,
    spec: &Field<'_>,
    annotations: &Field<'_>,
    is_template: bool,
) -> Vec<String> {
    let mut out = Vec::new();
    let name = container.at("name").text();
    let own = container.at("securityContext");
    let seccomp = format!("{SECCOMP_OF_CONTAINER}{name}");
    if !own.at("seccompProfile").is_given() && annotations.value.get(&seccomp).is_some() {
        out.push(unused_seccomp(annotations, &seccomp));
    }
    let key = format!("{APPARMOR_OF_CONTAINER}{name}");
    if is_template
        && !own.at("appArmorProfile").is_given()
        && let Some(value) = annotations.value.get(&key).and_then(Value::as_str)
        && *spec.under(&["securityContext", "appArmorProfile"]).value != app_armor(value)
    {
        out.push(format!(
            "{}[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead",
            annotations.path
        ));
    }
    for key in BYTES {
        for part in ["limits", "requests"] {
            out.extend(odd::fraction(&container.under(&["resources", part]), key));
        }
    }
    out.extend(hidden_variables(container));
    out
}

/// The profile that an annotation of AppArmor means; null for one that means none.
pub(in crate::builtin) fn app_armor(annotation: &str) -> Value {
    match annotation.split_once('/') {
        _ if annotation == "unconfined" => serde_json::json!({"type": "Unconfined"}),
        Some(("runtime", "default")) => serde_json::json!({"type": "RuntimeDefault"}),
        Some(("localhost", profile)) => {
            serde_json::json!({"type": "Localhost", "localhostProfile": profile})
        }
        _ => Value::Null,
    }
}

/// Variables that put another one of the same name out of sight.
fn hidden_variables(container: &Field<'_>) -> Vec<String> {
    let mut seen = HashSet::new();
    let variables = container.at("env").items();
    variables
        .filter(|variable| {
            let name = variable.at("name").text();
            if seen.insert(name) {
                return false;
            }
            let reference = format!("$({name})");
            let value = variable.at("value").text();
            // One that is made of the one before does not hide it.
            variable.at("valueFrom").is_given() || value == reference || !value.contains(&reference)
        })
        .map(|variable| {
            let name = variable.at("name").text();
            format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                variable.path
            )
        })
        .collect()
}

/// Ports that are there twice, or that only look as if they were different.
fn ports(containers: &[Field<'_>]) -> Vec<String> {
    let mut out = Vec::new();
    let mut seen: HashMap<(i64, &str), Vec<Field<'_>>> = HashMap::new();
    let mut looks = Looks::new();
    let of_host = |port: &Field<'_>| port.at("hostPort").number().unwrap_or(0);
    let all = || containers.iter().flat_map(|container| container.at("ports").items());
    for port in all() {
        if !port.at("hostIP").text().is_empty() && of_host(&port) == 0 {
            out.push(format!("{}: hostIP set without hostPort: {}", port.path, go_port(&port)));
        }
        let key = (port.at("containerPort").number().unwrap_or(0), port.at("protocol").text());
        let others = seen.entry(key).or_default();
        out.extend(looks.over(&port, others, |port, other| {
            let (ip, other_ip) = (port.at("hostIP").text(), other.at("hostIP").text());
            let (host, other_host) = (of_host(port), of_host(other));
            let how = if ip == other_ip && host == other_host {
                "duplicate"
            } else if host == 0 || other_host == 0 {
                "overlapping"
            } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                return None;
            };
            Some(format!("{}: {how} port definition with {}", port.path, other.path))
        }));
        others.push(port);
    }
    let mut names: HashMap<&str, String> = HashMap::new();
    for port in all().filter(|port| !port.at("name").text().is_empty()) {
        let name = port.at("name").text();
        if let Some(other) = names.get(name) {
            out.push(format!(
                "{}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}",
                port.path
            ));
        } else {
            names.insert(name, port.path);
        }
    }
    out
}

/// A port as upstream shows it.
fn go_port(port: &Field<'_>) -> String {
    let number = |key: &str| port.at(key).number().unwrap_or(0);
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        port.at("name").text(),
        number("hostPort"),
        number("containerPort"),
        port.at("protocol").text(),
        port.at("hostIP").text()
    )
}

/// Terms of affinity that match no Pod at all.
fn unselective(spec: &Field<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = spec.under(&["affinity", kind]);
        let required = affinity.at("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = affinity.at("preferredDuringSchedulingIgnoredDuringExecution");
        let weighted = preferred.items().map(|term| term.at("podAffinityTerm"));
        let selectors = required.items().chain(weighted).map(|term| term.at("labelSelector"));
        let absent = selectors.filter(|selector| !selector.is_given());
        out.extend(absent.map(|selector| format!("{}: {NO_SELECTOR}", selector.path)));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn says(spec: &Value, wanted: &[&str]) {
        let pod = json!({"metadata": {"name": "p"}, "spec": spec});
        assert_eq!(of_pod(&pod), wanted);
    }

    #[test]
    fn names_with_dots_surprise() {
        assert_eq!(name("a-b", "Pod names"), None);
        let wrong = name("a.b", "Pod names").expect("it is no label");
        assert!(wrong.ends_with("a DNS label is recommended: [must not contain dots]"), "{wrong}");
    }

    #[test]
    fn variables_and_ports_that_hide_others_are_told() {
        says(
            &json!({"containers": [{"name": "a",
                "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}],
                "ports": [{"containerPort": 80, "protocol": "TCP", "name": "x"}, {"containerPort": 80, "protocol": "TCP", "hostPort": 5}]},
                {"name": "b", "ports": [{"containerPort": 81, "protocol": "TCP", "name": "x", "hostIP": "1.2.3.4"}]}]}),
            &[
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[1].ports[0]: hostIP set without hostPort: {Name:x HostPort:0 ContainerPort:81 Protocol:TCP HostIP:1.2.3.4}",
                "spec.containers[1].ports[0]: duplicate port name \"x\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
            ],
        );
    }

    #[test]
    fn of_very_many_ports_some_are_told() {
        let port = json!({"containerPort": 80, "protocol": "TCP"});
        let spec = json!({"containers": [{"name": "a", "ports": vec![port; 20_000]}]});
        let told = of_pod(&json!({"metadata": {"name": "p"}, "spec": spec}));
        assert!((100..2_000).contains(&told.len()), "{}", told.len());
        let others: Vec<Value> = (1..60_000)
            .map(|host| json!({"containerPort": 80, "protocol": "TCP", "hostPort": host}))
            .collect();
        let spec = json!({"containers": [{"name": "a", "ports": others}]});
        assert_eq!(of_pod(&json!({"metadata": {"name": "p"}, "spec": spec})), [""; 0]);
    }

    #[test]
    fn what_is_gone_is_told() {
        says(
            &json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "volumes": [{"name": "v", "gitRepo": {}}],
                "terminationGracePeriodSeconds": -1, "overhead": {"memory": "1m"},
                "topologySpreadConstraints": [{"topologyKey": "z"}]}),
            &[
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
                "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
                "spec.overhead[memory]: fractional byte value \"1m\" is invalid, must be an integer",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            ],
        );
    }
}
