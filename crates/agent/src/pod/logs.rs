//! Where Pods' logs are: in the kubelet's layout, in which agents that collect logs look for them (Kubernetes' documentation, "Logging
//! Architecture"): `NAMESPACE_NAME_UID/CONTAINER/RUN.log` in one directory, and links to these beside it, in `containers`.
//!
//! The runtime writes them below its own directory of the Pod, where `logs` is a link. What is whose is noted in a directory of the agent:
//! several clouds may have their logs in one place.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use yunfan_runtime::{ContainerId, SandboxStatus, kit};

use super::{Pods, SANDBOXES, volumes};

/// Below the agent's directory: by the Pods' uids, links to their directories of logs.
const NOTES: &str = "logs/of";
/// The same, of the logs where no other place is set.
const USUAL: &str = "logs/pods";
/// The longest name that a file can have, bytes. A Pod whose directory would need a longer one has its logs in the runtime's.
const LONGEST: usize = 255;
/// Runs before the last one whose links may be there.
const KEPT_LINKS: u32 = 2;
/// Others than root don't read what Pods say.
const MODE: u32 = 0o750;

impl Pods {
    /// Makes, once, the links to the logs of containers that were there before this agent: the one before it may have ended between a start and its link.
    pub(super) fn link_logs(&self, uid: &str, sandbox: Option<&SandboxStatus>) {
        let Some(sandbox) = sandbox else { return };
        let mut first = false;
        self.remember(uid, |local| first = !std::mem::replace(&mut local.linked, true));
        if first {
            self.logs.link_all(sandbox.containers.iter().map(|status| &status.id));
        }
    }
}

/// The logs of this node's Pods.
pub(super) struct Logs {
    root: PathBuf,
    notes: PathBuf,
    sandboxes: PathBuf,
}

impl Logs {
    /// Those of the agent in the directory `agent`; the logs themselves are in `root`.
    pub(super) fn new(agent: &Path, root: Option<&Path>) -> Self {
        let root = root.map_or_else(|| agent.join(USUAL), Path::to_owned);
        Self { root, notes: agent.join(NOTES), sandboxes: agent.join(SANDBOXES) }
    }

    /// Makes the place of a Pod's logs, before its sandbox is made.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn prepare(&self, pod: &Pod) -> std::io::Result<()> {
        let uid = pod.uid().unwrap_or_default();
        let sandbox = self.sandboxes.join(&uid);
        let own = sandbox.join("logs");
        if std::fs::symlink_metadata(&own).is_ok_and(|found| found.is_dir()) {
            // It began with an older agent.
            return Ok(());
        }
        let name = format!("{}_{}_{uid}", pod.namespace().unwrap_or_default(), pod.name_any());
        if name.len() > LONGEST {
            return Ok(());
        }
        let note = self.notes.join(&uid);
        // It stays where it began.
        let target = std::fs::read_link(&note).unwrap_or_else(|_| self.root.join(name));
        std::fs::create_dir_all(&self.notes)?;
        std::fs::create_dir_all(&sandbox)?;
        // The note first: from then on it is known whose the directory is.
        link(&target, &note)?;
        link(&target, &own)?;
        std::fs::create_dir_all(&target)?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(MODE))
    }

    /// Makes the link by which a run's log is found without its Pod's uid.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn link(&self, id: &ContainerId) -> std::io::Result<()> {
        let Some((target, at)) = self.link_of(id) else { return Ok(()) };
        at.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        // The run before the last one keeps its log, others have none any more.
        if let Some(attempt) = id.attempt.checked_sub(2) {
            self.unlink(&ContainerId { attempt, ..id.clone() });
        }
        // Its name begins as the Pod's directory is called; this is below that.
        let path = kit::log_name(id);
        link(&target.join(path.strip_prefix("logs").unwrap_or(&path)), &at)
    }

    /// Makes those links of runs, in their order, that are missing.
    fn link_all<'a>(&self, runs: impl Iterator<Item = &'a ContainerId>) {
        for id in runs {
            if let Err(error) = self.link(id) {
                tracing::warn!(%error, %id, "the link to the log of a container could not be made");
            }
        }
    }

    /// Removes it again; fine if there is none.
    pub(super) fn unlink(&self, id: &ContainerId) {
        if let Some((_, at)) = self.link_of(id) {
            let _ = std::fs::remove_file(at);
        }
    }

    /// The directory of a Pod's logs, and where a run's link is.
    fn link_of(&self, id: &ContainerId) -> Option<(PathBuf, PathBuf)> {
        let target = std::fs::read_link(self.notes.join(&id.pod_uid)).ok()?;
        let at = links_of(&target)?.join(link_name(&target, id)?);
        Some((target, at))
    }

    /// The Pods that have logs here.
    pub(super) fn pods(&self) -> Vec<String> {
        volumes::names(&self.notes)
    }

    /// Removes a Pod's logs; fine if there are none.
    ///
    /// # Errors
    /// The file system's.
    pub(super) async fn remove(&self, uid: &str) -> std::io::Result<()> {
        let note = self.notes.join(uid);
        let Ok(target) = std::fs::read_link(&note) else { return Ok(()) };
        for container in volumes::names(&target) {
            let files = volumes::names(&target.join(&container)).into_iter();
            let runs = files.filter_map(|file| file.strip_suffix(".log")?.parse::<u32>().ok());
            // Also of the runs before, whose files may have gone without them.
            let Some(last) = runs.max() else { continue };
            for run in last.saturating_sub(KEPT_LINKS)..=last {
                self.unlink(&ContainerId::new(uid, container.clone(), run));
            }
        }
        volumes::remove_all(&target).await?;
        std::fs::remove_file(note)
    }
}

