//! A container's configuration in CRI's words.

use std::collections::HashMap;
use std::path::Path;

use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    self as cri, Capability, ContainerMetadata, HugepageLimit, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, MountPropagation, NamespaceMode, SecurityProfile,
    SupplementalGroupsPolicy,
};
use yunfan_runtime::{
    ContainerConfig, ContainerId, DEFAULT_PIDS_LIMIT, Propagation, Resources, Result, RuntimeError,
    SandboxConfig, Seccomp, kit,
};

use crate::runtime::{Features, Inner};
use crate::status::{ASKED, Asked, CONTAINER_NAME};
use crate::{host, sandbox};

/// Length of a CPU period when none is given, microseconds.
const DEFAULT_PERIOD_US: i64 = 100_000;

/// What is known about a container beside its configuration.
pub(crate) struct Parts<'a> {
    pub(crate) sandbox: &'a SandboxConfig,
    pub(crate) config: &'a ContainerConfig,
    pub(crate) image: &'a cri::Image,
    /// The runtime's name of the container whose processes it joins.
    pub(crate) target: Option<String>,
    pub(crate) mounts: Vec<cri::Mount>,
    pub(crate) seccomp: SecurityProfile,
}

/// Refuses what would be passed over in silence.
///
/// # Errors
/// `InvalidConfig`, with what is missing where.
pub(crate) fn check(features: Features, config: &ContainerConfig) -> Result<()> {
    if config.working_dir.as_ref().is_some_and(|dir| !dir.is_empty() && !dir.starts_with('/')) {
        return Err(RuntimeError::invalid("workingDir", "must be an absolute path"));
    }
    if !config.image_mounts.is_empty() {
        let reason = "volumes from images are not there with a container runtime that is reached through CRI";
        return Err(RuntimeError::invalid("image_mounts", reason));
    }
    let recursive = config.mounts.iter().any(|mount| mount.recursive_read_only);
    if recursive && !features.recursive_read_only {
        let reason = "the container runtime says that it has no recursive read-only mounts";
        return Err(RuntimeError::invalid("recursiveReadOnly", reason));
    }
    if config.strict_groups && !features.strict_groups {
        let reason = "the container runtime says that it does not know supplementalGroupsPolicy";
        return Err(RuntimeError::invalid("supplementalGroupsPolicy", reason));
    }
    Ok(())
}

/// What a container was asked to be, as it is written down with it.
pub(crate) fn asked(config: &ContainerConfig, image: &cri::Image) -> Asked {
    Asked {
        image: config.image.clone(),
        image_id: image.id.clone(),
        stop_signal: config.stop_signal.clone(),
        tty: config.tty,
        stdin: config.stdin,
        labels: config.labels.clone(),
    }
}

/// The request's part about the container itself.
///
/// # Errors
/// When it can't be written down.
pub(crate) fn message(inner: &Inner, parts: Parts<'_>) -> Result<cri::ContainerConfig> {
    let Parts { sandbox, config, image, .. } = &parts;
    let id = ContainerId::new(&sandbox.uid, &config.name, config.attempt);
    let asked = serde_json::to_string(&asked(config, image));
    let asked = asked.map_err(|error| RuntimeError::Task(error.to_string()))?;
    let mut labels = sandbox::labels(inner, sandbox);
    labels.insert(CONTAINER_NAME.to_owned(), config.name.clone());
    // Below the sandbox's directory of logs.
    let log = kit::log_name(&id);
    let log = log.strip_prefix("logs").unwrap_or(&log).to_string_lossy().into_owned();
    let devices = config.devices.iter().map(|device| cri::Device {
        container_path: device.container_path.to_string_lossy().into_owned(),
        host_path: device.host_path.to_string_lossy().into_owned(),
        permissions: if device.read_only { "r" } else { "rwm" }.to_owned(),
    });
    let envs = config.env.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() });
    Ok(cri::ContainerConfig {
        metadata: Some(ContainerMetadata { name: config.name.clone(), attempt: config.attempt }),
        image: Some(cri::ImageSpec {
            image: image.id.clone(),
            user_specified_image: config.image.clone(),
            ..Default::default()
        }),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: config.working_dir.clone().unwrap_or_default(),
        envs: envs.collect(),
        labels,
        annotations: HashMap::from([(ASKED.to_owned(), asked)]),
        log_path: log,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        devices: devices.collect(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                unified: unified(&config.resources, inner.memory),
                ..resources(&config.resources, inner.memory)
            }),
            security_context: Some(security(&parts)),
        }),
        mounts: parts.mounts,
        ..Default::default()
    })
}

