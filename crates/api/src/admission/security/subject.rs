//! A Pod, or a template of Pods, as the checks look at it.

use std::collections::BTreeSet;

use serde_json::Value;

/// What breaks a rule, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) reason: String,
    pub(super) detail: String,
}

impl Finding {
    pub(super) fn new(reason: &str, detail: String) -> Self {
        Self { reason: reason.to_owned(), detail }
    }
}

/// One rule, as of a version of Kubernetes; nothing where it is kept.
pub(super) type Check = fn(&Subject<'_>, u32) -> Option<Finding>;

/// A Pod, or a template of Pods.
pub(super) struct Subject<'a> {
    pub(super) annotations: &'a Value,
    pub(super) spec: &'a Value,
    pub(super) containers: Vec<&'a Value>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(pod: &'a Value) -> Self {
        let spec = &pod["spec"];
        let kinds = ["initContainers", "containers", "ephemeralContainers"].into_iter();
        let containers = kinds.flat_map(|kind| spec[kind].as_array().into_iter().flatten()).collect();
        Self { annotations: &pod["metadata"]["annotations"], spec, containers }
    }

    /// What is set for all containers.
    pub(super) fn security(&self) -> &'a Value {
        &self.spec["securityContext"]
    }

    /// Names of the containers that are `bad`.
    pub(super) fn named(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        let bad = self.containers.iter().filter(|container| bad(container));
        bad.map(|container| container["name"].as_str().unwrap_or_default()).collect()
    }

    /// Names of the containers whose security context is `bad`.
    pub(super) fn set_by(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.named(|container| bad(&container["securityContext"]))
    }

    pub(super) fn volumes(&self) -> impl Iterator<Item = &'a Value> {
        self.spec["volumes"].as_array().into_iter().flatten()
    }

    pub(super) fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Root in the Pod's own user namespace is nobody on the node.
    pub(super) fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }
}

/// One word for one, another for none or several.
pub(super) fn plural<'w>(one: &'w str, several: &'w str, count: usize) -> &'w str {
    if count == 1 { one } else { several }
}

/// Each in quotes, by commas.
pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    all.join(", ")
}

/// `container "a"`, `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// Who sets something for the Pod, or for single containers: `pod and container "a"`. Nothing when nobody does.
pub(super) fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let named = (!names.is_empty()).then(|| containers(names));
    let all: Vec<String> = pod.then(|| "pod".to_owned()).into_iter().chain(named).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

/// The texts that these have, each once and in order.
pub(super) fn texts<'a>(values: impl IntoIterator<Item = &'a Value>) -> BTreeSet<&'a str> {
    values.into_iter().map(|value| value.as_str().unwrap_or_default()).collect()
}
