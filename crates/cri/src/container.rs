//! Containers: making, stopping, removing, looking into them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_cri::v1::{
    self as cri, ContainerStatsRequest, CreateContainerRequest, ExecSyncRequest, RemoveContainerRequest,
    StartContainerRequest, StopContainerRequest, UpdateContainerResourcesRequest,
};
use rustix::process::{Pid, PidfdFlags};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use yunfan_runtime::{
    ContainerConfig, ContainerId, ContainerState, ContainerStats, ContainerStatus, EXEC_OUTPUT_LIMIT,
    ExecResult, LogOptions, LogStream, Resources, Result, RuntimeError, kit, logs as log_files,
};

use crate::api::{PATIENCE, call, failed, gone, said, within};
use crate::config::{self, Parts};
use crate::runtime::{Inner, blocking};
use crate::status::{Seen, forget_failure, record_failure};
use crate::{host, sandbox};

/// How often it is looked whether a container ended that is waited for.
const LOOK: Duration = Duration::from_millis(100);
/// How many such looks the end of a stopped container is worth.
const LOOKS: u32 = 50;
/// How often it is looked whether a container is over that somebody follows, though nothing is heard of its pod.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// What a command may take longer than its time is, until the runtime says that it took too long.
const EXEC_SLACK: Duration = Duration::from_secs(10);

/// As [`yunfan_runtime::Runtime::create_and_start`].
pub(crate) async fn create(inner: &Arc<Inner>, uid: &str, config: ContainerConfig) -> Result<ContainerId> {
    kit::check_name("name", &config.name)?;
    let id = ContainerId::new(uid, &config.name, config.attempt);
    let pod = inner.pod(uid).await?;
    match pod.container(&id) {
        // Whoever made it did not come to starting it.
        Some(ContainerStatus { state: ContainerState::Created, .. }) => {}
        Some(_) => return Ok(id),
        None if !pod.status.ready => return Err(RuntimeError::SandboxDead(uid.to_owned())),
        None => {}
    }
    let name = match pod.runs.get(&id) {
        Some(run) => run.name.clone(),
        None => make(inner, &pod, &id, &config).await?,
    };
    limit_pids(inner, &id, &name, &config).await?;
    let request = StartContainerRequest { container_id: name };
    let started = within(PATIENCE, "start", inner.api.runtime.clone().start_container(request)).await;
    started.map_err(|status| not_started(&id, &status))?;
    Ok(id)
}

/// Sees to it that a container has a limit of processes before it runs. CRI has a word for that on cgroup v2 alone ([`config::message`]);
/// on v1 the cgroup that the runtime will use is there before it, with the limit.
async fn limit_pids(inner: &Inner, id: &ContainerId, name: &str, config: &ContainerConfig) -> Result<()> {
    let (cgroup, most) = (cgroup_of(inner, id, name), config::pids_limit(&config.resources));
    blocking(move || {
        kit::limit_pids_on_v1(&cgroup, most).map_err(RuntimeError::io("limit the processes of", cgroup))
    })
    .await
}

/// The cgroup of a container that the runtime calls `name`.
fn cgroup_of(inner: &Inner, id: &ContainerId, name: &str) -> String {
    format!("{}/{name}", inner.cgroup_of_pod(&id.pod_uid))
}

fn not_started(id: &ContainerId, status: &tonic::Status) -> RuntimeError {
    RuntimeError::Start { container: id.to_string(), reason: said(status) }
}

