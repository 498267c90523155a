//! Sandboxes: making, finding again, stopping, removing.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use tokio::io::AsyncReadExt;

use super::connection::Connection;
use super::pod::{Pod, end_of_lost};
use super::{Inner, check_name, container};
use crate::error::{Result, RuntimeError};
use crate::image::run_blocking;
use crate::proto::{READY, Reply, Request, SANDBOX_FILE, Start};
use crate::types::{ContainerStatus, RuntimeEvent, SandboxConfig, SandboxStatus};
use crate::{OWN_HANDLER, cgroup, sys, teardown};

/// A shim serves after a few milliseconds; so long means that something is wrong with it.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a shim may take to end its containers when it is told to go.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// In the directory of a pod of which nothing runs any more, because it was asked to end.
const STOPPED_FILE: &str = "stopped";
/// What containers see below `/etc` is in a pod's directory under these names.
pub const ETC_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// What every pod's `/etc/hosts` begins with.
const OWN_HOSTS: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

pub(super) async fn run(inner: &Arc<Inner>, config: SandboxConfig) -> Result<()> {
    check_name("uid", &config.uid)?;
    if config.hostname.is_empty() || config.hostname.len() > 64 {
        return Err(RuntimeError::invalid("hostname", "must have 1 to 64 bytes"));
    }
    let lock = inner.lock_of(&config.uid);
    let _alone = lock.write().await;
    if let Some(pod) = inner.pod(&config.uid) {
        return if pod.is_ready() { Ok(()) } else { Err(RuntimeError::SandboxDead(config.uid)) };
    }
    if !matches!(config.handler.as_str(), "" | OWN_HANDLER) {
        let why = format!("no runtime for {:?} is configured; this node has {OWN_HANDLER:?}", config.handler);
        return Err(RuntimeError::invalid("runtimeClassName", why));
    }
    let dir = inner.dir.join(&config.uid);
    let (target, written) = (dir.clone(), config.clone());
    run_blocking(move || write_files(&target, &written)).await?;
    start_shim(inner, &config, &dir).await?;
    let pod = connect(inner, &config, &dir).await?;
    inner.pods().insert(config.uid, pod);
    Ok(())
}

fn write_files(dir: &Path, config: &SandboxConfig) -> Result<()> {
    for name in ["run", "shm", "containers", "logs"] {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).map_err(RuntimeError::io("create", &path))?;
    }
    write_etc(dir, config)?;
    // Last: what lacks it was never a sandbox.
    sys::write_json(&dir.join(SANDBOX_FILE), config, false)
}

/// Writes what a pod's containers see as `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname`, under these names in `dir`.
///
/// # Errors
/// When a file can't be written.
pub fn write_etc(dir: &Path, config: &SandboxConfig) -> Result<()> {
    let dns = match &config.dns {
        None => std::fs::read("/etc/resolv.conf").unwrap_or_default(),
        Some(dns) => {
            let mut text = String::new();
            // Writing to a String can't fail.
            for server in &dns.servers {
                let _ = writeln!(text, "nameserver {server}");
            }
            for (word, values) in [("search", &dns.searches), ("options", &dns.options)] {
                if !values.is_empty() {
                    let _ = writeln!(text, "{word} {}", values.join(" "));
                }
            }
            text.into_bytes()
        }
    };
    sys::write_atomic(&dir.join("resolv.conf"), &dns, false)?;
    sys::write_atomic(&dir.join("hosts"), hosts(config).as_bytes(), false)?;
    let hostname = format!("{}\n", config.hostname);
    sys::write_atomic(&dir.join("hostname"), hostname.as_bytes(), false)
}

