//! A cgroup for each machine, `yunfan-TAG/vmUID`, in every v1 hierarchy that matters here or in v2's one.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// v1 hierarchies that a machine joins: those that limit it, and those that count for it.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];

/// Where cgroups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// v1: mount points of the hierarchies with any of [`CONTROLLERS`].
    v1: Vec<PathBuf>,
    /// v2: its mount point, when no v1 hierarchy is of use.
    v2: Option<PathBuf>,
}

/// What a machine's process may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Guest memory and QEMU's own.
    pub(crate) memory_bytes: u64,
    /// Weight against other machines and pods, in processors.
    pub(crate) vcpus: u32,
    /// Threads.
    pub(crate) pids: u32,
}

impl Hierarchies {
    /// Reads this process's mount table.
    pub(crate) fn find() -> io::Result<Hierarchies> {
        Ok(Hierarchies::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Hierarchies {
        let (mut v1, mut v2) = (BTreeSet::new(), None);
        for line in mountinfo.lines() {
            // ID PARENT DEV ROOT MOUNTPOINT OPTIONS [TAGS...] - TYPE SOURCE SUPEROPTIONS
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(point), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
            match (right.next(), right.nth(1)) {
                (Some("cgroup"), Some(options))
                    if options.split(',').any(|option| CONTROLLERS.contains(&option)) =>
                {
                    v1.insert(PathBuf::from(point));
                }
                (Some("cgroup2"), _) => v2 = Some(PathBuf::from(point)),
                _ => {}
            }
        }
        let v2 = if v1.is_empty() { v2 } else { None };
        Hierarchies { v1: v1.into_iter().collect(), v2 }
    }

    fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.v1.iter().chain(&self.v2)
    }

    /// Makes the cgroup of machine `uid`, or finds it, and sets its limits. Returns the files that a process writes `0` to in
    /// order to join.
    pub(crate) fn create(&self, tag: &str, uid: &str, limits: Limits) -> io::Result<Vec<File>> {
        let mut join = Vec::new();
        for root in self.roots() {
            let group = root.join(group_name(tag)).join(vm_name(uid));
            fs::create_dir_all(&group)?;
            if self.v2.is_some() {
                for parent in [root.clone(), root.join(group_name(tag))] {
                    for controller in ["+cpu", "+memory", "+pids"] {
                        set(&parent.join("cgroup.subtree_control"), controller);
                    }
                }
                set(&group.join("memory.max"), &limits.memory_bytes.to_string());
                set(&group.join("cpu.weight"), &(100 * limits.vcpus).min(10_000).to_string());
            } else {
                set(&group.join("memory.limit_in_bytes"), &limits.memory_bytes.to_string());
                set(&group.join("cpu.shares"), &(1024 * limits.vcpus).min(262_144).to_string());
            }
            set(&group.join("pids.max"), &limits.pids.to_string());
            join.push(OpenOptions::new().write(true).open(group.join("cgroup.procs"))?);
        }
        Ok(join)
    }

    /// Processes in the cgroup of machine `uid`.
    pub(crate) fn processes(&self, tag: &str, uid: &str) -> BTreeSet<u32> {
        let groups = self.roots().map(|root| root.join(group_name(tag)).join(vm_name(uid)));
        groups.flat_map(|group| processes_of(&group)).collect()
    }

    /// Ends whatever is left in the cgroup of machine `uid`, and removes it. Blocks for up to two seconds.
    pub(crate) fn remove(&self, tag: &str, uid: &str) -> io::Result<()> {
        for root in self.roots() {
            let parent = root.join(group_name(tag));
            remove_group(&parent.join(vm_name(uid)))?;
            // Fails while other machines or pods have theirs in it, which is right.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// Uids of all machines that have a cgroup.
    pub(crate) fn machines(&self, tag: &str) -> BTreeSet<String> {
        let entries =
            self.roots().filter_map(|root| fs::read_dir(root.join(group_name(tag))).ok()).flatten().flatten();
        entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("vm")?.to_owned())).collect()
    }
}

fn group_name(tag: &str) -> String {
    format!("yunfan-{tag}")
}

fn vm_name(uid: &str) -> String {
    format!("vm{uid}")
}

/// A limit that can't be set (its controller is not enabled, not mounted, or not in this hierarchy) does not keep a machine
/// from running.
fn set(file: &Path, value: &str) {
    let written =
        OpenOptions::new().write(true).open(file).and_then(|mut file| file.write_all(value.as_bytes()));
    if let Err(error) = written
        && error.kind() != io::ErrorKind::NotFound
        && error.kind() != io::ErrorKind::PermissionDenied
    {
        tracing::warn!(file = %file.display(), value, %error, "a cgroup limit could not be set");
    }
}

fn processes_of(group: &Path) -> BTreeSet<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn remove_group(group: &Path) -> io::Result<()> {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        for pid in processes_of(group) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            // Busy for a moment after the last process of it ended.
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_v1_and_pure_v2_are_told_apart() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 25 0:28 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n\
                      33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(hybrid);
        assert_eq!(
            found.v1,
            [PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"), PathBuf::from("/sys/fs/cgroup/memory")]
        );
        assert_eq!(found.v2, None);
        let pure =
            Hierarchies::parse("33 25 0:29 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!((pure.v1, pure.v2), (vec![], Some(PathBuf::from("/sys/fs/cgroup"))));
    }
}
