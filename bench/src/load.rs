//! Load: many requests over several connections at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use yunfan_identity::pki::{Authority, Identity, client_config};

use crate::http::Server;

/// Connections at once.
const CONNECTIONS: usize = 32;
/// How long requests go on that are not counted.
const TIME: Duration = Duration::from_secs(4);

/// The server on a port of this machine, reached as the admin whose certificate is in `pki`.
///
/// # Errors
/// There is no such certificate.
pub fn as_admin(pki: &Path, port: u16) -> anyhow::Result<Server> {
    let admin = Identity::load(&pki.join("admin.crt"), &pki.join("admin.key"))?;
    known_as(pki, port, Some(&admin))
}

/// The same server, as nobody that TLS knows: a certificate goes before a token.
///
/// # Errors
/// The authority's files can't be read.
pub fn as_nobody(pki: &Path, port: u16) -> anyhow::Result<Server> {
    known_as(pki, port, None)
}

fn known_as(pki: &Path, port: u16, client: Option<&Identity>) -> anyhow::Result<Server> {
    let authority = Authority::open_or_create(pki)?;
    let tls = Arc::new(client_config(authority.certificate(), client)?);
    Ok(Server { address: ([127, 0, 0, 1], port).into(), tls })
}

/// Requests per second over 32 connections: so many in all, or for four seconds. `make` is given the request's number.
///
/// # Errors
/// A connection fails, or an answer is no success.
pub async fn many(
    server: &Server,
    most: Option<usize>,
    make: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static,
) -> anyhow::Result<f64> {
    let (make, next) = (Arc::new(make), Arc::new(AtomicUsize::new(0)));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(server.connect().await?);
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let (make, next) = (make.clone(), next.clone());
        tasks.spawn(async move {
            let mut done = 0;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if most.map_or(begun.elapsed() >= TIME, |most| number >= most) {
                    return anyhow::Ok(done);
                }
                connection.call(&make(number)).await?;
                done += 1;
            }
        });
    }
    let mut done = 0;
    while let Some(result) = tasks.join_next().await {
        done += result??;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}
