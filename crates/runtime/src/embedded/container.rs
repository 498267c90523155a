//! Containers: making, stopping, removing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use super::pod::Pod;
use super::{Inner, check_name, log_name};
use crate::error::{Result, RuntimeError};
use crate::image::{Image, run_blocking};
use crate::proto::{Create, Reply, Request};
use crate::spec::{self, Input};
use crate::types::{ContainerConfig, ContainerId, ContainerState, ContainerStatus, RuntimeEvent};
use crate::{cgroup, logs, sys, user};

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
    let image = inner
        .images
        .resolve(&config.image)
        .ok_or_else(|| RuntimeError::ImageNotFound(config.image.clone()))?;
    let create = Create {
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
            message: String::new(),
            labels: config.labels.clone(),
        },
        layers: image.layers.len().max(1),
        tty: config.tty,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        log: log_name(&id).to_string_lossy().into_owned(),
        cgroup: inner.cgroup_of(&id),
    };
    let hostname = pod.status().config.hostname;
    let (owner, there, own_id) = (Arc::clone(inner), Arc::clone(pod), id.clone());
    run_blocking(move || prepare(&owner, &there, &own_id, &config, &image, &hostname)).await?;
    match pod.ask(&Request::Create(Box::new(create))).await? {
        Reply::Container(status) => {
            if pod.apply(status.clone()) {
                let _ = inner.events.send(RuntimeEvent::Container(status));
            }
            Ok(id)
        }
        reply => {
            let bundle = inner.bundle_of(&id);
            run_blocking(move || sys::remove_tree(&bundle)).await?;
            let reason = match reply {
                Reply::Failed { reason } => reason,
                other => format!("the shim answered {other:?}"),
            };
            Err(RuntimeError::Start { container: id.to_string(), reason })
        }
    }
}

/// Writes the container's bundle: specification, links to the layers, directories of its own layer.
fn prepare(
    inner: &Inner,
    pod: &Pod,
    id: &ContainerId,
    config: &ContainerConfig,
    image: &Image,
    hostname: &str,
) -> Result<()> {
    let bundle = inner.bundle_of(id);
    // Remains of a start that did not come to its end.
    sys::remove_tree(&bundle)?;
    for mount in &config.mounts {
        if !mount.host_path.exists() {
            return Err(RuntimeError::invalid(
                "volumeMounts",
                format!("{:?} does not exist on the node", mount.host_path),
            ));
        }
    }
    let layers = inner.images.layer_dirs(image);
    let cgroup = inner.cgroup_of(id);
    let spec = spec::generate(&Input {
        config,
        image: &image.config,
        user: user::resolve(config, &image.config.user, &layers)?,
        pod_dir: &pod.dir,
        hostname,
        cgroup: &cgroup,
        unified: cgroup::is_v2(),
    })?;
    for name in ["l", "upper", "work", "rootfs"] {
        make_dir(&bundle.join(name))?;
    }
    if layers.is_empty() {
        make_dir(&bundle.join("l/0"))?;
    }
    // The uppermost layer comes first in the mount's options.
    for (number, layer) in layers.iter().rev().enumerate() {
        let link = bundle.join("l").join(number.to_string());
        std::os::unix::fs::symlink(layer, &link).map_err(RuntimeError::io("create", &link))?;
    }
    sys::write_atomic(&bundle.join("image"), image.id.as_bytes(), false)?;
    sys::write_json(&bundle.join("config.json"), &spec, false)
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
        let image = inner.images.resolve(&status.image_id);
        let wanted = image.map_or(Signal::TERM, |image| stop_signal(&image.config.stop_signal));
        signal(pod, id, wanted).await?;
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
    let (bundle, log, cgroup) = (inner.bundle_of(id), inner.log_of(id), inner.cgroup_of(id));
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
        sys::remove_tree(&bundle)
    })
    .await?;
    pod.forget(id);
    Ok(())
}

/// Reads `SIGQUIT`, `QUIT` or `3`. What can't be read or sent is SIGTERM.
fn stop_signal(name: &str) -> Signal {
    let name = name.to_ascii_uppercase();
    let number = match name.strip_prefix("SIG").unwrap_or(&name) {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ABRT" => 6,
        "KILL" => 9,
        "USR1" => 10,
        "USR2" => 12,
        "WINCH" => 28,
        "PWR" => 30,
        other => other.parse().unwrap_or(15),
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
        assert_eq!(stop_signal("SIGRTMIN+3"), Signal::TERM);
    }
}
