//! What `/proc` tells of the node, and of the network namespace of a process.

use std::time::Duration;

/// Parts of a second that `/proc/stat` counts in: the same on all of Linux' machines that we run on (`man 5 proc`, USER_HZ).
const TICKS: u64 = 100;

/// What all of the node uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// CPU time since it started.
    pub(super) cpu: Duration,
    pub(super) memory: Memory,
    /// Of the node's own network namespace; none where it has no other interface than the loopback.
    pub(super) traffic: Option<Traffic>,
}

/// Memory of the node, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) available: u64,
    pub(super) usage: u64,
    /// In use, page cache that can be dropped at once not counted.
    pub(super) working_set: u64,
}

/// What went over a namespace's interfaces, but for the loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) received: Counts,
    pub(super) sent: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) bytes: u64,
    pub(super) errors: u64,
}

impl Host {
    /// Reads the node; none where it can't be read.
    pub(super) fn read() -> Option<Self> {
        let text = |path: &str| std::fs::read_to_string(path).ok();
        Some(Self {
            cpu: cpu(&text("/proc/stat")?)?,
            memory: memory(&text("/proc/meminfo")?)?,
            traffic: text("/proc/self/net/dev").and_then(|text| traffic(&text)),
        })
    }
}

impl Traffic {
    /// Of the namespace that a process is in; none when the process is gone.
    pub(super) fn of_process(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
        Some(traffic(&text).unwrap_or_default())
    }
}

/// All but idling and waiting. (Guests' time is in the users' already.)
fn cpu(stat: &str) -> Option<Duration> {
    let mut numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut ticks = 0_u64;
    for (place, number) in numbers.by_ref().take(8).enumerate() {
        if !matches!(place, 3 | 4) {
            ticks = ticks.checked_add(number.parse().ok()?)?;
        }
    }
    Some(Duration::from_millis(ticks.checked_mul(1000 / TICKS)?))
}

fn memory(meminfo: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let total = field("MemTotal")?;
    let usage = total.saturating_sub(field("MemFree")?);
    let working_set = usage.saturating_sub(field("Inactive(file)")?);
    Some(Memory { available: total.saturating_sub(working_set), usage, working_set })
}

fn traffic(dev: &str) -> Option<Traffic> {
    let mut sum = None;
    for line in dev.lines() {
        let Some((name, counts)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = counts.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        if name.trim() == "lo" || numbers.len() < 11 {
            continue;
        }
        let sum: &mut Traffic = sum.get_or_insert_default();
        sum.received.bytes = sum.received.bytes.saturating_add(numbers[0]);
        sum.received.errors = sum.received.errors.saturating_add(numbers[2]);
        sum.sent.bytes = sum.sent.bytes.saturating_add(numbers[8]);
        sum.sent.errors = sum.sent.errors.saturating_add(numbers[10]);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_understood() {
        let stat = "cpu  100 20 30 9000 500 5 5 40 90 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu("intr 5\n"), None);
        let meminfo =
            "MemTotal:   1000 kB\nMemFree:   300 kB\nMemAvailable: 500 kB\nInactive(file):  100 kB\n";
        let expected = Memory { available: 400 << 10, usage: 700 << 10, working_set: 600 << 10 };
        assert_eq!(memory(meminfo), Some(expected));
        assert_eq!(memory("MemTotal: 1 kB\n"), None);
        let dev = "Inter-|   Receive\n face |bytes packets\n    lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n  eth0: 500 4 1 0 0 0 0 0 80 2 3 0 0 0 0 0\n  eth1: 5 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n";
        let expected =
            Traffic { received: Counts { bytes: 505, errors: 1 }, sent: Counts { bytes: 81, errors: 3 } };
        assert_eq!(traffic(dev), Some(expected));
        assert_eq!(traffic("    lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n"), None);
    }
}
