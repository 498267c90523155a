//! The suite on containerd and runc, of which the test starts one of its own. Needs root, `containerd` (with its `ctr`), `runc`, `ip` and a
//! static busybox. Without containerd and runc it says that it is skipped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use yunfan_cri::{Config, CriRuntime, cni};
use yunfan_runtime::conformance::{
    self, Ability, Cloud, Netns, Part, Registry, busybox_layer, named_archive, script,
};
use yunfan_runtime::image::RegistryAuth;
use yunfan_runtime::{
    ContainerConfig, ContainerState, HostAlias, LogOptions, Resources, Runtime, RuntimeError, RuntimeEvent,
    SandboxConfig, TmpfsVolume,
};

/// What this way can't do by its nature.
const LACKS: [(Ability, &str); 2] = [
    (Ability::OutputLeftOpen, "containerd answers when the output of a command is closed"),
    (
        Ability::SlowClients,
        "containerd copies a container's output to each client in turn, and waits for each",
    ),
];

/// A containerd with directories of its own, which goes with this.
struct Containerd {
    dir: tempfile::TempDir,
    process: Child,
}

impl Containerd {
    /// Starts one that knows our network plug-in and has the suite's image.
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("yunfan-cri-").tempdir().unwrap();
        let handover = dir.path().join("handover");
        let cni = dir.path().join("cni");
        let command = vec![env!("CARGO_BIN_EXE_yunfan-cni-test").to_owned()];
        cni::install(&cni::Install { bin: cni.join("bin"), conf: cni.join("net.d"), command, handover })
            .unwrap();
        std::fs::write(dir.path().join("config.toml"), config(dir.path())).unwrap();
        let process = serve(dir.path());
        let this = Self { dir, process };
        let pause = this.path("pause.tar");
        let forever = json!({"Entrypoint": ["/bin/sleep", "1000000000"], "Env": ["PATH=/bin"]});
        named_archive(&pause, &[Part::gzipped(&busybox_layer())], forever, "localhost/pause:1");
        let web = this.path("web.tar");
        conformance::web_archive(&web);
        for archive in [&pause, &web] {
            this.import(archive);
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn import(&self, archive: &Path) {
        let mut last = String::new();
        // It takes connections a moment before it takes images.
        for _ in 0..100 {
            let mut ctr = Command::new("ctr");
            ctr.arg("--address").arg(self.path("c.sock")).args(["--namespace", "k8s.io", "images", "import"]);
            let done = ctr.arg(archive).output().expect("ctr: install containerd");
            if done.status.success() {
                return;
            }
            last = String::from_utf8_lossy(&done.stderr).into_owned();
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{}: {last}", archive.display());
    }

    fn config(&self, tag: &str) -> Config {
        Config {
            tag: tag.to_owned(),
            root: self.path("agent"),
            socket: self.path("c.sock"),
            handover: self.path("handover"),
        }
    }

    async fn open(&self, tag: &str) -> CriRuntime {
        let mut tries = 0;
        loop {
            match CriRuntime::open(self.config(tag)).await {
                Ok(runtime) => return runtime,
                Err(error) if tries == 100 => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            tries += 1;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        // On a thread of its own: this one may be in a runtime already.
        let config = self.config(&tag());
        let _ = std::thread::spawn(move || yunfan_cri::teardown(config)).join();
        let _ = self.process.kill();
        let _ = self.process.wait();
        // What a failed test left: shims know their containerd by its socket, and what they run is in the instance's cgroups.
        let socket = self.path("c.sock").display().to_string();
        let below = format!("/yunfan-{}/", tag());
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let cgroup = std::fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
            let ours = String::from_utf8_lossy(&line).contains(&socket) || cgroup.contains(&below);
            let pid = process.file_name().to_str().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.filter(|_| ours).and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.path().display().to_string();
        for at in
            table.lines().rev().filter_map(|line| line.split(' ').nth(4)).filter(|at| at.starts_with(&dir))
        {
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

fn serve(dir: &Path) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new("containerd")
        .arg("--config")
        .arg(dir.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("containerd: install it")
}

fn config(dir: &Path) -> String {
    // Overlayfs can't be on top of itself.
    let mut df = Command::new("stat");
    let kind = df.args(["--file-system", "--format", "%T"]).arg(dir).output().unwrap().stdout;
    let snapshotter = if kind.starts_with(b"overlay") { "native" } else { "overlayfs" };
    let template = include_str!("containerd.toml").replace("@DIR@", &dir.display().to_string());
    template.replace("@SNAPSHOTTER@", snapshotter)
}

fn tag() -> String {
    format!("{:06x}", std::process::id() & 0xff_ffff)
}

/// Which programs of the container runtime this machine lacks.
fn missing() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    ["containerd", "ctr", "runc"].into_iter().filter(|name| !there(name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_and_runc() {
    let missing = missing();
    if !missing.is_empty() {
        eprintln!("skipped: {} not installed (scripts/deps.sh does that)", missing.join(", "));
        return;
    }
    let containerd = Containerd::start();
    let (tag, netns) = (tag(), Netns::new(&tag()));
    let runtime = containerd.open(&tag).await;
    let images = runtime.clone();
    let cloud = Cloud {
        runtime: Arc::new(runtime),
        tag: tag.clone(),
        dir: containerd.dir.path().to_owned(),
        netns: netns.0.clone(),
    };
    conformance::run(&cloud, &LACKS).await;
    conformance::images(&cloud, &images).await;
    // All of it is gone from the node, too.
    assert_eq!(std::fs::read_dir(containerd.path("agent/pods")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(containerd.path("handover")).unwrap().count(), 0);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Those of pods, and the volumes of the cases.
    for place in ["agent", "plain", "grouped"].map(|name| containerd.path(name).display().to_string()) {
        assert!(!mounts.contains(&place), "{mounts}");
    }

    lists_stay_short(&cloud).await;
    limits_hold_for_the_first_process(&cloud).await;
    a_stopped_sandbox_holds_nothing(&cloud).await;
    nothing_is_left_of_followers(&cloud).await;
    a_log_without_its_file_gets_one(&cloud).await;
    an_image_whose_pull_nobody_saw_end_is_nobody_s(&containerd, &cloud, &images).await;
    instances_stay_apart(&containerd, &cloud).await;
    teardown_leaves_nothing(&containerd, &cloud).await;
    all_outlives_the_agent_and_containerd(containerd, &cloud).await;
}

/// Waits for something that comes by itself.
async fn until(what: &str, mut came: impl FnMut() -> bool) {
    for _ in 0..600 {
        if came() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within a minute");
}

/// Pods with long texts for `/etc/hosts` hide no others: together they are more than an answer of the container runtime may have.
async fn lists_stay_short(cloud: &Cloud) {
    let aliases = |ip: &str| HostAlias { ip: ip.to_owned(), names: vec!["a".repeat(60); 50_000] };
    let last = HostAlias { ip: "192.0.2.2".to_owned(), names: vec!["last".to_owned()] };
    for number in 0..6 {
        let uid = format!("long{number}");
        let host_aliases = vec![aliases("192.0.2.1"), last.clone()];
        cloud.runtime.run_sandbox(SandboxConfig { host_aliases, ..cloud.sandbox(&uid) }).await.unwrap();
    }
    let found = cloud.runtime.list().await.unwrap();
    assert_eq!(found.len(), 6);
    assert!(found.iter().all(|sandbox| sandbox.config.hostname.starts_with("long")));
    let id = cloud.runtime.create_and_start("long0", script("main", "tail -n 1 /etc/hosts")).await.unwrap();
    cloud.exited(&id).await;
    assert_eq!(cloud.log(&id, Default::default()).await, "192.0.2.2\tlast\n");
    for sandbox in found {
        cloud.runtime.remove_sandbox(&sandbox.config.uid).await.unwrap();
    }
}

/// Whatever a container does first, it has no more processes than it may.
async fn limits_hold_for_the_first_process(cloud: &Cloud) {
    let resources = Resources { pids_limit: Some(77), ..Default::default() };
    let look = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true";
    let id = cloud.start("first", ContainerConfig { resources, ..script("main", look) }).await;
    cloud.exited(&id).await;
    assert_eq!(cloud.log(&id, Default::default()).await, "77\n");
    cloud.runtime.remove_sandbox("first").await.unwrap();
}

/// Of a pod that was stopped nothing runs and nothing is in memory; how its containers ended is known.
async fn a_stopped_sandbox_holds_nothing(cloud: &Cloud) {
    let path = std::fs::canonicalize(&cloud.dir).unwrap().join("held");
    std::fs::create_dir(&path).unwrap();
    let volume = TmpfsVolume { path: path.clone(), size_bytes: Some(1 << 20), group: None };
    let sandbox = SandboxConfig { tmpfs_volumes: vec![volume], ..cloud.sandbox("stopped") };
    cloud.runtime.run_sandbox(sandbox).await.unwrap();
    let id = cloud.runtime.create_and_start("stopped", script("main", "sleep 1000")).await.unwrap();
    let done = cloud.runtime.create_and_start("stopped", script("done", "exit 3")).await.unwrap();
    cloud.exited(&done).await;
    let pause = pause_of(cloud.status(&id).await.pid.unwrap());
    let mounted = || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(&path.display().to_string())
    };
    assert!(mounted());
    for _ in 0..2 {
        cloud.runtime.stop_sandbox("stopped").await.unwrap();
        assert!(!cloud.runtime.sandbox("stopped").await.unwrap().unwrap().ready);
        assert!(rustix::process::test_kill_process(pause).is_err(), "what held the namespaces is gone");
        assert!(!mounted());
        let codes = (cloud.status(&id).await.exit_code, cloud.status(&done).await.exit_code);
        assert_eq!(codes, (Some(137), Some(3)));
    }
    cloud.runtime.remove_sandbox("stopped").await.unwrap();
    std::fs::remove_dir(&path).unwrap();
}

/// Who follows a log and leaves, leaves nothing behind.
async fn nothing_is_left_of_followers(cloud: &Cloud) {
    let id = cloud.start("followed", script("main", "echo hello; sleep 1000")).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..50 {
        let options = LogOptions { follow: true, ..LogOptions::default() };
        drop(cloud.runtime.logs(&id, options).await.unwrap());
    }
    // Others of the runtime's come and go.
    until("tasks of followers end", || tasks() < before + 10).await;
    cloud.runtime.remove_sandbox("followed").await.unwrap();
}

/// A log that was renamed by one who ended before it was opened anew goes on in its own file.
async fn a_log_without_its_file_gets_one(cloud: &Cloud) {
    let id = cloud.start("renamed", script("main", "while :; do echo tick; sleep 0.1; done")).await;
    let path = cloud.runtime.log_path(&id);
    until("a log", || std::fs::metadata(&path).is_ok_and(|found| found.len() > 0)).await;
    std::fs::rename(&path, path.with_extension("log.1")).unwrap();
    until("a log again", || std::fs::metadata(&path).is_ok_and(|found| found.len() > 0)).await;
    cloud.runtime.remove_sandbox("renamed").await.unwrap();
}

/// The agent was killed while it pulled a private image: containerd has it, and nobody may use it before a registry gave it to them.
async fn an_image_whose_pull_nobody_saw_end_is_nobody_s(
    containerd: &Containerd,
    cloud: &Cloud,
    images: &CriRuntime,
) {
    // Both of its traits have a list.
    use yunfan_runtime::ImageService as _;
    let archive = containerd.path("private.tar");
    named_archive(
        &archive,
        &[Part::gzipped(&busybox_layer())],
        json!({"Env": ["A=b"]}),
        "localhost/private:1",
    );
    let registry = Registry::start(&containerd.path("private"));
    registry.push(&archive, "team/private:1");
    let name = format!("127.0.0.1:{}/team/private:1", registry.port);
    let pulled = images.pull(&name, RegistryAuth::Anonymous).await.unwrap();
    let book = containerd.path("agent/cri-images");
    assert_eq!(std::fs::read_to_string(book.join("intents.json")).unwrap(), "{}");
    std::fs::remove_file(book.join("access.json")).unwrap();
    std::fs::write(book.join("intents.json"), json!({&name: null}).to_string()).unwrap();

    let second = containerd.open(&cloud.tag).await;
    let found = second.resolve(&name).await.unwrap().unwrap();
    assert!(found.was_pulled() && !second.is_open_to(&found, &name, &[]), "{found:?}");
    let missing = format!("127.0.0.1:{}/team/none:1", registry.port);
    second.pull(&missing, RegistryAuth::Anonymous).await.unwrap_err();
    assert_eq!(std::fs::read_to_string(book.join("intents.json")).unwrap(), "{}");
    second.pull(&name, RegistryAuth::Anonymous).await.unwrap();
    let found = second.resolve(&name).await.unwrap().unwrap();
    assert!(second.is_open_to(&found, &name, &[]));
    assert_eq!(second.remove_unused([pulled.id.clone()].into()).await.unwrap(), [pulled.id].into());
}

/// Two clouds on one containerd neither see nor remove what is the other's.
async fn instances_stay_apart(containerd: &Containerd, cloud: &Cloud) {
    let other = containerd.open("other0").await;
    let id = cloud.start("apart", script("main", "sleep 1000")).await;
    assert!(other.list().await.unwrap().is_empty());
    assert!(matches!(other.stats(&id).await, Err(RuntimeError::SandboxNotFound(_))));
    other.stop_sandbox("apart").await.unwrap();
    assert_eq!(cloud.status(&id).await.state, ContainerState::Running);
    cloud.runtime.remove_sandbox("apart").await.unwrap();
}

/// What an instance has is removed without its agent, also what was handed over for a pod that came to no sandbox.
async fn teardown_leaves_nothing(containerd: &Containerd, cloud: &Cloud) {
    let id = cloud.start("gone", script("main", "echo last words; sleep 1000")).await;
    assert_eq!(cloud.status(&id).await.state, ContainerState::Running);
    std::fs::create_dir(containerd.path("agent/pods/never")).unwrap();
    std::fs::write(containerd.path("handover/never"), "{}").unwrap();
    for _ in 0..2 {
        let config = containerd.config(&cloud.tag);
        tokio::task::spawn_blocking(|| yunfan_cri::teardown(config)).await.unwrap().unwrap();
        assert!(cloud.runtime.list().await.unwrap().is_empty());
        assert!(!containerd.path("handover").exists());
    }
    assert!(containerd.path("agent/pods/gone/logs/main/0.log").exists(), "what it said stays");
    cloud.runtime.remove_sandbox("gone").await.unwrap();
    std::fs::remove_dir(containerd.path("agent/pods/never")).unwrap();
}

/// Containers go on without the agent and without containerd; both find them again, and a sandbox that dies is told of.
async fn all_outlives_the_agent_and_containerd(mut containerd: Containerd, cloud: &Cloud) {
    let id = cloud.start("stay", script("main", "while :; do echo tick; sleep 0.1; done")).await;
    let before = cloud.status(&id).await;
    containerd.process.kill().unwrap();
    containerd.process.wait().unwrap();
    let away = cloud.runtime.sandbox("stay").await.unwrap_err();
    assert!(matches!(away, RuntimeError::Service { .. }), "{away}");
    containerd.process = serve(containerd.dir.path());
    let second = containerd.open(&cloud.tag).await;
    let found = second.sandbox("stay").await.unwrap().unwrap();
    assert!(found.ready);
    assert_eq!((found.containers[0].state, found.containers[0].pid), (ContainerState::Running, before.pid));
    // The first one's connection heals by itself.
    assert_eq!(cloud.sh(&id, "echo well").await, "well\n");

    let mut events = second.events();
    let pause = pause_of(before.pid.unwrap());
    rustix::process::kill_process(pause, rustix::process::Signal::KILL).unwrap();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await.expect("an event");
        if matches!(event.unwrap(), RuntimeEvent::SandboxDied { pod_uid } if pod_uid == "stay") {
            break;
        }
    }
    let dead = second.sandbox("stay").await.unwrap().unwrap();
    let ended = dead.containers.iter().all(|run| run.state == ContainerState::Exited);
    assert!(!dead.ready && ended, "{dead:?}");
    let again = second.run_sandbox(cloud.sandbox("stay")).await;
    assert!(matches!(again, Err(RuntimeError::SandboxDead(_))));
    second.clear_sandbox("stay").await.unwrap();
    assert!(second.list().await.unwrap().is_empty());
    second.remove_sandbox("stay").await.unwrap();
}

/// What holds the namespaces of the pod that a process is in: the same shim's other child.
fn pause_of(pid: i32) -> rustix::process::Pid {
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let shim = parent(pid).unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = numbers.find(|one| *one != pid && parent(*one) == Some(shim)).expect("a pause process");
    rustix::process::Pid::from_raw(found).unwrap()
}
