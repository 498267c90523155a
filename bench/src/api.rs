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
use tokio::sync::Notify;
use tokio::task::JoinSet;
use yunfan_bench::http::{Connection, Server, request};
use yunfan_bench::load::{as_admin, many};
use yunfan_bench::numbers::{Number, median, ms, rate, show, time};
use yunfan_bench::process::{ApiServer, Cloud, peer_pki, pss};

const OBJECTS: usize = 10_000;
const WATCHERS: usize = 100;
const EVENTS: usize = 200;
const LISTS: usize = 9;
const PAGE: usize = 500;
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

async fn own(yunfan: &Path, dir: &Path) -> anyhow::Result<Vec<Number>> {
    let cloud = Cloud::start(yunfan, dir, 17445)?;
    let pki = dir.join("pki");
    let mut numbers = vec![time("start to ready", cloud.took)];
    numbers.extend(load(&as_admin(&pki, 17445)?, &[cloud.pid()]).await.context("yunfan under load")?);
    drop(cloud);
    let again = Cloud::start(yunfan, dir, 17445)?;
    numbers.push(time("start to ready, holding the objects", again.took));
    Ok(numbers)
}

async fn peer(path: &Path, scratch: &Path) -> anyhow::Result<Vec<Number>> {
    let pki = peer_pki(scratch)?;
    let dir = scratch.join("peer");
    let peer = ApiServer::start(path, &dir, &pki, 17450)?;
    let mut numbers = vec![time("start to ready", peer.took)];
    let loaded = load(&as_admin(&pki, 17450)?, &peer.pids()).await;
    numbers.extend(loaded.context("kube-apiserver under load")?);
    drop(peer);
    let again = ApiServer::start(path, &dir, &pki, 17450)?;
    numbers.push(time("start to ready, holding the objects", again.took));
    Ok(numbers)
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
    // On a thread of its own: what its threads would cost to wake one another would be measured with it.
    let server = server.clone();
    let watched = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let one = time("write to event, 1 watcher, p50", runtime.block_on(watchers(&server, 1))?);
        let all = time("write to event, 100 watchers, p50", runtime.block_on(watchers(&server, WATCHERS))?);
        anyhow::Ok([one, all])
    });
    numbers.extend(watched.await??);
    Ok(numbers)
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
async fn watchers(server: &Server, count: usize) -> anyhow::Result<Duration> {
    let mut one = server.connect().await?;
    let head = one.call(&request("GET", &format!("{MAPS}?limit=1"), "", b"")).await?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let revision = head.split_once("\"resourceVersion\":\"").and_then(|(_, rest)| rest.split('"').next());
    let watch = format!("{MAPS}?watch=1&resourceVersion={}", revision.context("a list without a revision")?);
    let arrivals = Arc::new(Arrivals { count: AtomicUsize::new(0), watchers: count, last: Notify::new() });
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let mut connection = server.connect().await?;
        connection.open(&request("GET", &watch, "", b"")).await?;
        let arrivals = arrivals.clone();
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(EVENTS);
            while times.len() < EVENTS {
                ensure!(!connection.piece().await?.is_empty(), "a watch ended");
                times.push(Instant::now());
                arrivals.add();
            }
            Ok(times)
        });
    }
    let mut begun = Vec::new();
    for number in 0..EVENTS {
        let body = format!(r#"{{"data":{{"event":"{number}"}}}}"#);
        let patch = request("PATCH", &format!("{MAPS}/map-00007"), MERGE, body.as_bytes());
        begun.push(Instant::now());
        one.call(&patch).await?;
        let all = tokio::time::timeout(Duration::from_secs(10), arrivals.wait((number + 1) * count)).await;
        all.context("an event did not come")?;
    }
    let mut times = Vec::new();
    while let Some(arrived) = tasks.join_next().await {
        times.extend(arrived??.iter().zip(&begun).map(|(at, begun)| at.saturating_duration_since(*begun)));
    }
    let median = median(&mut times);
    println!(
        "watchers, {count}: worst of {} events {} ms",
        times.len(),
        ms(times.last().copied().unwrap_or_default())
    );
    Ok(median)
}

/// How many events have come. Who waits is woken by the last alone: to be woken by each would take the processors from
/// what is measured.
struct Arrivals {
    count: AtomicUsize,
    watchers: usize,
    last: Notify,
}

impl Arrivals {
    fn add(&self) {
        let count = self.count.fetch_add(1, Ordering::AcqRel) + 1;
        if count.is_multiple_of(self.watchers) {
            self.last.notify_one();
        }
    }

    async fn wait(&self, count: usize) {
        while self.count.load(Ordering::Acquire) < count {
            self.last.notified().await;
        }
    }
}