fn security(parts: &Parts<'_>) -> LinuxContainerSecurityContext {
    let Parts { sandbox, config, image, target, seccomp, .. } = parts;
    let mut namespaces = sandbox::namespaces(sandbox);
    if let Some(target) = target {
        namespaces.pid = NamespaceMode::Target as i32;
        namespaces.target_id.clone_from(target);
    }
    let number = |id: u32| Int64Value { value: id.into() };
    // A group without a user is not taken: the image's own is said then.
    let image_user = image.uid.filter(|_| config.run_as_group.is_some());
    let user = config.run_as_user.map(number).or(image_user);
    let by_name = user.is_none() && config.run_as_group.is_some();
    let paths = |all: &[&str]| -> Vec<String> {
        let open = config.privileged || config.unmasked_proc;
        all.iter().filter(|_| !open).map(|path| (*path).to_owned()).collect()
    };
    let policy = match config.strict_groups {
        true => SupplementalGroupsPolicy::Strict,
        false => SupplementalGroupsPolicy::Merge,
    };
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: config.add_capabilities.clone(),
            drop_capabilities: config.drop_capabilities.clone(),
            ..Default::default()
        }),
        privileged: config.privileged,
        namespace_options: Some(namespaces),
        run_as_user: user,
        run_as_group: config.run_as_group.map(number),
        run_as_username: if by_name { image.username.clone() } else { String::new() },
        readonly_rootfs: config.read_only_root,
        supplemental_groups: config.supplemental_groups.iter().map(|group| (*group).into()).collect(),
        supplemental_groups_policy: policy as i32,
        no_new_privs: !config.privileged && !config.allow_privilege_escalation,
        masked_paths: paths(kit::masked_paths()),
        readonly_paths: paths(&kit::READ_ONLY_PATHS),
        seccomp: Some(seccomp.clone()),
        ..Default::default()
    }
}

/// Most processes and threads of a container.
pub(crate) fn pids_limit(resources: &Resources) -> i64 {
    resources.pids_limit.unwrap_or(DEFAULT_PIDS_LIMIT)
}

/// Limits; those that are not given are lifted where they are set on a running container.
pub(crate) fn resources(resources: &Resources, memory: Memory) -> LinuxContainerResources {
    let period = resources.cpu_period_us.and_then(|period| i64::try_from(period).ok());
    let limit = resources.memory_limit_bytes.unwrap_or(-1);
    LinuxContainerResources {
        cpu_period: period.unwrap_or(DEFAULT_PERIOD_US),
        cpu_quota: resources.cpu_quota_us.unwrap_or(-1),
        cpu_shares: resources.cpu_shares.and_then(|shares| i64::try_from(shares).ok()).unwrap_or(0),
        memory_limit_in_bytes: limit,
        // Of memory and swap together: none of it is swap. On v2 swap has a limit of its own.
        memory_swap_limit_in_bytes: if memory.swap && !memory.v2 { limit } else { 0 },
        oom_score_adj: resources.oom_score_adj.unwrap_or(0).into(),
        hugepage_limits: resources
            .huge_limits
            .iter()
            .map(|(size, limit)| HugepageLimit { page_size: kit::page_name(*size), limit: *limit })
            .collect(),
        ..Default::default()
    }
}

/// What is said to cgroup v2 in its own words when a container is made: its processes have a limit, none of it is swapped out, so
/// that its limit of memory is one, and one of them that takes too much memory ends all, as with kubelets.
fn unified(resources: &Resources, memory: Memory) -> HashMap<String, String> {
    if !memory.v2 {
        return HashMap::new();
    }
    let swap = memory.swap.then(|| ("memory.swap.max", "0".to_owned()));
    let others = [("pids.max", pids_limit(resources).to_string()), ("memory.oom.group", "1".to_owned())];
    others.into_iter().chain(swap).map(|(file, value)| (file.to_owned(), value)).collect()
}

/// How the node's cgroups limit memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// There is cgroup v2 alone.
    pub(crate) v2: bool,
    /// Swap is counted.
    pub(crate) swap: bool,
}

impl Memory {
    /// As it is on this node.
    pub(crate) fn here() -> Self {
        let v2 = kit::is_cgroup_v2();
        let swap = match v2 {
            // The root has no such file: the one of whoever asks says it.
            true => std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| {
                let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
                Path::new("/sys/fs/cgroup").join(own).join("memory.swap.max").exists()
            }),
            false => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
        };
        Self { v2, swap }
    }
}

