//! A Pod's containers of all kinds, and the rules by which they run again.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod};

/// What a container is to its Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Runs to its end before the next one.
    Init,
    /// Is started among the init containers and goes on running beside the others.
    Sidecar,
    Main,
    /// Was added later, to look at the others.
    Ephemeral,
}

/// A container of a Pod.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) container: Container,
    pub(crate) kind: Kind,
    /// The container among whose processes an ephemeral one runs.
    pub(crate) target: Option<String>,
}

impl Part {
    pub(crate) fn name(&self) -> &str {
        &self.container.name
    }

    /// Where it stands in its Pod, as events write it.
    pub(crate) fn path(&self) -> String {
        let list = match self.kind {
            Kind::Init | Kind::Sidecar => "initContainers",
            Kind::Main => "containers",
            Kind::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.name())
    }
}

/// All containers: init containers in order, the others, ephemeral ones.
pub(crate) fn parts(pod: &Pod) -> Vec<Part> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        let kind = if sidecar { Kind::Sidecar } else { Kind::Init };
        Part { container: container.clone(), kind, target: None }
    });
    let main = spec.containers.iter();
    let main = main.map(|container| Part { container: container.clone(), kind: Kind::Main, target: None });
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|ephemeral| {
        let target = ephemeral.target_container_name.clone().filter(|name| !name.is_empty());
        // It has the fields of a container, and one more.
        let container = serde_json::from_value(serde_json::to_value(ephemeral).ok()?).ok()?;
        Some(Part { container, kind: Kind::Ephemeral, target })
    });
    init.chain(main).chain(ephemeral).collect()
}

/// The Pod's restart policy.
pub(crate) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that ended with `code` is to be run again (Kubernetes' documentation, "Pod Lifecycle", container restart
/// policy and rules).
pub(crate) fn restarts(pod: &Pod, part: &Part, code: i32) -> bool {
    let container = &part.container;
    match part.kind {
        Kind::Ephemeral => return false,
        Kind::Sidecar => return true,
        Kind::Init if code == 0 => return false,
        _ => {}
    }
    // Alone, or with all others.
    if rule(container, code).is_some_and(|rule| rule.action.starts_with("Restart")) {
        return true;
    }
    let policy = container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod));
    match (policy, part.kind) {
        ("Never", _) => false,
        ("OnFailure", _) => code != 0,
        // Of an init container only its failure is left here.
        _ => true,
    }
}

/// The first of a container's rules that is about this exit code.
pub(crate) fn rule(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|value| *value == code);
            listed == (codes.operator == "In")
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_of_the_container_win_and_rules_win_over_both() {
        let check = |policy: &str, container: serde_json::Value, code| {
            let mut container = container;
            container["name"] = json!("c");
            let spec = json!({"restartPolicy": policy, "containers": [container]});
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            restarts(&pod, &parts(&pod)[0], code)
        };
        assert!(check("Always", json!({}), 0));
        assert!(!check("OnFailure", json!({}), 0) && check("OnFailure", json!({}), 1));
        assert!(!check("Never", json!({}), 1));
        assert!(check("Never", json!({"restartPolicy": "OnFailure"}), 1));
        assert!(!check("Always", json!({"restartPolicy": "Never"}), 1));
        let rule = |operator: &str| {
            let codes = json!({"operator": operator, "values": [42]});
            json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "Restart", "exitCodes": codes}]})
        };
        assert!(check("Never", rule("In"), 42) && !check("Never", rule("In"), 1));
        assert!(!check("Never", rule("NotIn"), 42) && check("Never", rule("NotIn"), 1));
    }

    #[test]
    fn all_kinds_are_found_in_order() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c"}],
            "ephemeralContainers": [{"name": "e", "targetContainerName": "c", "image": "x"}],
        }}))
        .unwrap();
        let parts = parts(&pod);
        let kinds: Vec<Kind> = parts.iter().map(|part| part.kind).collect();
        assert_eq!(kinds, [Kind::Init, Kind::Sidecar, Kind::Main, Kind::Ephemeral]);
        assert_eq!(parts[3].target.as_deref(), Some("c"));
        assert!(restarts(&pod, &parts[1], 0) && !restarts(&pod, &parts[3], 1));
        assert!(!restarts(&pod, &parts[0], 0) && restarts(&pod, &parts[0], 1));
    }
}
