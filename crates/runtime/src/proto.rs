//! What the agent's side and a shim say to each other, over the Unix socket in the pod's directory.
//!
//! A frame is its length (4 bytes, little endian) and JSON. One connection carries one request and its replies:
//! `Subscribe` is answered by a snapshot and then by events for ever, `Exec` by `ExecStarted` and `ExecExited`,
//! `Attach` by `Attached` and `ExecExited` (and may be followed by `EndInput`), all others by one reply. File descriptors travel with the first byte of a frame:
//! with `Create`, trees of the node's mounts for its binds.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::{ContainerStatus, Propagation};

/// A longer frame ends the connection.
pub(crate) const LONGEST_FRAME: usize = 1 << 20;
/// Name of the socket in the pod's directory.
pub(crate) const SOCKET: &str = "shim.sock";
/// Name of the sandbox's description in the pod's directory.
pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
/// Name of the file in the pod's directory with the pid of what holds the shared process namespace.
pub(crate) const PAUSE_FILE: &str = "pause";
/// Name of the file in a container's bundle with its specification, or of the link to it.
pub(crate) const SPEC_FILE: &str = "config.json";
/// Name of the file in a container's bundle with its filter of system calls, if it has one.
pub(crate) const FILTER_FILE: &str = "filter";
/// Name of the file in a container's bundle with the capabilities that it is lent to put its filter on.
pub(crate) const LENT_FILE: &str = "lent";
/// Name of the file in a container's bundle with its filter of devices, if it has one.
pub(crate) const DEVICES_FILE: &str = "devices";
/// File in a bundle with the mounts that are made once libcontainer has made the rest ([`crate::spec::late`]), if there are any.
pub(crate) const LATE_FILE: &str = "late-mounts";
/// Where network namespaces have their names, as iproute2 has it.
pub(crate) const NETNS_DIR: &str = "/run/netns";
/// In the command line of the process that shims are forked from; what follows is room for theirs.
pub(crate) const PODS_FLAG: &str = "--pods";
/// What the shim prints when it serves.
pub(crate) const READY: &str = "ready\n";

/// Has a shim started, by the process that all of them are forked from. The pipe that it says [`READY`] on, the file that it complains
/// in, where `memory` says so the mounts that it has there and, unless the pod is on the host's, its network namespace come along.
/// There is no reply.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The pod's directory.
    pub(crate) pod: PathBuf,
    /// Below these are mounts of single pods: no pod sees those of another.
    #[serde(default)]
    pub(crate) hide: Vec<PathBuf>,
    /// Below that: where the mounts belong that come along.
    #[serde(default)]
    pub(crate) memory: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Subscribe,
    Create(Box<Create>),
    /// Sends a signal to the container's first process.
    Signal {
        container: String,
        signal: i32,
    },
    /// Forgets a container that exited.
    Forget {
        container: String,
    },
    /// stdin, stdout, stderr come along, unless it gets a terminal: then `ExecStarted` brings its master.
    Exec(Exec),
    /// Copies of what the container writes go to the two pipes that come along, for stdout and stderr.
    Attach {
        container: String,
        /// Whether the client will write to the container's stdin.
        input: bool,
    },
    /// The attached client on this connection has no more input.
    EndInput,
    /// Kills all containers and ends the shim; the connection closes when that is done.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    /// As it is before the start. The bundle is at `containers/<local id>`: config.json, l/0 (uppermost layer) to
    /// l/n, upper, work, rootfs.
    pub(crate) status: ContainerStatus,
    /// How many layers there are in `l`.
    pub(crate) layers: usize,
    pub(crate) tty: bool,
    /// Whether something may be written to its stdin; it ends at once otherwise.
    #[serde(default)]
    pub(crate) stdin: bool,
    /// Whether stdin ends with the first client's input.
    #[serde(default)]
    pub(crate) stdin_once: bool,
    /// What to mount in the bundle before the container is made.
    #[serde(default)]
    pub(crate) binds: Vec<Bind>,
    /// Whether other processes of the container outlive its first one, so that they must be ended.
    #[serde(default)]
    pub(crate) shares_processes: bool,
    /// Below the pod's directory.
    pub(crate) log: String,
    /// Below the root of each hierarchy.
    pub(crate) cgroup: String,
}

/// A mount at `at`, below the bundle, which the container's specification names as a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Bind {
    /// What is at `path` below `base`; a directory is made there when nothing is, if `make`.
    Part { base: PathBuf, path: PathBuf, at: String, make: bool },
    /// The layers that are linked in the directory `links`, by their numbers, uppermost first.
    Layers { links: String, count: usize, at: String },
    /// What is at `path` in the pod's own mounts, with all that is mounted below it; without a path, the next of the trees that came along.
    /// For shims that say that they take it.
    Tree {
        path: Option<PathBuf>,
        at: String,
        propagation: Propagation,
        /// Below these parts of it nothing stays mounted.
        #[serde(default)]
        bare: Vec<PathBuf>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) container: String,
    pub(crate) command: Vec<String>,
    pub(crate) tty: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Ok,
    Snapshot {
        shim_pid: i32,
        containers: Vec<ContainerStatus>,
        /// Whether it takes [`Bind::Tree`].
        #[serde(default)]
        takes_trees: bool,
    },
    Container(Box<ContainerStatus>),
    ExecStarted,
    ExecExited {
        code: i32,
    },
    /// With the terminal's master or, when it takes input, the pipe to its stdin.
    Attached {
        tty: bool,
        input: bool,
    },
    NotFound,
    NotRunning,
    Failed {
        reason: String,
    },
}

pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; 4];
    // Our own types: they have no maps with odd keys and no failing serializers.
    let encoded = serde_json::to_writer(&mut frame, message);
    debug_assert!(encoded.is_ok());
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame
}

/// Takes the first whole frame off the buffer.
///
/// # Errors
/// When the peer does not speak this language; the connection is of no more use then.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, String> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    if length > LONGEST_FRAME {
        return Err(format!("a frame of {length} bytes"));
    }
    let Some(body) = buffer.get(4..4 + length) else {
        return Ok(None);
    };
    let message = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_may_come_in_pieces() {
        let frame = encode(&Reply::ExecExited { code: 7 });
        let mut buffer = frame[..5].to_vec();
        assert!(decode::<Reply>(&mut buffer).unwrap().is_none());
        buffer.extend_from_slice(&frame[5..]);
        buffer.extend_from_slice(&frame[..3]);
        let reply = decode::<Reply>(&mut buffer).unwrap();
        assert!(matches!(reply, Some(Reply::ExecExited { code: 7 })));
        assert_eq!(buffer.len(), 3);
        assert!(decode::<Reply>(&mut u32::MAX.to_le_bytes().to_vec()).is_err());
        assert!(decode::<Reply>(&mut vec![1, 0, 0, 0, b'x']).is_err());
    }
}
