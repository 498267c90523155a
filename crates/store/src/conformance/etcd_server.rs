//! A real etcd for tests and benchmarks: Debian's `etcd` on free loopback ports, with a directory of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running etcd. Dropping it kills the process and removes its directory.
pub struct EtcdServer {
    process: Child,
    endpoint: String,
    // Removed after the process is gone.
    _dir: tempfile::TempDir,
}

impl EtcdServer {
    /// Starts one in a new directory below `parent` and waits until it answers. Errors are sentences for a person; a
    /// missing binary names the package to install.
    pub fn start(parent: &Path) -> Result<Self, String> {
        let dir =
            tempfile::Builder::new().prefix("yunfan-etcd-").tempdir_in(parent).map_err(|e| e.to_string())?;
        // Two listeners at once, so that the two ports differ.
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string());
        let (client, peer) = (free()?, free()?);
        let url = |socket: &TcpListener| {
            socket.local_addr().map(|a| format!("http://{a}")).map_err(|e| e.to_string())
        };
        let (endpoint, peer_url) = (url(&client)?, url(&peer)?);
        drop((client, peer));
        let log = std::fs::File::create(dir.path().join("log")).map_err(|e| e.to_string())?;
        let process = Command::new("etcd")
            .args(["--name", "test", "--logger", "zap", "--log-level", "warn", "--data-dir"])
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("test={peer_url}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("cannot start `etcd` ({e}): install Debian's package etcd-server"))?;
        let mut server = Self { process, endpoint, _dir: dir };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    /// Where clients reach it, as a URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn wait_until_it_answers(&mut self) -> Result<(), String> {
        let address = self.endpoint.trim_start_matches("http://").to_owned();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if let Ok(Some(status)) = self.process.try_wait() {
                let log = std::fs::read_to_string(self._dir.path().join("log")).unwrap_or_default();
                return Err(format!("etcd ended at once ({status}): {log}"));
            }
            if std::net::TcpStream::connect(&address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("etcd does not listen on {address} after 20 s"))
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
