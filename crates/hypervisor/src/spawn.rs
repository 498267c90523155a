//! Starts QEMU as a process that outlives ours and can do little: its own session, cgroup, user and group, no capabilities, no
//! way to get any, and no open file that was not meant for it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit, setsid};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// First user id for machines. 1,879,048,192 and up is the range that no convention of Linux distributions assigns.
const FIRST_ID: u32 = 1_879_048_192;
/// How many user ids there are for machines.
const IDS: u32 = 200_000_000;

/// What a process is started with.
#[derive(Debug)]
pub(crate) struct Launch {
    /// Path of the program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Descriptors that it inherits under the numbers that they have here.
    pub(crate) inherited: Vec<OwnedFd>,
    /// `cgroup.procs` files of the cgroups that it joins.
    pub(crate) cgroups: Vec<File>,
    /// User and group that it runs as; `None` when we may not change them.
    pub(crate) user: Option<u32>,
    /// Groups that it is in besides.
    pub(crate) groups: Vec<u32>,
}

/// What QEMU writes to its standard error.
#[derive(Debug)]
pub(crate) struct Complaints(File);

impl Complaints {
    /// What there is to read now.
    pub(crate) fn read(&mut self) -> String {
        let mut text = Vec::new();
        // Ends with EAGAIN, because somebody always holds the other end.
        let _ = self.0.by_ref().take(64 << 10).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> =
            text.lines().map(|line| line.strip_prefix("qemu-system-x86_64: ").unwrap_or(line)).collect();
        let text = lines.join("; ");
        text.chars().take(2000).collect()
    }
}

/// The user id of a machine, by the machine's uid. Two machines may share one (once in 200 million); that costs them a wall
/// between each other, not between them and the host.
pub(crate) fn user_of(uid: &str) -> u32 {
    // FNV-1a
    let hash =
        uid.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    FIRST_ID + hash % IDS
}

/// The group that may open /dev/kvm.
pub(crate) fn kvm_group() -> Option<u32> {
    fs::metadata("/dev/kvm").ok().map(|meta| meta.gid())
}

/// Looks for a program in PATH. Not left to `execvp`, which searches as the new user and then takes a directory that this user
/// can't enter for the reason.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_absolute() && file.is_file())
}

/// Starts it. Returns when the program was executed (or could not be).
pub(crate) fn spawn(launch: Launch) -> io::Result<(Child, Complaints)> {
    // A pipe that never blocks its writer: once 64 KiB wait in it, the rest is dropped. A file would grow with what a guest
    // makes QEMU complain about. The child holds the reading end too, so that our death does not close the pipe.
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let Launch { program, arguments, mut inherited, cgroups, user, groups } = launch;
    inherited.push(reader.try_clone()?);
    let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let prepare = move || {
        for group in &cgroups {
            // 0 means the process that writes.
            rustix::io::write(group, b"0")?;
        }
        setsid()?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        for fd in &inherited {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        if let Some(user) = user {
            set_thread_groups(&groups)?;
            let (group, user) = (Gid::from_raw(user), Uid::from_raw(user));
            set_thread_res_gid(group, group, group)?;
            set_thread_res_uid(user, user, user)?;
        }
        set_no_new_privs(true)?;
        Ok(())
    };
    // SAFETY: `prepare` runs in the forked child, where only async-signal-safe functions may be called. It makes system calls
    // through rustix and touches memory that was allocated before the fork; it allocates nothing and takes no lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(prepare);
    }
    let child = command.spawn()?;
    Ok((child, Complaints(File::from(reader))))
}

/// Numbers of descriptors, for the command line.
pub(crate) fn number(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, user: Option<u32>) -> Launch {
        let arguments = vec!["-c".into(), script.into()];
        Launch {
            program: find_program("sh").unwrap(),
            arguments,
            inherited: vec![],
            cgroups: vec![],
            user,
            groups: vec![],
        }
    }

    #[test]
    fn it_has_a_session_of_its_own_and_no_rights() {
        let user = rustix::process::geteuid().is_root().then(|| user_of("a"));
        let script =
            "cut -d' ' -f6 /proc/$$/stat >&2; grep -E '^(Uid|CapEff|NoNewPrivs)' /proc/$$/status >&2";
        let (mut child, mut complaints) = spawn(shell(script, user)).unwrap();
        let pid = child.id();
        assert!(child.wait().unwrap().success());
        let said = complaints.read();
        assert!(said.starts_with(&pid.to_string()) && said.contains("NoNewPrivs:\t1"), "{said}");
        if let Some(user) = user {
            assert!(
                said.contains(&format!("Uid:\t{user}\t{user}")) && said.contains("CapEff:\t0000000000000000"),
                "{said}"
            );
        }
    }

    #[test]
    fn complaints_without_end_block_nobody() {
        let (mut child, mut complaints) = spawn(shell("head -c 1000000 /dev/zero >&2; true", None)).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(complaints.read().len() <= 2000);
    }

    #[test]
    fn a_missing_program_is_told() {
        assert_eq!(find_program("no-such-program"), None);
        let launch = Launch { program: "/no-such-program".into(), ..shell("", None) };
        assert_eq!(spawn(launch).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
