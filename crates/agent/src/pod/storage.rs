//! What Pods write to the node's disk, and the end of those that write more than they may.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use yunfan_runtime::{ContainerState, SandboxStatus, disk_usage};

use super::Pods;
use super::evict;
use super::parts::{Kind, parts};
use super::plan::End;
use super::resources::milli;
use super::status::last_run;

/// How often Pods with limits are measured.
const MEASURE: Duration = Duration::from_secs(10);
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
        let volumes = self.pod_dir(&pod.uid().unwrap_or_default()).join("volumes");
        let limits = limits(pod, &volumes);
        if limits.is_empty() {
            return (None, None);
        }
        let mut containers: Vec<(String, u64)> = Vec::new();
        for part in parts(pod) {
            let run = last_run(sandbox, part.name()).filter(|run| run.state == ContainerState::Running);
            let Some(run) = run else { continue };
            containers.push((
                part.name().to_owned(),
                self.runtime.disk_usage(&run.id).await.unwrap_or_default().bytes,
            ));
        }
        let directories = directories(pod, &volumes);
        let sizes = tokio::task::spawn_blocking(move || {
            directories.into_iter().map(|dir| (disk_usage(&dir).bytes, dir)).collect::<Vec<_>>()
        });
        let sizes = sizes.await.unwrap_or_default();
        let over = limits.into_iter().find(|limited| {
            let used = match &limited.what {
                Measured::Directory(path) => {
                    sizes.iter().filter(|(_, dir)| dir == path).map(|(size, _)| size).sum()
                }
                Measured::Container(name) => {
                    containers.iter().filter(|(known, _)| known == name).map(|(_, used)| used).sum()
                }
                Measured::Pod => {
                    let directories: u64 = sizes.iter().map(|(size, _)| size).sum();
                    directories + containers.iter().map(|(_, used)| used).sum::<u64>()
                }
            };
            used > limited.limit
        });
        let end = over.map(|limited| End::failed(evict::REASON, limited.message));
        (end, Some(MEASURE))
    }
}

fn bytes(quantity: &Quantity) -> Option<u64> {
    u64::try_from(milli(quantity)? / 1000).ok().filter(|bytes| *bytes > 0)
}

/// The Pod's directories on the node's disk.
pub(super) fn directories(pod: &Pod, volumes: &Path) -> Vec<PathBuf> {
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
    fn directories_are_measured_with_all_in_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/x"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        assert!((100_000..200_000).contains(&disk_usage(dir.path()).bytes));
        assert_eq!(disk_usage(dir.path()).inodes, 4);
        assert_eq!(disk_usage(&dir.path().join("none")).inodes, 0);
    }
}
