//! What a cloud leaves on the host: seen from outside, without asking the cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::run;

/// Everything on the host that a cloud could leave behind, one line a thing, by kind.
pub type Snapshot = BTreeMap<&'static str, BTreeSet<String>>;

/// Looks at the host now. What carries the tag of a cloud other than `tag` is left out: such may come and go beside this test.
pub fn snapshot(tag: &str) -> Snapshot {
    let keep = |lines: Vec<String>| lines.into_iter().filter(|line| !of_another(line, tag)).collect();
    BTreeMap::from([
        ("mounts", keep(mounts())),
        ("namespaces", keep(entries(Path::new("/run/netns")))),
        ("links", keep(links())),
        ("rules", keep(tables())),
        ("routes", keep(routes())),
        ("cgroups", keep(cgroups())),
        ("runtime files", keep(entries(Path::new("/run")))),
        ("shared memory", keep(entries(Path::new("/dev/shm")))),
    ])
}

/// What differs between two looks, to be read by people; empty where nothing does.
pub fn difference(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (kind, old) in before {
        let new = &after[kind];
        lines.extend(new.difference(old).map(|line| format!("{kind}: left behind: {line}")));
        lines.extend(old.difference(new).map(|line| format!("{kind}: taken away: {line}")));
    }
    lines
}

/// Whether a line carries the tag of a cloud that is not `tag`.
fn of_another(line: &str, tag: &str) -> bool {
    ["yunfan-", "yf-", "yf"].iter().any(|prefix| {
        line.match_indices(prefix).any(|(at, _)| {
            let rest = &line[at + prefix.len()..];
            rest.get(..6).is_some_and(|digits| {
                digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) && digits != tag
            })
        })
    })
}

fn lines(program: &str, arguments: &[&str]) -> Vec<String> {
    run(program, arguments).ok().lines().map(|line| line.trim_end().to_owned()).collect()
}

fn entries(dir: &Path) -> Vec<String> {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
    found.map(|entry| entry.path().display().to_string()).collect()
}

fn mounts() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    // Root, mount point, kind and source; the numbers before say nothing.
    text.lines().map(|line| line.split(' ').skip(3).collect::<Vec<_>>().join(" ")).collect()
}

fn links() -> Vec<String> {
    let first = |line: String| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    lines("ip", &["-br", "link"]).into_iter().map(first).collect()
}

/// The rule set, one entry a table.
fn tables() -> Vec<String> {
    let text = run("nft", &["-s", "list", "ruleset"]).ok();
    text.split("\n}\n").map(str::to_owned).collect()
}

fn routes() -> Vec<String> {
    let families = [["-4", "route"], ["-6", "route"]];
    let mut all: Vec<String> =
        families.iter().flat_map(|f| lines("ip", &[f[0], f[1], "show", "table", "all"])).collect();
    all.extend(lines("ip", &["rule"]));
    // The kernel adds these when it has found out that nobody else has a link's address: the link is what counts.
    all.retain(|line| !line.starts_with("local fe80:"));
    all
}

fn cgroups() -> Vec<String> {
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &mut found);
    found.into_iter().map(|path| path.display().to_string()).filter(|path| path.contains("yunfan")).collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

/// A process that cannot be taken for another with the same number later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did.
    pub started: u64,
    /// Its command line.
    pub command: String,
}

impl Process {
    /// The process of a number, where there is one that has not ended.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if fields.first() == Some(&"Z") {
            return None;
        }
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
        Some(Self { pid, started: fields.get(19)?.parse().ok()?, command })
    }

    /// Whether it still runs.
    pub fn lives(&self) -> bool {
        Self::of(self.pid).is_some_and(|now| now.started == self.started)
    }
}

/// Every process that belongs to a cloud: by its cgroups, by its command line, or as a child of such a process.
pub fn processes(tag: &str, data_dir: &Path) -> BTreeSet<Process> {
    let data_dir = data_dir.to_string_lossy();
    let all: Vec<Process> = entries(Path::new("/proc"))
        .iter()
        .filter_map(|path| path.rsplit('/').next()?.parse().ok())
        .filter_map(Process::of)
        .collect();
    let own = |process: &Process| {
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
        let is_test = process.pid == std::process::id();
        !is_test && (cgroups.contains(&format!("yunfan-{tag}")) || process.command.contains(&*data_dir))
    };
    let mut found: BTreeSet<Process> = all.iter().filter(|process| own(process)).cloned().collect();
    loop {
        let numbers: BTreeSet<u32> = found.iter().map(|process| process.pid).collect();
        let children = all.iter().filter(|process| parent(process.pid).is_some_and(|p| numbers.contains(&p)));
        let before = found.len();
        found.extend(children.cloned());
        if found.len() == before {
            return found;
        }
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The processes in the cgroups of one workload (`pod<uid>` or `vm<uid>`) and below.
pub fn processes_of(tag: &str, workload: &str) -> BTreeSet<Process> {
    let needle = format!("/yunfan-{tag}/{workload}");
    entries(Path::new("/proc"))
        .iter()
        .filter_map(|path| path.rsplit('/').next()?.parse().ok())
        .filter(|pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&needle))
        })
        .filter_map(Process::of)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_clouds_are_told_by_their_tags() {
        for line in ["yf-0a1b2c-cluster", "table inet yunfan-0a1b2c {", "dev yf0a1b2cu scope link"] {
            assert!(of_another(line, "ffffff") && of_another(line, ""), "{line}");
            assert!(!of_another(line, "0a1b2c"), "{line}");
        }
        assert!(!of_another("/sys/fs/cgroup/yunfan-tests", "ffffff"));
    }

    #[test]
    fn a_process_that_ended_does_not_live() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let process = Process::of(child.id()).expect("it runs");
        assert!(process.lives());
        child.kill().expect("SIGKILL");
        // A zombie has ended as well.
        crate::until("it has ended", crate::seconds(5), || {
            if process.lives() { Err("lives".into()) } else { Ok(()) }
        });
        child.wait().expect("its end");
        assert!(!process.lives());
    }
}
