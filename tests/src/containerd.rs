//! A real containerd.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::host::Process;
use crate::{repository, run, seconds, until};

/// Its namespace for what comes over CRI.
const NAMESPACE: &str = "k8s.io";

/// A containerd of the test's own, with directories of its own; its end stops it, and whatever a failed test left in it.
#[derive(Debug)]
pub struct Containerd {
    dir: tempfile::TempDir,
    process: Child,
}

impl Containerd {
    /// Starts one; none where it is not installed, of which a line is said.
    #[track_caller]
    pub fn start() -> Option<Self> {
        let there = |name: &&str| run("sh", &["-c", &format!("command -v {name}")]).succeeded();
        let missing: Vec<&str> =
            ["containerd", "ctr", "runc"].into_iter().filter(|name| !there(name)).collect();
        if !missing.is_empty() {
            eprintln!("skipped: {} not installed (scripts/deps.sh does that)", missing.join(", "));
            return None;
        }
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let path = dir.path().display().to_string();
        let template = repository().join("crates/cri/tests/containerd.toml");
        let template = std::fs::read_to_string(template).expect("a configuration");
        // Overlayfs can't be on top of itself.
        let kind = run("stat", &["--file-system", "--format", "%T", &path]).ok();
        let snapshotter = if kind.starts_with("overlay") { "native" } else { "overlayfs" };
        let config = template.replace("@DIR@", &path).replace("@SNAPSHOTTER@", snapshotter);
        std::fs::write(dir.path().join("config.toml"), config).expect("a configuration");
        let log = File::create(dir.path().join("log")).expect("a log");
        let process = Command::new("containerd")
            .arg("--config")
            .arg(dir.path().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("containerd");
        let this = Self { dir, process };
        until("containerd answers", seconds(30), || this.ctr(&["version"]).as_probe());
        Some(this)
    }

    /// Where it looks for network plug-ins, and for their configurations.
    pub fn cni_dirs(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("cni/bin"), self.dir.path().join("cni/net.d"))
    }

    /// Its socket as clients of CRI name it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket())
    }

    fn socket(&self) -> String {
        self.dir.path().join("c.sock").display().to_string()
    }

    /// Runs its own client on what came over CRI.
    #[track_caller]
    pub fn ctr(&self, arguments: &[&str]) -> crate::Ran {
        run("ctr", &[&["--address", &self.socket(), "--namespace", NAMESPACE], arguments].concat())
    }

    /// Names of its images, containers or tasks.
    #[track_caller]
    pub fn names(&self, kind: &str) -> Vec<String> {
        self.ctr(&[kind, "ls", "-q"]).ok().lines().map(str::to_owned).collect()
    }

    /// Writes an archive with the image that it is configured to start sandboxes from: a program that does nothing for long.
    #[track_caller]
    pub fn pause_archive(&self) -> PathBuf {
        let dir = self.dir.path().join("pause");
        std::fs::create_dir_all(dir.join("root/bin")).expect("a directory");
        std::fs::copy("/bin/busybox", dir.join("root/bin/busybox")).expect("Debian's busybox-static");
        let tar = |from: &Path, to: &str, names: &[&str]| {
            let (from, to) = (from.display().to_string(), dir.join(to).display().to_string());
            run("tar", &[&["-C", &from, "-cf", &to], names].concat()).ok();
        };
        tar(&dir.join("root"), "layer.tar", &["bin"]);
        let sum = run("sha256sum", &[&dir.join("layer.tar").display().to_string()]).ok();
        let digest = sum.split(' ').next().unwrap_or_default();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "config": {"Entrypoint": ["/bin/busybox", "sleep", "1000000000"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest =
            json!([{"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]);
        for (name, content) in [("config.json", config), ("manifest.json", manifest)] {
            std::fs::write(dir.join(name), content.to_string()).expect("a file");
        }
        tar(&dir, "pause.tar", &["manifest.json", "config.json", "layer.tar"]);
        dir.join("pause.tar")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the end of containerd's log\n{}",
                lines[lines.len().saturating_sub(30)..].join("\n")
            );
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Shims know their containerd by its socket.
        let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for shim in numbers.filter_map(Process::of).filter(|one| one.command.contains(&self.socket())) {
            run("kill", &["-KILL", &shim.pid.to_string()]);
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.path().display().to_string();
        let places = table.lines().rev().filter_map(|line| line.split(' ').nth(4));
        for place in places.filter(|place| place.starts_with(&dir)) {
            run("umount", &["-l", place]);
        }
    }
}
