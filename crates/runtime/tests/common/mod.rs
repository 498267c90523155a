//! What the tests share: an instance of the embedded runtime that cleans up after itself, and what it could leave behind.

#![allow(dead_code)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub(crate) use yunfan_runtime::conformance::*;
use yunfan_runtime::{Config, EmbeddedRuntime};

/// One cloud instance's containers; all of it goes away at the end of the test, passed or failed.
pub(crate) struct Instance {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: EmbeddedRuntime,
    cloud: Cloud,
    _netns: Netns,
}

pub(crate) fn config(tag: &str, dir: &Path) -> Config {
    Config {
        tag: tag.to_owned(),
        root: dir.join("agent"),
        shim: vec![env!("CARGO_BIN_EXE_yunfan-shim-test").to_owned()],
        registries: Some(dir.join("certs.d")),
        memory: Some(dir.join("agent/memory")),
        apart: vec![dir.join("agent/claims")],
    }
}

impl Instance {
    /// A runtime with the web image and a network namespace in which lo is up.
    pub(crate) async fn new() -> Self {
        let tag = uuid::Uuid::new_v4().simple().to_string()[..6].to_owned();
        let dir = tempfile::Builder::new().prefix("yunfan-runtime-").tempdir().unwrap();
        let runtime = EmbeddedRuntime::open(config(&tag, dir.path())).await.unwrap();
        let archive = dir.path().join("web.tar");
        web_archive(&archive);
        runtime.images().import(&archive, Some(IMAGE)).await.unwrap();
        let netns = Netns::new(&tag);
        let cloud = Cloud {
            runtime: Arc::new(runtime.clone()),
            tag,
            dir: dir.path().to_owned(),
            netns: netns.0.clone(),
        };
        Self { dir, runtime, cloud, _netns: netns }
    }
}

impl std::ops::Deref for Instance {
    type Target = Cloud;

    fn deref(&self) -> &Cloud {
        &self.cloud
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let done = yunfan_runtime::teardown(&self.tag, &self.dir.path().join("agent"));
        if !std::thread::panicking() {
            done.unwrap();
        }
    }
}

/// What an instance could leave behind on the host.
pub(crate) fn traces(tag: &str, dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.to_string_lossy();
    found.extend(mounts.lines().filter(|line| line.contains(&*dir)).map(|l| format!("mount {l}")));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let path = hierarchy.path().join(format!("yunfan-{tag}"));
        if path.exists() {
            found.insert(format!("cgroup {}", path.display()));
        }
    }
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let cgroup = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        if line.contains(&format!("--tag {tag} ")) || cgroup.contains(&format!("yunfan-{tag}")) {
            found.insert(format!("process {} {line}", process.file_name().display()));
        }
    }
    found
}
