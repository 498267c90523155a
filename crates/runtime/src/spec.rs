//! The OCI runtime specification (`config.json`) of a container.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::devices;
use crate::error::{Result, RuntimeError};
use crate::image::ImageConfig;
use crate::types::{ContainerConfig, Propagation, RunUser, SandboxConfig};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What of `/proc` and `/sys` a container does not see on any host.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What of `/proc` and `/sys` a container does not see on this host, as kubelets have it: with what tells how often each processor was too
/// hot, where there is that.
pub fn masked_paths() -> &'static [&'static str] {
    static PATHS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        let mut heat = heat_paths(Path::new("/sys/devices/system/cpu"));
        heat.sort();
        // Once in a process, and for all of its time.
        let heat = heat.into_iter().map(|path| &*path.leak());
        MASKED_PATHS.into_iter().chain(heat).collect()
    });
    &PATHS
}

fn heat_paths(processors: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(processors) else { return Vec::new() };
    let number = |name: &str| {
        name.strip_prefix("cpu")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let paths = names.filter(|name| number(name)).map(|name| processors.join(name).join("thermal_throttle"));
    paths.filter(|path| path.is_dir()).filter_map(|path| path.to_str().map(str::to_owned)).collect()
}

/// What of `/proc` a container can't write to.
pub const READ_ONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where devices are.
const DEV: &str = "/dev";

/// Everything a specification is made of.
pub(crate) struct Input<'a> {
    pub(crate) config: &'a ContainerConfig,
    pub(crate) image: &'a ImageConfig,
    pub(crate) user: &'a RunUser,
    pub(crate) sandbox: &'a SandboxConfig,
    /// A process whose PID namespace the container joins.
    pub(crate) processes_of: Option<i32>,
    pub(crate) capabilities: &'a [String],
    /// The lowest score by which the kernel chooses whom it kills for memory that can be given.
    pub(crate) least_oom_score: i32,
    /// What is bound into the container, with what each is bound from.
    pub(crate) binds: &'a [Bound],
    /// Directory of the pod: hosts, hostname, resolv.conf and shm are in it.
    pub(crate) pod_dir: &'a Path,
    /// Below the root of each hierarchy.
    pub(crate) cgroup: &'a str,
    /// Only the unified hierarchy is here: it can be shown inside with one mount.
    pub(crate) unified: bool,
    /// Whether huge pages can be limited in the container's cgroup.
    pub(crate) huge_pages: bool,
    /// Where the container's own cgroup is in v1's hierarchies, and where each is shown inside.
    pub(crate) cgroup_views: &'a [(PathBuf, PathBuf)],
}

/// A bind of the container's own: a volume or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) recursive_read_only: bool,
    pub(crate) propagation: Propagation,
}

/// Makes the specification. The pod's IPC, UTS and network namespaces are inherited from the shim.
pub(crate) fn generate(input: &Input<'_>) -> Result<Value> {
    let config = input.config;
    let capabilities = input.capabilities;
    let open = config.privileged || config.unmasked_proc;
    let hidden = |paths: &[&str]| if open { json!([]) } else { json!(paths) };
    let mut read_only = if open { Vec::new() } else { READ_ONLY_PATHS.to_vec() };
    let own = |bound: &Bound| bound.target.starts_with(CGROUPS);
    if !config.privileged && !input.cgroup_views.is_empty() && !input.binds.iter().any(own) {
        // The places in it had to be made first. What the Pod itself mounts there is as it asks for it.
        read_only.push(CGROUPS);
    }
    // Otherwise nothing that is mounted in the container would leave it, whatever its volumes are.
    let both = input.binds.iter().any(|bound| bound.propagation == Propagation::Both);
    let own = devices::given(&config.devices)?;
    let mut given = if config.privileged { devices::of_host() } else { Vec::new() };
    given.extend(own.made);
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": config.read_only_root},
        "process": {
            "terminal": config.tty,
            "user": {"uid": input.user.uid, "gid": input.user.gid, "additionalGids": input.user.groups},
            "args": arguments(config, input.image)?,
            "env": environment(input),
            "cwd": working_dir(config, input.image)?,
            "capabilities": {
                "bounding": capabilities,
                "inheritable": [],
                "effective": capabilities,
                "permitted": capabilities,
            },
            "noNewPrivileges": !may_gain_privileges(config),
            // Always said: the shim, from which it would be inherited, is protected.
            "oomScoreAdj": config.resources.oom_score_adj.unwrap_or(0).clamp(-1000, 1000).max(input.least_oom_score),
        },
        "mounts": mounts(input)?,
        "linux": {
            "namespaces": namespaces(input),
            "rootfsPropagation": if both { "shared" } else { "slave" },
            "cgroupsPath": format!("/{}", input.cgroup),
            "devices": given,
            "resources": resources(input, own.rules),
            "maskedPaths": hidden(masked_paths()),
            "readonlyPaths": read_only,
        },
    }))
}

