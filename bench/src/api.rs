//! `bench-api`: the Kubernetes API under load, over TLS: how many writes and reads a second, how long a list of 10,000
//! objects and an event to 100 watchers take, and the memory that holds it all. With `KUBE_APISERVER=PATH` the same
//! client drives that program over an etcd in the same run, and each line tells the ratio. (It needs etcd 3.5 or later:
//! `ETCD=PATH` where Debian's is older.)
//!
//! Use: `bench-api YUNFAN`, as root; `make bench` calls it.

#![expect(clippy::print_stdout, reason = "a benchmark speaks to whoever runs it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use yunfan_bench::http::{Connection, Server, request};
use yunfan_bench::numbers::{median, ms};
use yunfan_bench::process::{ApiServer, Cloud, pss};
use yunfan_identity::pki::{Authority, Identity, client_config};

const OBJECTS: usize = 10_000;
const CONNECTIONS: usize = 32;
const WATCHERS: usize = 100;
const EVENTS: usize = 200;
const LISTS: usize = 9;
const PAGE: usize = 500;
/// How long reads and patches go on.
const TIME: Duration = Duration::from_secs(4);
const MAPS: &str = "/api/v1/namespaces/bench/configmaps";
const JSON: &str = "content-type: application/json\r\n";
const MERGE: &str = "content-type: application/merge-patch+json\r\n";

fn main() -> anyhow::Result<()> {
    let yunfan = std::env::args_os().nth(1).map(PathBuf::from).context("use: bench-api YUNFAN")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let scratch = tempfile::tempdir_in("/var/tmp")?;
    let peer = match std::env::var_os("KUBE_APISERVER") {
        Some(path) => Some(runtime.block_on(peer(Path::new(&path), scratch.path()))?),
        None => None,
    };
    let dir = scratch.path().join("cloud");
    let own = runtime.block_on(own(&yunfan, &dir));
    let _ = Command::new(&yunfan).args(["down", "--delete-data", "--data-dir"]).arg(&dir).output();
    show(&own?, peer.as_deref());
    Ok(())
}

/// One number of a run.
struct Number {
    what: &'static str,
    value: f64,
    unit: &'static str,
}

fn show(own: &[Number], peer: Option<&[Number]>) {
    println!("{:<44} {:>12} {:>24} {:>7}", "", "yunfan", "kube-apiserver + etcd", "ratio");
    for number in own {
        let Number { what, value, unit } = number;
        let other = peer.and_then(|peer| peer.iter().find(|other| other.what == *what));
        let (shown, ratio) = match other {
            Some(other) => (format!("{:.1} {unit}", other.value), format!("{:.2}", value / other.value)),
            None => ("-".to_owned(), "-".to_owned()),
        };
        println!("{what:<44} {:>12} {shown:>24} {ratio:>7}", format!("{value:.1} {unit}"));
    }
}

async fn own(yunfan: &Path, dir: &Path) -> anyhow::Result<Vec<Number>> {
    let cloud = Cloud::start(yunfan, dir, 17445)?;
    let pki = dir.join("pki");
    let mut numbers = vec![time("start to ready", cloud.took)];
    numbers.extend(load(&server(&pki, 17445)?, &[cloud.pid()]).await.context("yunfan under load")?);
    drop(cloud);
    let again = Cloud::start(yunfan, dir, 17445)?;
    numbers.push(time("start to ready, holding the objects", again.took));
    Ok(numbers)
}

async fn peer(path: &Path, scratch: &Path) -> anyhow::Result<Vec<Number>> {
    let pki = scratch.join("pki");
    let authority = Authority::open_or_create(&pki)?;
    authority.server("server", "kube-apiserver", &["127.0.0.1", "localhost"])?;
    authority.client("admin", "admin", &["system:masters"])?;
    let dir = scratch.join("peer");
    let peer = ApiServer::start(path, &dir, &pki, 17450)?;
    let mut numbers = vec![time("start to ready", peer.took)];
    let loaded = load(&server(&pki, 17450)?, &peer.pids()).await;
    numbers.extend(loaded.context("kube-apiserver under load")?);
    drop(peer);
    let again = ApiServer::start(path, &dir, &pki, 17450)?;
    numbers.push(time("start to ready, holding the objects", again.took));
    Ok(numbers)
}

/// The server on a port, reached as the admin whose certificate is in `pki`.
fn server(pki: &Path, port: u16) -> anyhow::Result<Server> {
    let authority = Authority::open_or_create(pki)?;
    let admin = Identity::load(&pki.join("admin.crt"), &pki.join("admin.key"))?;
    let tls = Arc::new(client_config(authority.certificate(), Some(&admin))?);
    Ok(Server { address: ([127, 0, 0, 1], port).into(), tls })
}

