//! Rules go through the `nft` program: one transaction per call, applied whole or not at all.

use crate::error::{NetworkError, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long nft may take for one transaction. The largest policies take a few seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Applies `script` in the calling thread's namespace. Blocks for a few milliseconds.
pub(crate) fn apply(scope: &str, script: &str) -> Result<()> {
    run(scope, &["-f", "-"], script).map(|_| ())
}

/// Removes a table of the calling thread's namespace; fine if there is none.
pub(crate) fn delete_table(scope: &str, table: &str) -> Result<()> {
    // Declaring it first makes the deletion succeed either way.
    apply(scope, &format!("table {table} {{}}\ndelete table {table}\n"))
}

/// The tables of the calling thread's namespace, as `family name`.
pub(crate) fn tables(scope: &str) -> Result<Vec<String>> {
    let listing = run(scope, &["list", "tables"], "")?;
    Ok(listing.lines().filter_map(|line| line.strip_prefix("table ")).map(str::to_owned).collect())
}

/// The IPv4 tables of the calling thread's namespace, without the elements of sets and maps.
pub(crate) fn listing(scope: &str) -> Result<String> {
    run(scope, &["-t", "list", "ruleset", "ip"], "")
}

fn run(scope: &str, args: &[&str], input: &str) -> Result<String> {
    finish(scope, start(args)?, input, PATIENCE)
}

/// Gives a program its input and waits for its output, `patience` at most.
fn finish(scope: &str, mut child: Child, input: &str, patience: Duration) -> Result<String> {
    // By a descriptor: its number may be another's as soon as it has ended.
    let pid = Pid::from_child(&child);
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| NetworkError::io("watch nft", e))?;
    let (done, ended) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let late = ended.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
        late
    });
    // nft reads all of its input before it writes anything, so this cannot deadlock. A failed write means
    // that it ended early; its own message below says more.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| NetworkError::io("wait for nft", e))?;
    drop(done);
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if watch.join().unwrap_or_default() {
        message = format!("nft did not end within {} seconds, and was killed", patience.as_secs());
    }
    if message.len() > 2000 {
        message.truncate(message.floor_char_boundary(2000));
    }
    Err(NetworkError::Rules { scope: scope.to_owned(), message })
}

/// Starts nft from PATH, or from where Debian has it: a service's PATH may lack the sbin directories.
fn start(args: &[&str]) -> Result<Child> {
    for program in ["nft", "/usr/sbin/nft"] {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            result => return result.map_err(|e| NetworkError::io("start nft", e)),
        }
    }
    Err(NetworkError::MissingProgram { program: "nft", package: "nftables" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        assert_eq!(finish("here", run("cat"), "text", PATIENCE).unwrap(), "text");
        let refused = finish("here", run("echo no >&2; exit 1"), "", PATIENCE).unwrap_err().to_string();
        assert!(refused.contains("no"), "{refused}");
        let late = finish("here", run("exec sleep 600"), "", Duration::from_millis(50)).unwrap_err();
        assert!(late.to_string().contains("was killed"), "{late}");
    }
}
