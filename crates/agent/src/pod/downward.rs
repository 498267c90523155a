//! What Pods are told of themselves (the "downward API"): their fields and their containers' resources, as variables and files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use super::resources::{milli, whole_limit};

/// What a node gives to Pods: a container without a limit is told this.
pub(crate) type Allocatable = BTreeMap<String, Quantity>;

/// A field that both variables and files may name; none when there is no such field.
fn field(pod: &Pod, path: &str) -> Option<String> {
    let keyed = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    if let Some(key) = keyed("metadata.labels['") {
        return Some(pod.labels().get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = keyed("metadata.annotations['") {
        return Some(pod.annotations().get(key).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => Some(pod.name_any()),
        "metadata.namespace" => pod.namespace(),
        "metadata.uid" => pod.uid(),
        _ => None,
    }
}

/// A field as a file's content.
pub(crate) fn volume_field(pod: &Pod, path: &str) -> Option<String> {
    match path {
        "metadata.labels" => Some(lines(pod.labels())),
        "metadata.annotations" => Some(lines(pod.annotations())),
        path => field(pod, path),
    }
}

/// A field as a variable's value.
pub(crate) fn variable_field(
    pod: &Pod,
    path: &str,
    pod_ip: Option<IpAddr>,
    host_ip: IpAddr,
) -> Option<String> {
    let spec = pod.spec.as_ref();
    match path {
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => Some(
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned()),
        ),
        "status.hostIP" | "status.hostIPs" => Some(host_ip.to_string()),
        "status.podIP" | "status.podIPs" => pod_ip.map(|ip| ip.to_string()),
        path => field(pod, path),
    }
}

/// One `key="value"` a line, in order of the keys.
fn lines(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(key);
        text.push('=');
        quote(value, &mut text);
    }
    text
}

/// In double quotes, with what can't be seen escaped the way Go does, as readers of these files expect.
fn quote(value: &str, out: &mut String) {
    out.push('"');
    for character in value.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            plain if !plain.is_control() => out.push(plain),
            // Writing to a String can't fail.
            low if u32::from(low) < 0x80 => drop(write!(out, "\\x{:02x}", u32::from(low))),
            high => drop(write!(out, "\\u{:04x}", u32::from(high))),
        }
    }
    out.push('"');
}

/// A container's request or limit in units of the divisor, rounded up. `own` is the container that asks, where one does. A limit
/// that is not set is the node's.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    reference: &ResourceFieldSelector,
    allocatable: &Allocatable,
) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = |name: &String| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == *name)
    };
    let container = match &reference.container_name {
        Some(name) if !name.is_empty() => named(name)?,
        _ => own?,
    };
    let (list, name) = reference.resource.split_once('.')?;
    let requirements = container.resources.as_ref();
    let limit = || {
        let set = requirements.and_then(|r| r.limits.as_ref()?.get(name)).filter(|q| milli(q) != Some(0));
        set.or_else(|| whole_limit(pod, name)).or_else(|| allocatable.get(name))
    };
    let value = match list {
        "limits" => limit(),
        "requests" => requirements.and_then(|r| r.requests.as_ref()?.get(name)),
        _ => return None,
    };
    let value = match value {
        Some(quantity) => milli(quantity)?,
        None => 0,
    };
    let divisor = reference.divisor.as_ref().and_then(milli).filter(|d| *d > 0).unwrap_or(1000);
    Some((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "labels": {"b": "2", "a": "say \"x\"\n\u{1}é"}, "annotations": {"k": "v"}},
            "spec": {"containers": [{"name": "c", "resources": {
                "limits": {"cpu": "1250m"}, "requests": {"cpu": "250m", "memory": "32Mi"},
            }}]},
        }))
        .unwrap()
    }

    #[test]
    fn maps_are_told_line_by_line() {
        let text = volume_field(&pod(), "metadata.labels").unwrap();
        assert_eq!(text, "a=\"say \\\"x\\\"\\n\\x01é\"\nb=\"2\"");
        assert_eq!(volume_field(&pod(), "metadata.annotations['k']").unwrap(), "v");
        assert_eq!(volume_field(&pod(), "metadata.annotations['none']").unwrap(), "");
        assert_eq!(volume_field(&pod(), "spec.nodeName"), None);
    }

    #[test]
    fn resources_are_counted_in_divisors_and_limits_default_to_the_node() {
        let node = Allocatable::from([
            ("cpu".to_owned(), Quantity("2".to_owned())),
            ("memory".to_owned(), Quantity("1Gi".to_owned())),
        ]);
        let of = |resource_name: &str, divisor: Option<&str>| {
            let reference = ResourceFieldSelector {
                container_name: Some("c".to_owned()),
                resource: resource_name.to_owned(),
                divisor: divisor.map(|text| Quantity(text.to_owned())),
            };
            resource(&pod(), None, &reference, &node)
        };
        assert_eq!(of("limits.cpu", None).unwrap(), "2");
        assert_eq!(of("limits.cpu", Some("1m")).unwrap(), "1250");
        assert_eq!(of("limits.cpu", Some("0")).unwrap(), "2");
        assert_eq!(of("requests.memory", Some("1Mi")).unwrap(), "32");
        assert_eq!(of("limits.memory", None).unwrap(), "1073741824");
        assert_eq!(of("limits.ephemeral-storage", None).unwrap(), "0");
        assert_eq!(of("wishes.cpu", None), None);
        let mut whole = pod();
        let limits = json!({"limits": {"cpu": "3", "memory": "2Mi"}});
        whole.spec.as_mut().unwrap().resources = Some(serde_json::from_value(limits).unwrap());
        let of_whole = |name: &str| {
            let resource_name = name.to_owned();
            let reference = ResourceFieldSelector {
                container_name: Some("c".to_owned()),
                resource: resource_name,
                divisor: None,
            };
            resource(&whole, None, &reference, &node).unwrap()
        };
        assert_eq!(
            (of_whole("limits.cpu"), of_whole("limits.memory")),
            ("2".to_owned(), "2097152".to_owned())
        );
    }
}
