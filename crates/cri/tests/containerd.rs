//! The suite on containerd and runc, of which the test starts one of its own. Needs root, `containerd` (with its `ctr`), `runc`, `ip` and a
//! static busybox. Without containerd and runc it says that it is skipped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use yunfan_cri::{Config, CriRuntime, cni};
use yunfan_runtime::conformance::{self, Ability, Cloud, Netns, Part, busybox_layer, named_archive, script};
use yunfan_runtime::{ContainerState, Runtime, RuntimeError, RuntimeEvent};

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

    instances_stay_apart(&containerd, &cloud).await;
    teardown_leaves_nothing(&containerd, &cloud).await;
    all_outlives_the_agent_and_containerd(containerd, &cloud).await;
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
