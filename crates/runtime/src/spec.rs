//! The OCI runtime specification (`config.json`) of a container.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Result, RuntimeError};
use crate::image::ImageConfig;
use crate::types::{ContainerConfig, Mount, Resources};
use crate::user::User;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's default set without MKNOD: on cgroup v2 no device filter is loaded, so a node that a container made
/// would open the host's disk.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What `add_capabilities` may name.
const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const MASKED_PATHS: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Everything a specification is made of.
pub(crate) struct Input<'a> {
    pub(crate) config: &'a ContainerConfig,
    pub(crate) image: &'a ImageConfig,
    pub(crate) user: User,
    /// Directory of the pod: hosts, hostname, resolv.conf and shm are in it.
    pub(crate) pod_dir: &'a Path,
    pub(crate) hostname: &'a str,
    /// Below the root of each hierarchy.
    pub(crate) cgroup: &'a str,
    /// Only the unified hierarchy is here: it can be shown inside with one mount.
    pub(crate) unified: bool,
}

/// Makes the specification. The pod's IPC, UTS and network namespaces are inherited from the shim.
pub(crate) fn generate(input: &Input<'_>) -> Result<Value> {
    let config = input.config;
    let capabilities = capabilities(config)?;
    let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "mount"})];
    namespaces.push(json!({"type": "cgroup"}));
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": config.read_only_root},
        "process": {
            "terminal": config.tty,
            "user": {
                "uid": input.user.uid,
                "gid": input.user.gid,
                "additionalGids": config.supplemental_groups,
            },
            "args": arguments(config, input.image)?,
            "env": environment(input),
            "cwd": working_dir(config, input.image)?,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "noNewPrivileges": !config.allow_privilege_escalation,
            // Always said: the shim, from which it would be inherited, is protected.
            "oomScoreAdj": config.resources.oom_score_adj.unwrap_or(0).clamp(-1000, 1000),
        },
        "mounts": mounts(input)?,
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": format!("/{}", input.cgroup),
            "resources": resources(&config.resources),
            "maskedPaths": MASKED_PATHS,
            "readonlyPaths": READ_ONLY_PATHS,
        },
    }))
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
    all.push(format!("HOSTNAME={}", input.hostname));
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

fn capabilities(config: &ContainerConfig) -> Result<Vec<String>> {
    let plain = |name: &String| {
        let upper = name.to_ascii_uppercase();
        upper.strip_prefix("CAP_").map_or(upper.clone(), str::to_owned)
    };
    let drop: Vec<String> = config.drop_capabilities.iter().map(plain).collect();
    let add: Vec<String> = config.add_capabilities.iter().map(plain).collect();
    for name in &add {
        if name != "ALL" && !ALL_CAPABILITIES.contains(&name.as_str()) {
            return Err(RuntimeError::invalid(
                "securityContext.capabilities.add",
                format!("{name:?} is no capability of Linux"),
            ));
        }
    }
    let has = |list: &[String], name: &str| list.iter().any(|known| known == name);
    let kept = ALL_CAPABILITIES.iter().filter(|name| {
        if has(&add, name) {
            return true;
        }
        let given = has(&add, "ALL") || DEFAULT_CAPABILITIES.contains(name);
        given && !has(&drop, name) && !has(&drop, "ALL")
    });
    Ok(kept.map(|name| format!("CAP_{name}")).collect())
}

fn resources(resources: &Resources) -> Value {
    let mut all = json!({
        // libcontainer adds the devices that every container has.
        "devices": [{"allow": false, "access": "rwm"}],
        "pids": {"limit": resources.pids_limit.unwrap_or(crate::DEFAULT_PIDS_LIMIT)},
    });
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

fn mounts(input: &Input<'_>) -> Result<Value> {
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
            "options": ["nosuid", "noexec", "nodev", "ro"]}),
        json!({"destination": "/dev/shm", "type": "bind", "source": input.pod_dir.join("shm"),
            "options": ["bind", "rprivate", "nosuid", "noexec", "nodev"]}),
    ];
    if input.unified {
        all.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    }
    let given = &input.config.mounts;
    for name in ["hosts", "hostname", "resolv.conf"] {
        let destination = Path::new("/etc").join(name);
        if given.iter().all(|mount| mount.container_path != destination) {
            all.push(json!({"destination": destination, "type": "bind",
                "source": input.pod_dir.join(name), "options": ["bind", "rprivate", "rw"]}));
        }
    }
    let mut sorted: Vec<&Mount> = given.iter().collect();
    // An outer mount would hide one inside it that came before.
    sorted.sort_by_key(|mount| mount.container_path.components().count());
    for mount in sorted {
        if !mount.container_path.is_absolute() || !mount.host_path.is_absolute() {
            return Err(RuntimeError::invalid(
                "volumeMounts.mountPath",
                format!("{:?}: both paths must be absolute", mount.container_path),
            ));
        }
        let access = if mount.read_only { "ro" } else { "rw" };
        all.push(json!({"destination": mount.container_path, "type": "bind",
            "source": mount.host_path, "options": ["rbind", "rprivate", access]}));
    }
    Ok(Value::Array(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
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
    fn capabilities_are_bounded() {
        let of = |add: &[&str], drop: &[&str]| {
            capabilities(&ContainerConfig {
                add_capabilities: words(add),
                drop_capabilities: words(drop),
                ..ContainerConfig::default()
            })
        };
        assert_eq!(of(&[], &[]).unwrap().len(), DEFAULT_CAPABILITIES.len());
        assert_eq!(of(&["NET_ADMIN"], &["ALL"]).unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(of(&["ALL"], &["cap_bpf"]).unwrap().len(), 40);
        assert!(of(&["FLY"], &[]).is_err());
    }

    #[test]
    fn later_environment_wins() {
        let config =
            ContainerConfig { env: vec![("A".to_owned(), "2".to_owned())], ..ContainerConfig::default() };
        let image = ImageConfig { env: words(&["A=1", "AB=3", "PATH=/x"]), ..ImageConfig::default() };
        let input = Input {
            config: &config,
            image: &image,
            user: User { uid: 0, gid: 0 },
            pod_dir: Path::new("/p"),
            hostname: "h",
            cgroup: "c",
            unified: false,
        };
        assert_eq!(environment(&input), ["PATH=/x", "HOSTNAME=h", "A=2", "AB=3"]);
    }
}
