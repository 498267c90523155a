//! Control groups as files: finding the hierarchies, reading counters, killing and removing.
//! Making them and setting limits is libcontainer's work.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::error::{Result, RuntimeError};
use crate::types::{ContainerStats, Resources};

/// How long processes may take to die of SIGKILL before we give up waiting.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);

/// Length of a CPU period when none is given, microseconds.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// The cgroup of a pod, below the root of each hierarchy.
pub fn of_pod(tag: &str, pod_uid: &str) -> String {
    format!("{}/pod{pod_uid}", of_instance(tag))
}

/// The cgroup of everything of one cloud instance.
pub(crate) fn of_instance(tag: &str) -> String {
    format!("yunfan-{tag}")
}

/// Whether this machine has only the unified hierarchy.
pub fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether v1's controller of devices is there, in which libcontainer keeps containers to what they are given.
pub(crate) fn has_devices() -> bool {
    has_devices_in(&std::fs::read_to_string("/proc/self/mounts").unwrap_or_default())
}

/// Whether huge pages can be limited in the cgroups below this one, which is there.
pub(crate) fn limits_huge_pages(cgroup: &str) -> bool {
    if is_v2() {
        return passes_on(&unified(cgroup), "hugetlb");
    }
    mounts_hugetlb(&std::fs::read_to_string("/proc/self/mounts").unwrap_or_default())
}

/// Whether a controller of v2 is there for what is in this cgroup.
fn passes_on(dir: &Path, controller: &str) -> bool {
    let all = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    all.split_whitespace().any(|name| name == controller)
}

fn mounts_hugetlb(mounts: &str) -> bool {
    let at = format!(" {ROOT}/hugetlb cgroup ");
    mounts.lines().any(|line| line.contains(&at))
}

fn has_devices_in(mounts: &str) -> bool {
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.any(|line| {
        line.get(2) == Some(&"cgroup") && line.get(3).is_some_and(|o| o.split(',').any(|o| o == "devices"))
    })
}

/// Where a cgroup is if this machine has only the unified hierarchy.
pub(crate) fn unified(cgroup: &str) -> PathBuf {
    Path::new(ROOT).join(cgroup)
}

/// The controllers of v1 in which libcontainer makes a container's cgroup, where they are mounted.
const CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
];
/// What cgroups of v2 pass on to those below them.
const V2_CONTROLLERS: [&str; 4] = ["+cpu", "+memory", "+pids", "+hugetlb"];
/// Where the hierarchies are.
const ROOT: &str = "/sys/fs/cgroup";

/// What of v1's hierarchies a container may see: its own cgroup in each, and the place where programs look for it. Hierarchies of more
/// controllers than one have a place for each. (A hierarchy of v2 beside them holds no limits, and would look like v2 alone.)
pub(crate) fn views(cgroup: &str) -> Vec<(PathBuf, PathBuf)> {
    views_of(&std::fs::read_to_string("/proc/self/mounts").unwrap_or_default(), cgroup)
}

fn views_of(mounts: &str, cgroup: &str) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, point, "cgroup", ..] = words[..] else { continue };
        let point = Path::new(point);
        let name = point.strip_prefix(ROOT).ok().and_then(Path::to_str).unwrap_or_default();
        let controllers: Vec<&str> = name.split(',').filter(|name| CONTROLLERS.contains(name)).collect();
        if controllers.is_empty() {
            continue;
        }
        let mut places: Vec<&str> = controllers;
        if !places.contains(&name) {
            places.push(name);
        }
        found.extend(places.into_iter().map(|place| (point.join(cgroup), Path::new(ROOT).join(place))));
    }
    found
}

/// Where the hierarchies are mounted, v1 controllers and v2 alike.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind) = (words.next()?, words.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(point))
        })
        .collect();
    found.dedup();
    found
}

fn directories(cgroup: &str) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|root| root.join(cgroup)).filter(|dir| dir.is_dir()).collect()
}

/// Names of the cgroups directly below `cgroup`, in any hierarchy.
pub(crate) fn children(cgroup: &str) -> Vec<String> {
    let mut names: Vec<String> = directories(cgroup)
        .iter()
        .flat_map(|dir| subdirectories(dir))
        .filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .map(|entries| {
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .collect()
        })
        .unwrap_or_default()
}

/// Whether anything runs in the pods of an instance.
pub fn has_pods(tag: &str) -> bool {
    let pods = children(&of_instance(tag)).into_iter().filter(|name| name.starts_with("pod"));
    let cgroups = pods.map(|name| format!("{}/{name}", of_instance(tag)));
    cgroups.flat_map(|cgroup| directories(&cgroup)).any(|dir| !processes_in(&dir).is_empty())
}

/// Removes the cgroup and those below it from every hierarchy. Those with processes stay; returns whether all went.
pub fn remove(cgroup: &str) -> bool {
    directories(cgroup).iter().all(|dir| remove_dir(dir))
}