/// Whether a program may have more rights than the one that ran it (such as `sudo`).
pub(crate) fn may_gain_privileges(config: &ContainerConfig) -> bool {
    config.allow_privilege_escalation || config.privileged
}

fn namespaces(input: &Input<'_>) -> Vec<Value> {
    let mut all = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    match input.processes_of {
        Some(process) => all.push(json!({"type": "pid", "path": format!("/proc/{process}/ns/pid")})),
        None if input.sandbox.host_pid => {}
        None => all.push(json!({"type": "pid"})),
    }
    all
}

/// Kubernetes' rule: a command replaces entrypoint and arguments of the image, arguments alone replace its arguments.
fn arguments(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let (first, second) = if !config.command.is_empty() {
        (&config.command, &config.args)
    } else if !config.args.is_empty() {
        (&image.entrypoint, &config.args)
    } else {
        (&image.entrypoint, &image.cmd)
    };
    let all: Vec<String> = first.iter().chain(second).cloned().collect();
    if all.is_empty() {
        return Err(RuntimeError::invalid("command", "neither the container nor its image says what to run"));
    }
    if all.iter().any(|word| word.contains('\0')) {
        return Err(RuntimeError::invalid("command", "contains a NUL byte"));
    }
    Ok(all)
}

fn environment(input: &Input<'_>) -> Vec<String> {
    let mut all: Vec<String> = vec![DEFAULT_PATH.to_owned()];
    all.push(format!("HOSTNAME={}", input.sandbox.hostname));
    if input.config.tty {
        all.push("TERM=xterm".to_owned());
    }
    let given = input.config.env.iter().map(|(name, value)| format!("{name}={value}"));
    for line in input.image.env.iter().cloned().chain(given) {
        let name = format!("{}=", line.split('=').next().unwrap_or_default());
        match all.iter_mut().find(|known| known.starts_with(&name)) {
            Some(known) => *known = line,
            None => all.push(line),
        }
    }
    all
}

fn working_dir(config: &ContainerConfig, image: &ImageConfig) -> Result<String> {
    let given = config.working_dir.as_ref().filter(|dir| !dir.is_empty());
    let dir = given.unwrap_or(&image.working_dir);
    match dir.as_str() {
        "" => Ok("/".to_owned()),
        absolute if absolute.starts_with('/') => Ok(absolute.to_owned()),
        _ => Err(RuntimeError::invalid("workingDir", "must be an absolute path")),
    }
}

fn resources(input: &Input<'_>, devices: Vec<Value>) -> Value {
    let (config, resources) = (input.config, &input.config.resources);
    let mut rules = vec![json!({"allow": config.privileged, "access": "rwm"})];
    rules.extend(devices);
    let mut all = json!({
        // libcontainer adds the devices that every container has.
        "devices": rules,
        "pids": {"limit": resources.pids_limit.unwrap_or(crate::DEFAULT_PIDS_LIMIT)},
    });
    if input.unified {
        // A container that takes too much memory ends as a whole, as with the kubelet: half of one is of no use.
        all["unified"] = json!({"memory.oom.group": "1"});
    }
    if input.huge_pages && !resources.huge_limits.is_empty() {
        let limits = resources.huge_limits.iter();
        let limits = limits.map(|(size, limit)| json!({"pageSize": page_name(*size), "limit": limit}));
        all["hugepageLimits"] = limits.collect();
    }
    if let Some(limit) = resources.memory_limit_bytes {
        all["memory"] = json!({"limit": limit});
    }
    let mut cpu = serde_json::Map::new();
    if let Some(shares) = resources.cpu_shares {
        cpu.insert("shares".to_owned(), json!(shares.clamp(2, 262_144)));
    }
    if let Some(quota) = resources.cpu_quota_us {
        cpu.insert("quota".to_owned(), json!(quota));
        cpu.insert("period".to_owned(), json!(resources.cpu_period_us.unwrap_or(100_000)));
    }
    if !cpu.is_empty() {
        all["cpu"] = Value::Object(cpu);
    }
    all
}