/// Makes a container, which does not run yet. Returns the runtime's name for it.
async fn make(inner: &Arc<Inner>, pod: &Seen, id: &ContainerId, config: &ContainerConfig) -> Result<String> {
    config::check(inner.features, config)?;
    let image = image_of(inner, config).await?;
    if config.run_as_non_root {
        let user = match &image.uid {
            Some(uid) => uid.value.to_string(),
            None => image.username.clone(),
        };
        kit::check_non_root(config, &user, image.uid.as_ref().map_or(0, |uid| uid.value as u32))?;
    }
    let target = match &config.processes_of {
        Some(target) => Some(joined(pod, target)?),
        None => None,
    };
    let asked = config::asked(config, &image);
    let (dir, wanted, log) = (inner.pod_dir(&id.pod_uid), config.clone(), inner.log_of(id));
    let of = id.clone();
    let prepared = blocking(move || {
        let logs = log.parent().unwrap_or(&dir);
        std::fs::create_dir_all(logs).map_err(RuntimeError::io("create", logs))?;
        host::release_parts(&dir, &of)?;
        let seccomp = config::seccomp(&dir, &of, &wanted)?;
        Ok((config::mounts(&dir, &of, &wanted), seccomp))
    });
    let (mounts, seccomp) = prepared.await?;
    let dir = inner.pod_dir(&id.pod_uid);
    let refused = |reason: String| {
        record_failure(&dir, id, asked.clone(), &reason)?;
        Err(RuntimeError::Start { container: id.to_string(), reason })
    };
    let mounts = match mounts {
        Ok(mounts) => mounts,
        Err(reason) => return refused(reason),
    };
    let (owner, listed) = (Arc::clone(inner), pod.status.config.clone());
    let sandbox = blocking(move || Ok(sandbox::full(&owner, &listed))).await?;
    let parts = Parts { sandbox: &sandbox, config, image: &image, target, mounts, seccomp };
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.id.clone(),
        config: Some(config::message(inner, parts)?),
        sandbox_config: Some(sandbox::message(inner, &sandbox)?),
    };
    let made = within(PATIENCE, "create", inner.api.runtime.clone().create_container(request)).await;
    match made {
        Ok(made) => Ok(made.container_id),
        // The runtime itself is away: that says nothing of the container.
        Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
            Err(failed("creation of a container", &status))
        }
        Err(status) => refused(said(&status)),
    }
}

/// The container among whose processes one is to run.
fn joined(pod: &Seen, target: &ContainerId) -> Result<String> {
    let status = pod.container(target).ok_or_else(|| RuntimeError::ContainerNotFound(target.to_string()))?;
    match pod.runs.get(target) {
        Some(run) if status.state == ContainerState::Running => Ok(run.name.clone()),
        _ => Err(RuntimeError::NotRunning(target.to_string())),
    }
}

async fn image_of(inner: &Inner, config: &ContainerConfig) -> Result<cri::Image> {
    let wanted = config.image_id.as_ref().unwrap_or(&config.image);
    inner.image(wanted).await?.ok_or_else(|| RuntimeError::ImageNotFound(wanted.clone()))
}

/// As [`yunfan_runtime::Runtime::stop_container`].
pub(crate) async fn stop(inner: &Arc<Inner>, id: &ContainerId, grace: Duration) -> Result<ContainerStatus> {
    let (status, name) = inner.run(id).await?;
    let Some(name) = name.filter(|_| status.state != ContainerState::Exited) else { return Ok(status) };
    match (&status.stop_signal, status.pid) {
        // Older runtimes know no signal but the image's: one of the container's own is sent from here.
        (Some(signal), Some(pid)) if !grace.is_zero() => {
            signal_to(inner, id, pid, signal).await?;
            let _ = tokio::time::timeout(grace, wait_exited(inner, id)).await;
            end(inner, &name, Duration::ZERO).await?;
        }
        _ => end(inner, &name, grace).await?,
    }
    over(inner, id).await
}

/// The last status of a container that was stopped. Where it ended by itself meanwhile, runtimes may say so a moment after they said that it
/// is stopped.
pub(crate) async fn over(inner: &Inner, id: &ContainerId) -> Result<ContainerStatus> {
    let mut status = inner.run(id).await?.0;
    for _ in 0..LOOKS {
        if status.state == ContainerState::Exited {
            break;
        }
        tokio::time::sleep(LOOK).await;
        status = inner.run(id).await?.0;
    }
    Ok(status)
}

