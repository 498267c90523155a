//! A cloud under test.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::host::{self, Process};
use crate::run::manifest;
use crate::{Ran, Running, Slot, binary, files, run_with, seconds, until};

/// How a cloud is started.
#[derive(Debug, Default)]
pub struct Builder {
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    data_dir: Option<PathBuf>,
    server_only: bool,
    slot: Option<Arc<Slot>>,
}

impl Builder {
    /// Sets a variable of the cloud's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds an argument to `yunfan up`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Takes this data directory in place of a fresh one below `/var/tmp`.
    pub fn data_dir(mut self, dir: &Path) -> Self {
        self.data_dir = Some(dir.to_owned());
        self
    }

    /// Takes the ports and address ranges of a cloud that is no more.
    pub fn slot(mut self, slot: Arc<Slot>) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Runs `yunfan server` in place of `yunfan up`.
    pub fn server_only(mut self) -> Self {
        self.server_only = true;
        self
    }

    /// Starts the cloud and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Cloud {
        let cloud = self.prepare();
        cloud.up_again();
        cloud
    }

    /// Prepares all, but starts nothing yet.
    pub fn prepare(self) -> Cloud {
        let slot = self.slot.clone().unwrap_or_else(|| Arc::new(Slot::take()));
        let work =
            tempfile::Builder::new().prefix("yunfan-e2e-").tempdir_in("/var/tmp").expect("a directory");
        let work = work.keep();
        let data_dir = self.data_dir.clone().unwrap_or_else(|| work.join("cloud"));
        slot.remember(&data_dir);
        Cloud { builder: self, slot, work, data_dir, process: Mutex::new(None) }
    }
}

/// A cloud of its own: data directory, port, address ranges. Its end takes everything away again, and fails the test where
/// something of it is left on the host.
#[derive(Debug)]
pub struct Cloud {
    builder: Builder,
    slot: Arc<Slot>,
    work: PathBuf,
    data_dir: PathBuf,
    process: Mutex<Option<Child>>,
}

impl Cloud {
    /// Starts a fresh cloud with nothing special.
    #[track_caller]
    pub fn start() -> Self {
        Builder::default().start()
    }

