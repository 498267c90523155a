//! Containers: making, stopping, removing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use super::pod::Pod;
use super::volumes::{self, Volumes};
use super::{Inner, check_name, log_name, memory};
use crate::error::{Result, RuntimeError};
use crate::image::{Image, run_blocking};
use crate::proto::{
    Bind, Create, DEVICES_FILE, FILTER_FILE, LATE_FILE, LENT_FILE, PAUSE_FILE, Reply, Request,
};
use crate::spec::{self, Bound, Input};
use crate::types::{
    ContainerConfig, ContainerId, ContainerState, ContainerStatus, Propagation, RunUser, RuntimeEvent,
    SandboxConfig,
};
use crate::{capabilities, cgroup, devices, logs, seccomp, sys, user};

/// Why a container is refused that could reach any device of this node.
const NO_DEVICES: &str = "this node has no cgroup controller of devices, and nothing else keeps a container from the node's devices \
     that has MKNOD, SYS_ADMIN or a device to read only";
/// How long a process may take to die of SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) async fn create(
    inner: &Arc<Inner>,
    pod: &Arc<Pod>,
    config: ContainerConfig,
) -> Result<ContainerId> {
    check_name("name", &config.name)?;
    let id = ContainerId::new(&pod.uid, &config.name, config.attempt);
    if pod.container(&id).is_some() {
        return Ok(id);
    }
    if !pod.is_ready() {
        return Err(RuntimeError::SandboxDead(pod.uid.clone()));
    }
    let _pinned = inner.images.pin().await;
    let find =
        |name: &String| inner.images.resolve(name).ok_or_else(|| RuntimeError::ImageNotFound(name.clone()));
    let image = find(config.image_id.as_ref().unwrap_or(&config.image))?;
    let mounted = config.image_mounts.iter().map(|mount| find(&mount.image)).collect::<Result<Vec<_>>>()?;
    let sandbox = pod.status().config;
    let processes_of = joined(pod, &sandbox, &config)?;
    let mut create = Create {
        status: ContainerStatus {
            id: id.clone(),
            state: ContainerState::Created,
            image_id: image.id.clone(),
            image: config.image.clone(),
            pid: None,
            exit_code: None,
            started_at: None,
            finished_at: None,
            oom_killed: false,
            lost: false,
            message: String::new(),
            user: RunUser::default(),
            stop_signal: config.stop_signal.clone(),
            labels: config.labels.clone(),
            runtime_id: None,
        },
        layers: image.layers.len().max(1),
        tty: config.tty,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        binds: Vec::new(),
        shares_processes: processes_of.is_some() || sandbox.host_pid,
        log: log_name(&id).to_string_lossy().into_owned(),
        cgroup: inner.cgroup_of(&id),
    };
    let parts = Parts { id: id.clone(), config, image, mounted, sandbox, processes_of };
    let (owner, there) = (Arc::clone(inner), Arc::clone(pod));
    let trees;
    (create.status.user, create.binds, trees) = run_blocking(move || prepare(&owner, &there, &parts)).await?;
    let along: Vec<_> = trees.iter().map(AsFd::as_fd).collect();
    match pod.ask_with(&Request::Create(Box::new(create)), &along).await? {
        Reply::Container(status) => {
            if pod.apply(status.as_ref().clone()) {
                let _ = inner.events.send(RuntimeEvent::Container(status));
            }
            Ok(id)
        }
        reply => {
            let (owner, of) = (Arc::clone(inner), id.clone());
            run_blocking(move || remove_bundle(&owner, &of)).await?;
            let reason = match reply {
                // The same of every run, so that it can be counted.
                Reply::Failed { reason } => reason.replace(&inner.cgroup_of(&id), "its cgroup"),
                other => format!("the shim answered {other:?}"),
            };
            Err(RuntimeError::Start { container: id.to_string(), reason })
        }
    }
}

/// The process whose PID namespace a container is to join, if it gets none of its own.
fn joined(pod: &Pod, sandbox: &SandboxConfig, config: &ContainerConfig) -> Result<Option<i32>> {
    if let Some(target) = &config.processes_of {
        let status =
            pod.container(target).ok_or_else(|| RuntimeError::ContainerNotFound(target.to_string()))?;
        return status.pid.map(Some).ok_or_else(|| RuntimeError::NotRunning(target.to_string()));
    }
    if !sandbox.share_processes || sandbox.host_pid {
        return Ok(None);
    }
    let file = pod.dir.join(PAUSE_FILE);
    let text = std::fs::read_to_string(&file).map_err(RuntimeError::io("read", &file))?;
    text.trim().parse().map(Some).map_err(|_| pod.error("it did not say who holds the shared processes"))
}

