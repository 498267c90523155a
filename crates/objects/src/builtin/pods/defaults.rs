//! Defaults of pods and pod templates, as Kubernetes fills them in.

use std::sync::OnceLock;

use regex::Regex;
use serde_json::{Value, json};

use crate::builtin::pods::whole;
use crate::builtin::volumes;
use crate::lookup::{at, list_mut, number, remove, set_default, text};

/// The name of an image: a host with a port, a path, a tag and a digest, as registries know it.
const IMAGE: &str = concat!(
    r"^(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?",
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*",
    r"(?::(?<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?",
    r"(?:@(?<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?$",
);

/// Defaults of a pod's or a template's spec.
pub(in crate::builtin) fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "securityContext", json!({}));
    // The older name of the same field is kept in step with it.
    for (from, to) in [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")] {
        let name = text(spec, &[from]).to_owned();
        if !name.is_empty() && text(spec, &[to]).is_empty() {
            spec[to] = json!(name);
        }
    }
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        list_mut(spec, &[kind]).iter_mut().for_each(container);
    }
    list_mut(spec, &["volumes"]).iter_mut().for_each(volume);
}

/// Drops what is known and not switched on, as upstream does: nobody is told, and who gave it owns it.
pub(in crate::builtin) fn drop_unswitched(spec: &mut Value) {
    remove(spec, "schedulingGroup");
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list_mut(spec, &[kind]) {
            let Some(lifecycle) = container.get_mut("lifecycle") else { continue };
            if remove(lifecycle, "stopSignal").is_some() && *lifecycle == json!({}) {
                remove(container, "lifecycle");
            }
        }
    }
}

/// What a pod of its own gets and a template does not.
pub(in crate::builtin) fn pod_only(spec: &mut Value) {
    set_default(spec, "enableServiceLinks", true);
    // Less than nothing is taken for the shortest grace, of a Pod alone.
    if number(spec, &["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        spec["terminationGracePeriodSeconds"] = json!(1);
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for kind in ["initContainers", "containers"] {
        for each in list_mut(spec, &[kind]) {
            requests_from_limits(each);
            // Whoever shares the node's network has the node's ports.
            for port in list_mut(each, &["ports"]).iter_mut().filter(|_| host_network) {
                if let Some(number) = port.get("containerPort").cloned() {
                    set_default(port, "hostPort", number);
                }
            }
        }
    }
    whole::default(spec);
}

/// A limit without a request is a request as well.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = at(container, &["resources", "limits"]).and_then(Value::as_object).cloned() else {
        return;
    };
    let resources = &mut container["resources"];
    set_default(resources, "requests", json!({}));
    for (name, amount) in limits {
        set_default(&mut resources["requests"], &name, amount);
    }
}

/// A pod stays for five minutes on a node that is not heard of, unless it says otherwise.
pub(in crate::builtin) fn tolerate_lost_nodes(spec: &mut Value) {
    const SECONDS: u64 = 300;
    if !spec.is_object() {
        return;
    }
    set_default(spec, "tolerations", json!([]));
    let Some(tolerations) = spec.get_mut("tolerations").and_then(Value::as_array_mut) else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = tolerations.iter().any(|toleration| {
            matches!(text(toleration, &["key"]), given if given == key || given.is_empty())
                && matches!(text(toleration, &["effect"]), "" | "NoExecute")
        });
        if !covered {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
}

fn container(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    let policy = pull_policy(text(container, &["image"]));
    set_default(container, "imagePullPolicy", policy);
    for port in list_mut(container, &["ports"]) {
        set_default(port, "protocol", "TCP");
    }
    for variable in list_mut(container, &["env"]) {
        if let Some(from) = variable.get_mut("valueFrom") {
            references(from);
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(each) = container.get_mut(kind) {
            probe(each);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(each) = container.get_mut("lifecycle").and_then(|cycle| cycle.get_mut(hook)) {
            http_get(each);
        }
    }
}

/// `latest` changes under one's feet, so it is looked up each time; any other tag is not, nor is what is no name of an image.
fn pull_policy(image: &str) -> &'static str {
    static FORM: OnceLock<Option<Regex>> = OnceLock::new();
    let form = FORM.get_or_init(|| Regex::new(IMAGE).ok());
    let Some(parts) = form.as_ref().and_then(|form| form.captures(image)) else { return "IfNotPresent" };
    match (parts.name("tag").map(|tag| tag.as_str()), parts.name("digest")) {
        (Some("latest"), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

fn probe(probe: &mut Value) {
    for (key, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        // Kubernetes reads 0 as not given here.
        if probe.get(key).and_then(Value::as_i64) == Some(0) {
            probe[key] = Value::Null;
        }
        set_default(probe, key, value);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        set_default(grpc, "service", "");
    }
    http_get(probe);
}

fn http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet") {
        set_default(get, "path", "/");
        set_default(get, "scheme", "HTTP");
    }
}

const MODE: u32 = 0o644;

fn volume(volume: &mut Value) {
    volumes::sources::defaults(volume);
    let Some(map) = volume.as_object_mut() else { return };
    volumes::sources::default_source(map);
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = map.get_mut(kind) {
            set_default(source, "defaultMode", MODE);
        }
    }
    if let Some(path) = map.get_mut("hostPath") {
        set_default(path, "type", "");
    }
    if let Some(source) = map.get_mut("downwardAPI") {
        downward(source);
    }
    for source in map.get_mut("projected").map(|each| list_mut(each, &["sources"])).unwrap_or_default() {
        if let Some(token) = source.get_mut("serviceAccountToken") {
            set_default(token, "expirationSeconds", 3600);
        }
        if let Some(inner) = source.get_mut("downwardAPI") {
            downward(inner);
        }
    }
    if let Some(image) = map.get_mut("image") {
        let policy = pull_policy(text(image, &["reference"]));
        set_default(image, "pullPolicy", policy);
    }
    if let Some(projected) = map.get_mut("projected").and_then(Value::as_object_mut) {
        let sources = projected.entry("sources").or_insert(Value::Null);
        if sources.as_array().is_some_and(Vec::is_empty) {
            *sources = Value::Null;
        }
    }
    if let Some(claim) = map.get_mut("ephemeral").and_then(|own| own.get_mut("volumeClaimTemplate")) {
        set_default(claim, "metadata", json!({}));
        volumes::default_claim(claim);
    }
}

/// Defaults of references to fields and to amounts.
fn references(from: &mut Value) {
    if let Some(field) = from.get_mut("fieldRef") {
        set_default(field, "apiVersion", "v1");
    }
    if let Some(amount) = from.get_mut("resourceFieldRef") {
        set_default(amount, "divisor", "0");
    }
    if let Some(file) = from.get_mut("fileKeyRef") {
        set_default(file, "optional", false);
    }
}

fn downward(source: &mut Value) {
    for item in list_mut(source, &["items"]) {
        references(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_decide_the_pull_policy() {
        for (image, wanted) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            (
                "nginx:latest@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "Always",
            ),
            ("nginx@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "IfNotPresent"),
            (" nginx", "IfNotPresent"),
            ("Nginx", "IfNotPresent"),
            ("Host/nginx", "Always"),
            ("[::1]:5000/a/b_c", "Always"),
        ] {
            assert_eq!(pull_policy(image), wanted, "{image}");
        }
    }
}
