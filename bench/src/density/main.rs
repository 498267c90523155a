//! `bench-density`: many Pods on one node, and many nodes in one cloud.
//!
//! Use: `bench-density YUNFAN WEB_ARCHIVE [real|hollow|all] [DIVISOR]`, as root; `make bench` calls it. A divisor of 20 makes all numbers of Pods
//! and nodes a twentieth. It prints the peer's figures of the same kind of machine (Kubernetes 1.36.2) beside those that have one.

#![expect(clippy::print_stdout, reason = "a benchmark speaks to whoever runs it")]

mod backlog;
mod hollow;
mod left;
mod real;
mod seen;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// Where the clouds of this benchmark listen.
const PORT: u16 = 17446;

/// What all parts are told.
struct Run<'a> {
    yunfan: &'a Path,
    archive: &'a Path,
    scratch: &'a Path,
    divisor: usize,
}

impl Run<'_> {
    /// A number of things in this run, of which a whole one has `whole`.
    fn scaled(&self, whole: usize) -> usize {
        (whole / self.divisor).max(1)
    }
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (yunfan, archive, which, divisor) = match words.as_slice() {
        [yunfan, archive] => (yunfan, archive, "all", "1"),
        [yunfan, archive, which] => (yunfan, archive, which.as_str(), "1"),
        [yunfan, archive, which, divisor] => (yunfan, archive, which.as_str(), divisor.as_str()),
        _ => bail!("use: bench-density YUNFAN WEB_ARCHIVE [real|hollow|all] [DIVISOR]"),
    };
    let divisor =
        divisor.parse().ok().filter(|divisor| *divisor > 0).context("the divisor is a number from 1")?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let scratch = tempfile::tempdir_in("/var/tmp")?;
    let (yunfan, archive) = (PathBuf::from(yunfan), PathBuf::from(archive));
    let run = Run { yunfan: &yunfan, archive: &archive, scratch: scratch.path(), divisor };
    let result = runtime.block_on(async {
        if matches!(which, "real" | "all") {
            real::run(&run).await?;
        }
        if matches!(which, "hollow" | "all") {
            hollow::run(&run).await?;
        }
        Ok(())
    });
    for entry in std::fs::read_dir(scratch.path())?.flatten() {
        let _ =
            Command::new(&yunfan).args(["down", "--delete-data", "--data-dir"]).arg(entry.path()).output();
    }
    result
}

/// How our time for something compares with the peer's, in words.
fn beside(own: f64, peer: f64) -> String {
    format!("Kubernetes {peer} s ({:.3})", own / peer)
}