/// The pod's `/etc/hosts`, in the form that kubelets write it, which programs and tests look for. A pod in the host's network has the
/// host's names.
fn hosts(config: &SandboxConfig) -> String {
    let mut text = match config.netns {
        Some(_) => OWN_HOSTS.to_owned(),
        None => {
            let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            format!("# Kubernetes-managed hosts file (host network).\n{host}")
        }
    };
    for ip in config.pod_ips.iter().filter(|_| config.netns.is_some()) {
        // Writing to a String can't fail.
        let _ = match &config.domain {
            Some(domain) => writeln!(text, "{ip}\t{0}.{domain}\t{0}", short(&config.hostname)),
            None => writeln!(text, "{ip}\t{}", config.hostname),
        };
    }
    if !config.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in &config.host_aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.names.join("\t"));
    }
    text
}

/// A host name without its domain.
fn short(hostname: &str) -> &str {
    hostname.split('.').next().unwrap_or(hostname)
}

async fn start_shim(inner: &Inner, config: &SandboxConfig, dir: &Path) -> Result<()> {
    let log = dir.join("shim.log");
    let why = || std::fs::read_to_string(&log).unwrap_or_default();
    let mut serves = ask_for_shim(inner, config, dir, &log).await?;
    if serves == Some(false) && why().is_empty() {
        // Nothing was done for this pod: what shims are forked from was killed meanwhile.
        serves = ask_for_shim(inner, config, dir, &log).await?;
    }
    if serves == Some(true) {
        return Ok(());
    }
    let late = dir.to_owned();
    let _ = run_blocking(move || {
        teardown::kill_shims_of(&late);
        Ok(())
    })
    .await;
    Err(RuntimeError::shim(&config.uid, format!("it did not start: {}", why().trim())))
}

/// Whether the shim serves; `None` when it says nothing for too long.
async fn ask_for_shim(inner: &Inner, config: &SandboxConfig, dir: &Path, log: &Path) -> Result<Option<bool>> {
    let failed = |reason: String| RuntimeError::shim(&config.uid, reason);
    let errors = std::fs::File::create(log).map_err(RuntimeError::io("create", log))?;
    let netns = config.netns.as_ref().map(|path| {
        std::fs::File::open(path).map_err(|e| failed(format!("network namespace {}: {e}", path.display())))
    });
    let netns = netns.transpose()?;
    let pipe = tokio::net::unix::pipe::pipe();
    let pipe = pipe.and_then(|(said, ready)| Ok((said.into_blocking_fd()?, ready)));
    let (said, mut ready) = pipe.map_err(|error| failed(format!("pipe: {error}")))?;
    let memory = match &inner.memory {
        Some(memory) => memory.mounts_of(&config.uid)?,
        None => None,
    };
    let (memory, tree) = memory.unzip();
    // As the kernel names them; one that is not there yet has nothing in it.
    let apart = inner.config.apart.iter().filter_map(|dir| std::fs::canonicalize(dir).ok());
    let hidden = inner.memory.as_ref().and_then(|memory| memory.hidden());
    let hide = hidden.map(Path::to_owned).into_iter().chain(apart).collect();
    let start = Start { pod: dir.to_owned(), hide, memory };
    let optional = [tree.as_ref().map(AsFd::as_fd), netns.as_ref().map(AsFd::as_fd)];
    let fds: Vec<_> =
        [said.as_fd(), errors.as_fd()].into_iter().chain(optional.into_iter().flatten()).collect();
    let started = inner.spawner.start(&start, &fds).await;
    started.map_err(|error| failed(format!("it can't be started: {error}")))?;
    drop(said);
    let mut word = [0; READY.len()];
    let read = tokio::time::timeout(START_TIMEOUT, ready.read_exact(&mut word)).await;
    Ok(read.ok().map(|read| read.is_ok() && word == READY.as_bytes()))
}

