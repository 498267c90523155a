//! What a cloud has on the host: processes, mounts, namespaces, cgroups and links. After all Pods are gone it must be what it was before.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::Command;

use yunfan_bench::process::pss_kib;

/// How much of each there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    processes: usize,
    mounts: usize,
    namespaces: usize,
    cgroups: usize,
    links: usize,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processes, mounts, namespaces, cgroups, links } = self;
        write!(
            f,
            "{processes} processes, {mounts} mounts, {namespaces} namespaces, {cgroups} cgroups, {links} links"
        )
    }
}

impl Left {
    /// Counts what carries the cloud's tag.
    pub(crate) fn count(tag: &str) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let network = format!("yf-{tag}-cluster");
        Self {
            processes: processes(tag).len(),
            mounts: mounts.lines().filter(|line| line.contains(tag)).count(),
            namespaces: names("/run/netns").iter().filter(|name| name.contains(tag)).count(),
            cgroups: names("/sys/fs/cgroup")
                .iter()
                .map(|hierarchy| {
                    directories(&Path::new("/sys/fs/cgroup").join(hierarchy).join(format!("yunfan-{tag}")))
                })
                .sum::<usize>()
                + directories(&Path::new("/sys/fs/cgroup").join(format!("yunfan-{tag}"))),
            links: links(&["-o", "link"]).filter(|line| line.contains(tag)).count()
                + links(&["-n", &network, "-o", "link"]).count(),
        }
    }
}

/// Memory (Pss: what is shared is shared out) of all processes of the cloud but for its containers', KiB.
pub(crate) fn memory_kib(tag: &str, cloud: u32) -> u64 {
    let helpers = processes(tag).into_iter().filter(|(_, is_ours)| *is_ours).map(|(pid, _)| pid);
    let all: BTreeSet<u32> = helpers.chain([cloud]).collect();
    all.into_iter().filter_map(|pid| pss_kib(pid).ok()).sum()
}

/// CPU time of the same processes, hundredths of a second.
pub(crate) fn cpu_ticks(tag: &str, cloud: u32) -> u64 {
    let helpers = processes(tag).into_iter().filter(|(_, is_ours)| *is_ours).map(|(pid, _)| pid);
    let all: BTreeSet<u32> = helpers.chain([cloud]).collect();
    all.into_iter().filter_map(ticks).sum()
}

fn ticks(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Processes that the cloud started beside itself, each with whether it runs our program (a shim) or is a container's.
fn processes(tag: &str) -> Vec<(u32, bool)> {
    let pids = names("/proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if words.windows(2).any(|pair| pair == [b"--tag".as_slice(), tag.as_bytes()]) {
            return Some((pid, true));
        }
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        cgroups.contains(&format!("/yunfan-{tag}/")).then_some((pid, false))
    })
    .collect()
}

fn names(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Directories below one; what is a link is none.
fn directories(dir: &Path) -> usize {
    if std::fs::symlink_metadata(dir.parent().unwrap_or(dir)).is_ok_and(|meta| meta.is_symlink()) {
        return 0;
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below.map(|entry| 1 + directories(&entry.path())).sum()
}

fn links(arguments: &[&str]) -> impl Iterator<Item = String> {
    let output = Command::new("ip").args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}
