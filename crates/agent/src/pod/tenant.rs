//! What Pods of tenants may not ask of the node.
//!
//! Whoever may make Pods in a plain namespace of Kubernetes may take over the node, and people who run Kubernetes alone expect that.
//! A project is a stranger's: its namespace is made with the label that keeps its Pods to the profile `baseline` of Kubernetes' Pod
//! Security Standards, and an administrator may label it otherwise.

use k8s_openapi::api::core::v1::{Container, Namespace, Pod};
use kube::ResourceExt;
use yunfan_resources::names::{BASELINE_CAPABILITIES, POD_SECURITY_LABEL};

/// Whether containers may add it: what `baseline` lets them add, but for MKNOD. Whether a device node that a container made opens the
/// host's disk is up to a filter of devices alone, which is one thing too few between a stranger and the disks of all others.
fn may_be_added(capability: &str) -> bool {
    let plain = capability.to_ascii_uppercase();
    let plain = plain.strip_prefix("CAP_").unwrap_or(&plain);
    plain != "MKNOD" && BASELINE_CAPABILITIES.contains(&plain)
}

/// Whether the Pods of a namespace are kept from the node. Of one that is not known the worst is thought.
pub(crate) fn is_confined(namespace: Option<&Namespace>) -> bool {
    namespace.is_none_or(|namespace| {
        namespace.labels().get(POD_SECURITY_LABEL).is_some_and(|profile| profile != "privileged")
    })
}

/// What of a Pod as a whole breaks the profile.
pub(super) fn check_pod(pod: &Pod) -> Result<(), String> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let shared = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    if let Some((name, _)) = shared.iter().find(|(_, value)| *value == Some(true)) {
        return refuse(&format!("host namespaces ({name}=true)"));
    }
    let mut volumes = spec.volumes.iter().flatten();
    if let Some(volume) = volumes.find(|volume| volume.host_path.is_some()) {
        return refuse(&format!("hostPath volumes (volume {:?})", volume.name));
    }
    Ok(())
}

/// What of a container breaks the profile.
pub(super) fn check_container(container: &Container) -> Result<(), String> {
    let name = &container.name;
    let mut ports = container.ports.iter().flatten();
    if ports.any(|port| port.host_port.is_some_and(|port| port != 0)) {
        return refuse(&format!("hostPort (container {name:?} uses hostPorts)"));
    }
    let Some(security) = &container.security_context else { return Ok(()) };
    if security.privileged == Some(true) {
        return refuse(&format!(
            "privileged (container {name:?} must not set securityContext.privileged=true)"
        ));
    }
    let added = security.capabilities.iter().flat_map(|all| all.add.iter().flatten());
    for capability in added {
        if !may_be_added(capability) {
            return refuse(&format!(
                "non-default capabilities (container {name:?} must not include {capability:?} in \
                 securityContext.capabilities.add)"
            ));
        }
    }
    if security.proc_mount.as_deref().is_some_and(|kind| kind != "Default") {
        return refuse(&format!("procMount (container {name:?} must not set securityContext.procMount)"));
    }
    Ok(())
}

fn refuse(what: &str) -> Result<(), String> {
    Err(format!("violates PodSecurity \"baseline:latest\", which the namespace's Pods keep to: {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn namespaces_are_confined_by_their_label() {
        let confined = |labels: serde_json::Value| {
            let namespace: Namespace =
                serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap();
            is_confined(Some(&namespace))
        };
        assert!(!confined(json!({})));
        assert!(confined(json!({POD_SECURITY_LABEL: "baseline"})));
        assert!(confined(json!({POD_SECURITY_LABEL: "restricted"})));
        assert!(!confined(json!({POD_SECURITY_LABEL: "privileged"})));
        assert!(is_confined(None));
    }

    #[test]
    fn what_reaches_the_node_is_refused() {
        let pod = |spec: serde_json::Value| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            check_pod(&serde_json::from_value(json!({"spec": spec})).unwrap())
        };
        assert_eq!(pod(json!({"hostNetwork": false, "volumes": [{"name": "v", "emptyDir": {}}]})), Ok(()));
        for bad in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod(json!({bad: true})).unwrap_err().contains(bad));
        }
        assert!(pod(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})).is_err());
        let container = |security: serde_json::Value| {
            let object = json!({"name": "c", "securityContext": security});
            check_container(&serde_json::from_value(object).unwrap())
        };
        assert_eq!(container(json!({"runAsUser": 0, "capabilities": {"add": ["CAP_CHOWN"]}})), Ok(()));
        assert!(container(json!({"privileged": true})).is_err());
        for bad in ["SYS_ADMIN", "MKNOD", "CAP_MKNOD"] {
            assert!(container(json!({"capabilities": {"add": [bad]}})).is_err());
        }
        assert!(container(json!({"procMount": "Unmasked"})).is_err());
        let port = json!({"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]});
        assert!(check_container(&serde_json::from_value(port).unwrap()).is_err());
    }
}
