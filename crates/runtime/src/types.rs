//! What the agent says to a runtime and hears from it. Plain data, no behaviour.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Resolver settings written to a pod's `/etc/resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines, in order.
    pub servers: Vec<String>,
    /// The `search` list.
    pub searches: Vec<String>,
    /// The `options` words, such as `ndots:5`.
    pub options: Vec<String>,
}

/// A line of a pod's `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The address.
    pub ip: String,
    /// Names for it; the first is the canonical one.
    pub names: Vec<String>,
}

/// A memory-backed directory of the pod (emptyDir with `medium: Memory`).
/// It is mounted inside the pod's own mount namespace, so only the pod's containers see its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsVolume {
    /// Host directory to mount over; containers use it as `Mount::host_path`. Must exist.
    pub path: PathBuf,
    /// Size limit in bytes; `None` is the kernel's default (half of the memory).
    pub size_bytes: Option<u64>,
    /// The group that it and what is made in it belong to.
    #[serde(default)]
    pub group: Option<u32>,
}

/// A pod sandbox: the namespaces and files its containers share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Uid of the Pod: lower-case letters, digits and dashes.
    pub uid: String,
    /// Namespace of the Pod, for people who look at the node.
    pub namespace: String,
    /// Name of the Pod.
    pub name: String,
    /// Host name inside the pod.
    pub hostname: String,
    /// The domain that the pod is in, if any; `/etc/hosts` has the host name with it.
    #[serde(default)]
    pub domain: Option<String>,
    /// Network namespace to join, such as `/run/netns/yf-<tag>-pod-<uid>`; `None` = the host's.
    pub netns: Option<PathBuf>,
    /// Address of the pod: `/etc/hosts` maps the host name to it.
    #[serde(default)]
    pub pod_ips: Vec<String>,
    /// Resolver settings; `None` copies the host's resolv.conf.
    #[serde(default)]
    pub dns: Option<DnsConfig>,
    /// More lines for `/etc/hosts`.
    #[serde(default)]
    pub host_aliases: Vec<HostAlias>,
    /// Memory-backed volumes.
    #[serde(default)]
    pub tmpfs_volumes: Vec<TmpfsVolume>,
    /// Kernel parameters of the pod's namespaces, by name with dots (`net.ipv4.tcp_syncookies`).
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Containers see the node's processes.
    #[serde(default)]
    pub host_pid: bool,
    /// Containers use the node's IPC objects and shared memory.
    #[serde(default)]
    pub host_ipc: bool,
    /// Containers see each other's processes.
    #[serde(default)]
    pub share_processes: bool,
    /// Whether containers of it may be privileged. Other runtimes than the embedded one want to know that before the first.
    #[serde(default)]
    pub privileged: bool,
    /// The handler of the pod's RuntimeClass; empty for the usual one.
    #[serde(default)]
    pub handler: String,
    /// Size of the pod's shared `/dev/shm` in bytes; `None` = 64 MiB.
    #[serde(default)]
    pub shm_size_bytes: Option<u64>,
    /// Kept and given back by [`crate::Runtime::list`].
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What a runtime can do that not every one can.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeFeatures {
    /// It can leave out the groups of the image ([`ContainerConfig::strict_groups`]).
    pub strict_groups: bool,
    /// What [`SandboxConfig::handler`] may be.
    pub handlers: Vec<Handler>,
}

/// One way in which a runtime runs pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handler {
    /// Empty for the one that pods get which name none.
    pub name: String,
    /// Mounts can be read-only with all below them.
    pub recursive_read_only: bool,
}

/// Names one run of one container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId {
    /// Uid of the Pod.
    pub pod_uid: String,
    /// Name of the container in the Pod.
    pub name: String,
    /// 0 for the first run, then counted up by each restart.
    pub attempt: u32,
}

impl ContainerId {
    /// Names the `attempt`th run of container `name` in pod `pod_uid`.
    pub fn new(pod_uid: impl Into<String>, name: impl Into<String>, attempt: u32) -> Self {
        Self { pod_uid: pod_uid.into(), name: name.into(), attempt }
    }

    /// `<name>-<attempt>`: unique in the pod, used as directory name.
    pub fn local(&self) -> String {
        format!("{}-{}", self.name, self.attempt)
    }
}

impl fmt::Display for ContainerId {
    /// `<pod uid>_<name>-<attempt>`; what goes behind `yunfan://` in a Pod's `containerID`, where [`ContainerStatus::runtime_id`] has no other.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}-{}", self.pod_uid, self.name, self.attempt)
    }
}

