//! The one error type of this crate: what went wrong, on which thing, and what to do about it.

use std::path::PathBuf;

use crate::tree::DiskUse;

/// Result of every operation in this crate.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// Why an operation on a sandbox, container, image or log failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No pod sandbox with this uid is known on this node.
    #[error("pod sandbox {0} does not exist on this node")]
    SandboxNotFound(String),
    /// The sandbox exists, but its shim process is gone: remove it and run a new one.
    #[error("pod sandbox {0} is dead (its shim process is gone): remove it and run it again")]
    SandboxDead(String),
    /// The sandbox has no such container.
    #[error("container {0} does not exist")]
    ContainerNotFound(String),
    /// The container exists but does not run now.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The image is not in the store: pull or import it first.
    #[error("image {0:?} is not present on this node: pull or import it first")]
    ImageNotFound(String),
    /// The image reference can't be understood.
    #[error("{reference:?} is not an image reference: {reason}")]
    BadReference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry refused or failed.
    #[error("pulling {reference} failed: {reason}")]
    Pull {
        /// The normalised reference.
        reference: String,
        /// What the registry or the transport said.
        reason: String,
    },
    /// The registry does not give the image to who asks.
    #[error("pulling {reference} failed: {reason}")]
    PullDenied {
        /// The normalised reference.
        reference: String,
        /// What the registry said.
        reason: String,
    },
    /// A layer is corrupt, hostile or too large. Nothing of it was kept.
    #[error("layer {digest} is refused: {reason}")]
    BadLayer {
        /// Digest of the layer blob, as the manifest names it.
        digest: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An image archive or manifest is corrupt.
    #[error("image {image} is corrupt: {reason}")]
    BadImage {
        /// Path of the archive, or the reference.
        image: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image can't be removed now.
    #[error("image {image} is in use by container {container}: remove the container first")]
    ImageInUse {
        /// Id of the image.
        image: String,
        /// One container that uses it.
        container: String,
    },
    /// A field of the caller's configuration can't be used.
    #[error("{field}: {reason}")]
    InvalidConfig {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it and what is expected.
        reason: String,
    },
    /// The container would run as root, and must not.
    #[error("{0}")]
    NonRoot(String),
    /// The container process could not be created or started.
    #[error("container could not be started: {reason}")]
    Start {
        /// Id of the container.
        container: String,
        /// What the kernel or the container library said.
        reason: String,
    },
    /// The shim could not be started or talked to.
    #[error("shim of pod {pod_uid}: {reason}")]
    Shim {
        /// Uid of the pod.
        pod_uid: String,
        /// What went wrong.
        reason: String,
    },
    /// The container runtime that is reached over a socket refused or failed.
    #[error("container runtime: {action}: {reason}")]
    Service {
        /// What was asked of it.
        action: &'static str,
        /// What it said.
        reason: String,
    },
    /// The command did not end in time; it was killed.
    #[error("command in container {0} timed out and was killed")]
    ExecTimeout(String),
    /// A file or directory operation failed.
    #[error("{action} {path:?} failed: {source}")]
    Io {
        /// What was attempted, as a verb ("read", "create").
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// There is more than could be counted: too many files for the time that this may take, directories that are too deep, or ones that are
    /// moved about meanwhile.
    #[error("what is in {path:?} could not be measured: it holds {} bytes or more", used.bytes)]
    NotMeasured {
        /// The directory.
        path: PathBuf,
        /// As far as it was measured.
        used: DiskUse,
    },
    /// A background task ended unexpectedly (the process is shutting down).
    #[error("internal task failed: {0}")]
    Task(String),
}

impl RuntimeError {
    /// Makes an error of the system's answer to what was attempted.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn shim(pod_uid: &str, reason: impl std::fmt::Display) -> Self {
        Self::Shim { pod_uid: pod_uid.to_owned(), reason: reason.to_string() }
    }

    /// A field that can't be used, and why.
    pub fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidConfig { field, reason: reason.into() }
    }
}
