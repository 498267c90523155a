//! Whether the node runs short of memory, disk or processes: what is read, where the limits are, and how long a shortage is told of.

use std::path::Path;
use std::time::{Duration, Instant};

/// Less available memory than this is a shortage (the kubelet's default).
const MEMORY: u64 = 100 << 20;
/// Less of the disk that is free, in percent (the kubelet's default), is a shortage where it is also less than [`DISK_BYTES`].
const DISK: u64 = 10;
/// With this much of the disk free there is no shortage: a tenth of a large disk is more than most workloads ever write.
const DISK_BYTES: u64 = 2 << 30;
/// Less of its inodes, in percent (the kubelet's default).
const INODES: u64 = 5;
/// Less of the process numbers, in percent. The kubelet has no limit unless it is told one; a node without any left is of no use.
const PIDS: u64 = 5;
/// A shortage is told of for this long after it was last seen, so that a node does not go to and fro (the kubelet's default).
const TRANSITION: Duration = Duration::from_secs(300);

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

/// Which of them is the disk's.
pub(crate) const DISK_PRESSURE: usize = 1;

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
struct Left {
    free: u64,
    total: u64,
}

impl Left {
    fn is_below(self, percent: u64) -> bool {
        u128::from(self.free) * 100 < u128::from(self.total) * u128::from(percent)
    }
}

/// What was read of the node; what could not be read is absent.
#[derive(Clone, Copy, Debug, Default)]
struct Readings {
    /// Bytes.
    memory: Option<u64>,
    /// Bytes.
    disk: Option<Left>,
    /// Absent also on file systems that make inodes as they need them.
    inodes: Option<Left>,
    pids: Option<Left>,
}

impl Readings {
    /// Reads the node; `root` is on the file system that holds the workloads' disks.
    fn take(root: &Path) -> Self {
        let text = |path: &str| std::fs::read_to_string(path).ok();
        let number = |path: &str| text(path)?.trim().parse::<u64>().ok();
        let fs = rustix::fs::statvfs(root).ok();
        let most = [number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max")];
        Self {
            memory: text("/proc/meminfo").and_then(|text| available(&text)),
            disk: fs.as_ref().map(|fs| {
                let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
                Left { free: bytes(fs.f_bavail), total: bytes(fs.f_blocks) }
            }),
            inodes: fs
                .as_ref()
                .map(|fs| Left { free: fs.f_favail, total: fs.f_files })
                .filter(|i| i.total > 0),
            pids: text("/proc/loadavg").and_then(|text| tasks(&text)).and_then(|used| {
                let total = most.into_iter().flatten().min()?;
                Some(Left { free: total.saturating_sub(used), total })
            }),
        }
    }

    fn shortages(&self) -> Shortages {
        let disk = self.disk.map(|left| left.is_below(DISK) && left.free < DISK_BYTES);
        let inodes = self.inodes.map(|left| left.is_below(INODES));
        [
            self.memory.map(|bytes| bytes < MEMORY),
            disk.map(|disk| disk || inodes == Some(true)),
            self.pids.map(|left| left.is_below(PIDS)),
        ]
    }
}

/// Bytes that new programs can have, from `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Processes and threads of the node, from `/proc/loadavg`.
fn tasks(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// Remembers when a shortage was last seen.
#[derive(Default)]
pub(crate) struct Pressure {
    seen: [Option<Instant>; KINDS.len()],
}

impl Pressure {
    /// Reads the node, and says which shortages there are or were until lately.
    pub(crate) fn measure(&mut self, root: &Path) -> Shortages {
        self.judge(Readings::take(root).shortages(), Instant::now())
    }

    fn judge(&mut self, mut shortages: Shortages, now: Instant) -> Shortages {
        for (shortage, seen) in shortages.iter_mut().zip(&mut self.seen) {
            if *shortage == Some(true) {
                *seen = Some(now);
            }
            let lately = seen.is_some_and(|seen| now.duration_since(seen) < TRANSITION);
            *shortage = shortage.map(|short| short || lately);
        }
        shortages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Readings = Readings {
        memory: Some(MEMORY),
        disk: Some(Left { free: 10, total: 100 }),
        inodes: Some(Left { free: 5, total: 100 }),
        pids: Some(Left { free: 5, total: 100 }),
    };

    #[test]
    fn each_reading_has_its_own_limit() {
        assert_eq!(WELL.shortages(), [Some(false); 3]);
        for (readings, expected) in [
            (Readings { memory: Some(MEMORY - 1), ..WELL }, [true, false, false]),
            (Readings { disk: Some(Left { free: 9, total: 100 }), ..WELL }, [false, true, false]),
            (Readings { inodes: Some(Left { free: 4, total: 100 }), ..WELL }, [false, true, false]),
            (Readings { inodes: None, ..WELL }, [false, false, false]),
            (Readings { pids: Some(Left { free: 4, total: 100 }), ..WELL }, [false, false, true]),
            (
                Readings { disk: Some(Left { free: DISK_BYTES - 1, total: u64::MAX }), ..WELL },
                [false, true, false],
            ),
            (
                Readings { disk: Some(Left { free: DISK_BYTES, total: u64::MAX }), ..WELL },
                [false, false, false],
            ),
        ] {
            assert_eq!(readings.shortages(), expected.map(Some), "{readings:?}");
        }
        assert_eq!(Readings::default().shortages(), [None; 3]);
    }

    #[test]
    fn a_shortage_is_told_of_until_it_has_been_over_for_a_while() {
        let (mut pressure, begin) = (Pressure::default(), Instant::now());
        let well = [Some(false); 3];
        let short = [Some(false), Some(true), None];
        assert_eq!(pressure.judge(well, begin), well);
        assert_eq!(pressure.judge(short, begin), short);
        let later = begin + TRANSITION - Duration::from_secs(1);
        assert_eq!(pressure.judge(well, later), [Some(false), Some(true), Some(false)]);
        assert_eq!(pressure.judge(well, begin + TRANSITION), well);
    }

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(available("MemTotal:  9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal:  9 kB\n"), None);
        assert_eq!(tasks("0.20 0.18 0.12 1/4321 11206\n"), Some(4321));
        let here = Readings::take(Path::new("/"));
        assert!(here.memory.is_some() && here.disk.is_some() && here.pids.is_some(), "{here:?}");
    }
}
