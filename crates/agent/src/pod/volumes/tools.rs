//! The node's own programs for disks: loop devices, file systems, mounts.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::process::Command;

use super::What;

/// How long a program may take. Making a large file system takes seconds, a server that does not answer for ever.
const WITHIN: Duration = Duration::from_secs(60);
/// How often a loop device is taken that goes at once.
const HOLDS: usize = 20;
/// The table of this process' mounts.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Runs a program, and returns what it printed.
pub(super) async fn run(program: &str, arguments: &[&str]) -> Result<String, What> {
    run_within(program, arguments, 0).await
}

/// As [`run`]; exit codes up to `most` are fine.
pub(super) async fn run_within(program: &str, arguments: &[&str], most: i32) -> Result<String, What> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(WITHIN, command.output()).await {
        Err(_) => {
            return Err(What::Refused(format!("{program} did not end within {} seconds", WITHIN.as_secs())));
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(What::Refused(format!("this node lacks the program {program}")));
        }
        Ok(output) => output?,
    };
    if output.status.code().is_some_and(|code| code <= most) {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint: Vec<&str> = complaint.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(What::Refused(format!("{program} failed: {}", complaint.join("; "))))
}

/// A path as a program's argument.
pub(super) fn text(path: &Path) -> Result<&str, What> {
    path.to_str().ok_or_else(|| What::Refused(format!("{} is not UTF-8", path.display())))
}

/// The device that is mounted at a path, if one is.
pub(super) fn mounted(at: &Path) -> Option<String> {
    let table = std::fs::read_to_string(MOUNTS).unwrap_or_default();
    find_mount(&table, at)
}

/// The kernel writes blanks in paths as `\040`; data directories of ours are compared as it writes them.
fn find_mount(table: &str, at: &Path) -> Option<String> {
    let at = at.to_str()?.replace('\\', "\\134").replace(' ', "\\040");
    let mut lines = table.lines().rev().filter(|line| line.split(' ').nth(4) == Some(&at));
    lines.next()?.split(" - ").nth(1)?.split(' ').nth(1).map(str::to_owned)
}

/// The loop device of a file, one that takes no writes if it is to be `read_only`; it is made where there is none.
pub(super) async fn loop_device(file: &Path, read_only: bool) -> Result<String, What> {
    let mut all = loops_below(file).into_iter();
    // One that goes by itself may be gone before it is used.
    let fits = |device: &String| attribute(device, "ro") == read_only && !goes_by_itself(device);
    if let Some(known) = all.find(fits) {
        return Ok(known);
    }
    let kind: &[&str] = if read_only { &["--read-only"] } else { &[] };
    run("losetup", &[kind, &["--find", "--show", text(file)?]].concat()).await
}

/// A loop device of a file to mount. As long as the second value lives the device stays, also one that was to go by itself: a
/// file system that is still mounted in some other mount namespace must be met again on the same device, or two would write to one disk.
pub(super) async fn held_loop_device(file: &Path) -> Result<(String, std::fs::File), What> {
    for _ in 0..HOLDS {
        let mut all = loops_below(file);
        // First the one that is mounted; one that goes by itself may also be one that was let go of and is still looked at by somebody.
        all.sort_by_cached_key(|device| (!is_mounted(device), !goes_by_itself(device)));
        let known = all.into_iter().find(|device| !attribute(device, "ro"));
        let device = match known {
            Some(known) => known,
            None => loop_device(file, false).await?,
        };
        match std::fs::File::open(&device) {
            // It did not go before it was held.
            Ok(held) if loops_below(file).contains(&device) => return Ok((device, held)),
            Err(error) if loops_below(file).contains(&device) => return Err(error.into()),
            _ => {}
        }
    }
    Err(What::Refused(format!("no loop device of {} stays: each went before it was mounted", file.display())))
}

/// Whether a loop device is let go of with its last user.
fn goes_by_itself(device: &str) -> bool {
    attribute(device, "loop/autoclear")
}

/// Whether a file system of a block device is mounted, in whichever mount namespace: then nobody else gets it for himself (`open(2)`, O_EXCL).
fn is_mounted(device: &str) -> bool {
    let alone = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(device, alone, Mode::empty()).is_err_and(|error| error == Errno::BUSY)
}

/// What the kernel says of a block device: of those asked for here each is true (`1`) or not.
fn attribute(device: &str, name: &str) -> bool {
    let device = device.trim_start_matches("/dev/");
    std::fs::read_to_string(format!("/sys/block/{device}/{name}")).is_ok_and(|text| text.trim() == "1")
}

/// The loop devices of files at or below a path.
pub(super) fn loops_below(path: &Path) -> Vec<String> {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let blocks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let of = |block: std::fs::DirEntry| {
        let behind = std::fs::read_to_string(block.path().join("loop/backing_file")).ok()?;
        let behind = PathBuf::from(behind.trim_end_matches('\n'));
        behind.starts_with(&path).then(|| format!("/dev/{}", block.file_name().to_string_lossy()))
    };
    blocks.filter_map(of).collect()
}

/// Lets go of the loop devices of files at or below a path; one that is mounted goes with its mount.
pub(crate) fn release_loops(path: &Path) -> std::io::Result<()> {
    // One that goes by itself is left alone: its number may be another file's by the time that it is told to go.
    for device in loops_below(path).into_iter().filter(|device| !goes_by_itself(device)) {
        let output = std::process::Command::new("losetup").args(["--detach", &device]).output()?;
        // It may have gone by itself meanwhile.
        if !output.status.success() && loops_below(path).contains(&device) {
            let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(std::io::Error::other(complaint));
        }
    }
    Ok(())
}

/// The names in a directory; none where there is none.
pub(super) fn entries(dir: &Path) -> std::io::Result<Vec<String>> {
    let list = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list?,
    };
    let names = list.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(std::io::Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_as_the_kernel_writes_them() {
        let table = "36 35 7:0 / /d/claims/a/fs rw - ext4 /dev/loop0 rw\n\
                     37 35 7:1 / /d\\040e/fs rw shared:4 - ext4 /dev/loop1 rw\n\
                     38 35 0:5 /x /d/claims rw shared:5 - ext4 /dev/vda rw\n";
        let at = |path: &str| find_mount(table, Path::new(path));
        assert_eq!(at("/d/claims/a/fs").as_deref(), Some("/dev/loop0"));
        assert_eq!(at("/d e/fs").as_deref(), Some("/dev/loop1"));
        assert_eq!(at("/d/claims").as_deref(), Some("/dev/vda"));
        assert_eq!(at("/d"), None);
    }

    #[tokio::test]
    async fn programs_that_fail_are_named() {
        let none = run("no-such-program-here", &[]).await.unwrap_err().to_string();
        assert_eq!(none, "this node lacks the program no-such-program-here");
        let failed = run("sh", &["-c", "echo it is so >&2; exit 3"]).await.unwrap_err().to_string();
        assert_eq!(failed, "sh failed: it is so");
        assert_eq!(run_within("sh", &["-c", "echo fine; exit 1"], 1).await.unwrap(), "fine");
    }
}
