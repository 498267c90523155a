//! What can go wrong, said so that a person knows what to do next.

use std::net::Ipv4Addr;

/// An error of this crate. Nothing is half-applied that a repeated call would not put right.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The caller named a network that [`crate::NodeNetworks::ensure`] never saw on this node.
    #[error("network {uid} does not exist on this node; ensure it first")]
    UnknownNetwork {
        /// The uid that was asked for.
        uid: String,
    },
    /// The caller named a pod or port that is not attached on this node.
    #[error("{id} is not attached to any network of this node")]
    UnknownAttachment {
        /// The pod or port uid that was asked for.
        id: String,
    },
    /// An argument cannot be used.
    #[error("{field}: {reason}")]
    Invalid {
        /// The argument at fault.
        field: &'static str,
        /// Why, and what would be right.
        reason: String,
    },
    /// Every address of the node's slice of the cluster network is taken.
    #[error(
        "no free address is left in {cidr} ({used} in use); delete pods on this node or give it a larger slice"
    )]
    Exhausted {
        /// The node's slice.
        cidr: String,
        /// How many addresses are allocated.
        used: usize,
    },
    /// The tap device is held by a process that is still running.
    #[error("tap device {ifname} is in use by another process (a running QEMU); stop it first")]
    TapBusy {
        /// The device, inside the network's namespace.
        ifname: String,
    },
    /// A program that this crate needs is not installed.
    #[error("the program `{program}` is missing; install the Debian package `{package}`")]
    MissingProgram {
        /// Its name on PATH.
        program: &'static str,
        /// Where it comes from.
        package: &'static str,
    },
    /// The firewall refused a transaction; nothing of it was applied.
    #[error("nft refused the rules of {scope}: {message}")]
    Rules {
        /// The namespace or table.
        scope: String,
        /// What nft said.
        message: String,
    },
    /// The kernel refused a netlink request.
    #[error("{action}: {source}")]
    Netlink {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A system call or a file operation failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A state file cannot be read as what it should be.
    #[error("state file {path} is not readable: {message}; remove it and let the agent attach again")]
    State {
        /// The file.
        path: String,
        /// The parser's message.
        message: String,
    },
    /// No free pair of transfer addresses was found for the uplink.
    #[error("no free link-local /30 is left for the uplink near {near}; remove other clouds of this host")]
    NoTransferNet {
        /// Where the search began.
        near: Ipv4Addr,
    },
}

impl NetworkError {
    pub(crate) fn io(action: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { action: action.into(), source: source.into() }
    }

    pub(crate) fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, NetworkError>;
