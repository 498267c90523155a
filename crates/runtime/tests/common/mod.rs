//! What the tests share: an image made from this machine's static busybox, a network namespace, an instance of the
//! runtime that cleans up after itself.

#![allow(dead_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use yunfan_runtime::{
    Config, ContainerConfig, ContainerId, ContainerState, ContainerStatus, EmbeddedRuntime, Runtime,
    SandboxConfig,
};

pub(crate) const IMAGE: &str = "demo/web:1";

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// An entry of a layer made by hand, so that it can be as odd as a test wants.
pub(crate) enum Entry<'a> {
    Dir(&'a str),
    File(&'a str, &'a [u8], u32),
    Symlink(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Device(&'a str),
}

pub(crate) fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1);
        header.set_uid(0);
        header.set_gid(0);
        let (path, kind, mode, content, link): (&str, _, _, &[u8], &str) = match *entry {
            Entry::Dir(path) => (path, tar::EntryType::Directory, 0o755, b"", ""),
            Entry::File(path, content, mode) => (path, tar::EntryType::Regular, mode, content, ""),
            Entry::Symlink(path, link) => (path, tar::EntryType::Symlink, 0o777, b"", link),
            Entry::HardLink(path, link) => (path, tar::EntryType::Link, 0o644, b"", link),
            Entry::Device(path) => (path, tar::EntryType::Char, 0o666, b"", ""),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        // Written raw: the library refuses the paths that a hostile layer has.
        let bytes = header.as_mut_bytes();
        bytes[..path.len()].copy_from_slice(path.as_bytes());
        bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The base layer: busybox and what it is called by.
pub(crate) fn busybox_layer() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("Debian's busybox-static");
    let mut entries = vec![
        Entry::Dir("bin"),
        Entry::Dir("etc"),
        Entry::Dir("tmp"),
        Entry::Dir("www"),
        Entry::File("bin/busybox", &busybox, 0o755),
        Entry::File("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:33:34::/www:/bin/sh\n", 0o644),
        Entry::File("www/index.html", b"hello from a container\n", 0o644),
        Entry::File("etc/hidden", b"below\n", 0o644),
        Entry::Dir("replaced"),
        Entry::File("replaced/low", b"", 0o644),
    ];
    let names = [
        "sh", "cat", "echo", "httpd", "sleep", "id", "hostname", "ls", "wget", "dd", "tail", "stty", "mount",
        "ip", "touch", "ps", "kill", "env", "true", "head",
    ];
    let paths: Vec<String> = names.iter().map(|name| format!("bin/{name}")).collect();
    entries.extend(paths.iter().map(|path| Entry::Symlink(path, "busybox")));
    layer(&entries)
}

pub(crate) struct Part {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: String,
}

impl Part {
    pub(crate) fn gzipped(tar: &[u8]) -> Self {
        Self { blob: gzip(tar), diff_id: digest(tar) }
    }

    pub(crate) fn zstandard(tar: &[u8]) -> Self {
        Self { blob: zstd::encode_all(tar, 0).unwrap(), diff_id: digest(tar) }
    }
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, content).unwrap();
}

/// Writes an OCI image layout as a tar.
pub(crate) fn oci_archive(path: &Path, parts: &[Part], config: Value) {
    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers",
            "diff_ids": parts.iter().map(|part| part.diff_id.clone()).collect::<Vec<_>>()},
    }))
    .unwrap();
    let layers: Vec<Value> = parts
        .iter()
        .map(|part| {
            let kind = if part.blob.starts_with(&[0x28, 0xb5]) { "zstd" } else { "gzip" };
            json!({"mediaType": format!("application/vnd.oci.image.layer.v1.tar+{kind}"),
            "digest": digest(&part.blob), "size": part.blob.len()})
        })
        .collect();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config), "size": config.len()},
        "layers": layers,
    }))
    .unwrap();
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest), "size": manifest.len()}],
    }))
    .unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    append(&mut tar, "index.json", &index);
    let blobs = parts.iter().map(|part| &part.blob).chain([&config, &manifest]);
    for blob in blobs {
        append(&mut tar, &format!("blobs/sha256/{}", &digest(blob)[7..]), blob);
    }
    std::fs::write(path, tar.into_inner().unwrap()).unwrap();
}

