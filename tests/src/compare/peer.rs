//! A real `kube-apiserver` to compare with.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Server;
use crate::{Etcd, Slot, run, seconds, until};

/// A real `kube-apiserver` over a real etcd; its end stops both.
#[derive(Debug)]
pub struct Peer {
    process: Child,
    server: Server,
    _etcd: Etcd,
    _slot: Slot,
    _dir: tempfile::TempDir,
}

impl Peer {
    /// The path in `KUBE_APISERVER`, where one is given.
    pub fn path() -> Option<PathBuf> {
        std::env::var_os("KUBE_APISERVER").map(PathBuf::from)
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(path: &Path) -> Self {
        let slot = Slot::take();
        let etcd = Etcd::start(&slot);
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        run("openssl", &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &file("sa.key")])
            .ok();
        std::fs::write(file("tokens"), "secret,admin,1,system:masters\n").expect("a token");
        let log = File::create(file("log")).expect("a log");
        let port = slot.port(0).to_string();
        let process = Command::new(path)
            .args(["--etcd-servers", etcd.url(), "--secure-port", &port, "--bind-address", "127.0.0.1"])
            .args([
                "--cert-dir",
                &file("pki"),
                "--token-auth-file",
                &file("tokens"),
                "--authorization-mode",
                "RBAC",
            ])
            .args(["--service-account-issuer", "https://peer", "--service-account-key-file", &file("sa.key")])
            .args([
                "--service-account-signing-key-file",
                &file("sa.key"),
                "--service-cluster-ip-range",
                "10.0.0.0/24",
            ])
            .arg("--allow-privileged=true")
            // What is served here whether it is asked for or not.
            .arg("--feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true,PodCertificateRequest=true")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", path.display()));
        let credentials = ["-k", "-H", "Authorization: Bearer secret"].map(str::to_owned).to_vec();
        let server = Server {
            name: "kube-apiserver".to_owned(),
            url: format!("https://127.0.0.1:{port}"),
            credentials,
        };
        let peer = Self { process, server, _etcd: etcd, _slot: slot, _dir: dir };
        until("kube-apiserver is ready", seconds(60), || {
            let url = format!("{}/readyz", peer.server.url);
            run("curl", &["-sSfk", "--max-time", "2", "-H", "Authorization: Bearer secret", &url]).as_probe()
        });
        peer
    }

    /// How to ask it, as an admin.
    pub fn server(&self) -> &Server {
        &self.server
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
