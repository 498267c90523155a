//! How every component reaches the registry: brains, hands and doors alike.
//!
//! **Owns**: [`Informers`] (one shared store per kind and process, kept up to date by a watch),
//! [`Writer`] (patches only), [`Queue`] and [`run_loop`] (the shape of every control loop) and
//! [`Recorder`] (events that people read).
//!
//! **Must never know**: any kind's meaning, and whether the API server is in this process or
//! behind TLS. Both look the same here: a `kube::Client`. So any control loop can also be pointed
//! at a stock Kubernetes cluster.
//!
//! Start reading at [`Informers::of`], then [`run_loop`].
#![forbid(unsafe_code)]

mod correlator;
mod index;
mod informer;
mod measure;
mod queue;
mod recorder;
mod remote;
mod writer;

pub use index::Index;
pub use informer::{Change, Changes, Informer, Informers, ObjectKey, Watched};
pub use measure::register_metrics;
pub use queue::{Queue, run_loop};
pub use recorder::{Recorder, Severity};
pub use remote::{RemoteError, Renewable, connect};
pub use writer::{Writer, is_conflict, is_exists, is_not_found};
