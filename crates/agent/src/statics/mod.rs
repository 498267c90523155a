//! Static Pods: those that stand in files on this node. They run whether the API server is there or not; what it shows of them is a
//! mirror, which `pod/mirror.rs` keeps.

mod manifest;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use yunfan_client::ObjectKey;

use std::sync::Arc;

use manifest::Reader;
use watch::Watch;

/// The directory is looked through so often, whatever is told about it.
const LOOK: Duration = Duration::from_secs(20);
/// Most manifests that are read.
const MOST_FILES: usize = 1000;
/// Largest manifest, bytes.
const LARGEST: u64 = 10 << 20;

/// The static Pods of this node.
pub(crate) struct Statics {
    source: Option<Source>,
    state: Mutex<State>,
}

struct Source {
    directory: PathBuf,
    reader: Reader,
}

#[derive(Default)]
struct State {
    wanted: BTreeMap<ObjectKey, Entry>,
    /// Those that are on their way out, by uid.
    leaving: HashMap<String, Arc<Pod>>,
}

struct Entry {
    file: PathBuf,
    pod: Arc<Pod>,
}

/// What has changed about static Pods.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StaticChange {
    /// This Pod is there now.
    Came(ObjectKey),
    /// The Pod with this uid is to go.
    Left(String),
}

/// A file that was looked at, and the Pod in it or why there is none.
type Found = (PathBuf, Result<Pod, String>);

impl Statics {
    /// The Pods of the manifests in `directory`; none where none is given.
    pub(crate) fn new(node: &str, directory: Option<PathBuf>) -> Arc<Self> {
        let source = directory.and_then(|directory| Some(Source { directory, reader: Reader::new(node)? }));
        Arc::new(Self { source, state: Mutex::default() })
    }

