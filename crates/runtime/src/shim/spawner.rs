//! The process that shims are forked from: it has one thread for as long as it lives, and nothing of the agent's memory in it.
//!
//! A program of many megabytes that is started anew for each pod has to be linked anew each time, and keeps what that wrote: two
//! megabytes for each pod, which copies of this process share. It ends when the agent does; the shims go on.
//!
//! It has a mount namespace of its own, which shims start from: the names of all pods' network namespaces are mounts, and each pod would have
//! a copy of each other's. So are what pods have in memory, and their claims: of those, a shim mounts its own pod's.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use super::os;
use crate::mounts::mounts;
use crate::proto::{self, NETNS_DIR, Start};
use crate::sys;

/// Starts shims until nobody asks any more: the agent is at the other end of stdin.
pub(super) fn serve(tag: &str) -> Result<(), String> {
    let agent = std::io::stdin();
    if agent.is_terminal() {
        return Err("the shim is started by the agent only".to_owned());
    }
    os::let_children_go().map_err(|e| format!("children: {e}"))?;
    os::unshare(UnshareFlags::NEWNS).map_err(|e| format!("new mount namespace: {e}"))?;
    // What is mounted on the host from now on is seen here, and in the pods, but not the other way round.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).map_err(|e| format!("mount propagation: {e}"))?;
    let mut buffer = vec![0; 64 * 1024];
    let mut hidden = false;
    let mut private = HashSet::new();
    loop {
        match rustix::event::poll(&mut [PollFd::new(&agent, PollFlags::IN)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(format!("poll: {errno}")),
        }
        let mut fds = Vec::new();
        let read = match sys::recv_fds(&agent, &mut buffer, &mut fds) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(errno) => return Err(format!("the agent's socket: {errno}")),
        };
        // One frame: the kernel gives no more at once than what one set of descriptors came with.
        let Ok(Some(start)) = proto::decode::<Start>(&mut buffer[..read].to_vec()) else {
            return Err("the agent speaks another language".to_owned());
        };
        // The directory may come to be a mount only with the first pod on a network.
        hidden = hidden || hide(Path::new(NETNS_DIR));
        for dir in &start.hide {
            if !private.contains(dir) && hide(dir) {
                private.insert(dir.clone());
            }
        }
        // The agent sees by the pipe that came along whether there is a shim.
        if let Err(errno) = os::fork(|| stand_by(tag, &start, fds)) {
            complain(&format!("{}: fork: {errno}", start.pod.display()));
        }
    }
}

/// Forgets all that is mounted below a directory, which is a mount itself, and what will be. False when it is none yet.
fn hide(dir: &Path) -> bool {
    let Ok(points) = mounts() else { return false };
    if !points.iter().any(|point| point == dir) {
        return false;
    }
    if rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE).is_err() {
        return false;
    }
    // The last ones first: they may be on top of others.
    for point in points.iter().rev().filter(|point| point.starts_with(dir) && *point != dir) {
        // One that is left costs memory and nothing else.
        let _ = rustix::mount::unmount(point, UnmountFlags::DETACH);
    }
    true
}

/// The life of a shim, in a copy of this process; returns its exit code.
fn stand_by(tag: &str, start: &Start, fds: Vec<OwnedFd>) -> i32 {
    // A panic must not unwind into the code that it is a copy of.
    let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
        os::mind_children().map_err(|e| format!("children: {e}"))?;
        let mut fds = fds.into_iter();
        let (ready, log) = fds.next().zip(fds.next()).ok_or("it came without its descriptors")?;
        rename(tag, &start.pod);
        let failed = |e: Errno| format!("standard streams: {e}");
        let null =
            rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        rustix::stdio::dup2_stdin(null).map_err(failed)?;
        rustix::stdio::dup2_stdout(ready).map_err(failed)?;
        rustix::stdio::dup2_stderr(log).map_err(failed)?;
        let memory = start.memory.clone();
        let memory =
            memory.map(|at| Some((at, fds.next()?))).map(|pair| pair.ok_or("its mounts did not come"));
        super::run(&start.pod, memory.transpose()?, fds.next())
    }));
    match done {
        Ok(Ok(())) => 0,
        Ok(Err(reason)) => {
            complain(&reason);
            1
        }
        Err(_) => 101,
    }
}

/// Into the log of the pod, or the agent's before there is one.
fn complain(reason: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{reason}");
}

/// Each shim is found by its command line, by people and by whoever has to end it.
fn rename(tag: &str, pod: &Path) {
    let words = std::env::args_os().take_while(|word| word != "--tag").map(|word| word.into_encoded_bytes());
    let own = [b"--tag".to_vec(), tag.as_bytes().to_vec(), b"--pod".to_vec()];
    let mut line: Vec<u8> = Vec::new();
    for word in words.chain(own).chain([pod.as_os_str().as_encoded_bytes().to_vec()]) {
        line.extend_from_slice(&word);
        line.push(0);
    }
    if let Err(error) = os::set_command_line(&line) {
        complain(&format!("its command line can't be set: {error}"));
    }
}