    /// Starts a fresh cloud with something special.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A directory for the test's files; gone when the test succeeds.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The cloud's data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The ports and ranges of the cloud.
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// The API's URL.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.slot.port(0))
    }

    /// The file with the certificate of the cloud's authority.
    pub fn authority(&self) -> PathBuf {
        self.data_dir.join("pki/ca.crt")
    }

    /// The instance's tag.
    pub fn tag(&self) -> String {
        std::fs::read_to_string(self.data_dir.join("instance")).expect("the tag").trim().to_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.work.join("cloud.log")
    }

    /// The last lines of what the cloud wrote.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    // --- the process ---------------------------------------------------------------------------------------------------

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command_line(&self) -> Vec<String> {
        let mut words = vec![
            if self.builder.server_only { "server" } else { "up" }.to_owned(),
            "--data-dir".into(),
            self.data_dir.to_string_lossy().into_owned(),
            "--listen".into(),
            format!("127.0.0.1:{}", self.slot.port(0)),
            "--cluster-cidr".into(),
            self.slot.cluster_cidr(),
            "--service-cidr".into(),
            self.slot.service_cidr(),
        ];
        words.extend(self.builder.arguments.iter().cloned());
        words
    }

    fn spawn(&self, log: &Path) -> Child {
        let open =
            || -> File { OpenOptions::new().create(true).append(true).open(log).expect("the cloud's log") };
        Command::new(binary())
            .args(self.command_line())
            .envs(self.builder.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", binary().display()))
    }

    /// Starts the cloud's process (again) and waits until it is ready.
    #[track_caller]
    pub fn up_again(&self) {
        let log = self.log_file();
        let already = std::fs::read_to_string(&log).unwrap_or_default().len();
        let child = self.spawn(&log);
        *self.process() = Some(child);
        self.until("the cloud says `ready`", seconds(30), || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text[already..].lines().any(|line| line.starts_with("ready")) {
                return Ok(());
            }
            if let Some(child) = self.process().as_mut()
                && let Ok(Some(status)) = child.try_wait()
            {
                panic!("the cloud ended with {status}:\n{}", &text[already..]);
            }
            Err("no such line".into())
        });
    }

    /// Number of the cloud's process.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.process().as_ref().expect("the cloud runs").id()
    }

    /// Kills the cloud's process with SIGKILL.
    #[track_caller]
    pub fn kill_9(&self) {
        let mut child = self.process().take().expect("the cloud runs");
        child.kill().and_then(|()| child.wait()).expect("SIGKILL");
    }

    /// Sends SIGTERM to the cloud's process and waits for its end; returns its exit code.
    #[track_caller]
    pub fn terminate(&self) -> Option<i32> {
        crate::run("kill", &[&self.pid().to_string()]).ok();
        self.await_end()
    }

    /// Waits until the cloud's process ends; returns its exit code.
    #[track_caller]
    pub fn await_end(&self) -> Option<i32> {
        let mut child = self.process().take().expect("the cloud runs");
        let status = self.until("the cloud's process ends", seconds(15), || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        status.code()
    }

    /// Runs `yunfan up` with the same arguments once more and expects it to end; returns what it did.
    #[track_caller]
    pub fn second_up(&self, other_data_dir: Option<&Path>) -> Ran {
        let mut words = self.command_line();
        if let Some(dir) = other_data_dir {
            words[2] = dir.to_string_lossy().into_owned();
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        crate::run(binary(), &words)
    }

    /// What of the cloud runs now: its own process, shims, containers, machines.
    pub fn processes(&self) -> std::collections::BTreeSet<Process> {
        host::processes(&self.tag(), &self.data_dir)
    }

    /// What runs of one workload: `pod` or `vm` and its uid.
    pub fn processes_of(&self, kind: &str, uid: &str) -> std::collections::BTreeSet<Process> {
        host::processes_of(&self.tag(), &format!("{kind}{uid}"))
    }

    // --- clients -------------------------------------------------------------------------------------------------------

    fn kubectl_environment(&self, kubeconfig: &Path) -> Vec<(String, String)> {
        vec![
            ("KUBECONFIG".into(), kubeconfig.to_string_lossy().into_owned()),
            // Its cache goes by host and port, which other clouds had before.
            ("KUBECACHEDIR".into(), self.work.join("kubecache").to_string_lossy().into_owned()),
            ("HOME".into(), self.work.to_string_lossy().into_owned()),
        ]
    }

    pub(crate) fn openstack_environment(&self) -> Vec<(String, String)> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut environment = self.kubectl_environment(&self.data_dir.join("kubeconfig"));
        environment.push(("PATH".into(), format!("{}:{path}", files::openstack_bin())));
        let clouds = self.data_dir.join("clouds.yaml");
        environment.push(("OS_CLIENT_CONFIG_FILE".into(), clouds.to_string_lossy().into_owned()));
        environment.push(("OS_CLOUD".into(), "yunfan".into()));
        environment
    }

    /// Runs the real `kubectl` as the cloud's admin.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> Ran {
        self.kubectl_with(arguments, "")
    }

    /// As [`Cloud::kubectl`], with something on its standard input.
    #[track_caller]
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Ran {
        self.kubectl_of(Path::new("kubectl"), arguments, &[], input)
    }

    /// As [`Cloud::kubectl_with`], with another `kubectl` than the one on the path, and variables added to its environment.
    #[track_caller]
    pub fn kubectl_of(
        &self,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
        input: &str,
    ) -> Ran {
        let mut all = self.kubectl_environment(&self.data_dir.join("kubeconfig"));
        all.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        run_with(program, arguments, &all, &manifest(arguments, input))
    }

    /// Runs `kubectl` with a token and nothing else: beside the admin's certificate a token counts for nothing.
    #[track_caller]
    pub fn kubectl_as(&self, token: &str, arguments: &[&str]) -> Ran {
        let (url, authority) = (self.url(), self.authority().to_string_lossy().into_owned());
        let known = ["--server", &url, "--certificate-authority", &authority, "--token", token];
        let environment = self.kubectl_environment(Path::new("/dev/null"));
        run_with("kubectl", &[&known[..], arguments].concat(), &environment, "")
    }

    /// Starts a `kubectl` as the cloud's admin, and does not wait for its end.
    #[track_caller]
    pub fn kubectl_running(&self, program: &Path, arguments: &[&str]) -> Running {
        Running::start(program, arguments, &self.kubectl_environment(&self.data_dir.join("kubeconfig")))
    }

    /// Applies a manifest as the cloud's admin.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.kubectl_with(&["apply", "-f", "-"], manifest).ok()
    }

    /// `kubectl get` as JSON.
    #[track_caller]
    pub fn get(&self, arguments: &[&str]) -> Value {
        self.kubectl(&[&["get", "-o", "json"], arguments].concat()).json()
    }

    /// Runs the real `openstack` as the cloud's admin.
    #[track_caller]
    pub fn openstack(&self, arguments: &[&str]) -> Ran {
        run_with("openstack", arguments, &self.openstack_environment(), "")
    }

    /// Runs `yunfan ARGUMENTS --data-dir ...`.
    #[track_caller]
    pub fn yunfan(&self, arguments: &[&str]) -> Ran {
        let data_dir = self.data_dir.to_string_lossy();
        crate::run(binary(), &[arguments, &["--data-dir", &data_dir]].concat())
    }

    /// Asks a URL below the cloud's with curl, as nobody unless `arguments` say who; prints the body and, in a line
    /// of its own, the status.
    #[track_caller]
    pub fn curl(&self, path: &str, arguments: &[&str]) -> (u16, String) {
        let url = format!("{}{path}", self.url());
        let authority = self.authority().to_string_lossy().into_owned();
        let fixed = ["-sS", "--max-time", "60", "--cacert", &authority, "-w", "\n%{http_code}", &url];
        let said = crate::run("curl", &[&fixed[..], arguments].concat()).ok();
        let (body, status) = said.rsplit_once('\n').unwrap_or(("", &said));
        (status.parse().unwrap_or_else(|_| panic!("curl said {said}")), body.to_owned())
    }

    /// Writes a kubeconfig for a token.
    #[track_caller]
    pub fn kubeconfig_with_token(&self, name: &str, token: &str) -> PathBuf {
        let path = self.work.join(format!("{name}-kubeconfig"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"{}\", certificate-authority: \"{}\"}}}}]\n\
             users: [{{name: u, user: {{token: \"{token}\"}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            self.url(),
            self.authority().display()
        );
        std::fs::write(&path, text).expect("a kubeconfig");
        path
    }

    /// [`until`], and shows the end of the cloud's log when the condition does not come true.
    #[track_caller]
    pub fn until<T>(&self, what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
        until(what, limit, || {
            probe().map_err(|seen| format!("{seen}\n--- the cloud's log\n{}", self.log_tail()))
        })
    }

    /// `yunfan down`, with what must hold after it: it succeeds, and of the cloud nothing runs or is left. Returns
    /// what is left, one line a thing.
    fn down(&self) -> Result<(), String> {
        let tag = std::fs::read_to_string(self.data_dir.join("instance")).unwrap_or_default();
        let tag = tag.trim();
        let ran = self.yunfan(&["down", "--delete-data"]);
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !ran.succeeded() {
            return Err(ran.to_string());
        }
        if tag.is_empty() {
            return Ok(());
        }
        let mut left: Vec<String> = Vec::new();
        for (kind, lines) in host::snapshot(tag) {
            left.extend(lines.iter().filter(|line| line.contains(tag)).map(|line| format!("{kind}: {line}")));
        }
        left.extend(host::processes(tag, &self.data_dir).iter().map(|process| format!("{process:?}")));
        if left.is_empty() { Ok(()) } else { Err(format!("left behind by {tag}: {left:#?}")) }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed && std::env::var_os("YUNFAN_E2E_KEEP").is_some() {
            eprintln!("kept: {} (still running: see {})", self.work.display(), self.log_file().display());
            return;
        }
        if failed {
            eprintln!("--- the end of the cloud's log\n{}", self.log_tail());
        }
        let result = self.down();
        let _ = std::fs::remove_dir_all(&self.work);
        match result {
            Err(left) if !failed => panic!("{left}"),
            Err(left) => eprintln!("{left}"),
            Ok(()) => {}
        }
    }
}
