//! Filters of system calls (`seccomp(2)`): from a profile to the program that the kernel runs before each call.

mod profile;
mod program;
mod syscalls;

pub(crate) use program::{Instruction, read, write};

use crate::error::{Result, RuntimeError};
use crate::types::{ContainerConfig, Seccomp};

/// The filter of a container, if it has one.
pub(crate) fn filter(config: &ContainerConfig, capabilities: &[String]) -> Result<Option<Vec<Instruction>>> {
    if config.privileged {
        return Ok(None);
    }
    let profile = match &config.seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::RuntimeDefault => profile::standard(capabilities),
        Seccomp::Profile(text) => profile::parse(text).map_err(wrong)?,
    };
    program::compile(&profile).map(Some).map_err(wrong)
}

fn wrong(reason: String) -> RuntimeError {
    RuntimeError::invalid("seccompProfile", reason)
}

#[cfg(test)]
mod tests {
    use super::program::tests::run;
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;

    #[test]
    fn the_default_profile_keeps_containers_from_the_kernel() {
        let of = |capabilities: &[&str]| {
            let config = ContainerConfig { seccomp: Seccomp::RuntimeDefault, ..ContainerConfig::default() };
            let capabilities: Vec<String> = capabilities.iter().map(|name| (*name).to_owned()).collect();
            filter(&config, &capabilities).unwrap().unwrap()
        };
        let call = |program: &[Instruction], name: &str, args: &[u64]| {
            run(program, syscalls::number(name).unwrap(), args)
        };
        let plain = of(&[]);
        for good in ["read", "execve", "openat2", "futex", "ptrace", "seccomp"] {
            assert_eq!(call(&plain, good, &[]), ALLOW, "{good}");
        }
        for bad in
            ["mount", "bpf", "kexec_load", "unshare", "io_uring_setup", "init_module", "keyctl", "setns"]
        {
            assert_eq!(call(&plain, bad, &[]), EPERM, "{bad}");
        }
        assert_eq!(call(&of(&["CAP_SYS_ADMIN"]), "mount", &[]), ALLOW);
        // New namespaces are not to be had by clone either, and not by its successor, whose flags a filter can't see.
        assert_eq!(call(&plain, "clone", &[0x1000_0000]), EPERM);
        assert_eq!(call(&plain, "clone", &[0x0001_0000]), ALLOW);
        assert_eq!(call(&plain, "clone3", &[]), 0x0005_0000 | 38);
        assert_eq!(call(&plain, "socket", &[40]), EPERM);
        assert_eq!(call(&plain, "socket", &[2]), ALLOW);
        assert_eq!(run(&plain, 100_000, &[]), EPERM, "what nobody knew of when this was written");
    }

    #[test]
    fn who_is_privileged_or_asks_for_none_has_no_filter() {
        let config =
            |seccomp, privileged| ContainerConfig { seccomp, privileged, ..ContainerConfig::default() };
        assert!(filter(&config(Seccomp::Unconfined, false), &[]).unwrap().is_none());
        assert!(filter(&config(Seccomp::RuntimeDefault, true), &[]).unwrap().is_none());
        let bad = filter(&config(Seccomp::Profile("{}".to_owned()), false), &[]).unwrap_err();
        assert!(bad.to_string().starts_with("seccompProfile: "), "{bad}");
    }
}