async fn signal_to(inner: &Inner, id: &ContainerId, pid: i32, signal: &str) -> Result<()> {
    let failed = |errno: rustix::io::Errno| RuntimeError::Service {
        action: "signal to a container",
        reason: format!("{id}: {errno}"),
    };
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    // The number could have become another process's before it was opened, but not if the container still runs.
    if inner.run(id).await?.0.state == ContainerState::Running {
        match rustix::process::pidfd_send_signal(&process, kit::stop_signal(signal)) {
            Err(rustix::io::Errno::SRCH) => {}
            sent => sent.map_err(failed)?,
        }
    }
    Ok(())
}

/// Has the runtime stop a container.
pub(crate) async fn end(inner: &Inner, name: &str, grace: Duration) -> Result<()> {
    const ACTION: &str = "stop of a container";
    let request = StopContainerRequest { container_id: name.to_owned(), timeout: seconds(grace) };
    let mut api = inner.api.runtime.clone();
    let time = grace.saturating_add(PATIENCE);
    gone(within(time, ACTION, api.stop_container(request)).await).map_err(|status| failed(ACTION, &status))
}

/// Whole seconds, rather more than fewer.
fn seconds(time: Duration) -> i64 {
    let more = u64::from(time.subsec_nanos() > 0);
    i64::try_from(time.as_secs().saturating_add(more)).unwrap_or(i64::MAX)
}

/// As [`yunfan_runtime::Runtime::remove_container`].
pub(crate) async fn remove(inner: &Arc<Inner>, id: &ContainerId) -> Result<()> {
    const ACTION: &str = "removal of a container";
    let pod = inner.look(Some(&id.pod_uid)).await?.remove(&id.pod_uid);
    if let Some(run) = pod.as_ref().and_then(|pod| pod.runs.get(id)) {
        end(inner, &run.name, Duration::ZERO).await?;
        let request = RemoveContainerRequest { container_id: run.name.clone() };
        let removed = within(PATIENCE, ACTION, inner.api.runtime.clone().remove_container(request)).await;
        gone(removed).map_err(|status| failed(ACTION, &status))?;
    }
    // That of one that never ran is not the runtime's to remove.
    let cgroup = pod.as_ref().and_then(|pod| pod.runs.get(id)).map(|run| cgroup_of(inner, id, &run.name));
    let (dir, log, id) = (inner.pod_dir(&id.pod_uid), inner.log_of(id), id.clone());
    blocking(move || {
        if let Some(cgroup) = &cgroup {
            kit::remove_cgroup(cgroup);
        }
        host::release_parts(&dir, &id)?;
        forget_failure(&dir, &id);
        for file in kit::log_files(&log) {
            let _ = std::fs::remove_file(file);
        }
        Ok(())
    })
    .await
}

/// As [`yunfan_runtime::Runtime::exec_sync`]. CRI counts in whole seconds.
pub(crate) async fn exec_sync(
    inner: &Inner,
    id: &ContainerId,
    command: Vec<String>,
    timeout: Duration,
) -> Result<ExecResult> {
    let name = inner.running(id).await?;
    let seconds = seconds(timeout).max(1);
    let request = ExecSyncRequest { container_id: name, cmd: command, timeout: seconds };
    let most = Duration::from_secs(seconds.unsigned_abs()) + EXEC_SLACK;
    let answer = within(most, "exec", inner.api.runtime.clone().exec_sync(request)).await;
    let answer = answer.map_err(|status| match status.code() {
        Code::DeadlineExceeded => RuntimeError::ExecTimeout(id.to_string()),
        Code::Unavailable => failed("exec", &status),
        _ => not_started(id, &status),
    })?;
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(EXEC_OUTPUT_LIMIT);
        bytes
    };
    Ok(ExecResult { exit_code: answer.exit_code, stdout: cut(answer.stdout), stderr: cut(answer.stderr) })
}

