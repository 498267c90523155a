//! What containers hold of the node's disk, and how that comes free while their pod is still known.

use std::sync::Arc;

use k8s_cri::v1::{self as cri, ContainerStatsFilter, ListContainerStatsRequest, RemoveContainerRequest};
use yunfan_runtime::{ContainerId, ContainerState, DiskUse, Result, disk_usage as on_disk, kit};

use crate::api::{PATIENCE, call, failed, gone, within};
use crate::runtime::{Inner, blocking};
use crate::status::record;

/// As [`yunfan_runtime::Runtime::disk_usage`].
pub(crate) async fn usage(inner: &Inner, id: &ContainerId) -> Result<DiskUse> {
    let layer = match inner.run(id).await?.1 {
        Some(name) => layer(inner, name).await?,
        None => None,
    };
    let number = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
    let mut used = layer.map_or_else(DiskUse::default, |layer| DiskUse {
        bytes: number(layer.used_bytes),
        inodes: number(layer.inodes_used),
    });
    let log = inner.log_of(id);
    blocking(move || {
        let logs = kit::log_files(&log);
        logs.iter().for_each(|file| used += on_disk(file));
        Ok(used)
    })
    .await
}

/// What a container wrote to its own layer. The list tells it of those that ended as well, of which runtimes have no statistics by themselves.
async fn layer(inner: &Inner, name: String) -> Result<Option<cri::FilesystemUsage>> {
    let filter = ContainerStatsFilter { id: name.clone(), ..ContainerStatsFilter::default() };
    let request = ListContainerStatsRequest { filter: Some(filter) };
    let answer = call("statistics", inner.api.runtime.clone().list_container_stats(request)).await?;
    let is = |stats: &cri::ContainerStats| stats.attributes.as_ref().is_some_and(|of| of.id == name);
    Ok(answer.stats.into_iter().find(is).and_then(|stats| stats.writable_layer))
}

/// As [`yunfan_runtime::Runtime::discard_layers`]. Layers go with their containers, so it is written down beforehand how those ended.
pub(crate) async fn discard(inner: &Arc<Inner>, uid: &str) -> Result<()> {
    const ACTION: &str = "removal of a container";
    let lock = inner.lock_of(uid);
    let _alone = lock.lock().await;
    let pod = inner.look(Some(uid)).await?.remove(uid);
    let Some(pod) = pod.filter(|pod| !pod.status.ready) else { return Ok(()) };
    let dir = inner.pod_dir(uid);
    for (id, run) in &pod.runs {
        let Some(status) = pod.container(id).filter(|run| run.state == ContainerState::Exited) else {
            continue;
        };
        let (at, status) = (dir.clone(), status.clone());
        blocking(move || record(&at, &status)).await?;
        let request = RemoveContainerRequest { container_id: run.name.clone() };
        let removed = within(PATIENCE, ACTION, inner.api.runtime.clone().remove_container(request)).await;
        gone(removed).map_err(|status| failed(ACTION, &status))?;
    }
    blocking(move || {
        kit::discard_etc(&dir);
        Ok(())
    })
    .await
}