/// What a bundle is made from.
struct Parts {
    id: ContainerId,
    config: ContainerConfig,
    image: Image,
    /// Those of the configuration's `image_mounts`, in order.
    mounted: Vec<Image>,
    sandbox: SandboxConfig,
    processes_of: Option<i32>,
}

/// Writes the container's bundle: specification, links to the layers, directories of its own layer. Returns what the shim has to
/// mount in it, and what comes along for that.
fn prepare(inner: &Inner, pod: &Pod, parts: &Parts) -> Result<(RunUser, Vec<Bind>, Vec<OwnedFd>)> {
    let (config, image) = (&parts.config, &parts.image);
    let bundle = inner.bundle_of(&parts.id);
    // Remains of a start that did not come to its end.
    sys::remove_tree(&bundle)?;
    for name in ["l", "upper", "work", "rootfs", "binds", "image-layers"] {
        make_dir(&bundle.join(name))?;
    }
    let Volumes { mut bounds, mut binds, trees } = volumes::of(inner, pod, &bundle, config)?;
    mount_images(inner, &bundle, parts, &mut bounds, &mut binds)?;
    let layers = inner.images.layer_dirs(image);
    let cgroup = inner.cgroup_of(&parts.id);
    let user = user::resolve(config, &image.config.user, &layers)?;
    let mut capabilities = capabilities::of(config)?;
    let device_filter = devices::filter::of(config, &capabilities);
    if let Some(filter) = seccomp::filter(config, &capabilities)? {
        sys::write_atomic(&bundle.join(FILTER_FILE), &seccomp::write(&filter), false)?;
        // Without new privileges anyone may put a filter on.
        if spec::may_gain_privileges(config) {
            let lent = capabilities::lent(&capabilities);
            sys::write_json(&bundle.join(LENT_FILE), &lent, false)?;
            capabilities.extend(lent);
        }
    }
    let unified = cgroup::is_v2();
    if unified && let Some(above) = cgroup::unified(&cgroup).parent() {
        // libcontainer fails where another container's start makes one of these at the same time.
        make_dir(above)?;
    }
    match device_filter {
        Some(filter) if unified => sys::write_json(&bundle.join(DEVICES_FILE), &filter, false)?,
        Some(filter) if filter.needed && !cgroup::has_devices() => {
            return Err(RuntimeError::invalid("securityContext", NO_DEVICES));
        }
        _ => {}
    }
    let spec = spec::generate(&Input {
        config,
        image: &image.config,
        user: &user,
        sandbox: &parts.sandbox,
        processes_of: parts.processes_of,
        capabilities: &capabilities,
        least_oom_score: capabilities::least_oom_score(),
        binds: &bounds,
        pod_dir: &pod.dir,
        cgroup: &cgroup,
        unified,
        huge_pages: cgroup::limits_huge_pages(&inner.cgroup_of_pod(&parts.id.pod_uid)),
        cgroup_views: &cgroup::views(&cgroup),
    })?;
    let late = spec::late(&bounds);
    if !late.is_empty() {
        sys::write_json(&bundle.join(LATE_FILE), &late, false)?;
    }
    link_layers(&bundle.join("l"), &layers)?;
    let ids: Vec<&str> =
        std::iter::once(image).chain(&parts.mounted).map(|image| image.id.as_str()).collect();
    sys::write_atomic(&bundle.join("image"), ids.join("\n").as_bytes(), false)?;
    memory::write_spec(inner.memory.as_ref(), &parts.id, &bundle, &spec)?;
    Ok((user, binds, trees))
}

/// Images that are shown as directories: their layers are laid over each other in the bundle.
fn mount_images(
    inner: &Inner,
    bundle: &Path,
    parts: &Parts,
    bounds: &mut Vec<Bound>,
    binds: &mut Vec<Bind>,
) -> Result<()> {
    for (number, (mount, image)) in parts.config.image_mounts.iter().zip(&parts.mounted).enumerate() {
        let links = format!("image-layers/{number}");
        let layers = inner.images.layer_dirs(image);
        make_dir(&bundle.join(&links))?;
        link_layers(&bundle.join(&links), &layers)?;
        let whole = format!("binds/image-{number}");
        binds.push(Bind::Layers { links, count: layers.len().max(1), at: whole.clone() });
        let mut at = whole.clone();
        if let Some(path) = &mount.sub_path {
            at = format!("binds/part-of-image-{number}");
            let base = bundle.join(whole);
            binds.push(Bind::Part { base, path: path.clone(), at: at.clone(), make: false });
        }
        bounds.push(Bound {
            source: bundle.join(at),
            target: mount.container_path.clone(),
            read_only: true,
            recursive_read_only: false,
            propagation: Propagation::Private,
        });
    }
    Ok(())
}

