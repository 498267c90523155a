//! Work that is done in a short-lived clone of the shim: everything that calls libcontainer.
//!
//! libcontainer changes the process it runs in (working directory, dumpable flag, OOM score) and may wait; in a
//! clone none of that matters. What it starts becomes the shim's child when the clone ends: the shim is the
//! subreaper.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use rustix::pipe::PipeFlags;
use serde::{Deserialize, Serialize};

use super::{binds, filter, late, os, working_dir};
use crate::cgroup;
use crate::devices::filter::Filter;
use crate::proto::{Bind, DEVICES_FILE};

/// What a clone did.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// Pid of the process it started.
    Started(i32),
    Failed(String),
}

/// A running clone.
pub(super) struct Clone {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    result: OwnedFd,
}

/// Stdin, stdout and stderr of a process, or the socket that gets its terminal.
pub(super) enum Stdio {
    Files([OwnedFd; 3]),
    Terminal(PathBuf),
}

impl Clone {
    /// Runs `work` in a clone of this process.
    pub(super) fn spawn(work: impl FnOnce() -> Result<i32, String>) -> Result<Self, String> {
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (result, writer) = rustix::pipe::pipe_with(flags).map_err(|e| format!("pipe: {e}"))?;
        let pid = os::fork(|| {
            // A panic must not unwind into the shim's own code, of which the clone has a copy.
            let done = std::panic::catch_unwind(AssertUnwindSafe(work));
            let outcome = match done {
                Ok(Ok(pid)) => Outcome::Started(pid),
                Ok(Err(reason)) => Outcome::Failed(reason),
                Err(_) => Outcome::Failed("internal error, see shim.log".to_owned()),
            };
            let text = serde_json::to_vec(&outcome).unwrap_or_default();
            // A pipe takes 64 KiB at once.
            let _ = rustix::io::write(&writer, &text[..text.len().min(65_536)]);
            0
        })
        .map_err(|e| format!("fork: {e}"))?
        .as_raw_nonzero()
        .get();
        let pidfd = super::container::pidfd_of(pid)?;
        Ok(Self { pid, pidfd, result })
    }

    /// The outcome of a clone that ended.
    pub(super) fn outcome(&self) -> Outcome {
        let mut text = vec![0; 65_536];
        let read = rustix::io::read(&self.result, &mut text[..]).unwrap_or(0);
        serde_json::from_slice(&text[..read])
            .unwrap_or_else(|_| Outcome::Failed("it ended without a word, see shim.log".to_owned()))
    }
}

/// Mounts the root file system, makes the container and starts it. Returns the pid of its first process.
pub(super) fn create(
    pod: &Path,
    id: &str,
    cgroup: &str,
    layers: usize,
    (binds, trees): (&[Bind], Vec<OwnedFd>),
    stdio: Stdio,
) -> Result<i32, String> {
    let bundle = pod.join("containers").join(id);
    mount_root(&bundle, layers)?;
    // Nothing of the node's is open any more when the container's own processes begin.
    binds::make(&bundle, binds, trees)?;
    working_dir::make(&bundle)?;
    std::env::set_current_dir(pod).map_err(|e| e.to_string())?;
    let mut container = builder(pod, id, stdio)
        .and_then(|builder| builder.as_init(&bundle).with_systemd(false).with_detach(true).build())
        .map_err(|e| explain(&e))?;
    let pid = container.pid().ok_or("the container has no process")?.as_raw();
    if let Err(reason) = guard_devices(&bundle, cgroup).and_then(|()| late::make(&bundle, pid)) {
        // It waits to be started.
        let _ = container.delete(true);
        return Err(reason);
    }
    container.start().map_err(|e| explain(&e))?;
    Ok(pid)
}

/// Puts the container's filter of devices on its cgroup, if it has one. Its own devices are there by now.
fn guard_devices(bundle: &Path, cgroup: &str) -> Result<(), String> {
    let text = match std::fs::read(bundle.join(DEVICES_FILE)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|e| format!("its filter of devices: {e}"))?,
    };
    let filter: Filter = serde_json::from_slice(&text).map_err(|e| format!("its filter of devices: {e}"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let done = rustix::fs::open(cgroup::unified(cgroup), flags, Mode::empty())
        .and_then(|dir| os::filter_devices(dir.as_fd(), &filter.program));
    match done {
        // Without it, what keeps a container from the node's disks is that it can neither make devices nor mount them.
        Err(errno) if !filter.needed => eprintln!("no filter of devices for {cgroup}: {errno}"),
        Err(errno) => {
            return Err(format!(
                "this node's kernel takes no filter of devices ({errno}), and nothing else keeps a container from the node's devices \
                 that has MKNOD, SYS_ADMIN or a device to read only"
            ));
        }
        Ok(()) => {}
    }
    Ok(())
}

/// Starts one more process in a running container. `process` is a file with its description.
pub(super) fn exec(pod: &Path, id: &str, process: &Path, stdio: Stdio) -> Result<i32, String> {
    let pid = builder(pod, id, stdio)
        .and_then(|builder| builder.as_tenant().with_process(Some(process)).with_detach(true).build())
        .map_err(|e| explain(&e))?;
    Ok(pid.as_raw())
}

fn builder(pod: &Path, id: &str, stdio: Stdio) -> Result<ContainerBuilder, LibcontainerError> {
    let builder =
        ContainerBuilder::new(id.to_owned(), SyscallType::default()).with_root_path(pod.join("run"))?;
    let builder = match filter::of(&pod.join("containers").join(id)) {
        Some(executor) => builder.with_executor(executor),
        None => builder,
    };
    Ok(match stdio {
        Stdio::Files([stdin, stdout, stderr]) => {
            builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr)
        }
        Stdio::Terminal(socket) => builder.with_console_socket(Some(socket)),
    })
}

/// Lays the container's own layer over the image's.
fn mount_root(bundle: &Path, layers: usize) -> Result<(), String> {
    // Volatile: the upper layer is thrown away with the container, so nothing needs to reach the disk in time.
    let own = "upperdir=../upper,workdir=../work,volatile";
    overlay(&bundle.join("l"), layers, Some(own), "../rootfs")
        .map_err(|e| format!("mounting its root file system with {layers} layers: {e}"))
}

/// Lays layers over each other at `target`. They are named by the short links in `links`, because the kernel takes at most a page
/// of options.
pub(super) fn overlay(links: &Path, layers: usize, own: Option<&str>, target: &str) -> Result<(), String> {
    std::env::set_current_dir(links).map_err(|e| e.to_string())?;
    let lower: Vec<String> = (0..layers).map(|number| number.to_string()).collect();
    let own = own.map_or_else(String::new, |own| format!(",{own}"));
    let options = CString::new(format!("lowerdir={}{own}", lower.join(":"))).map_err(|e| e.to_string())?;
    rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|e| e.to_string())
}

/// The innermost causes say most, and the outer ones say where.
fn explain(error: &LibcontainerError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
