//! Sandboxes: making, stopping, removing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use k8s_cri::v1::{
    DnsConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest,
    StopPodSandboxRequest,
};
use yunfan_runtime::{OWN_HANDLER, Result, RuntimeError, SandboxConfig, kit};

use crate::api::{PATIENCE, call, failed, gone, within};
use crate::runtime::{Inner, blocking};
use crate::status::{ASKED, INSTANCE, POD_NAME, POD_NAMESPACE, POD_UID};
use crate::{cni, container, host};

/// In a pod's directory: the sandbox as it was asked for, as JSON.
const CONFIG: &str = "sandbox.json";

/// As [`yunfan_runtime::Runtime::run_sandbox`].
pub(crate) async fn run(inner: &Arc<Inner>, config: SandboxConfig) -> Result<()> {
    kit::check_name("uid", &config.uid)?;
    if config.hostname.is_empty() || config.hostname.len() > 64 {
        return Err(RuntimeError::invalid("hostname", "must have 1 to 64 bytes"));
    }
    if config.shm_size_bytes.is_some() {
        return Err(RuntimeError::invalid("shm_size_bytes", "CRI has no word for the size of /dev/shm"));
    }
    let lock = inner.lock_of(&config.uid);
    let _alone = lock.lock().await;
    match inner.look(Some(&config.uid)).await?.remove(&config.uid) {
        Some(there) if there.status.ready => return Ok(()),
        Some(_) => return Err(RuntimeError::SandboxDead(config.uid)),
        None => {}
    }
    // Our own runtime's name means whatever runs where no class is asked for.
    let runtime_handler = if config.handler == OWN_HANDLER { String::new() } else { config.handler.clone() };
    let request = RunPodSandboxRequest { config: Some(message(inner, &config)?), runtime_handler };
    let (owner, wanted) = (Arc::clone(inner), config);
    blocking(move || prepare(&owner, &wanted)).await?;
    call("run of a sandbox", inner.api.runtime.clone().run_pod_sandbox(request)).await?;
    inner.nudge.notify_one();
    Ok(())
}

/// A sandbox as it was asked for, with what its lists of the container runtime do not say of it.
pub(crate) fn full(inner: &Inner, listed: &SandboxConfig) -> SandboxConfig {
    let read = std::fs::read(inner.pod_dir(&listed.uid).join(CONFIG)).ok();
    let kept = read.and_then(|text| serde_json::from_slice(&text).ok());
    kept.unwrap_or_else(|| listed.clone())
}

/// What of a sandbox is listed with it. Lists are answered whole or not at all, up to a size that runtimes limit: nothing whose length is
/// a tenant's choice is among it.
fn listed(config: &SandboxConfig) -> SandboxConfig {
    SandboxConfig {
        host_aliases: Vec::new(),
        tmpfs_volumes: Vec::new(),
        sysctls: Default::default(),
        dns: None,
        ..config.clone()
    }
}

/// What a sandbox needs on the node before it is made.
fn prepare(inner: &Inner, config: &SandboxConfig) -> Result<()> {
    let dir = inner.pod_dir(&config.uid);
    let logs = dir.join("logs");
    std::fs::create_dir_all(&logs).map_err(RuntimeError::io("create", &logs))?;
    kit::write_etc(&dir, config)?;
    kit::write_json(&dir.join(CONFIG), config, false)?;
    host::mount_memory(&dir, &config.tmpfs_volumes)?;
    let Some(netns) = &config.netns else { return Ok(()) };
    if !netns.exists() {
        let reason = format!("network namespace {} does not exist", netns.display());
        return Err(RuntimeError::invalid("netns", reason));
    }
    cni::hand_over(&inner.config.handover, &config.uid, netns, &config.pod_ips)
}