/// Short names for layers: the uppermost, which comes first in an overlay's options, is `0`.
fn link_layers(dir: &Path, layers: &[PathBuf]) -> Result<()> {
    if layers.is_empty() {
        return make_dir(&dir.join("0"));
    }
    for (number, layer) in layers.iter().rev().enumerate() {
        let link = dir.join(number.to_string());
        std::os::unix::fs::symlink(layer, &link).map_err(RuntimeError::io("create", &link))?;
    }
    Ok(())
}

/// Makes a directory that every user may enter, whatever the umask.
fn make_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(path).map_err(RuntimeError::io("create", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .map_err(RuntimeError::io("set mode of", path))
}

pub(super) async fn stop(
    inner: &Inner,
    pod: &Pod,
    id: &ContainerId,
    grace: Duration,
) -> Result<ContainerStatus> {
    let gone = || RuntimeError::ContainerNotFound(id.to_string());
    let status = pod.container(id).ok_or_else(gone)?;
    if status.state == ContainerState::Exited {
        return Ok(status);
    }
    if !grace.is_zero() {
        let of_image = || Some(inner.images.resolve(&status.image_id)?.config.stop_signal);
        let wanted = status.stop_signal.clone().or_else(of_image).unwrap_or_default();
        signal(pod, id, stop_signal(&wanted)).await?;
        if tokio::time::timeout(grace, pod.wait_exited(id)).await.is_ok() {
            return pod.container(id).ok_or_else(gone);
        }
    }
    signal(pod, id, Signal::KILL).await?;
    tokio::time::timeout(KILL_TIMEOUT, pod.wait_exited(id))
        .await
        .map_err(|_| pod.error(format!("container {id} does not die of SIGKILL")))?;
    pod.container(id).ok_or_else(gone)
}

async fn signal(pod: &Pod, id: &ContainerId, signal: Signal) -> Result<()> {
    let request = Request::Signal { container: id.local(), signal: signal.as_raw() };
    match pod.ask(&request).await {
        // It ended in between: that is what was wanted.
        Ok(Reply::Ok | Reply::NotRunning | Reply::NotFound) => Ok(()),
        Err(_) if !pod.is_ready() => Ok(()),
        Err(error) => Err(error),
        Ok(other) => Err(pod.error(format!("unexpected answer to a signal: {other:?}"))),
    }
}

pub(super) async fn remove(inner: &Arc<Inner>, pod: &Pod, id: &ContainerId) -> Result<()> {
    check_name("name", &id.name)?;
    if pod.container(id).is_some() {
        stop(inner, pod, id, Duration::ZERO).await?;
        if pod.is_ready() {
            let container = id.local();
            match pod.ask(&Request::Forget { container }).await? {
                Reply::Ok | Reply::NotFound => {}
                other => return Err(pod.error(format!("unexpected answer: {other:?}"))),
            }
        }
    }
    let (log, cgroup) = (inner.log_of(id), inner.cgroup_of(id));
    let (owner, of) = (Arc::clone(inner), id.clone());
    let record = pod.dir.join(format!("{}.json", id.local()));
    run_blocking(move || {
        cgroup::kill(&cgroup);
        cgroup::remove(&cgroup);
        for file in logs::files_of(&log).into_iter().chain([record]) {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(RuntimeError::io("remove", &file)(error));
                }
                _ => {}
            }
        }
        remove_bundle(&owner, &of)
    })
    .await?;
    pod.forget(id);
    Ok(())
}

fn remove_bundle(inner: &Inner, id: &ContainerId) -> Result<()> {
    sys::remove_tree(&inner.bundle_of(id))?;
    inner.memory.as_ref().map_or(Ok(()), |memory| memory.forget(id))
}

/// Reads `SIGQUIT`, `QUIT` or `3`. What can't be read or sent is SIGTERM.
pub fn stop_signal(name: &str) -> Signal {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let name = name.to_ascii_uppercase();
    let plain = name.strip_prefix("SIG").unwrap_or(&name);
    let number = match NAMES.iter().position(|known| *known == plain) {
        Some(index) => i32::try_from(index + 1).unwrap_or(15),
        None => plain.parse().unwrap_or(15),
    };
    Signal::from_named_raw(number).unwrap_or(Signal::TERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals() {
        assert_eq!(stop_signal(""), Signal::TERM);
        assert_eq!(stop_signal("SIGQUIT"), Signal::QUIT);
        assert_eq!(stop_signal("usr1"), Signal::USR1);
        assert_eq!(stop_signal("3"), Signal::QUIT);
        assert_eq!(stop_signal("SIGSYS"), Signal::SYS);
        assert_eq!(stop_signal("SIGTERM"), Signal::TERM);
        assert_eq!(stop_signal("SIGRTMIN+3"), Signal::TERM);
    }
}
