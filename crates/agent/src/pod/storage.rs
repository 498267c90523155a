//! What Pods write to the node's disk, and the end of those that write more than they may.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use yunfan_runtime::{
    ContainerState, ContainerStatus, DiskUse, Result, RuntimeError, SandboxStatus, measure_disk,
};

use super::Pods;
use super::evict;
use super::messages::MESSAGES;
use super::parts::{Kind, parts};
use super::plan::End;
use super::resources::milli;
use super::status::last_run;

/// How often Pods with limits are measured.
const MEASURE: Duration = Duration::from_secs(10);
/// One that takes long to measure is measured less often: no more than one part in so many of the time goes to that.
const SHARE: u32 = 10;
/// The resource's name.
const STORAGE: &str = "ephemeral-storage";

/// Something with a limit: what to measure, and what to say when it is more.
struct Limited {
    what: Measured,
    limit: u64,
    message: String,
}

enum Measured {
    Directory(PathBuf),
    Container(String),
    /// All containers and directories together.
    Pod,
}

impl Pods {
    /// How the Pod ends if it holds more of the node's disk than it may; and when to measure again if it has limits at all.
    pub(super) async fn measure(
        &self,
        pod: &Pod,
        sandbox: Option<&SandboxStatus>,
    ) -> (Option<End>, Option<Duration>) {
        let uid = pod.uid().unwrap_or_default();
        let limits = limits(pod, &self.pod_dir(&uid).join("volumes"));
        if limits.is_empty() {
            return (None, None);
        }
        let began = Instant::now();
        let mut containers: Vec<(String, u64)> = Vec::new();
        for part in parts(pod) {
            // Also of one that ended: what it wrote stays until the run after the next. Those of the start count while they run.
            let counts =
                |run: &&ContainerStatus| run.state == ContainerState::Running || part.kind == Kind::Main;
            let Some(run) = last_run(sandbox, part.name()).filter(counts) else { continue };
            let used = known(self.runtime.disk_usage(&run.id).await, &mut true);
            containers.push((part.name().to_owned(), used.bytes));
        }
        let sizes = self.own_files(pod).await;
        let mut all = known(self.of_sandbox(&uid, sandbox).await, &mut true);
        sizes.iter().for_each(|(_, used, _)| all += *used);
        let all = containers.iter().fold(all.bytes, |all, (_, used)| all.saturating_add(*used));
        let over = limits.into_iter().find(|limited| {
            let used = match &limited.what {
                Measured::Directory(path) => {
                    sizes.iter().filter(|(dir, ..)| dir == path).map(|(_, used, _)| used.bytes).sum()
                }
                Measured::Container(name) => {
                    containers.iter().filter(|(known, _)| known == name).map(|(_, used)| used).sum()
                }
                Measured::Pod => all,
            };
            used > limited.limit
        });
        let end = over.map(|limited| End::failed(evict::REASON, limited.message));
        (end, Some(MEASURE.max(began.elapsed() * SHARE)))
    }

    /// What a Pod holds of the node's disk beside what is its containers': volumes, last words, and what is its sandbox's.
    pub(super) async fn own_disk(&self, pod: &Pod, sandbox: Option<&SandboxStatus>) -> Result<DiskUse> {
        let uid = pod.uid().unwrap_or_default();
        let mut used = self.of_sandbox(&uid, sandbox).await?;
        let mut is_whole = true;
        for (_, of_one, all_of_it) in self.own_files(pod).await {
            used += of_one;
            is_whole &= all_of_it;
        }
        if is_whole { Ok(used) } else { Err(RuntimeError::NotMeasured { path: self.pod_dir(&uid), used }) }
    }

    async fn of_sandbox(&self, uid: &str, sandbox: Option<&SandboxStatus>) -> Result<DiskUse> {
        match sandbox {
            Some(_) => self.runtime.sandbox_disk_usage(uid).await,
            None => Ok(DiskUse::default()),
        }
    }

    /// The Pod's directories with what they hold.
    async fn own_files(&self, pod: &Pod) -> Vec<(PathBuf, DiskUse, bool)> {
        let dir = self.pod_dir(&pod.uid().unwrap_or_default());
        let mut all = directories(pod, &dir.join("volumes"));
        all.push(dir.join(MESSAGES));
        sizes_of(all).await
    }
}

/// What directories hold, and whether that is all.
async fn sizes_of(directories: Vec<PathBuf>) -> Vec<(PathBuf, DiskUse, bool)> {
    let walk = tokio::task::spawn_blocking(move || {
        let measured = directories.into_iter().map(|dir| {
            let (used, is_whole) = measure_disk(&dir);
            (dir, used, is_whole)
        });
        measured.collect()
    });
    walk.await.unwrap_or_default()
}