/// Removes the logs of all Pods of an agent, wherever they are. Blocks.
///
/// # Errors
/// Those that could not be removed.
pub(crate) fn remove_all(agent: &Path) -> std::io::Result<()> {
    let logs = Logs::new(agent, None);
    for uid in logs.pods() {
        let target = std::fs::read_link(logs.notes.join(uid))?;
        let links = links_of(&target).unwrap_or_default();
        for name in volumes::names(&links) {
            let at = links.join(name);
            if std::fs::read_link(&at).is_ok_and(|to| to.starts_with(&target)) {
                std::fs::remove_file(at)?;
            }
        }
        kit::remove_dir(&target)?;
    }
    Ok(())
}

/// Where the links are to what is in a Pod's directory of logs.
fn links_of(target: &Path) -> Option<PathBuf> {
    Some(target.parent()?.parent()?.join("containers"))
}

/// What a run's link is called in Kubernetes: Pod, namespace, container, and an id of 64 hexadecimal digits, by which collectors tell that it is
/// one. None where that is too long.
fn link_name(target: &Path, id: &ContainerId) -> Option<String> {
    let mut words = target.file_name()?.to_str()?.split('_');
    let (namespace, pod) = (words.next()?, words.next()?);
    let digest = Sha256::digest(id.to_string().as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{pod}_{namespace}_{}-{hex}.log", id.name)).filter(|name| name.len() <= LONGEST)
}

/// Makes a link, in place of one that is there.
fn link(target: &Path, at: &Path) -> std::io::Result<()> {
    match symlink(target, at) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if std::fs::read_link(at).is_ok_and(|there| there == target) {
                return Ok(());
            }
            std::fs::remove_file(at)?;
            symlink(target, at)
        }
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": name, "uid": uid}})).unwrap()
    }

    #[tokio::test]
    async fn logs_are_where_collectors_look_and_go_with_their_pod() {
        let dir = tempfile::tempdir().unwrap();
        let (agent, root) = (dir.path().join("agent"), dir.path().join("log/pods"));
        let logs = Logs::new(&agent, Some(&root));
        for _ in 0..2 {
            logs.prepare(&pod("web", "u1")).unwrap();
        }
        logs.prepare(&pod("other", "u2")).unwrap();
        let id = ContainerId::new("u1", "main", 3);
        let own = agent.join("pods/u1").join(kit::log_name(&id));
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::write(&own, "said").unwrap();
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(root.join("n_web_u1/main/3.log")), "said");
        logs.link(&id).unwrap();
        let links = || volumes::names(&dir.path().join("log/containers"));
        let name = links().remove(0);
        assert_eq!(read(dir.path().join("log/containers").join(&name)), "said");
        let hex = name.strip_prefix("web_n_main-").unwrap().strip_suffix(".log").unwrap();
        assert!(hex.len() == 64 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()), "{name}");
        logs.link(&ContainerId::new("u1", "main", 5)).unwrap();
        assert!(links().len() == 1 && !links().contains(&name), "{:?}", links());
        // An agent ended before it made the last one, and the next finds the runs.
        logs.unlink(&ContainerId::new("u1", "main", 5));
        logs.link_all([3, 4, 5].map(|run| ContainerId::new("u1", "main", run)).iter());
        assert!(links().len() == 2 && !links().contains(&name), "{:?}", links());
        logs.unlink(&ContainerId::new("u1", "main", 4));
        logs.unlink(&ContainerId::new("u1", "main", 5));
        logs.link(&id).unwrap();
        logs.remove("u1").await.unwrap();
        logs.remove("u1").await.unwrap();
        assert_eq!((links().len(), logs.pods()), (0, vec!["u2".to_owned()]));
        assert_eq!(volumes::names(&root), ["n_other_u2"]);
        remove_all(&agent).unwrap();
        assert_eq!(volumes::names(&root), [""; 0]);
    }

    #[test]
    fn what_has_no_place_there_stays_with_the_runtime() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::new(dir.path(), None);
        logs.prepare(&pod(&"x".repeat(253), "u1")).unwrap();
        let old = dir.path().join("pods/u2/logs");
        std::fs::create_dir_all(&old).unwrap();
        logs.prepare(&pod("old", "u2")).unwrap();
        assert!(old.is_dir() && !old.is_symlink() && logs.pods().is_empty());
        logs.link(&ContainerId::new("u2", "c", 0)).unwrap();
    }
}