/// A container's mounts, of which parts of volumes are made on the node. The files that a pod's containers see under `/etc` are ours,
/// where the container has none of its own there.
///
/// # Errors
/// Why a part of a volume can't be shown.
pub(crate) fn mounts(
    pod: &Path,
    id: &ContainerId,
    config: &ContainerConfig,
) -> std::result::Result<Vec<cri::Mount>, String> {
    let mut mounts = Vec::new();
    for (number, mount) in config.mounts.iter().enumerate() {
        let propagation = match mount.propagation {
            Propagation::Private => MountPropagation::PropagationPrivate,
            Propagation::FromNode => MountPropagation::PropagationHostToContainer,
            Propagation::Both => MountPropagation::PropagationBidirectional,
        };
        if mount.propagation != Propagation::Private {
            // The runtime refuses it otherwise, with its own words where this fails.
            let _ = kit::share_mount(&mount.host_path);
        }
        mounts.push(cri::Mount {
            container_path: mount.container_path.to_string_lossy().into_owned(),
            host_path: host::source_of(pod, id, number, mount)?.to_string_lossy().into_owned(),
            readonly: mount.read_only,
            recursive_read_only: mount.recursive_read_only,
            propagation: propagation as i32,
            ..Default::default()
        });
    }
    for name in ["hosts", "resolv.conf", "hostname"] {
        let at = format!("/etc/{name}");
        if mounts.iter().all(|mount| mount.container_path.trim_end_matches('/') != at) {
            let from = pod.join(name).to_string_lossy().into_owned();
            mounts.push(cri::Mount { container_path: at, host_path: from, ..Default::default() });
        }
    }
    Ok(mounts)
}

/// A filter of system calls; one of the caller's own is kept in a file.
///
/// # Errors
/// When it can't be written.
pub(crate) fn seccomp(pod: &Path, id: &ContainerId, config: &ContainerConfig) -> Result<SecurityProfile> {
    let (kind, file) = match &config.seccomp {
        Seccomp::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Seccomp::Unconfined => (ProfileType::Unconfined, String::new()),
        Seccomp::Profile(text) => {
            let dir = pod.join("seccomp");
            std::fs::create_dir_all(&dir).map_err(RuntimeError::io("create", &dir))?;
            let path = dir.join(format!("{}.json", id.local()));
            kit::write_atomic(&path, text.as_bytes(), false)?;
            (ProfileType::Localhost, path.to_string_lossy().into_owned())
        }
    };
    Ok(SecurityProfile { profile_type: kind as i32, localhost_ref: file })
}

#[cfg(test)]
mod tests {
    use yunfan_runtime::Mount;

    use super::*;

    #[test]
    fn what_would_be_passed_over_is_refused() {
        let refused = |config: ContainerConfig| check(Features::default(), &config).unwrap_err().to_string();
        let mount = Mount { recursive_read_only: true, ..Mount::default() };
        let recursive = ContainerConfig { mounts: vec![mount], ..Default::default() };
        assert!(refused(recursive.clone()).starts_with("recursiveReadOnly"));
        let strict = ContainerConfig { strict_groups: true, ..Default::default() };
        assert!(refused(strict.clone()).starts_with("supplementalGroupsPolicy"));
        let images = ContainerConfig { image_mounts: vec![Default::default()], ..Default::default() };
        assert!(refused(images).starts_with("image_mounts"));
        let dir = ContainerConfig { working_dir: Some("x".to_owned()), ..Default::default() };
        assert!(refused(dir).starts_with("workingDir"));
        let all = Features { recursive_read_only: true, strict_groups: true };
        assert!(check(all, &recursive).is_ok() && check(all, &strict).is_ok());
    }

    #[test]
    fn limits_that_are_not_given_are_lifted() {
        let none = resources(&Resources::default(), Memory { v2: false, swap: true });
        assert_eq!((none.cpu_quota, none.cpu_period, none.memory_limit_in_bytes), (-1, 100_000, -1));
        assert_eq!(none.memory_swap_limit_in_bytes, -1);
    }

    #[test]
    fn a_limit_of_memory_can_t_be_passed_by_swapping() {
        let wanted = Resources { memory_limit_bytes: Some(7), pids_limit: Some(9), ..Default::default() };
        let swap = |v2, swap| resources(&wanted, Memory { v2, swap }).memory_swap_limit_in_bytes;
        assert_eq!((swap(false, true), swap(false, false), swap(true, true)), (7, 0, 0));
        let unified = |v2, swap| {
            let mut all: Vec<_> = unified(&wanted, Memory { v2, swap }).into_iter().collect();
            all.sort();
            all.iter().map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(unified(true, true), "memory.oom.group=1 memory.swap.max=0 pids.max=9");
        assert_eq!(unified(true, false), "memory.oom.group=1 pids.max=9");
        assert_eq!(unified(false, true), "", "v1 knows no such words");
    }
}
