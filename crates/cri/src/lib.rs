//! Containers by whatever serves the Container Runtime Interface (CRI v1) on a Unix socket, such as containerd with runc.
//!
//! Owns: the sandboxes and containers of that runtime which carry this instance's label, `DATA_DIR/agent/pods`, what it mounts below it, and
//! `DATA_DIR/agent/cri-images`: to whom images were given.
//!
//! Must never know: objects, the API, the store, how a network namespace came to be.
//!
//! Where to start: [`CriRuntime`] implements [`yunfan_runtime::Runtime`] and [`yunfan_runtime::ImageService`], the seams that the agent uses. The container runtime is the one
//! that knows what runs ([`status`]): nothing is kept here that could not be asked for anew. What the interface has no words for
//! is done on the node ([`host`]) or refused by name. It makes pods' network namespaces itself and calls a CNI plug-in for what is
//! in them, where ours has to be: [`cni`] is that plug-in.

#![forbid(unsafe_code)]

mod api;
pub mod cni;
mod config;
mod container;
mod disk;
mod events;
mod host;
mod images;
mod runtime;
mod sandbox;
mod status;
mod streams;
mod teardown;

pub use api::socket_of;
pub use runtime::{Config, CriRuntime};
pub use teardown::teardown;
