//! Removes every trace of a cloud instance's containers from this host, without any help of its processes.

use std::path::Path;

use rustix::process::{Pid, Signal};

use crate::cgroup;
use crate::error::{Result, RuntimeError};
use crate::mounts::unmount_below;
use crate::proto::PODS_FLAG;

/// Kills the shims and containers of instance `tag`, unmounts everything below `root` (`DATA_DIR/agent`) and removes
/// the cgroups `yunfan-<tag>` as far as they hold no process of someone else (VMs). The files stay.
/// Doing it twice is fine.
///
/// # Errors
/// When a process does not die or a mount can't be undone.
pub fn teardown(tag: &str, root: &Path) -> Result<()> {
    if tag.is_empty() || !tag.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(RuntimeError::invalid("tag", "must be letters and digits"));
    }
    // Shims first: they would note the end of their containers, which is wasted work now.
    for pid in processes(|line| is_shim(line, tag)) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let instance = cgroup::of_instance(tag);
    for child in cgroup::children(&instance) {
        if child.starts_with("pod") && !cgroup::kill(&format!("{instance}/{child}")) {
            return Err(RuntimeError::Task(format!("processes in cgroup {instance}/{child} do not die")));
        }
    }
    unmount_below(root)?;
    for child in cgroup::children(&instance) {
        cgroup::remove(&format!("{instance}/{child}"));
    }
    cgroup::remove(&instance);
    Ok(())
}

/// Kills the shim of the pod in `dir`, if one is left.
pub(crate) fn kill_shims_of(dir: &Path) {
    let is_ours = |words: &[&[u8]]| {
        words[0] == b"--tag" && words[2] == b"--pod" && words[3] == dir.as_os_str().as_encoded_bytes()
    };
    for pid in processes(|line| has_words(line, is_ours)) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Processes whose command line is as wanted.
fn processes(wanted: impl Fn(&[u8]) -> bool) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            wanted(&line)
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// Shims are known by their command line: `... --tag TAG --pod DIRECTORY`, and what they are forked from by `... --tag TAG --pods`.
fn is_shim(command_line: &[u8], tag: &str) -> bool {
    has_words(command_line, |words| {
        words[0] == b"--tag"
            && words[1] == tag.as_bytes()
            && (words[2] == b"--pod" || words[2] == PODS_FLAG.as_bytes())
    })
}

fn has_words(command_line: &[u8], wanted: impl Fn(&[&[u8]]) -> bool) -> bool {
    let words: Vec<&[u8]> = command_line.split(|&b| b == 0).collect();
    words.windows(4).any(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_shims() {
        assert!(is_shim(b"/x/yunfan\0shim\0--tag\0a1b2c3\0--pod\0/d\0", "a1b2c3"));
        assert!(is_shim(b"/x/yunfan\0shim\0--tag\0a1b2c3\0--pods\0", "a1b2c3"));
        assert!(!is_shim(b"/x/yunfan\0shim\0--tag\0ffffff\0--pod\0/d\0", "a1b2c3"));
        assert!(!is_shim(b"grep\0--tag\0a1b2c3\0", "a1b2c3"));
        assert!(!is_shim(b"", "a1b2c3"));
    }

    #[test]
    fn a_strange_tag_is_refused() {
        assert!(teardown("", Path::new("/nonexistent")).is_err());
        assert!(teardown("../x", Path::new("/nonexistent")).is_err());
    }
}
