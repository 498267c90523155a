//! Whom a container runs as and what it may do: its own `securityContext`, else its Pod's.

use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use yunfan_runtime::{ContainerConfig, Seccomp};

/// Where profiles for `seccompProfile` of the type `Localhost` are, below the agent's directory.
const PROFILES: &str = "seccomp";

/// Fills in what `pod` and `container` say. `root` is the agent's directory.
///
/// # Errors
/// When a profile of the node's can't be read.
pub(super) fn apply(
    pod: &Pod,
    container: &Container,
    root: &Path,
    config: &mut ContainerConfig,
) -> Result<(), String> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let id = |own: Option<i64>, pods: Option<i64>| own.or(pods).and_then(|id| u32::try_from(id).ok());
    let groups = of_pod.supplemental_groups.iter().flatten().copied().chain(of_pod.fs_group);
    let capabilities = own.capabilities.unwrap_or_default();
    config.run_as_user = id(own.run_as_user, of_pod.run_as_user);
    config.run_as_group = id(own.run_as_group, of_pod.run_as_group);
    config.run_as_non_root = own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false);
    config.supplemental_groups = groups.filter_map(|id| u32::try_from(id).ok()).collect();
    config.strict_groups = of_pod.supplemental_groups_policy.as_deref() == Some("Strict");
    config.read_only_root = own.read_only_root_filesystem.unwrap_or(false);
    config.privileged = own.privileged.unwrap_or(false);
    config.allow_privilege_escalation = own.allow_privilege_escalation.unwrap_or(true);
    config.unmasked_proc = own.proc_mount.as_deref() == Some("Unmasked");
    config.add_capabilities = capabilities.add.unwrap_or_default();
    config.drop_capabilities = capabilities.drop.unwrap_or_default();
    config.seccomp = match own.seccomp_profile.or(of_pod.seccomp_profile) {
        Some(profile) => filter(&profile, root)?,
        None => Seccomp::Unconfined,
    };
    Ok(())
}

fn filter(profile: &SeccompProfile, root: &Path) -> Result<Seccomp, String> {
    match profile.type_.as_str() {
        "RuntimeDefault" => return Ok(Seccomp::RuntimeDefault),
        "Localhost" => {}
        _ => return Ok(Seccomp::Unconfined),
    }
    let name = profile.localhost_profile.clone().unwrap_or_default();
    let plain = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || name.is_empty() {
        return Err(format!("seccompProfile: {name:?} must be a relative path without \"..\""));
    }
    let text = std::fs::read_to_string(root.join(PROFILES).join(&name));
    text.map(Seccomp::Profile).map_err(|error| format!("cannot load seccomp profile {name:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_container_wins_over_its_pod() {
        let pod = serde_json::from_value(json!({"spec": {"containers": [], "securityContext": {
            "runAsUser": 1, "runAsGroup": 2, "runAsNonRoot": true, "fsGroup": 9, "supplementalGroups": [8],
            "supplementalGroupsPolicy": "Strict",
        }}}))
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(PROFILES)).unwrap();
        std::fs::write(dir.path().join(PROFILES).join("mine.json"), "{}").unwrap();
        let tried = |security: serde_json::Value| {
            let container =
                serde_json::from_value(json!({"name": "c", "securityContext": security})).unwrap();
            let mut config = ContainerConfig::default();
            apply(&pod, &container, dir.path(), &mut config).map(|()| config)
        };
        let made = |security| tried(security).unwrap();
        let profile =
            |kind: &str, name: &str| json!({"seccompProfile": {"type": kind, "localhostProfile": name}});
        assert_eq!(made(json!({})).seccomp, Seccomp::Unconfined);
        assert_eq!(made(profile("RuntimeDefault", "")).seccomp, Seccomp::RuntimeDefault);
        assert_eq!(made(profile("Localhost", "mine.json")).seccomp, Seccomp::Profile("{}".to_owned()));
        assert!(tried(profile("Localhost", "none.json")).unwrap_err().contains("cannot load"));
        assert!(tried(profile("Localhost", "../seccomp/mine.json")).is_err());
        let plain = made(json!({}));
        assert_eq!((plain.run_as_user, plain.run_as_group), (Some(1), Some(2)));
        assert_eq!(plain.supplemental_groups, [8, 9]);
        assert!(plain.strict_groups && plain.run_as_non_root && plain.allow_privilege_escalation);
        let own = made(json!({
            "runAsUser": 5, "runAsNonRoot": false, "allowPrivilegeEscalation": false, "privileged": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
        }));
        assert_eq!(own.run_as_user, Some(5));
        assert!(!own.run_as_non_root && !own.allow_privilege_escalation && !own.privileged);
        assert_eq!(
            (own.add_capabilities, own.drop_capabilities),
            (vec!["NET_ADMIN".into()], vec!["ALL".into()])
        );
    }
}
