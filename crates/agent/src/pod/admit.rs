//! What this node refuses to run at all: such a Pod fails at once, and says why.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;
use yunfan_network::HostPort;
use yunfan_resources::requests::units;

use super::downward::Allocatable;
use super::fit::Shortage;
use super::settings::PodSettings;
use crate::services;

/// Why a Pod is refused: the reason and message of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) reason: String,
    pub(super) message: String,
}

/// Kernel parameters that belong to a Pod alone and can't hurt others (Kubernetes' documentation, "Using sysctls in a Kubernetes
/// Cluster").
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Looks at a Pod that has not run yet, among the `others` that have a place on this node.
pub(super) fn admit(
    pod: &Pod,
    settings: &PodSettings,
    allocatable: &Allocatable,
    others: &[Arc<Pod>],
) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    os(pod, spec)?;
    host_ports(pod, others)?;
    sysctls(spec, settings)?;
    app_armor(spec)?;
    devices(spec, allocatable)
}

impl Rejection {
    pub(super) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

fn reject(reason: &str, message: String) -> Result<(), Rejection> {
    Err(Rejection::new(reason, message))
}

/// A port of the host is one Pod's. (The scheduler sees to that; who names the node passes it by.)
fn host_ports(pod: &Pod, others: &[Arc<Pod>]) -> Result<(), Rejection> {
    let wanted = services::host_ports(pod);
    let clash = |a: &HostPort, b: &HostPort| {
        (a.protocol, a.port) == (b.protocol, b.port)
            && (a.host_ip.is_none() || b.host_ip.is_none() || a.host_ip == b.host_ip)
    };
    let mut held = others.iter().filter(|_| !wanted.is_empty()).flat_map(|other| services::host_ports(other));
    if held.any(|held| wanted.iter().any(|wanted| clash(wanted, &held))) {
        let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return reject("NodePorts", why.to_owned());
    }
    Ok(())
}

fn os(pod: &Pod, spec: &PodSpec) -> Result<(), Rejection> {
    if pod.labels().get("kubernetes.io/os").is_some_and(|os| os != "linux") {
        return reject(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label".to_owned(),
        );
    }
    match &spec.os {
        Some(os) if os.name != "linux" => reject(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS".to_owned(),
        ),
        _ => Ok(()),
    }
}

fn sysctls(spec: &PodSpec, settings: &PodSettings) -> Result<(), Rejection> {
    let sysctls = spec.security_context.iter().flat_map(|security| security.sysctls.iter().flatten());
    for sysctl in sysctls {
        let name = sysctl.name.replace('/', ".");
        let shared = match name.split('.').next() {
            Some("net") if spec.host_network == Some(true) => Some("net"),
            Some("kernel" | "fs") if spec.host_ipc == Some(true) => Some("ipc"),
            _ => None,
        };
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !settings.allows(&name) {
            return reject("SysctlForbidden", format!("forbidden sysctl: {name:?} not allowlisted"));
        }
        if let Some(namespace) = shared {
            let message = format!("forbidden sysctl: {name:?} not allowed with host {namespace} enabled");
            return reject("SysctlForbidden", message);
        }
    }
    Ok(())
}

/// This node confines nothing with AppArmor, so it must not run what counts on it.
fn app_armor(spec: &PodSpec) -> Result<(), Rejection> {
    let of_pod = spec.security_context.iter().filter_map(|security| security.app_armor_profile.as_ref());
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let of_containers =
        all.filter_map(|container| container.security_context.as_ref()?.app_armor_profile.as_ref());
    let mut profiles = of_pod.chain(of_containers);
    if profiles.any(|profile| profile.type_ != "Unconfined") {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
        return reject("AppArmor", message);
    }
    Ok(())
}

/// What a Pod asks of resources that this node says nothing of, such as huge pages.
fn devices(spec: &PodSpec, allocatable: &Allocatable) -> Result<(), Rejection> {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for (name, quantity) in
        all.filter_map(|container| container.resources.as_ref()?.requests.as_ref()).flatten()
    {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || allocatable.contains_key(name) {
            continue;
        }
        let requested = units(quantity);
        if requested > 0 {
            return Err(Shortage { resource: name.clone(), requested, used: 0, capacity: 0 }.rejection());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn says(spec: serde_json::Value) -> Option<(String, String)> {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([]);
        }
        let pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let rejection = admit(&pod, &PodSettings::default(), &Allocatable::new(), &[]).err()?;
        Some((rejection.reason, rejection.message))
    }

    #[test]
    fn unsafe_parameters_are_forbidden() {
        let with = |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        assert_eq!(says(with("kernel.shm_rmid_forced")), None);
        assert_eq!(says(with("net/ipv4/tcp_syncookies")), None);
        let (reason, message) = says(with("kernel.msgmax")).unwrap();
        assert_eq!(reason, "SysctlForbidden");
        assert_eq!(message, "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
        let mut host = with("net.ipv4.tcp_syncookies");
        host["hostNetwork"] = json!(true);
        assert!(says(host).unwrap().1.ends_with("not allowed with host net enabled"));
        let allowed = PodSettings::new(&["kernel.msg*".to_owned()], None).unwrap();
        let admitted = |spec: serde_json::Value| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            admit(&pod, &allowed, &Allocatable::new(), &[])
        };
        assert!(admitted(with("kernel.msgmax")).is_ok() && admitted(with("kernel.sem")).is_err());
        let mut host = with("kernel.msgmax");
        host["hostIPC"] = json!(true);
        assert!(admitted(host).unwrap_err().message.ends_with("not allowed with host ipc enabled"));
    }

    #[test]
    fn what_the_node_lacks_is_refused() {
        let container = |extra| json!({"containers": [extra]});
        let pages =
            container(json!({"name": "c", "resources": {"requests": {"hugepages-2Mi": "4Mi", "cpu": "1"}}}));
        assert_eq!(says(pages).unwrap().0, "OutOfhugepages-2Mi");
        let profile =
            json!({"name": "c", "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}});
        assert_eq!(says(container(profile)).unwrap().0, "AppArmor");
        assert_eq!(says(json!({"os": {"name": "windows"}})).unwrap().0, "PodOSNotSupported");
        assert_eq!(says(json!({"os": {"name": "linux"}})), None);
        let other: Pod =
            serde_json::from_value(json!({"metadata": {"labels": {"kubernetes.io/os": "windows"}},
            "spec": {"containers": []}}))
            .unwrap();
        let rejection = admit(&other, &PodSettings::default(), &Allocatable::new(), &[]).unwrap_err();
        assert_eq!(rejection.reason, "PodOSSelectorNodeLabelDoesNotMatch");
    }

    #[test]
    fn a_port_of_the_host_is_one_pods() {
        let pod = |host_ip: &str, protocol: &str| -> Arc<Pod> {
            let port =
                json!({"containerPort": 80, "hostPort": 8080, "hostIP": host_ip, "protocol": protocol});
            let pod = json!({"spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [port]}]}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let own = pod("127.0.0.1", "TCP");
        let none = PodSettings::default();
        let clashes = |other: Arc<Pod>| admit(&own, &none, &Allocatable::new(), &[other]).is_err();
        assert!(clashes(pod("", "TCP")));
        assert!(clashes(pod("127.0.0.1", "TCP")));
        assert!(!clashes(pod("192.0.2.1", "TCP")));
        assert!(!clashes(pod("", "UDP")));
        let rejection = admit(&own, &none, &Allocatable::new(), &[pod("", "TCP")]).unwrap_err();
        assert_eq!(rejection.reason, "NodePorts");
    }
}
