//! A real etcd.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{Slot, run, run_with, seconds, until};

/// A real etcd of the test's own; its end stops it.
#[derive(Debug)]
pub struct Etcd {
    dir: tempfile::TempDir,
    client: String,
    peer: String,
    process: Option<Child>,
}

impl Etcd {
    /// Starts one on the slot's ports 2 and 3 and waits until it is healthy.
    #[track_caller]
    pub fn start(slot: &Slot) -> Self {
        let url = |index| format!("http://127.0.0.1:{}", slot.port(index));
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let mut etcd = Self { dir, client: url(2), peer: url(3), process: None };
        etcd.up();
        etcd
    }

    /// Starts it again on what it had.
    #[track_caller]
    pub fn up(&mut self) {
        let log: PathBuf = self.dir.path().join("log");
        let log = File::create(&log).expect("a log");
        // Debian's is too old for some of what kube-apiserver does with it.
        let program = std::env::var_os("ETCD").unwrap_or_else(|| "etcd".into());
        let child = Command::new(program)
            .args(["--name", "e2e", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &self.client, "--advertise-client-urls", &self.client])
            .args(["--listen-peer-urls", &self.peer, "--initial-advertise-peer-urls", &self.peer])
            .arg("--initial-cluster")
            .arg(format!("e2e={}", self.peer))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.process = Some(child.expect("etcd"));
        until("etcd is healthy", seconds(30), || {
            run("curl", &["-fsS", "--max-time", "2", &format!("{}/health", self.client)]).as_probe()
        });
    }

    /// Kills it with SIGKILL.
    pub fn kill_9(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where it keeps its data.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The URL for clients.
    pub fn url(&self) -> &str {
        &self.client
    }

    /// How many keys there are below a prefix.
    #[track_caller]
    pub fn keys(&self, prefix: &str) -> usize {
        let ctl = ["--endpoints", &self.client, "get", "--prefix", prefix, "--keys-only"];
        let environment = [("ETCDCTL_API".to_owned(), "3".to_owned())];
        let said = run_with("etcdctl", &ctl, &environment, "").ok();
        said.lines().filter(|line| !line.is_empty()).count()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill_9();
    }
}
