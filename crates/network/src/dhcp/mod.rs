//! DHCP on tenant networks: each client is given its Port's fixed address, known by its MAC.
//!
//! `reply` decides what to say and to whom, `six` what to say in DHCPv6; `server` moves the packets.

mod reply;
mod server;
mod six;

pub(crate) use server::{serve, serve6};
