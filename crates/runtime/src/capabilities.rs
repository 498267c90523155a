//! Linux capabilities of containers.

use crate::error::{Result, RuntimeError};
use crate::types::ContainerConfig;

/// Docker's default set without MKNOD: who has it is not started where the kernel lets no filter of devices be loaded.
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

/// What `add_capabilities` may name, in the order of the kernel's numbers.
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

/// The capabilities of a container, as `CAP_NAME`.
pub(crate) fn of(config: &ContainerConfig) -> Result<Vec<String>> {
    of_held(config, held())
}

/// The capabilities that this process has and so can give, by their numbers' bits. Who asks for all of them means these.
fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(u64::MAX)
}

/// The number of SYS_RESOURCE, which lowers the score by which the kernel chooses whom it kills for memory.
const SYS_RESOURCE: u32 = 24;

/// The lowest such score that this process can give: where it may not lower its own, its own.
pub(crate) fn least_oom_score() -> i32 {
    if held() >> SYS_RESOURCE & 1 == 1 {
        return -1000;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
    own.and_then(|own| own.trim().parse().ok()).unwrap_or(0)
}

/// The capabilities that a filter of system calls is put on with, by the process that then becomes the container's program.
const FOR_FILTERS: [&str; 2] = ["CAP_SYS_ADMIN", "CAP_SETPCAP"];

/// Which of those a container's process is lent because it does not have them itself: it gives them back before its program runs.
pub(crate) fn lent(own: &[String]) -> Vec<String> {
    FOR_FILTERS
        .iter()
        .filter(|name| !own.iter().any(|own| own == *name))
        .map(|name| (*name).to_owned())
        .collect()
}

/// Keeps the program that this process becomes from having lent capabilities: it gets none that its bounding set lacks.
///
/// # Errors
/// The kernel's refusal, or what is no capability that is lent.
pub(crate) fn give_back(lent: &[String]) -> rustix::io::Result<()> {
    use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
    for name in lent {
        let one = match name.as_str() {
            "CAP_SYS_ADMIN" => CapabilitySet::SYS_ADMIN,
            "CAP_SETPCAP" => CapabilitySet::SETPCAP,
            _ => return Err(rustix::io::Errno::INVAL),
        };
        remove_capability_from_bounding_set(one)?;
    }
    Ok(())
}

fn of_held(config: &ContainerConfig, held: u64) -> Result<Vec<String>> {
    let named = |name: &str| format!("CAP_{name}");
    if config.privileged {
        let all = ALL_CAPABILITIES.iter().enumerate().filter(|(number, _)| held >> number & 1 == 1);
        return Ok(all.map(|(_, name)| named(name)).collect());
    }
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
    let kept = ALL_CAPABILITIES.iter().enumerate().filter(|(number, name)| {
        if has(&add, name) {
            return true;
        }
        let of_all = has(&add, "ALL") && held >> number & 1 == 1;
        let given = of_all || DEFAULT_CAPABILITIES.contains(name);
        given && !has(&drop, name) && !has(&drop, "ALL")
    });
    Ok(kept.map(|(_, name)| named(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_least_score_is_one_that_this_process_may_have() {
        assert_eq!(ALL_CAPABILITIES[SYS_RESOURCE as usize], "SYS_RESOURCE");
        let least = least_oom_score();
        assert!(least == -1000 || held() >> SYS_RESOURCE & 1 == 0, "{least}");
    }

    #[test]
    fn capabilities_are_bounded() {
        let of = |add: &[&str], drop: &[&str]| {
            let (add_capabilities, drop_capabilities) = (words(add), words(drop));
            let config =
                ContainerConfig { add_capabilities, drop_capabilities, ..ContainerConfig::default() };
            of_held(&config, u64::MAX)
        };
        assert_eq!(of(&[], &[]).unwrap().len(), DEFAULT_CAPABILITIES.len());
        assert_eq!(of(&["NET_ADMIN"], &["ALL"]).unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(of(&["ALL"], &["cap_bpf"]).unwrap().len(), 40);
        assert!(of(&["FLY"], &[]).is_err());
        let privileged = ContainerConfig { privileged: true, ..ContainerConfig::default() };
        assert_eq!(of_held(&privileged, u64::MAX).unwrap().len(), ALL_CAPABILITIES.len());
        assert_eq!(of_held(&privileged, 0b101).unwrap(), ["CAP_CHOWN", "CAP_DAC_READ_SEARCH"]);
    }
}
