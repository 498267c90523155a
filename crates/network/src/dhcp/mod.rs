//! DHCP on tenant networks: each client is given its Port's fixed address, known by its MAC.
//!
//! `extra` knows options that ports have of their own, `reply` decides what to say and to whom, `six` what to say in DHCPv6; `server` moves the packets.

mod extra;
mod reply;
mod server;
mod six;

pub use extra::ExtraOption;
pub(crate) use server::{serve, serve6};