/// A sandbox in CRI's words. A container's request must bring it along.
pub(crate) fn message(inner: &Inner, config: &SandboxConfig) -> Result<PodSandboxConfig> {
    let asked =
        serde_json::to_string(&listed(config)).map_err(|error| RuntimeError::Task(error.to_string()))?;
    let dns = config.dns.clone().map(|dns| DnsConfig {
        servers: dns.servers,
        searches: dns.searches,
        options: dns.options,
    });
    let security = LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(config)),
        privileged: config.privileged,
        ..Default::default()
    };
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: config.name.clone(),
            uid: config.uid.clone(),
            namespace: config.namespace.clone(),
            attempt: 0,
        }),
        hostname: config.hostname.clone(),
        log_directory: inner.pod_dir(&config.uid).join("logs").to_string_lossy().into_owned(),
        dns_config: dns,
        labels: labels(inner, config),
        annotations: HashMap::from([(ASKED.to_owned(), asked)]),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("/{}", inner.cgroup_of_pod(&config.uid)),
            security_context: Some(security),
            sysctls: config.sysctls.clone().into_iter().collect(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// By what a sandbox and its containers are found again.
pub(crate) fn labels(inner: &Inner, config: &SandboxConfig) -> HashMap<String, String> {
    let labels = [
        (INSTANCE, &inner.config.tag),
        (POD_UID, &config.uid),
        (POD_NAME, &config.name),
        (POD_NAMESPACE, &config.namespace),
    ];
    labels.map(|(name, value)| (name.to_owned(), value.clone())).into()
}

/// Which namespaces the containers of a pod share, and with whom.
pub(crate) fn namespaces(config: &SandboxConfig) -> NamespaceOption {
    let node_or = |node: bool, other: NamespaceMode| if node { NamespaceMode::Node } else { other } as i32;
    let processes = if config.share_processes { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOption {
        network: node_or(config.netns.is_none(), NamespaceMode::Pod),
        pid: node_or(config.host_pid, processes),
        ipc: node_or(config.host_ipc, NamespaceMode::Pod),
        ..Default::default()
    }
}

/// As [`yunfan_runtime::Runtime::stop_sandbox`]: what holds the namespaces ends, too, and what the pod has in memory goes.
pub(crate) async fn stop(inner: &Arc<Inner>, uid: &str) -> Result<()> {
    kit::check_name("uid", uid)?;
    let Some(pod) = inner.look(Some(uid)).await?.remove(uid) else { return Ok(()) };
    let stops = pod.runs.values().map(|run| container::end(inner, &run.name, std::time::Duration::ZERO));
    // One that can't be stopped keeps none of the others.
    let stopped = futures::future::join_all(stops).await;
    stopped.into_iter().collect::<Result<()>>()?;
    end(inner, &pod.id).await?;
    let dir = inner.pod_dir(uid);
    blocking(move || {
        host::unmount_memory(&dir)?;
        // What showed parts of volumes to its containers.
        kit::unmount_below(&dir.join(host::PARTS))
    })
    .await?;
    inner.nudge.notify_one();
    Ok(())
}

/// Ends a sandbox of that name with all in it, and has the network plug-in let its namespace go.
pub(crate) async fn end(inner: &Inner, name: &str) -> Result<()> {
    const ACTION: &str = "stop of a sandbox";
    let request = StopPodSandboxRequest { pod_sandbox_id: name.to_owned() };
    let stopped = within(PATIENCE, ACTION, inner.api.runtime.clone().stop_pod_sandbox(request)).await;
    gone(stopped).map_err(|status| failed(ACTION, &status))
}

/// Ends the sandbox; `remove_files` is given its directory.
pub(crate) async fn remove(
    inner: &Arc<Inner>,
    uid: &str,
    remove_files: fn(&Path) -> Result<()>,
) -> Result<()> {
    const ACTION: &str = "removal of a sandbox";
    kit::check_name("uid", uid)?;
    let lock = inner.lock_of(uid);
    let _alone = lock.lock().await;
    // Each look shows one sandbox of a pod; should there be more, all go.
    while let Some(pod) = inner.look(Some(uid)).await?.remove(uid) {
        end(inner, &pod.id).await?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id };
        let removed = within(PATIENCE, ACTION, inner.api.runtime.clone().remove_pod_sandbox(request)).await;
        gone(removed).map_err(|status| failed(ACTION, &status))?;
    }
    cni::take_back(&inner.config.handover, uid)?;
    let (cgroup, dir) = (inner.cgroup_of_pod(uid), inner.pod_dir(uid));
    blocking(move || {
        host::unmount_memory(&dir)?;
        kit::unmount_below(&dir)?;
        kit::remove_cgroup(&cgroup);
        remove_files(&dir)
    })
    .await?;
    inner.nudge.notify_one();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_the_node_s_where_a_pod_says_so() {
        let config = |extra: serde_json::Value| -> SandboxConfig {
            let mut all = serde_json::json!({"uid": "u", "namespace": "n", "name": "p", "hostname": "h"});
            all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            serde_json::from_value(all).unwrap()
        };
        let of = |extra| {
            let found = namespaces(&config(extra));
            [found.network, found.pid, found.ipc].map(|mode| NamespaceMode::try_from(mode).unwrap())
        };
        use NamespaceMode::{Container, Node, Pod};
        assert_eq!(of(serde_json::json!({"netns": "/run/netns/x"})), [Pod, Container, Pod]);
        assert_eq!(of(serde_json::json!({"netns": "/x", "share_processes": true})), [Pod, Pod, Pod]);
        let all =
            serde_json::json!({"netns": null, "host_pid": true, "host_ipc": true, "share_processes": true});
        assert_eq!(of(all), [Node, Node, Node]);
    }

    #[test]
    fn what_is_listed_of_a_sandbox_is_short_whatever_its_pod_asks_for() {
        let alias =
            yunfan_runtime::HostAlias { ip: "192.0.2.1".to_owned(), names: vec!["a".repeat(200); 1000] };
        let config = serde_json::json!({"uid": "u", "namespace": "n", "name": "p", "hostname": "h", "privileged": true});
        let mut config: SandboxConfig = serde_json::from_value(config).unwrap();
        config.sysctls = [("net.ipv4.x".repeat(1000), "1".to_owned())].into();
        config.host_aliases.push(alias);
        let listed = listed(&config);
        assert!(serde_json::to_string(&listed).unwrap().len() < 500);
        assert_eq!((listed.uid.as_str(), listed.hostname.as_str(), listed.privileged), ("u", "h", true));
    }
}
