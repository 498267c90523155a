//! Commits per second of the store: the embedded engine beside etcd and beside a bare append with fdatasync, on the same
//! disk, in the same run. Values of 1 KiB, each commit durable when it is counted.
//!
//! Usage: `bench-store [DIRECTORY [SECONDS]]`; the directory (default: the current one) decides on the disk. With 0 seconds only the
//! part about churn runs.
#![allow(clippy::print_stdout, reason = "a benchmark prints its numbers")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::task::JoinSet;
use yunfan_store::conformance::EtcdServer;
use yunfan_store::{EtcdConfig, Store, Txn, connect_etcd, open_embedded};

const VALUE_BYTES: usize = 1024;

/// What one run showed.
struct Run {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

impl Run {
    fn of(mut latencies: Vec<Duration>, took: Duration) -> Self {
        latencies.sort_unstable();
        let at =
            |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or_default();
        Self { per_second: latencies.len() as f64 / took.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
    }

    fn print(&self, what: &str) {
        println!("{what:<34} {:>9.0}/s   p50 {:>9.3?}   p99 {:>9.3?}", self.per_second, self.p50, self.p99);
    }
}

/// The floor: one file, append, fdatasync.
fn raw(dir: &Path, time: Duration) -> Result<Run> {
    let mut file = std::fs::File::create(dir.join("raw"))?;
    let value = vec![b'v'; VALUE_BYTES];
    let mut latencies = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let start = Instant::now();
        file.write_all(&value)?;
        file.sync_data()?;
        latencies.push(start.elapsed());
    }
    Ok(Run::of(latencies, begun.elapsed()))
}

/// Some writers, each with one commit under way at a time.
async fn commits(store: Arc<dyn Store>, writers: usize, time: Duration) -> Result<Run> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let store = store.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while begun.elapsed() < time {
                let key = format!("/bench/{writers}/{writer}/{}", latencies.len());
                let start = Instant::now();
                store.txn(Txn::put(key, vec![b'v'; VALUE_BYTES])).await?;
                latencies.push(start.elapsed());
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done??);
    }
    Ok(Run::of(latencies, begun.elapsed()))
}

/// A small state that changes a lot, compacted now and then: what it leaves on disk and in memory, and how long it takes
/// to open. Both should depend on the state, not on the number of changes.
async fn churn(dir: &Path) -> Result<()> {
    const KEYS: usize = 2000;
    const ROUNDS: usize = 60;
    let store = open_embedded(dir)?;
    for round in 0..ROUNDS {
        let mut tasks = JoinSet::new();
        for part in 0..64 {
            let store = store.clone();
            tasks.spawn(async move {
                for key in (part..KEYS).step_by(64) {
                    let value = vec![round as u8; VALUE_BYTES];
                    store.txn(Txn::put(format!("/churn/{key}"), value)).await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        if round % 5 == 4 {
            store.compact(store.revision().await?).await?;
        }
    }
    store.close().await;
    let open = Instant::now();
    let store = open_embedded(dir)?;
    println!(
        "after {} changes of {KEYS} keys, {} MiB in all: {:.1} MiB on disk, opened in {:.3?}, process has {:.0} MiB",
        KEYS * ROUNDS,
        (KEYS * ROUNDS * VALUE_BYTES) >> 20,
        disk_bytes(dir)? as f64 / 1048576.0,
        open.elapsed(),
        resident_bytes()? as f64 / 1048576.0,
    );
    drop(store);
    Ok(())
}

/// What a directory takes on disk, holes not counted.
fn disk_bytes(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { disk_bytes(&entry.path())? } else { about.blocks() * 512 };
    }
    Ok(sum)
}

fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let time = Duration::from_secs_f64(args.next().map_or(Ok(3.0), |s| s.parse())?);
    let dir = tempfile::Builder::new().prefix("bench-store-").tempdir_in(&parent)?;

    if !time.is_zero() {
        side_by_side(&parent, dir.path(), time).await?;
    }
    churn(&dir.path().join("churn")).await
}

/// The commit rates, each engine alone on the disk.
async fn side_by_side(parent: &Path, dir: &Path, time: Duration) -> Result<()> {
    raw(dir, time)?.print("append + fdatasync, 1 writer");
    let embedded = open_embedded(dir.join("embedded"))?;
    let etcd = {
        let server = EtcdServer::start(parent).map_err(|e| anyhow!(e))?;
        let store = connect_etcd(EtcdConfig::new([server.endpoint()])).await?;
        let mut runs = Vec::new();
        for writers in [1, 64] {
            let run = commits(store.clone(), writers, time).await?;
            run.print(&format!("etcd, {writers} writers"));
            runs.push(run);
        }
        runs
    };
    for (writers, peer) in [1, 64].into_iter().zip(&etcd) {
        let run = commits(embedded.clone(), writers, time).await?;
        run.print(&format!("embedded, {writers} writers"));
        println!("{:<34} {:>9.1} times etcd", "", run.per_second / peer.per_second);
        if writers > 1 {
            println!("{:<34} {:>9.1} times etcd with one writer", "", run.per_second / etcd[0].per_second);
        }
    }
    Ok(())
}