/// A host directory or file shown inside a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path on the host; must exist.
    pub host_path: PathBuf,
    /// Absolute path in the container; made when missing.
    pub container_path: PathBuf,
    /// Whether writing through it is refused.
    pub read_only: bool,
    /// With `read_only`: whether that holds for what is mounted below it too.
    #[serde(default)]
    pub recursive_read_only: bool,
    /// Whether later mounts are seen.
    #[serde(default)]
    pub propagation: Propagation,
    /// What of `host_path` is shown: a relative path, made as a directory when missing. Links can't lead it out of `host_path`.
    #[serde(default)]
    pub sub_path: Option<PathBuf>,
}

/// Which mounts that are made later below a [`Mount`] are seen where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Each side sees its own.
    #[default]
    Private,
    /// The container sees those of the node.
    FromNode,
    /// Each side sees those of the other: what the container mounts there is on the node, too, and stays when the container ends.
    Both,
}

/// A block device of the node that a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path on the host.
    pub host_path: PathBuf,
    /// Absolute path in the container.
    pub container_path: PathBuf,
    /// Whether the container may only read from it: its cgroup keeps also root from writing.
    pub read_only: bool,
}

/// An image's files shown inside a container, read-only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// By reference or id; must be present.
    pub image: String,
    /// Absolute path in the container; made when missing.
    pub container_path: PathBuf,
    /// What of the image is shown: a relative path, which must be there.
    #[serde(default)]
    pub sub_path: Option<PathBuf>,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// All.
    #[default]
    Unconfined,
    /// Those of the default profile.
    RuntimeDefault,
    /// Those that a profile allows: JSON in the form of the OCI specification's `linux.seccomp`.
    Profile(String),
}

/// cgroup limits; `None` = unlimited (or the kernel's default).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative CPU weight, 1024 = one core's worth (cgroup v1 unit, converted on v2).
    pub cpu_shares: Option<u64>,
    /// CPU time per period in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// Length of the period in microseconds; default 100,000.
    pub cpu_period_us: Option<u64>,
    /// Memory limit in bytes; going over it kills the container (`oom_killed`).
    pub memory_limit_bytes: Option<i64>,
    /// Bytes of huge pages, by the size of the pages in bytes; of sizes that are not here there is no limit.
    #[serde(default)]
    pub huge_limits: BTreeMap<u64, u64>,
    /// Most processes and threads; default [`crate::DEFAULT_PIDS_LIMIT`].
    pub pids_limit: Option<i64>,
    /// -1000 to 1000, who dies first when the node runs out of memory.
    pub oom_score_adj: Option<i32>,
}

/// One run of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Name in the Pod (a DNS label).
    pub name: String,
    /// Which run this is; a (name, attempt) pair is used once.
    pub attempt: u32,
    /// Image by reference (`busybox`, `demo/web:1`) or by id (`sha256:...`); must be present.
    pub image: String,
    /// Id of the very image to take, where the caller has looked at it already: `image` is its name then, and says no more.
    #[serde(default)]
    pub image_id: Option<String>,
    /// Replaces the image's entrypoint when not empty (then the image's arguments are dropped too).
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Environment, in order; overrides the image's.
    pub env: Vec<(String, String)>,
    /// Working directory; `None` = the image's, else `/`.
    pub working_dir: Option<String>,
    /// Binds, mounted in the order of their container paths.
    pub mounts: Vec<Mount>,
    /// Images shown as directories.
    pub image_mounts: Vec<ImageMount>,
    /// Devices of the node.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Limits.
    pub resources: Resources,
    /// Numeric user (`runAsUser`); `None` = the image's user.
    pub run_as_user: Option<u32>,
    /// Numeric group (`runAsGroup`); `None` = the user's group.
    pub run_as_group: Option<u32>,
    /// Refuse to start as uid 0 (`runAsNonRoot`).
    pub run_as_non_root: bool,
    /// More groups (`fsGroup`, `supplementalGroups`).
    pub supplemental_groups: Vec<u32>,
    /// Leave out the groups that the image's `/etc/group` puts the user in.
    pub strict_groups: bool,
    /// All rights: every capability and device, nothing hidden or read-only, no filter of system calls.
    pub privileged: bool,
    /// Which system calls it may make. With a filter it never gains privileges; a privileged container has none.
    pub seccomp: Seccomp,
    /// Show all of `/proc`, also what is hidden or read-only otherwise.
    pub unmasked_proc: bool,
    /// Run among the processes of this container of the pod, which must run.
    pub processes_of: Option<ContainerId>,
    /// Asks it to end (`SIGUSR1`); `None` = the image's signal, else SIGTERM.
    pub stop_signal: Option<String>,
    /// Mount the root read-only.
    pub read_only_root: bool,
    /// Let set-uid programs gain privileges; default no.
    pub allow_privilege_escalation: bool,
    /// Capabilities added to the default set, without `CAP_` (`NET_ADMIN`), or `ALL`.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken from the default set, or `ALL`.
    pub drop_capabilities: Vec<String>,
    /// Give the container a terminal as stdio.
    pub tty: bool,
    /// Keep stdin open for clients that attach; it is empty from the start otherwise.
    pub stdin: bool,
    /// End stdin for good when the first client that attached to it ends its input or leaves.
    pub stdin_once: bool,
    /// Kept and given back by [`crate::Runtime::list`].
    pub labels: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ContainerState {
    /// Being set up.
    Created,
    /// Its first process runs.
    Running,
    /// Its first process ended.
    Exited,
}