/// What is known of what something holds; `is_whole` becomes false where that is not all.
pub(super) fn known(measured: Result<DiskUse>, is_whole: &mut bool) -> DiskUse {
    measured.unwrap_or_else(|error| {
        *is_whole = false;
        if let RuntimeError::NotMeasured { used, .. } = error { used } else { DiskUse::default() }
    })
}

fn bytes(quantity: &Quantity) -> Option<u64> {
    u64::try_from(milli(quantity)? / 1000).ok().filter(|bytes| *bytes > 0)
}

/// The Pod's directories on the node's disk.
fn directories(pod: &Pod, volumes: &Path) -> Vec<PathBuf> {
    let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let on_disk = all.filter(|volume| {
        let empty = volume.empty_dir.as_ref();
        empty.is_some_and(|source| source.medium.as_deref().unwrap_or_default().is_empty())
    });
    on_disk.map(|volume| volumes.join(&volume.name)).collect()
}

fn limits(pod: &Pod, volumes: &Path) -> Vec<Limited> {
    let mut found = Vec::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(source) = &volume.empty_dir else { continue };
        let Some(limit) = source.size_limit.as_ref().and_then(bytes) else { continue };
        if source.medium.as_deref().unwrap_or_default().is_empty() {
            let text = source.size_limit.as_ref().map(|quantity| quantity.0.as_str()).unwrap_or_default();
            found.push(Limited {
                what: Measured::Directory(volumes.join(&volume.name)),
                limit,
                message: format!("Usage of EmptyDir volume {:?} exceeds the limit {text:?}. ", volume.name),
            });
        }
    }
    let mut total = Some(0);
    for part in parts(pod).iter().filter(|part| part.kind != Kind::Ephemeral) {
        let limits = part.container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let quantity = limits.and_then(|limits| limits.get(STORAGE));
        let Some((quantity, limit)) = quantity.and_then(|quantity| Some((quantity, bytes(quantity)?))) else {
            // One without a limit may have all.
            if part.kind == Kind::Main {
                total = None;
            }
            continue;
        };
        total = total.filter(|_| part.kind == Kind::Main).map(|total| total + limit).or(total);
        found.push(Limited {
            what: Measured::Container(part.name().to_owned()),
            limit,
            message: format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                part.name(),
                quantity.0
            ),
        });
    }
    if let Some(limit) = total.filter(|limit| *limit > 0) {
        let message =
            format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
        found.push(Limited { what: Measured::Pod, limit, message });
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_of_volumes_containers_and_the_pod() {
        let limited = |name: &str| json!({"name": name, "resources": {"limits": {STORAGE: "1Mi"}}});
        let pod = |containers: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": containers, "volumes": [
                {"name": "disk", "emptyDir": {"sizeLimit": "2Mi"}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}},
                {"name": "free", "emptyDir": {}},
            ]}}))
            .unwrap()
        };
        let said = |containers| -> Vec<(u64, String)> {
            let all = limits(&pod(containers), Path::new("/v")).into_iter();
            all.map(|limited| (limited.limit >> 20, limited.message)).collect()
        };
        let volume = (2, "Usage of EmptyDir volume \"disk\" exceeds the limit \"2Mi\". ".to_owned());
        assert_eq!(said(json!([{"name": "a"}])), std::slice::from_ref(&volume));
        let both = said(json!([limited("a"), limited("b")]));
        assert_eq!((both.len(), both[0].clone(), both[3].0), (4, volume, 2));
        assert_eq!(both[1].1, "Container a exceeded its local ephemeral storage limit \"1Mi\". ");
        assert_eq!(said(json!([limited("a"), {"name": "b"}])).len(), 2, "one without a limit may have all");
        assert_eq!(directories(&pod(json!([])), Path::new("/v")).len(), 2);
    }

    #[test]
    fn what_is_known_of_something_counts() {
        let used = DiskUse { bytes: 7, inodes: 1 };
        let mut is_whole = true;
        assert_eq!((known(Ok(used), &mut is_whole), is_whole), (used, true));
        let error = RuntimeError::NotMeasured { path: "/v".into(), used };
        assert_eq!((known(Err(error), &mut is_whole), is_whole), (used, false));
        let error = RuntimeError::SandboxNotFound("u".to_owned());
        assert_eq!(known(Err(error), &mut is_whole), DiskUse::default());
    }

    #[tokio::test]
    async fn directories_are_measured_with_all_in_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/x"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let all = sizes_of(vec![dir.path().to_owned(), dir.path().join("none")]).await;
        let (path, used, is_whole) = &all[0];
        assert!((100_000..200_000).contains(&used.bytes) && *is_whole);
        assert_eq!((path.as_path(), used.inodes), (dir.path(), 4));
        assert_eq!(all[1].1.inodes, 0);
    }
}