/// Connects to a running shim, learns its state and follows it from then on.
async fn connect(inner: &Arc<Inner>, config: &SandboxConfig, dir: &Path) -> Result<Arc<Pod>> {
    let failed = |reason: String| RuntimeError::shim(&config.uid, reason);
    let conversation = async {
        let mut connection = Connection::open(dir).await?;
        connection.send(&Request::Subscribe, &[]).await?;
        let reply = connection.receive().await?;
        Ok::<_, std::io::Error>((connection, reply))
    };
    let (connection, reply) = tokio::time::timeout(START_TIMEOUT, conversation)
        .await
        .map_err(|_| failed("it does not answer".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    let Some(Reply::Snapshot { shim_pid, mut containers, takes_trees }) = reply else {
        return Err(failed("it answered something else".to_owned()));
    };
    containers.sort_by(|a, b| a.id.cmp(&b.id));
    let status = SandboxStatus { config: config.clone(), ready: true, shim_pid: Some(shim_pid), containers };
    let mut pod = Pod::new(dir.to_owned(), status);
    pod.takes_trees = takes_trees;
    let pod = Arc::new(pod);
    tokio::spawn(follow(Arc::downgrade(inner), Arc::clone(&pod), connection));
    Ok(pod)
}

/// Takes a shim's events until it ends.
async fn follow(inner: Weak<Inner>, pod: Arc<Pod>, mut connection: Connection) {
    while let Ok(Some(reply)) = connection.receive().await {
        let Some(inner) = inner.upgrade() else { return };
        if let Reply::Container(status) = reply
            && pod.apply(status.as_ref().clone())
        {
            let _ = inner.events.send(RuntimeEvent::Container(status));
        }
    }
    let Some(inner) = inner.upgrade() else { return };
    if pod.is_removing() {
        return;
    }
    tracing::warn!(pod = %pod.uid, "the shim ended unexpectedly; killing its containers");
    let cgroup = inner.cgroup_of_pod(&pod.uid);
    let _ = run_blocking(move || Ok(cgroup::kill(&cgroup))).await;
    for status in pod.died() {
        let record = pod.dir.join(format!("{}.json", status.id.local()));
        let _ = sys::write_json(&record, &status, false);
        let _ = inner.events.send(RuntimeEvent::Container(Box::new(status)));
    }
    let pod_uid = pod.uid.clone();
    let _ = inner.events.send(RuntimeEvent::SandboxDied { pod_uid });
}

/// Finds a sandbox that an earlier process made.
pub(super) async fn find(inner: Arc<Inner>, dir: PathBuf) {
    let Ok(text) = std::fs::read(dir.join(SANDBOX_FILE)) else {
        return; // The agent's own files, or remains of a removal: gone with remove_sandbox.
    };
    let Ok(config) = serde_json::from_slice::<SandboxConfig>(&text) else {
        tracing::warn!(?dir, "not a sandbox: its description can't be read");
        return;
    };
    let uid = config.uid.clone();
    let dead = |config, dir: PathBuf| {
        let status = SandboxStatus { config, ready: false, shim_pid: None, containers: recorded(&dir) };
        Arc::new(Pod::new(dir, status))
    };
    if dir.join(STOPPED_FILE).exists() {
        inner.pods().insert(uid, dead(config, dir));
        return;
    }
    let pod = match connect(&inner, &config, &dir).await {
        Ok(pod) => pod,
        Err(error) => {
            tracing::warn!(pod = %uid, %error, "the sandbox is dead");
            let cgroup = inner.cgroup_of_pod(&uid);
            let shims = dir.clone();
            let _ = run_blocking(move || {
                teardown::kill_shims_of(&shims);
                Ok(cgroup::kill(&cgroup))
            })
            .await;
            dead(config, dir)
        }
    };
    inner.pods().insert(uid, pod);
}

/// The containers of a dead sandbox, from what its shim wrote down.
fn recorded(dir: &Path) -> Vec<ContainerStatus> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found: Vec<ContainerStatus> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "json"))
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .collect();
    for status in &mut found {
        end_of_lost(status);
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found
}