/// The user that a container's first process starts as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All further groups.
    pub groups: Vec<u32>,
}

/// What is known of one run of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Which run.
    pub id: ContainerId,
    /// State.
    pub state: ContainerState,
    /// Id of the image it was made from (`sha256:...`).
    pub image_id: String,
    /// The image as the caller named it.
    pub image: String,
    /// First process, while it runs; in the host's pid namespace.
    pub pid: Option<i32>,
    /// Exit code, 128+signal when killed by a signal; set when exited. 128 without a start when it could not be started.
    pub exit_code: Option<i32>,
    /// When the process was started.
    pub started_at: Option<SystemTime>,
    /// When it ended.
    pub finished_at: Option<SystemTime>,
    /// Whether the kernel killed something in it for memory.
    pub oom_killed: bool,
    /// Whether nobody saw how it ended: it was ended because the shim of its pod was gone.
    #[serde(default)]
    pub lost: bool,
    /// For people: why it ended, when there is more to say than the code.
    pub message: String,
    /// Whom it runs as.
    #[serde(default)]
    pub user: RunUser,
    /// As given in [`ContainerConfig::stop_signal`].
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// As given in [`ContainerConfig::labels`].
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What another program calls it that runs it, with that program's name: `containerd://…`. None for the runtime in this program.
    #[serde(default)]
    pub runtime_id: Option<String>,
}

/// What is known of one sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// As it was asked for.
    pub config: SandboxConfig,
    /// False when its shim is gone: remove the sandbox and run it again.
    pub ready: bool,
    /// Pid of the shim, while ready.
    pub shim_pid: Option<i32>,
    /// Its containers, all runs that were not removed, in order of name and attempt.
    pub containers: Vec<ContainerStatus>,
}

/// Something happened in a sandbox. Told once, to those who listen; [`crate::Runtime::list`] has the state.
#[derive(Debug, Clone)]
pub enum RuntimeEvent {
    /// A container started or exited.
    Container(Box<ContainerStatus>),
    /// A sandbox's shim died; its containers were ended.
    SandboxDied {
        /// Uid of the pod.
        pod_uid: String,
    },
}

impl RuntimeEvent {
    /// Uid of the pod it happened in.
    pub fn pod_uid(&self) -> &str {
        match self {
            Self::Container(status) => &status.id.pod_uid,
            Self::SandboxDied { pod_uid } => pod_uid,
        }
    }
}

/// A command to run in a running container.
#[derive(Debug, Clone, Default)]
pub struct ExecConfig {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Give it a terminal; then there is no separate stderr.
    pub tty: bool,
    /// Whether the caller will write to its stdin.
    pub stdin: bool,
}

/// Result of [`crate::Runtime::exec_sync`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// Exit code, 128+signal when killed by a signal.
    pub exit_code: i32,
    /// First [`crate::EXEC_OUTPUT_LIMIT`] bytes of stdout.
    pub stdout: Vec<u8>,
    /// First [`crate::EXEC_OUTPUT_LIMIT`] bytes of stderr.
    pub stderr: Vec<u8>,
}

/// Current use of a container, from its cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// CPU time used since the start.
    pub cpu: Duration,
    /// Memory in use in bytes, page cache that can be dropped at once not counted.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// All memory in use in bytes, page cache counted.
    pub usage_bytes: u64,
    /// Of that, what is no file's.
    pub rss_bytes: u64,
    /// Pages that were not there when they were used, since the start.
    pub page_faults: u64,
    /// Of these, those that had to be read.
    pub major_page_faults: u64,
}
