//! DHCP on tenant networks: each client is given its Port's fixed address, known by its MAC.
//!
//! `reply` decides what to say and to whom; `server` moves the packets.

mod reply;
mod server;

pub(crate) use server::serve;