/// Ends all that runs of a sandbox, which can't be run again then. What is known of its containers stays.
pub(super) async fn stop(inner: &Arc<Inner>, uid: &str) -> Result<()> {
    check_name("uid", uid)?;
    let lock = inner.lock_of(uid);
    let _alone = lock.write().await;
    let Some(pod) = inner.pod(uid).filter(|pod| pod.is_ready()) else { return Ok(()) };
    let containers = pod.status().containers;
    let stops = containers.iter().map(|status| container::stop(inner, &pod, &status.id, Duration::ZERO));
    // The first that does not die keeps none of the others alive.
    join_all(stops).await.into_iter().collect::<Result<Vec<_>>>()?;
    pod.set_removing();
    let clean = shut_down(&pod).await;
    end_processes(inner, uid, clean).await?;
    let mark = pod.dir.join(STOPPED_FILE);
    std::fs::write(&mark, b"").map_err(RuntimeError::io("write", &mark))?;
    let _ = pod.died();
    Ok(())
}

/// Ends the sandbox; `remove_files` is given its directory.
pub(super) async fn remove(
    inner: &Arc<Inner>,
    uid: &str,
    remove_files: fn(&Path) -> Result<()>,
) -> Result<()> {
    check_name("uid", uid)?;
    let lock = inner.lock_of(uid);
    let _alone = lock.write().await;
    let dir = inner.dir.join(uid);
    let clean = match inner.pod(uid) {
        Some(pod) => {
            pod.set_removing();
            if pod.is_ready() { shut_down(&pod).await } else { dir.join(STOPPED_FILE).exists() }
        }
        None => !dir.join(SANDBOX_FILE).exists(),
    };
    end_processes(inner, uid, clean).await?;
    let (owner, of) = (Arc::clone(inner), uid.to_owned());
    run_blocking(move || {
        remove_files(&dir)?;
        owner.memory.as_ref().map_or(Ok(()), |memory| memory.forget_pod(&of))
    })
    .await?;
    inner.pods().remove(uid);
    Ok(())
}

/// Kills whatever of a pod still runs, also its shim unless that has ended in good order, and removes its cgroup.
async fn end_processes(inner: &Arc<Inner>, uid: &str, clean: bool) -> Result<()> {
    let (cgroup, dir) = (inner.cgroup_of_pod(uid), inner.dir.join(uid));
    run_blocking(move || {
        if !clean {
            teardown::kill_shims_of(&dir);
        }
        if !cgroup::kill(&cgroup) {
            return Err(RuntimeError::Task(format!("processes in {cgroup} do not die")));
        }
        cgroup::remove(&cgroup);
        Ok(())
    })
    .await
}

/// Asks the shim to go; true when it went.
async fn shut_down(pod: &Pod) -> bool {
    let Ok(mut connection) = pod.connect().await else {
        return false;
    };
    let conversation = async {
        connection.send(&Request::Shutdown, &[]).await?;
        // No reply comes: the end of the connection is the end of the shim.
        while connection.receive().await?.is_some() {}
        Ok::<_, std::io::Error>(())
    };
    tokio::time::timeout(SHUTDOWN_TIMEOUT, conversation).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pods_and_their_aliases() {
        let config: SandboxConfig = serde_json::from_value(serde_json::json!({
            "uid": "u", "namespace": "n", "name": "p", "hostname": "web", "netns": "/run/netns/x",
            "pod_ips": ["10.0.0.7"], "host_aliases": [{"ip": "1.2.3.4", "names": ["a", "b"]}],
        }))
        .unwrap();
        let text = hosts(&config);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("\n10.0.0.7\tweb\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"),
            "{text}"
        );
        let domain = Some("sub.demo.svc.cluster.local".to_owned());
        let text = hosts(&SandboxConfig { domain, ..config.clone() });
        assert!(text.contains("10.0.0.7\tweb.sub.demo.svc.cluster.local\tweb\n"), "{text}");
        let text = hosts(&SandboxConfig { netns: None, ..config });
        assert!(
            text.starts_with("# Kubernetes-managed hosts file (host network).\n")
                && !text.contains("10.0.0.7")
        );
    }
}