/// As [`yunfan_runtime::Runtime::logs`].
pub(crate) async fn logs(inner: &Arc<Inner>, id: &ContainerId, options: LogOptions) -> Result<LogStream> {
    let mut wanted = id.clone();
    if options.previous {
        let before = id.attempt.checked_sub(1);
        wanted.attempt = before
            .ok_or_else(|| RuntimeError::ContainerNotFound(format!("{id} (there was no run before it)")))?;
    }
    let path: PathBuf = inner.log_of(&wanted);
    if inner.pod(&id.pod_uid).await?.container(&wanted).is_none() && !path.exists() {
        return Err(RuntimeError::ContainerNotFound(wanted.to_string()));
    }
    let (ended, left) = (CancellationToken::new(), CancellationToken::new());
    // Goes with the stream, whose reader may leave at any time.
    let reading = left.clone().drop_guard();
    if options.follow {
        let (signal, inner) = (ended.clone(), Arc::clone(inner));
        tokio::spawn(async move {
            tokio::select! {
                _ = wait_exited(&inner, &wanted) => signal.cancel(),
                () = left.cancelled() => {}
            }
        });
    }
    let stream = log_files::reader::open(path, options, ended);
    Ok(Box::pin(stream.inspect(move |_| {
        let _until_it_is_dropped = &reading;
    })))
}

/// Waits until a run is over, or gone.
pub(crate) async fn wait_exited(inner: &Arc<Inner>, id: &ContainerId) -> Option<ContainerStatus> {
    let mut events = inner.events.subscribe();
    loop {
        match inner.run(id).await {
            Ok((status, _)) if status.state == ContainerState::Exited => return Some(status),
            Err(RuntimeError::SandboxNotFound(_) | RuntimeError::ContainerNotFound(_)) => return None,
            _ => {}
        }
        // What happens to other pods is no reason to look, but what was missed may have been about this one. Of a container that is
        // removed soon after its end nothing may be told.
        let news = async {
            while let Ok(event) = events.recv().await {
                if event.pod_uid() == id.pod_uid {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(LOOK_AGAIN, news).await;
    }
}

/// As [`yunfan_runtime::Runtime::update_container`].
pub(crate) async fn update(inner: &Inner, id: &ContainerId, resources: &Resources) -> Result<()> {
    let container_id = inner.running(id).await?;
    let linux = Some(config::resources(resources, inner.memory));
    let request = UpdateContainerResourcesRequest { container_id, linux, ..Default::default() };
    call("change of limits", inner.api.runtime.clone().update_container_resources(request)).await.map(drop)
}

async fn statistics(inner: &Inner, name: String) -> Result<cri::ContainerStats> {
    let request = ContainerStatsRequest { container_id: name };
    let answer = call("statistics", inner.api.runtime.clone().container_stats(request)).await?;
    Ok(answer.stats.unwrap_or_default())
}

/// As [`yunfan_runtime::Runtime::stats`]. Of processes CRI does not speak: they are counted in the container's cgroup.
pub(crate) async fn stats(inner: &Inner, id: &ContainerId) -> Result<ContainerStats> {
    let name = inner.running(id).await?;
    let cgroup = cgroup_of(inner, id, &name);
    let stats = statistics(inner, name).await?;
    let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |nanos| nanos.value);
    let memory = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |bytes| bytes.value);
    let others = kit::cgroup_stats(&cgroup).unwrap_or_default();
    Ok(ContainerStats { cpu: Duration::from_nanos(cpu), memory_bytes: memory, ..others })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_whole_seconds() {
        let of = |millis| seconds(Duration::from_millis(millis));
        assert_eq!((of(0), of(1), of(1000), of(1001)), (0, 1, 1, 2));
        assert_eq!(seconds(Duration::MAX), i64::MAX);
    }
}