fn remove_dir(dir: &Path) -> bool {
    for below in subdirectories(dir) {
        remove_dir(&below);
    }
    // The last process is counted a moment longer than it can be waited for.
    for _ in 0..50 {
        match std::fs::remove_dir(dir) {
            Ok(()) => return true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return true,
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                if !processes_in(dir).is_empty() {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(_) => return false,
        }
    }
    false
}

/// Kills everything in the cgroup and below, and waits until it is gone. Returns whether it is.
pub(crate) fn kill(cgroup: &str) -> bool {
    kill_within(cgroup, DEATH_TIMEOUT)
}

/// As [`kill`], with a time of the caller's choice.
pub(crate) fn kill_within(cgroup: &str, time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let mut processes: Vec<i32> = directories(cgroup).iter().flat_map(|dir| processes_in(dir)).collect();
        if processes.is_empty() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        processes.sort_unstable();
        processes.dedup();
        for pid in processes.into_iter().filter_map(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn processes_in(dir: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> =
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    for below in subdirectories(dir) {
        found.extend(processes_in(&below));
    }
    found
}

/// Gives all processes in the cgroup and below this score, by which the kernel chooses whom it kills for memory.
///
/// # Errors
/// What keeps it from one that is still there.
pub(crate) fn set_oom_score(cgroup: &str, score: i32) -> Result<()> {
    const MOST_LOOKS: usize = 16;
    let mut done = HashSet::new();
    // Until nobody is new: one that begins meanwhile has the score of the one that began it, maybe still the old one.
    for _ in 0..MOST_LOOKS {
        let all: HashSet<i32> = directories(cgroup).iter().flat_map(|dir| processes_in(dir)).collect();
        let new: Vec<i32> = all.difference(&done).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        for pid in &new {
            let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
            if let Err(error) = std::fs::write(&path, score.to_string())
                // It ended meanwhile.
                && !matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::SRCH))
            {
                return Err(RuntimeError::io("write", &path)(error));
            }
        }
        done.extend(new);
    }
    Ok(())
}

/// A file of the cgroup in the v1 hierarchy of `controller`, else in the unified one.
fn read(cgroup: &str, controller: &str, v1_file: &str, v2_file: &str) -> Option<String> {
    let root = Path::new("/sys/fs/cgroup");
    let v1 = root.join(controller).join(cgroup).join(v1_file);
    std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(root.join(cgroup).join(v2_file))).ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

/// How many processes in the cgroup the kernel killed for memory.
pub(crate) fn oom_kills(cgroup: &str) -> u64 {
    read(cgroup, "memory", "memory.oom_control", "memory.events")
        .and_then(|text| field(&text, "oom_kill"))
        .unwrap_or(0)
}

/// What the cgroup uses now; `None` when it is gone.
pub fn stats(cgroup: &str) -> Option<ContainerStats> {
    let memory: u64 =
        read(cgroup, "memory", "memory.usage_in_bytes", "memory.current")?.trim().parse().ok()?;
    let detail = read(cgroup, "memory", "memory.stat", "memory.stat").unwrap_or_default();
    // By their names in v1, where those of the cgroups below are counted, and in v2.
    let any = |names: &[&str]| names.iter().find_map(|name| field(&detail, name)).unwrap_or(0);
    let droppable = field(&detail, "total_inactive_file").or_else(|| field(&detail, "inactive_file"));
    let cpu = read(cgroup, "cpuacct", "cpuacct.usage", "cpu.stat").unwrap_or_default();
    let cpu = match cpu.trim().parse::<u64>() {
        Ok(nanos) => Duration::from_nanos(nanos),
        Err(_) => Duration::from_micros(field(&cpu, "usage_usec").unwrap_or(0)),
    };
    let pids = read(cgroup, "pids", "pids.current", "pids.current").unwrap_or_default();
    Some(ContainerStats {
        cpu,
        memory_bytes: memory.saturating_sub(droppable.unwrap_or(0)),
        pids: pids.trim().parse().unwrap_or(0),
        usage_bytes: memory,
        rss_bytes: any(&["total_rss", "anon"]),
        page_faults: any(&["total_pgfault", "pgfault"]),
        major_page_faults: any(&["total_pgmajfault", "pgmajfault"]),
    })
}

/// Makes a cgroup in which limits can be set, with those above it. One that is there stays as it is.
///
/// # Errors
/// What could not be made.
pub fn make(cgroup: &str) -> std::io::Result<()> {
    let root = Path::new(ROOT);
    if !is_v2() {
        return ["cpu", "memory"]
            .iter()
            .try_for_each(|name| std::fs::create_dir_all(root.join(name).join(cgroup)));
    }
    std::fs::create_dir_all(root.join(cgroup))?;
    // A controller is there for a cgroup if all above it pass it on; what this host does not have shows when a limit is set.
    let mut dir = root.to_owned();
    for below in Path::new(cgroup).components() {
        for controller in V2_CONTROLLERS {
            let _ = std::fs::write(dir.join("cgroup.subtree_control"), controller);
        }
        dir.push(below);
    }
    Ok(())
}

/// Sets the limits of a cgroup that is there. What is `None` is lifted, but for the weight and the number of processes.
///
/// # Errors
/// What could not be set, such as a memory limit below what is in use.
pub fn update(cgroup: &str, resources: &Resources) -> std::io::Result<()> {
    let v2 = is_v2();
    let dir = |controller: &str| {
        let root = Path::new("/sys/fs/cgroup");
        if v2 { root.join(cgroup) } else { root.join(controller).join(cgroup) }
    };
    let write = |controller: &str, file: &str, value: String| {
        let path = dir(controller).join(file);
        std::fs::write(&path, &value)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{file}={value}: {error}")))
    };
    if let Some(most) = resources.pids_limit {
        // Of v1 it may be the first value in that hierarchy.
        std::fs::create_dir_all(dir("pids"))?;
        write("pids", "pids.max", most.to_string())?;
    }
    let period = resources.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US);
    if v2 {
        let quota = resources.cpu_quota_us.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        write("", "cpu.max", format!("{quota} {period}"))?;
        if let Some(shares) = resources.cpu_shares {
            write("", "cpu.weight", weight(shares).to_string())?;
        }
        let memory = resources.memory_limit_bytes.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
        return write("", "memory.max", memory);
    }
    write("cpu", "cpu.cfs_period_us", period.to_string())?;
    write("cpu", "cpu.cfs_quota_us", resources.cpu_quota_us.unwrap_or(-1).to_string())?;
    if let Some(shares) = resources.cpu_shares {
        write("cpu", "cpu.shares", shares.clamp(2, 262_144).to_string())?;
    }
    write("memory", "memory.limit_in_bytes", resources.memory_limit_bytes.unwrap_or(-1).to_string())
}

