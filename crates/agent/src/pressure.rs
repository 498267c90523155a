//! What is left of the node's memory, disk and numbers for processes, and how a node says that it is too little.

use std::path::Path;

use crate::eviction::{Observations, Signal};

/// The taint of a node that is short of memory.
pub(crate) const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// Kinds of shortage: the node condition, then reason and message where there is one and where there is none, in the kubelet's words.
pub(crate) const KINDS: [Words; 3] = [
    Words {
        condition: "MemoryPressure",
        short: ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        well: ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    },
    Words {
        condition: "DiskPressure",
        short: ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        well: ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    },
    Words {
        condition: "PIDPressure",
        short: ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        well: ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    },
];

/// How a kind of shortage is told of.
pub(crate) struct Words {
    pub(crate) condition: &'static str,
    /// Reason and message.
    pub(crate) short: (&'static str, &'static str),
    pub(crate) well: (&'static str, &'static str),
}

/// For each of [`KINDS`], whether there is a shortage; none where it could not be found out.
pub(crate) type Shortages = [Option<bool>; KINDS.len()];

/// How much is left of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// Reads the node; `root` is on the file system that holds the workloads' disks and the images. What can't be read is absent.
pub(crate) fn observe(root: &Path) -> Observations {
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let number = |path: &str| text(path)?.trim().parse::<u64>().ok();
    let fs = rustix::fs::statvfs(root).ok();
    let most = [number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max")];
    let disk = fs.as_ref().map(|fs| {
        let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
        Left { free: bytes(fs.f_bavail), total: bytes(fs.f_blocks) }
    });
    // There are file systems that make inodes as they need them.
    let inodes = fs.as_ref().map(|fs| Left { free: fs.f_favail, total: fs.f_files }).filter(|i| i.total > 0);
    let pids = text("/proc/loadavg").and_then(|text| tasks(&text)).and_then(|used| {
        let total = most.into_iter().flatten().min()?;
        Some(Left { free: total.saturating_sub(used), total })
    });
    let memory = text("/proc/meminfo").and_then(|text| memory(&text));
    Signal::ALL.map(|signal| match signal {
        Signal::Memory => memory,
        Signal::NodeDisk | Signal::ImageDisk => disk,
        Signal::NodeInodes | Signal::ImageInodes => inodes,
        Signal::Pids => pids,
    })
}

/// Bytes that new programs can have, from `/proc/meminfo`.
fn memory(meminfo: &str) -> Option<Left> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Left { free: field("MemAvailable:")?, total: field("MemTotal:")? })
}

/// Processes and threads of the node, from `/proc/loadavg`.
fn tasks(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let left = memory("MemTotal:  9 kB\nMemAvailable:   4 kB\n");
        assert_eq!(left, Some(Left { free: 4 << 10, total: 9 << 10 }));
        assert_eq!(memory("MemTotal:  9 kB\n"), None);
        assert_eq!(tasks("0.20 0.18 0.12 1/4321 11206\n"), Some(4321));
        let here = observe(Path::new("/"));
        assert!(here[0].is_some() && here[1].is_some() && here[5].is_some(), "{here:?}");
    }
}