/// A size of pages as the kernel calls it in the names of cgroups' files.
pub fn page_name(bytes: u64) -> String {
    const UNITS: [(u32, &str); 2] = [(30, "GB"), (20, "MB")];
    let unit = UNITS.iter().find(|(shift, _)| bytes >> shift > 0);
    unit.map_or_else(|| format!("{}KB", bytes >> 10), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

fn mounts(input: &Input<'_>) -> Result<Value> {
    let system = if input.config.privileged { "rw" } else { "ro" };
    let shm = if input.sandbox.host_ipc { "/dev/shm".into() } else { input.pod_dir.join("shm") };
    let mut all = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", system]}),
        json!({"destination": "/dev/shm", "type": "bind", "source": shm,
            "options": ["bind", "rprivate", "nosuid", "noexec", "nodev"]}),
    ];
    if input.unified {
        all.push(json!({"destination": CGROUPS, "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", system]}));
    } else if !input.cgroup_views.is_empty() {
        all.push(json!({"destination": CGROUPS, "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "nodev", "mode=755", "size=64k"]}));
    }
    // Bound, not mounted anew: those would be as writable as the host's.
    all.extend(input.cgroup_views.iter().map(|(source, destination)| {
        json!({"destination": destination, "type": "bind", "source": source,
            "options": ["bind", "rprivate", "nosuid", "noexec", "nodev", system]})
    }));
    for name in ["hosts", "hostname", "resolv.conf"] {
        let destination = Path::new("/etc").join(name);
        if input.binds.iter().all(|bound| bound.target != destination) {
            all.push(json!({"destination": destination, "type": "bind",
                "source": input.pod_dir.join(name), "options": ["bind", "rprivate", "rw"]}));
        }
    }
    let now = input.binds.iter().filter(|bound| !is_late(bound, input.binds));
    let volumes = now.map(|bound| Ok((bound.target.as_path(), bind(bound)?)));
    let mut own = volumes.collect::<Result<Vec<_>>>()?;
    own.extend(devices::bound(&input.config.devices));
    // An outer mount would hide one inside it that came before.
    own.sort_by_key(|(target, _)| target.components().count());
    all.extend(own.into_iter().map(|(_, mount)| mount));
    Ok(Value::Array(all))
}

/// Whether something is bound to `/dev` itself, and this is there or below.
fn is_late(bound: &Bound, all: &[Bound]) -> bool {
    bound.target.starts_with(DEV) && all.iter().any(|bound| bound.target == Path::new(DEV))
}

/// What is bound once libcontainer has made the rest, the outer ones first: in `/dev` it makes links and devices of its own, whatever is mounted
/// there, and in the node's own it would remove one, too.
pub(crate) fn late(binds: &[Bound]) -> Vec<&Bound> {
    let mut all: Vec<&Bound> = binds.iter().filter(|bound| is_late(bound, binds)).collect();
    all.sort_by_key(|bound| bound.target.components().count());
    all
}

/// The mount of a volume or of a part of one.
fn bind(bound: &Bound) -> Result<Value> {
    if !bound.target.is_absolute() || !bound.source.is_absolute() {
        return Err(RuntimeError::invalid(
            "volumeMounts.mountPath",
            format!("{:?}: both paths must be absolute", bound.target),
        ));
    }
    let access = match (bound.read_only, bound.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        _ => "rw",
    };
    let propagation = match bound.propagation {
        Propagation::Private => "rprivate",
        Propagation::FromNode => "rslave",
        Propagation::Both => "rshared",
    };
    Ok(json!({"destination": bound.target, "type": "bind",
            "source": bound.source, "options": ["rbind", propagation, access]}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn sandbox() -> SandboxConfig {
        let config = json!({"uid": "u", "namespace": "n", "name": "p", "hostname": "h", "netns": null});
        serde_json::from_value(config).unwrap()
    }

    #[test]
    fn rights_follow_the_configuration() {
        let image = ImageConfig { entrypoint: words(&["/e"]), ..ImageConfig::default() };
        let sandbox = sandbox();
        let made = |config: ContainerConfig, processes_of| {
            generate(&Input {
                config: &config,
                image: &image,
                user: &RunUser { uid: 1, gid: 2, groups: vec![2, 3] },
                sandbox: &sandbox,
                processes_of,
                capabilities: &[],
                least_oom_score: -500,
                binds: &[],
                pod_dir: Path::new("/p"),
                cgroup: "c",
                unified: true,
                huge_pages: true,
                cgroup_views: &[],
            })
            .unwrap()
        };
        let plain = made(ContainerConfig::default(), None);
        assert_eq!(plain["process"]["noNewPrivileges"], true);
        assert_eq!(plain["process"]["user"], json!({"uid": 1, "gid": 2, "additionalGids": [2, 3]}));
        assert_eq!(plain["linux"]["maskedPaths"].as_array().unwrap().len(), masked_paths().len());
        assert!(plain["linux"]["namespaces"].as_array().unwrap().contains(&json!({"type": "pid"})));
        let score = |score| {
            let resources = crate::types::Resources { oom_score_adj: Some(score), ..Default::default() };
            let config = ContainerConfig { resources, ..ContainerConfig::default() };
            made(config, None)["process"]["oomScoreAdj"].as_i64().unwrap()
        };
        assert_eq!([score(-997), score(-499), score(2000)], [-500, -499, 1000]);
        assert_eq!([2 << 20, 1 << 30, 64 << 10].map(page_name), ["2MB", "1GB", "64KB"]);
        let huge = |given: Value| given["linux"]["resources"].get("hugepageLimits").cloned();
        let huge_limits = [(2 << 20, 0), (1 << 30, 1 << 31)].into();
        let resources = crate::types::Resources { huge_limits, ..Default::default() };
        let limits = made(ContainerConfig { resources, ..ContainerConfig::default() }, None);
        let told = json!([{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 1u64 << 31}]);
        assert_eq!((huge(limits), huge(plain)), (Some(told), None));
        let free = ContainerConfig { privileged: true, ..ContainerConfig::default() };
        let free = made(free, Some(7));
        assert_eq!(free["process"]["noNewPrivileges"], false);
        assert_eq!(free["linux"]["readonlyPaths"], json!([]));
        assert_eq!(free["linux"]["resources"]["devices"][0]["allow"], true);
        let joined = json!({"type": "pid", "path": "/proc/7/ns/pid"});
        assert!(free["linux"]["namespaces"].as_array().unwrap().contains(&joined));
        assert!(free["mounts"].to_string().contains("\"rw\""));
    }

    #[test]
    fn the_heat_of_processors_is_hidden_where_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for made in ["cpu0/thermal_throttle", "cpu1", "cpu12/thermal_throttle", "cpufreq/thermal_throttle"] {
            std::fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        let mut found = heat_paths(dir.path());
        found.sort();
        let path = |name: &str| dir.path().join(name).join("thermal_throttle").to_str().unwrap().to_owned();
        assert_eq!(found, [path("cpu0"), path("cpu12")]);
        assert!(heat_paths(&dir.path().join("none")).is_empty());
        assert!(masked_paths().contains(&"/proc/interrupts"));
    }

    #[test]
    fn what_is_inside_a_mount_comes_after_it() {
        let device = |at: &str| crate::types::Device {
            host_path: "/dev/null".into(),
            container_path: at.into(),
            read_only: false,
        };
        let config = ContainerConfig {
            devices: vec![device("/data/disk"), device("/data"), device("/dev/x")],
            ..ContainerConfig::default()
        };
        let bound = |target: &str| Bound {
            source: "/s".into(),
            target: target.into(),
            read_only: false,
            recursive_read_only: false,
            propagation: Propagation::Private,
        };
        let binds = [bound("/data/disk/in"), bound("/mnt")];
        let sandbox = sandbox();
        let made = mounts(&Input {
            config: &config,
            image: &ImageConfig::default(),
            user: &RunUser::default(),
            sandbox: &sandbox,
            processes_of: None,
            capabilities: &[],
            least_oom_score: 0,
            binds: &binds,
            pod_dir: Path::new("/p"),
            cgroup: "c",
            unified: true,
            huge_pages: true,
            cgroup_views: &[],
        })
        .unwrap();
        let all: Vec<&str> =
            made.as_array().unwrap().iter().filter_map(|mount| mount["destination"].as_str()).collect();
        assert_eq!(all[all.len() - 4..], ["/mnt", "/data", "/data/disk", "/data/disk/in"]);
    }

    #[test]
    fn what_runs_follows_kubernetes() {
        let image = ImageConfig { entrypoint: words(&["/e"]), cmd: words(&["c"]), ..ImageConfig::default() };
        let run = |command: &[&str], args: &[&str]| {
            let config =
                ContainerConfig { command: words(command), args: words(args), ..ContainerConfig::default() };
            arguments(&config, &image).unwrap()
        };
        assert_eq!(run(&[], &[]), ["/e", "c"]);
        assert_eq!(run(&[], &["a"]), ["/e", "a"]);
        assert_eq!(run(&["x"], &[]), ["x"]);
        assert_eq!(run(&["x"], &["a"]), ["x", "a"]);
        assert!(arguments(&ContainerConfig::default(), &ImageConfig::default()).is_err());
    }

    #[test]
    fn later_environment_wins() {
        let config =
            ContainerConfig { env: vec![("A".to_owned(), "2".to_owned())], ..ContainerConfig::default() };
        let image = ImageConfig { env: words(&["A=1", "AB=3", "PATH=/x"]), ..ImageConfig::default() };
        let sandbox = sandbox();
        let input = Input {
            config: &config,
            image: &image,
            user: &RunUser::default(),
            sandbox: &sandbox,
            processes_of: None,
            capabilities: &[],
            least_oom_score: 0,
            binds: &[],
            pod_dir: Path::new("/p"),
            cgroup: "c",
            unified: false,
            huge_pages: false,
            cgroup_views: &[],
        };
        assert_eq!(environment(&input), ["PATH=/x", "HOSTNAME=h", "A=2", "AB=3"]);
    }
}