/// Sets how many processes and threads there may be in a cgroup, which is made where it is missing. On v2, where whoever makes a container
/// can be told, it does nothing.
///
/// # Errors
/// When it can't be set.
pub fn limit_pids_on_v1(cgroup: &str, most: i64) -> std::io::Result<()> {
    if is_v2() {
        return Ok(());
    }
    let dir = Path::new(ROOT).join("pids").join(cgroup);
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("pids.max"), most.to_string())
}

/// CPU shares of cgroup v1 as a weight of v2, the way libcontainer does it when it makes a cgroup: the least, the default and the most of
/// the one become those of the other.
fn weight(shares: u64) -> u64 {
    // Exact, as there are fewer than 2^53.
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // Between 1 and 10,000, for these shares.
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_of_devices_is_found_among_the_mounts() {
        assert!(has_devices_in("cgroup /sys/fs/cgroup/devices cgroup rw,relatime,devices 0 0\n"));
        assert!(!has_devices_in("cgroup /devices cgroup rw,relatime,cpu 0 0\ntmpfs /x tmpfs devices 0 0\n"));
    }

    #[test]
    fn huge_pages_are_limited_where_their_controller_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!passes_on(dir.path(), "hugetlb"), "nothing is told");
        let controllers = dir.path().join("cgroup.controllers");
        std::fs::write(&controllers, "cpu memory pids\n").unwrap();
        assert!(!passes_on(dir.path(), "hugetlb"));
        std::fs::write(&controllers, "cpu hugetlb pids\n").unwrap();
        assert!(passes_on(dir.path(), "hugetlb"));
        assert!(mounts_hugetlb("cgroup /sys/fs/cgroup/hugetlb cgroup rw,relatime,hugetlb 0 0\n"));
        assert!(!mounts_hugetlb(
            "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw 0 0\n"
        ));
    }

    #[test]
    fn fields_of_counter_files() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
    }

    #[test]
    fn a_container_sees_its_cgroup_where_programs_look_for_it() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/rdma cgroup rw,rdma 0 0\n\
                      cgroup /mnt/pids cgroup rw,pids 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let views: Vec<(String, String)> = views_of(mounts, "a/b")
            .into_iter()
            .map(|(from, at)| (from.display().to_string(), at.display().to_string()))
            .collect();
        let both = "/sys/fs/cgroup/cpu,cpuacct/a/b";
        let wanted = [
            ("/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory"),
            (both, "/sys/fs/cgroup/cpu"),
            (both, "/sys/fs/cgroup/cpuacct"),
            (both, "/sys/fs/cgroup/cpu,cpuacct"),
        ];
        assert_eq!(views, wanted.map(|(from, at)| (from.to_owned(), at.to_owned())));
        assert!(views_of("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "a/b").is_empty());
    }

    #[test]
    fn shares_become_weights() {
        let shares = [0, 2, 256, 1024, 262_144, u64::MAX];
        assert_eq!(shares.map(weight), [1, 1, 35, 100, 10_000, 10_000]);
    }

    #[test]
    fn a_missing_cgroup_is_gone_already() {
        assert!(remove("yunfan-000000/none"));
        assert!(kill("yunfan-000000/none"));
        assert_eq!(stats("yunfan-000000/none"), None);
    }
}
