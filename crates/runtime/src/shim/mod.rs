//! The process that stands by one pod: it holds the pod's namespaces, starts its containers, keeps their output and
//! tells how they ended. It outlives the agent that had it started.
//!
//! It has one thread, always. libcontainer clones itself and runs ordinary code in the clone, which is sound only
//! then; so everything here is plain blocking code around one `poll`.
//!
//! All shims of a node are copies of one process, the [`spawner`]. [`namespaces`] makes a shim what it is, [`server`] is its life, [`tasks`] what it is asked to start, [`create`] what
//! it does for that in short-lived clones of itself; [`attach`] are those who watch a container's output, [`pause`] holds process
//! IDs for containers that share them.

mod attach;
pub(crate) mod binds;
mod console;
mod container;
mod create;
mod filter;
mod late;
pub(crate) mod namespaces;
mod os;
mod pause;
mod server;
mod spawner;
mod tasks;
mod working_dir;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::proto::{PODS_FLAG, READY, SANDBOX_FILE};
use crate::types::SandboxConfig;

/// Entry of the hidden sub-command: `args` are what follows it on the command line. Call it before any thread
/// exists. Does not return.
pub fn main(args: &[String]) -> ! {
    let code = match enter(args) {
        Ok(()) => 0,
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "{reason}");
            1
        }
    };
    std::process::exit(code)
}

fn enter(args: &[String]) -> Result<(), String> {
    let [tag_flag, tag, pods_flag, ..] = args else {
        return Err("usage: shim --tag TAG --pods ROOM (started by the agent only)".to_owned());
    };
    if tag_flag != "--tag" || pods_flag != PODS_FLAG || tag.is_empty() {
        return Err(format!("the shim takes --tag TAG {PODS_FLAG} ROOM"));
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(format!("the shim was entered with {threads} threads; it must have one"));
    }
    spawner::serve(tag)
}

/// The life of the shim of the pod in `dir`, with the mounts that it has in memory and on the network namespace that was opened for it.
fn run(dir: &Path, memory: Option<(PathBuf, OwnedFd)>, netns: Option<OwnedFd>) -> Result<(), String> {
    let text = std::fs::read(dir.join(SANDBOX_FILE)).map_err(|e| format!("{SANDBOX_FILE}: {e}"))?;
    let sandbox: SandboxConfig = serde_json::from_slice(&text).map_err(|e| format!("{SANDBOX_FILE}: {e}"))?;
    let listener = namespaces::enter(&sandbox, dir, memory, netns)?;
    std::io::stdout().write_all(READY.as_bytes()).map_err(|e| format!("nobody waits for this shim: {e}"))?;
    server::Server::new(listener, dir.to_owned()).serve()
}
