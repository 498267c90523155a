//! Runs `qemu-img` on files that strangers wrote: with limits on memory, processor time, wall-clock time and
//! what it writes, and without rights of ours where the file is all that it needs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::{Error, apart};

const PROGRAM: &str = "qemu-img";
/// Address space of the child. A check of an image holds its refcount table in memory.
const MEMORY_BYTES: u64 = 1 << 30;
/// The same of what writes a whole image anew: it has a stack for each of many requests under way.
const LONG_MEMORY_BYTES: u64 = 2 << 30;
/// Processor time.
const CPU_SECONDS: u64 = 60;
/// Wall-clock time.
const WITHIN: Duration = Duration::from_secs(120);
/// Processor time and wall-clock time of what writes a whole image anew.
const LONG_CPU_SECONDS: u64 = 1800;
const LONG_WITHIN: Duration = Duration::from_secs(3600);
/// What is kept of its output.
const MAX_OUTPUT: usize = 64 << 10;

/// How it ended.
pub(crate) struct Output {
    /// Exit code; `None` when a signal (one of the limits) ended it.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) stdout: String,
    /// What it complained of, on one line.
    pub(crate) complaint: String,
}

impl Output {
    pub(crate) fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.stdout).ok()
    }

    pub(crate) fn is_full_disk(&self) -> bool {
        self.complaint.contains("No space left on device")
    }
}

/// How much it may take.
struct Bounds {
    memory_bytes: u64,
    cpu_seconds: u64,
    wall: Duration,
    /// Bytes of each file that it writes; none where that follows from what it is asked for.
    file_bytes: Option<u64>,
}

const SHORT: Bounds =
    Bounds { memory_bytes: MEMORY_BYTES, cpu_seconds: CPU_SECONDS, wall: WITHIN, file_bytes: None };

fn long(file_bytes: u64) -> Bounds {
    let (memory_bytes, cpu_seconds) = (LONG_MEMORY_BYTES, LONG_CPU_SECONDS);
    Bounds { memory_bytes, cpu_seconds, wall: LONG_WITHIN, file_bytes: Some(file_bytes) }
}

/// Runs it with these arguments.
pub(crate) async fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Output, Error> {
    within(arguments, &SHORT, None, false).await
}

/// As [`run`], for what writes a whole image anew: a file of at most `file_bytes`.
pub(crate) async fn run_long<S: AsRef<OsStr>>(arguments: &[S], file_bytes: u64) -> Result<Output, Error> {
    within(arguments, &long(file_bytes), None, false).await
}

/// As [`run`], on the files that strangers wrote in `dir`, which it is told by their names there. Where we are root it is nobody: it reads
/// those, and writes `writes` alone, a new file of at most so many bytes (else none at all).
pub(crate) async fn run_apart<S: AsRef<OsStr>>(
    dir: &Path,
    arguments: &[S],
    writes: Option<(&str, u64)>,
) -> Result<Output, Error> {
    let bounds = match writes {
        Some((_, bytes)) => long(bytes),
        None => Bounds { file_bytes: Some(0), ..SHORT },
    };
    let lent = apart::lend(dir, writes.map(|(name, _)| name)).map_err(Error::io("lend", dir))?;
    let output = within(arguments, &bounds, Some(dir), lent.is_some()).await;
    if let Some(lent) = lent {
        lent.take_back().map_err(Error::io("take back", dir))?;
    }
    output
}

async fn within<S: AsRef<OsStr>>(
    arguments: &[S],
    bounds: &Bounds,
    dir: Option<&Path>,
    as_nobody: bool,
) -> Result<Output, Error> {
    if !installed() {
        return Err(Error::MissingQemuImg { program: PROGRAM.into() });
    }
    let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    let failed =
        |message: String| Error::QemuImg { command: format!("{PROGRAM} {}", words.join(" ")), message };
    // `prlimit` (util-linux, always there) sets limits before it becomes qemu-img, so that no instant is without them.
    let mut command = Command::new("prlimit");
    command
        .args([
            format!("--as={}", bounds.memory_bytes),
            format!("--cpu={}", bounds.cpu_seconds),
            "--core=0".into(),
        ])
        .args(bounds.file_bytes.map(|bytes| format!("--fsize={bytes}")));
    if as_nobody {
        // `setpriv` is of the same package.
        let whom = [format!("--reuid={}", apart::NOBODY), format!("--regid={}", apart::NOBODY)];
        command.arg("setpriv").args(whom).args(["--clear-groups", "--inh-caps=-all", "--no-new-privs"]);
    }
    if let Some(dir) = dir {
        // Its own names are found from here, whatever may not be walked through above.
        command.current_dir(dir);
    }
    let child = command
        .arg(PROGRAM)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("prlimit (package `util-linux`) could not be run: {error}")))?;
    let output = match timeout(bounds.wall, child.wait_with_output()).await {
        Ok(output) => output.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("it was not done within {} s", bounds.wall.as_secs()))),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]).into_owned();
    let complaint = text(&output.stderr)
        .lines()
        .map(|line| line.trim_start_matches("qemu-img: "))
        .collect::<Vec<_>>()
        .join("; ");
    Ok(Output {
        code: output.status.code(),
        stdout: text(&output.stdout),
        complaint: complaint.chars().take(1000).collect(),
    })
}

fn installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file())
}