/// The image most tests run: two layers, the upper of which hides a file of the lower and replaces a directory.
pub(crate) fn web_archive(path: &Path) {
    let upper = layer(&[
        Entry::Dir("etc"),
        Entry::File("etc/.wh.hidden", b"", 0o644),
        Entry::Dir("replaced"),
        Entry::File("replaced/.wh..wh..opq", b"", 0o644),
        Entry::File("replaced/high", b"", 0o644),
    ]);
    let parts = [Part::gzipped(&busybox_layer()), Part::zstandard(&upper)];
    let config = json!({
        "Entrypoint": ["/bin/httpd"],
        "Cmd": ["-f", "-p", "80", "-h", "/www"],
        "Env": ["PATH=/bin", "FROM=image"],
        "WorkingDir": "/www",
    });
    oci_archive(path, &parts, config);
}

/// One cloud instance's containers; all of it goes away at the end of the test, passed or failed.
pub(crate) struct Instance {
    pub(crate) tag: String,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: EmbeddedRuntime,
    pub(crate) netns: String,
}

pub(crate) fn config(tag: &str, dir: &Path) -> Config {
    Config {
        tag: tag.to_owned(),
        root: dir.join("agent"),
        shim: vec![env!("CARGO_BIN_EXE_yunfan-shim-test").to_owned()],
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
        let netns = format!("yf-{tag}-test");
        ip(&["netns", "add", &netns]);
        ip(&["-n", &netns, "link", "set", "lo", "up"]);
        Self { tag, dir, runtime, netns }
    }

    pub(crate) fn sandbox(&self, uid: &str) -> SandboxConfig {
        SandboxConfig {
            uid: uid.to_owned(),
            namespace: "demo".to_owned(),
            name: uid.to_owned(),
            hostname: format!("{uid}-host"),
            netns: Some(PathBuf::from(format!("/run/netns/{}", self.netns))),
            pod_ips: vec!["10.0.0.9".to_owned()],
            dns: Some(yunfan_runtime::DnsConfig {
                servers: vec!["10.0.0.10".to_owned()],
                searches: vec!["demo.svc.cluster.local".to_owned()],
                options: vec!["ndots:5".to_owned()],
            }),
            domain: None,
            host_aliases: Vec::new(),
            tmpfs_volumes: Vec::new(),
            sysctls: Default::default(),
            host_pid: false,
            host_ipc: false,
            share_processes: false,
            shm_size_bytes: None,
            labels: Default::default(),
        }
    }

    pub(crate) async fn start(&self, uid: &str, config: ContainerConfig) -> ContainerId {
        self.runtime.run_sandbox(self.sandbox(uid)).await.unwrap();
        self.runtime.create_and_start(uid, config).await.unwrap()
    }

    pub(crate) async fn status(&self, id: &ContainerId) -> ContainerStatus {
        let sandbox = self.runtime.sandbox(&id.pod_uid).await.unwrap().unwrap();
        sandbox.containers.into_iter().find(|known| known.id == *id).unwrap()
    }

    pub(crate) async fn exited(&self, id: &ContainerId) -> ContainerStatus {
        for _ in 0..1000 {
            let status = self.status(id).await;
            if status.state == ContainerState::Exited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} does not exit");
    }

    /// Output of a command in the container.
    pub(crate) async fn sh(&self, id: &ContainerId, script: &str) -> String {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        let result = self.runtime.exec_sync(id, command, Duration::from_secs(10)).await.unwrap();
        String::from_utf8(result.stdout).unwrap() + &String::from_utf8(result.stderr).unwrap()
    }

    pub(crate) async fn log(&self, id: &ContainerId, options: yunfan_runtime::LogOptions) -> String {
        use futures::StreamExt;
        let stream = self.runtime.logs(id, options).await.unwrap();
        let parts: Vec<_> = stream.map(Result::unwrap).collect().await;
        String::from_utf8(parts.concat()).unwrap()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let done = yunfan_runtime::teardown(&self.tag, &self.dir.path().join("agent"));
        ip(&["netns", "del", &self.netns]);
        if !std::thread::panicking() {
            done.unwrap();
        }
    }
}

pub(crate) fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).status().expect("ip");
    assert!(done.success(), "ip {args:?}");
}

/// A container that runs a shell script.
pub(crate) fn script(name: &str, text: &str) -> ContainerConfig {
    ContainerConfig {
        name: name.to_owned(),
        image: IMAGE.to_owned(),
        command: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
        ..ContainerConfig::default()
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