    /// The static Pod of this name, that is to run.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<Pod>> {
        self.lock().wanted.get(key).map(|entry| entry.pod.clone())
    }

    /// All that are to run.
    pub(crate) fn list(&self) -> Vec<Arc<Pod>> {
        self.lock().wanted.values().map(|entry| entry.pod.clone()).collect()
    }

    /// The Pod of this uid, if it is on its way out.
    pub(crate) fn leaving(&self, uid: &str) -> Option<Arc<Pod>> {
        self.lock().leaving.get(uid).cloned()
    }

    /// Whether an earlier Pod of this name is still on its way out.
    pub(crate) fn is_leaving(&self, key: &ObjectKey) -> bool {
        self.lock().leaving.values().any(|pod| ObjectKey::of(pod.as_ref()) == *key)
    }

    /// Nothing is left of a Pod that was on its way out.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().leaving.remove(uid);
    }

    /// Reads the manifests once.
    pub(crate) async fn load(self: &Arc<Self>) -> Vec<StaticChange> {
        let own = self.clone();
        // Files may be on a disk that is slow.
        let found = tokio::task::spawn_blocking(move || own.source.as_ref().map(read_all)).await;
        match found {
            Ok(Some(Ok(found))) => self.take(found),
            Ok(Some(Err(error))) => {
                // That they can't be read does not mean that they are not wanted.
                tracing::warn!(%error, "the manifests of static Pods can't be read");
                Vec::new()
            }
            Ok(None) | Err(_) => Vec::new(),
        }
    }

    /// Follows the directory until dropped, and tells what changes.
    pub(crate) async fn follow(self: Arc<Self>, tell: impl Fn(StaticChange)) {
        let Some(source) = &self.source else { return };
        let mut watch = Watch::new(&source.directory);
        loop {
            // Watched before it is read, so that nothing falls between.
            watch.arm();
            self.load().await.into_iter().for_each(&tell);
            tokio::select! {
                () = watch.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Takes what was found for what is wanted. A file that can't be understood now stands for what it was: it may be half written.
    fn take(&self, found: Vec<Found>) -> Vec<StaticChange> {
        let mut state = self.lock();
        let mut wanted = BTreeMap::new();
        for (file, pod) in found {
            let pod = match pod {
                Ok(pod) => Arc::new(pod),
                Err(why) => {
                    tracing::warn!(file = %file.display(), why, "a manifest is no static Pod");
                    match state.wanted.values().find(|entry| entry.file == file) {
                        Some(before) => before.pod.clone(),
                        None => continue,
                    }
                }
            };
            let key = ObjectKey::of(pod.as_ref());
            if wanted.contains_key(&key) {
                tracing::warn!(file = %file.display(), pod = %key, "another manifest has this Pod's name");
                continue;
            }
            wanted.insert(key, Entry { file, pod });
        }
        let before = std::mem::replace(&mut state.wanted, wanted);
        let State { wanted, leaving } = &mut *state;
        let same = |a: Option<&Entry>, b: &Entry| a.is_some_and(|a| a.pod.uid() == b.pod.uid());
        let mut changes = Vec::new();
        for (key, entry) in &before {
            if !same(wanted.get(key), entry)
                && let Some(uid) = entry.pod.uid()
            {
                leaving.insert(uid.clone(), entry.pod.clone());
                changes.push(StaticChange::Left(uid));
            }
        }
        let new = wanted.iter().filter(|(key, entry)| !same(before.get(*key), entry));
        changes.extend(new.map(|(key, _)| StaticChange::Came(key.clone())));
        changes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every manifest of the directory, by name; hidden files and directories are passed over.
fn read_all(source: &Source) -> std::io::Result<Vec<Found>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&source.directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.len() > MOST_FILES {
        tracing::warn!(files = files.len(), most = MOST_FILES, "too many manifests of static Pods");
        files.truncate(MOST_FILES);
    }
    let read = |path: PathBuf| {
        let pod = read_file(&path).and_then(|text| source.reader.read(&path, &text));
        (path, pod)
    };
    Ok(files.into_iter().map(read).collect())
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err(format!("it is larger than {LARGEST} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, image: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: {image}}}]}}}}"
        )
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("default", format!("{name}-n"))
    }

    #[tokio::test]
    async fn files_that_come_change_and_go_are_pods_that_come_change_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: String| std::fs::write(dir.path().join(file), text).unwrap();
        let statics = Statics::new("n", Some(dir.path().to_owned()));
        write("a.yaml", manifest("a", "one"));
        write(".hidden.yaml", manifest("hidden", "one"));
        assert_eq!(statics.load().await, [StaticChange::Came(key("a"))]);
        assert_eq!(statics.load().await, [], "nothing has changed");
        let first = statics.get(&key("a")).unwrap().uid().unwrap();

        // Another text is another Pod, which waits until the one before is gone.
        write("a.yaml", manifest("a", "two"));
        let changes = [StaticChange::Left(first.clone()), StaticChange::Came(key("a"))];
        assert_eq!(statics.load().await, changes);
        assert!(statics.is_leaving(&key("a")) && statics.leaving(&first).is_some());
        statics.forget(&first);
        assert!(!statics.is_leaving(&key("a")));

        // Half a text is no reason to end it.
        write("a.yaml", "{apiVersion: v1, ki".to_owned());
        write("b.yaml", manifest("a", "three"));
        assert_eq!(statics.load().await, [], "the name is taken by the first file");

        std::fs::remove_file(dir.path().join("a.yaml")).unwrap();
        std::fs::remove_file(dir.path().join("b.yaml")).unwrap();
        let second = statics.get(&key("a")).unwrap().uid().unwrap();
        assert_eq!(statics.load().await, [StaticChange::Left(second)]);
        assert!(statics.list().is_empty());
    }

    #[tokio::test]
    async fn a_directory_that_can_not_be_read_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("a"), manifest("a", "one")).unwrap();
        let statics = Statics::new("n", Some(path.clone()));
        assert_eq!(statics.load().await.len(), 1);
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(statics.load().await, []);
        assert_eq!(statics.list().len(), 1);
    }

    #[tokio::test]
    async fn changes_are_told_as_they_come() {
        let dir = tempfile::tempdir().unwrap();
        let statics = Statics::new("n", Some(dir.path().to_owned()));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(statics.follow(move |change| drop(tell.send(change))));
        std::fs::write(dir.path().join("a.yaml"), manifest("a", "one")).unwrap();
        assert_eq!(told.recv().await, Some(StaticChange::Came(key("a"))));
        std::fs::remove_file(dir.path().join("a.yaml")).unwrap();
        // Sooner than the next look, or the test would last for that long; it would pass all the same.
        assert!(matches!(told.recv().await, Some(StaticChange::Left(_))));
        task.abort();
    }
}
