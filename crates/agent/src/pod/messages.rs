//! What a container that ended left to be told (Kubernetes' documentation, "Determine the Reason for Pod Failure").

use std::io::Read;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use yunfan_runtime::{ContainerState, ContainerStatus as Run, SandboxStatus, logs};

use super::parts::{Part, parts};
use super::{Pods, volumes};

/// Where last words are, below a Pod's directory.
pub(super) const MESSAGES: &str = "messages";
/// Most bytes of a message.
const LONGEST: u64 = 4096;
/// Most lines and bytes of a log that stand in for a message.
const LOG_LINES: usize = 80;
const LOG_BYTES: usize = 2048;

impl Pods {
    /// Reads the last words of runs that ended since the last time.
    pub(super) async fn gather_messages(&self, pod: &Pod, sandbox: Option<&SandboxStatus>) {
        let uid = pod.uid().unwrap_or_default();
        let parts = parts(pod);
        let ended = sandbox.iter().flat_map(|sandbox| &sandbox.containers);
        for run in ended.filter(|run| run.state == ContainerState::Exited) {
            let key = (run.id.name.clone(), run.id.attempt);
            let known = self.lock().get(&uid).is_some_and(|local| local.known.messages.contains_key(&key));
            let Some(part) = parts.iter().find(|part| part.name() == run.id.name).filter(|_| !known) else {
                continue;
            };
            let message = self.message_of(part, run).await;
            self.remember(&uid, |local| drop(local.known.messages.insert(key, message)));
        }
    }

    async fn message_of(&self, part: &Part, run: &Run) -> String {
        let text = read(&self.message_file(&run.id.pod_uid, &run.id.name, run.id.attempt));
        let fallback = part.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if text.is_empty() && fallback && run.exit_code != Some(0) {
            return self.end_of_log(run).await;
        }
        text
    }

    async fn end_of_log(&self, run: &Run) -> String {
        let path = self.runtime.log_path(&run.id);
        let read = tokio::task::spawn_blocking(move || logs::end_of(&path, LOG_LINES, LOG_BYTES));
        let end = read.await.map_err(std::io::Error::other).flatten().unwrap_or_default();
        String::from_utf8_lossy(&end).into_owned()
    }

    /// The file that a run of a container leaves its last words in.
    pub(super) fn message_file(&self, uid: &str, name: &str, attempt: u32) -> PathBuf {
        self.pod_dir(uid).join(MESSAGES).join(format!("{name}-{attempt}"))
    }

    /// Removes those of earlier runs of a container than the one before this.
    pub(super) fn forget_messages(&self, uid: &str, name: &str, attempt: u32) {
        let dir = self.pod_dir(uid).join(MESSAGES);
        for file in volumes::names(&dir) {
            let run = file.rsplit_once('-').filter(|(of, _)| *of == name);
            let number = run.and_then(|(_, number)| number.parse::<u32>().ok());
            if number.is_some_and(|number| number.saturating_add(1) < attempt) {
                let _ = std::fs::remove_file(dir.join(file));
            }
        }
    }
}

/// The beginning of a file; what can't be read is empty.
fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    let Ok(file) = std::fs::File::open(path) else { return String::new() };
    let _ = file.take(LONGEST).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("m");
        assert_eq!(read(&file), "");
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert_eq!(read(&file).len(), 4096);
    }
}
