//! SPDY/3.1 in bytes: frames and header blocks, for both ends of a connection, and only what Kubernetes' streams need.
//!
//! Owns: the wire format. Must never know: what streams are for, and when something may be sent.
//!
//! Where to start: [`FrameDecoder`] and [`FrameEncoder`], which are codecs of `tokio-util`. Specification: "SPDY Protocol - Draft 3.1" by
//! the Chromium project.

#![forbid(unsafe_code)]

mod frame;
mod headers;

pub use frame::{
    CANCEL, Frame, FrameDecoder, FrameEncoder, GOAWAY_OK, GOAWAY_PROTOCOL_ERROR, INVALID_STREAM,
    PROTOCOL_ERROR, REFUSED_STREAM,
};
pub use headers::Headers;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It broke.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The other side speaks another version.
    #[error("a frame of SPDY version {0} came; version 3 is spoken here")]
    Version(u16),
    /// More than is taken.
    #[error("{what} too large: {size}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size, or a limit that it goes beyond.
        size: usize,
    },
    /// The other side does not keep to the protocol.
    #[error("protocol error: {0}")]
    Malformed(&'static str),
}
