//! Containers on one node: images, sandboxes, containers, their logs and commands in them.
//!
//! Owns: `DATA_DIR/agent/images` and `DATA_DIR/agent/pods`, the cgroups `yunfan-<tag>/pod*`, and one *shim*
//! process per pod, which outlives the process that started it.
//!
//! Must never know: objects, the API, the store, how a network namespace came to be. It is told a path.
//!
//! Where to start: [`Runtime`] is the seam the agent uses; [`EmbeddedRuntime`] implements it. The shim's life is in
//! [`shim`]: it is single-threaded, because it forks and lets `libcontainer` run code between fork and exec,
//! which is unsound in a process with threads. The shim gets its own mount namespace, so no container mount
//! ever shows up on the host: when a pod's processes are gone, its mounts are gone.

#![deny(unsafe_code)]

mod capabilities;
mod cgroup;
mod code;
pub mod conformance;
mod devices;
pub mod embedded;
pub mod error;
pub mod image;
pub mod kit;
pub mod logs;
mod mounts;
mod proto;
pub mod runtime;
mod seccomp;
pub mod shim;
mod spec;
mod sys;
mod teardown;
mod timestamp;
mod tree;
pub mod types;
mod user;

pub use code::unmap_code;
pub use embedded::{Config, EmbeddedRuntime};
pub use error::{Result, RuntimeError};
pub use image::{Image, ImageService, ImageStore};
pub use logs::writer::Stream as LogOutput;
pub use logs::{LogOptions, LogStream};
pub use runtime::{ExecExit, ExecReader, ExecSession, ExecWriter, Resizer, Runtime};
pub use teardown::teardown;
pub use tree::{DiskUse, disk_usage, measure as measure_disk};
pub use types::*;

/// Most processes and threads in a container whose [`Resources::pids_limit`] is not given.
pub const DEFAULT_PIDS_LIMIT: i64 = 4096;
/// The handler of RuntimeClasses that the runtime in this program is.
pub const OWN_HANDLER: &str = "yunfan";
/// [`Runtime::exec_sync`] keeps this many bytes of each output and drops the rest.
pub const EXEC_OUTPUT_LIMIT: usize = 1024 * 1024;
