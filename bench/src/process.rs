//! Yunfan and its peers as processes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use yunfan_identity::pki::Authority;

/// Nothing that is waited for takes longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A running cloud; dropping it stops the process.
pub struct Cloud {
    child: Child,
    /// Its data directory.
    pub dir: PathBuf,
    /// From the process's start to the line `ready`.
    pub took: Duration,
}

impl Cloud {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// It does not start, or ends before it is ready.
    pub fn start(yunfan: &Path, dir: &Path, port: u16) -> anyhow::Result<Self> {
        Self::start_with(yunfan, dir, port, &["up", "--cluster-cidr", "10.231.0.0/16"])
    }

    /// As [`Cloud::start`], with another command and its flags.
    ///
    /// # Errors
    /// It does not start, or ends before it is ready.
    pub fn start_with(yunfan: &Path, dir: &Path, port: u16, command: &[&str]) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut child = Command::new(yunfan)
            .args(command)
            .args(["--service-cidr", "10.232.0.0/16", "--listen"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("--data-dir")
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", yunfan.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.starts_with("ready")));
        let took = started.elapsed();
        ensure!(ready, "the cloud ended before it was ready");
        // Nobody reads on: the cloud writes two lines and no more.
        Ok(Self { child, dir: dir.to_owned(), took })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// An etcd (Debian's, or the program that `ETCD` names), the smallest part of the peers' control planes; dropping it
/// stops the process.
pub struct Etcd {
    child: Child,
    /// Where its clients reach it.
    pub url: String,
    /// From the process's start until it is healthy.
    pub took: Duration,
}

impl Etcd {
    /// Starts one on `port` and the one behind it, and waits until it is healthy.
    ///
    /// # Errors
    /// It is not installed, or not healthy in time.
    pub fn start(dir: &Path, port: u16) -> anyhow::Result<Self> {
        let url = format!("http://127.0.0.1:{port}");
        let started = Instant::now();
        let program = std::env::var_os("ETCD").unwrap_or_else(|| "etcd".into());
        let child = Command::new(program)
            .arg("--data-dir")
            .arg(dir)
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls"])
            .arg(format!("http://127.0.0.1:{}", port + 1))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("etcd is missing: install etcd-server, or name one with ETCD")?;
        let mut etcd = Self { child, url, took: Duration::ZERO };
        loop {
            let healthy = Command::new("curl")
                .args(["-fsS", "-m", "1"])
                .arg(format!("{}/health", etcd.url))
                .output()?;
            if healthy.status.success() && String::from_utf8_lossy(&healthy.stdout).contains("true") {
                etcd.took = started.elapsed();
                return Ok(etcd);
            }
            ensure!(started.elapsed() < LIMIT, "etcd is not healthy after {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority in `dir`, with what a kube-apiserver and its admin need; its directory.
///
/// # Errors
/// It can't be written.
pub fn peer_pki(dir: &Path) -> anyhow::Result<PathBuf> {
    let pki = dir.join("pki");
    let authority = Authority::open_or_create(&pki)?;
    authority.server("server", "kube-apiserver", &["127.0.0.1", "localhost"])?;
    authority.client("admin", "admin", &["system:masters"])?;
    Ok(pki)
}

/// A kube-apiserver over an etcd of its own; dropping it stops both.
pub struct ApiServer {
    child: Child,
    etcd: Etcd,
    /// From the first process's start until it is ready.
    pub took: Duration,
}

impl ApiServer {
    /// Starts the program at `path` on `port`, with certificates by the authority in `pki`, whose identities `server`
    /// and `admin` are there already; waits until it is ready.
    ///
    /// # Errors
    /// It does not start, or is not ready in time.
    pub fn start(path: &Path, dir: &Path, pki: &Path, port: u16) -> anyhow::Result<Self> {
        let started = Instant::now();
        let etcd = Etcd::start(&dir.join("etcd"), port + 1)?;
        let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
        // It signs tokens with keys of the older form alone.
        let key = Command::new("openssl")
            .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
            .arg(pki.join("sa.key"))
            .status()
            .context("openssl is missing")?;
        ensure!(key.success(), "openssl made no key");
        let child = Command::new(path)
            .arg(format!("--etcd-servers={}", etcd.url))
            .arg(format!("--secure-port={port}"))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--authorization-mode=RBAC"])
            .args([
                "--service-cluster-ip-range=10.233.0.0/16",
                "--service-account-issuer=https://bench.invalid",
            ])
            .args([file("tls-cert-file", "server.crt"), file("tls-private-key-file", "server.key")])
            .args([file("client-ca-file", "ca.crt"), file("service-account-key-file", "sa.key")])
            .arg(file("service-account-signing-key-file", "sa.key"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", path.display()))?;
        let mut server = Self { child, etcd, took: Duration::ZERO };
        loop {
            let ready = Command::new("curl")
                .args(["-fsS", "-m", "2", "--cacert"])
                .arg(pki.join("ca.crt"))
                .arg("--cert")
                .arg(pki.join("admin.crt"))
                .arg("--key")
                .arg(pki.join("admin.key"))
                .arg(format!("https://127.0.0.1:{port}/readyz"))
                .output()?;
            if ready.status.success() {
                server.took = started.elapsed();
                return Ok(server);
            }
            ensure!(server.child.try_wait()?.is_none(), "{} ended before it was ready", path.display());
            ensure!(started.elapsed() < LIMIT, "{} is not ready after {LIMIT:?}", path.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its processes.
    pub fn pids(&self) -> [u32; 2] {
        [self.child.id(), self.etcd.pid()]
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Proportional memory of a process, MiB.
///
/// # Errors
/// There is no such process, or it may not be looked at.
pub fn pss(pid: u32) -> anyhow::Result<u64> {
    Ok(pss_kib(pid)? / 1024)
}

/// As [`pss`], KiB.
///
/// # Errors
/// As there.
pub fn pss_kib(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find(|line| line.starts_with("Pss:")).context("no Pss")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse::<u64>()?)
}
