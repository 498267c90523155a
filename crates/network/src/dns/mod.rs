//! DNS inside each network, on the gateway's address and the cluster DNS address.
//!
//! `zone` and `services` answer from memory, `server` speaks UDP and TCP, `forward` asks the host's resolvers for names
//! outside the cluster domain, on the cluster network only.

mod forward;
mod server;
mod services;
mod zone;

pub(crate) use server::{Dns, listen_addresses, serve};
