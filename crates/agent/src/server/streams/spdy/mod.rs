//! Lanes over SPDY/3.1, as kubectl before 1.31 speaks it, and port-forward always: the server's role, and only what these need.
//!
//! Start with [`connection`] (streams), which sits on [`window`] (how much may be on the way) and `yunfan_spdy` (bytes).
//! Specification: "SPDY Protocol - Draft 3.1" by the Chromium project.

mod connection;
mod window;

pub(super) use connection::{Gate, Opened, open};
pub(super) use yunfan_spdy::Headers;

#[cfg(test)]
mod tests;
