//! Exec over SPDY/3.1, as kubectl before 1.31 speaks it: the server's role, and only what exec needs of it.
//!
//! Start with [`remotecommand`], which agrees with the client and carries a session; it sits on [`connection`] (streams),
//! [`window`] (how much may be on the way), [`frame`] and [`headers`] (bytes). Specification: "SPDY Protocol - Draft 3.1" by
//! the Chromium project, and `k8s.io/apimachinery/pkg/util/remotecommand` for what the streams mean.

mod connection;
mod frame;
mod headers;
mod remotecommand;
mod window;

use std::time::Duration;

pub(super) use remotecommand::{Protocol, upgrade};

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
enum SpdyError {
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("a frame of SPDY version {0} came; this server speaks version 3")]
    Version(u16),
    #[error("{what} too large: {size}")]
    TooLarge { what: &'static str, size: usize },
    #[error("protocol error: {0}")]
    Malformed(&'static str),
    #[error("the client left before all of its streams were open")]
    Left,
    #[error("the client did not open all streams that its query announces within {} s", .0.as_secs())]
    Late(Duration),
}