fn time(what: &'static str, time: Duration) -> Number {
    Number { what, value: time.as_secs_f64() * 1000.0, unit: "ms" }
}

fn rate(what: &'static str, value: f64) -> Number {
    Number { what, value, unit: "/s" }
}

/// Everything that is measured on a server that runs.
async fn load(server: &Server, pids: &[u32]) -> anyhow::Result<Vec<Number>> {
    let mut one = server.connect().await?;
    let namespace = br#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"bench"}}"#;
    one.call(&request("POST", "/api/v1/namespaces", JSON, namespace)).await?;
    let mut numbers = Vec::new();
    let data = "x".repeat(1024);
    let create = move |number: usize| {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"map-{number:05}"}},"data":{{"a":"{data}"}}}}"#
        );
        request("POST", MAPS, JSON, body.as_bytes())
    };
    let created = many(server, Some(OBJECTS), create).await?;
    numbers.push(rate("create ConfigMaps of 1 KiB, 32 connections", created));
    let memory: u64 = pids.iter().map(|pid| pss(*pid)).sum::<anyhow::Result<u64>>()?;
    numbers.push(Number { what: "memory (Pss) holding 10,000", value: memory as f64, unit: "MiB" });
    let read = many(server, None, |_| request("GET", &format!("{MAPS}/map-00042"), "", b"")).await?;
    numbers.push(rate("read one, 32 connections", read));
    let patched = many(server, None, |number| {
        let path = format!("{MAPS}/map-{:05}", number % OBJECTS);
        request("PATCH", &path, MERGE, format!(r#"{{"data":{{"n":"{number}"}}}}"#).as_bytes())
    })
    .await?;
    numbers.push(rate("merge patch, 32 connections", patched));
    // The first connection was idle for longer than the server lets it be.
    let mut one = server.connect().await?;
    numbers.push(list(&mut one, "list of 10,000", "").await?);
    numbers.push(list(&mut one, "list of 10,000, gzip accepted", "accept-encoding: gzip\r\n").await?);
    numbers.push(pages(&mut one).await?);
    numbers.push(watchers(server).await?);
    Ok(numbers)
}

/// Requests per second over all connections: so many in all, or for some time.
async fn many(
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

async fn list(connection: &mut Connection, what: &'static str, headers: &str) -> anyhow::Result<Number> {
    let request = request("GET", MAPS, headers, b"");
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let begun = Instant::now();
        let body = connection.call(&request).await?;
        times.push(begun.elapsed());
        ensure!(body.len() > 100_000, "a list of {} bytes", body.len());
    }
    Ok(time(what, median(&mut times)))
}

async fn pages(connection: &mut Connection) -> anyhow::Result<Number> {
    let begun = Instant::now();
    let mut token = String::new();
    for _ in 0..OBJECTS / PAGE {
        let path = format!("{MAPS}?limit={PAGE}&continue={token}");
        let body = connection.call(&request("GET", &path, "", b"")).await?;
        // The list's metadata comes first.
        let head = String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned();
        let next = head.split_once("\"continue\":\"").and_then(|(_, rest)| rest.split('"').next());
        token = next.unwrap_or_default().to_owned();
    }
    Ok(time("the same in pages of 500, in all", begun.elapsed()))
}

/// From the start of a write until a watcher has its event: the middle over all watchers and events.
async fn watchers(server: &Server) -> anyhow::Result<Number> {
    let mut one = server.connect().await?;
    let head = one.call(&request("GET", &format!("{MAPS}?limit=1"), "", b"")).await?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let revision = head.split_once("\"resourceVersion\":\"").and_then(|(_, rest)| rest.split('"').next());
    let watch = format!("{MAPS}?watch=1&resourceVersion={}", revision.context("a list without a revision")?);
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut connection = server.connect().await?;
        connection.open(&request("GET", &watch, "", b"")).await?;
        let arrived = arrived.clone();
        tasks.spawn(async move {
            while let Ok(piece) = connection.piece().await {
                if piece.is_empty() || arrived.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
    }
    let mut times = Vec::new();
    for number in 0..EVENTS {
        let body = format!(r#"{{"data":{{"event":"{number}"}}}}"#);
        let patch = request("PATCH", &format!("{MAPS}/map-00007"), MERGE, body.as_bytes());
        let begun = Instant::now();
        one.call(&patch).await?;
        for _ in 0..WATCHERS {
            let at = tokio::time::timeout(Duration::from_secs(10), arrivals.recv()).await;
            let at = at.context("an event did not come")?.context("the watchers ended")?;
            times.push(at.saturating_duration_since(begun));
        }
    }
    let median = median(&mut times);
    println!(
        "watchers: worst of {} events {} ms",
        times.len(),
        ms(times.last().copied().unwrap_or_default())
    );
    Ok(time("write to event, 100 watchers, p50", median))
}
