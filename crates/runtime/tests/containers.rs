//! Containers with real kernel parts. Needs root, `ip` and a static busybox.

mod common;

use std::time::{Duration, Instant};

use common::{IMAGE, Instance, script};
use yunfan_runtime::{
    ContainerConfig, ContainerId, ContainerState, EmbeddedRuntime, LogOptions, Mount, Resources, Runtime,
    RuntimeError, RuntimeEvent,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_from_image_to_removal() {
    let cloud = Instance::new().await;
    let mut events = cloud.runtime.events();
    let web = ContainerConfig {
        name: "web".to_owned(),
        image: IMAGE.to_owned(),
        env: vec![("FROM".to_owned(), "pod".to_owned())],
        ..ContainerConfig::default()
    };
    let id = cloud.start("p1", web.clone()).await;
    // Asking again changes nothing.
    assert_eq!(cloud.start("p1", web).await, id);
    let event = events.recv().await.unwrap();
    assert!(matches!(&event, RuntimeEvent::Container(s) if s.state == ContainerState::Running));

    let page = std::process::Command::new("ip")
        .args(["netns", "exec", &cloud.netns, "busybox", "wget", "-qO-", "http://127.0.0.1/"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&page.stdout), "hello from a container\n");

    assert_eq!(cloud.sh(&id, "hostname").await, "p1-host\n");
    assert_eq!(cloud.sh(&id, "echo $FROM; pwd").await, "pod\n/www\n");
    assert!(cloud.sh(&id, "cat /etc/hosts").await.contains("10.0.0.9\tp1-host"));
    assert_eq!(
        cloud.sh(&id, "cat /etc/resolv.conf").await,
        "nameserver 10.0.0.10\nsearch demo.svc.cluster.local\noptions ndots:5\n"
    );
    assert_eq!(cloud.sh(&id, "ls /etc/hidden 2>&1 | head -c 2; cat /proc/1/comm").await, "lshttpd\n");
    assert_eq!(cloud.sh(&id, "ls /replaced").await, "high\n");
    let caps = cloud.sh(&id, "cat /proc/self/status").await;
    let line = |name: &str| caps.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
    assert_eq!(line("NoNewPrivs"), "NoNewPrivs:\t1");
    assert_eq!(line("CapBnd"), line("CapEff").replace("CapEff", "CapBnd"));
    assert_ne!(line("CapBnd"), "CapBnd:\t000001ffffffffff");
    let refused = cloud.sh(&id, "echo 1 > /proc/sys/kernel/panic; echo x > /sys/x").await;
    assert_eq!(refused.matches("Read-only file system").count(), 2, "{refused}");
    // What is mounted for a pod is not seen on the host.
    assert!(common::traces(&cloud.tag, cloud.dir.path()).iter().all(|t| !t.starts_with("mount")));
    assert!(cloud.runtime.stats(&id).await.unwrap().memory_bytes > 0);

    let before = Instant::now();
    let status = cloud.runtime.stop_container(&id, Duration::from_secs(5)).await.unwrap();
    assert_eq!(status.state, ContainerState::Exited);
    // As pid 1 without a handler it ignores SIGTERM, so that the grace passes and it is killed.
    assert!(before.elapsed() >= Duration::from_secs(5));
    assert_eq!(status.exit_code, Some(137));
    cloud.runtime.remove_container(&id).await.unwrap();
    cloud.runtime.remove_container(&id).await.unwrap();
    cloud.runtime.remove_sandbox("p1").await.unwrap();
    cloud.runtime.remove_sandbox("p1").await.unwrap();
    assert!(cloud.runtime.list().await.unwrap().is_empty());
    assert!(!cloud.runtime.pod_dir("p1").exists());
    let left = common::traces(&cloud.tag, cloud.dir.path());
    // And what all shims are forked from, which goes with the runtime.
    let stays = |trace: &String| trace.starts_with("cgroup") || trace.contains(" --pods ");
    assert!(left.iter().all(stays), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_logs_restarts_and_mounts() {
    let cloud = Instance::new().await;
    let volume = cloud.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("key"), "value\n").unwrap();
    let text = "cat /config/key; touch /config/x; echo two >&2; printf three; id -u; exit 7";
    let mount =
        Mount { host_path: volume, container_path: "/config".into(), read_only: true, ..Mount::default() };
    let run = ContainerConfig {
        mounts: vec![mount],
        run_as_user: Some(33),
        read_only_root: true,
        ..script("job", text)
    };
    let id = cloud.start("p2", run).await;
    let status = cloud.exited(&id).await;
    assert_eq!(status.exit_code, Some(7));
    assert!(!status.oom_killed);
    assert!(status.finished_at >= status.started_at);
    let log = cloud.log(&id, LogOptions::default()).await;
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines[0], "three33");
    assert_eq!(lines[1], "touch: /config/x: Read-only file system");
    assert_eq!(lines[2..], ["two", "value"]);

    let again = ContainerConfig { attempt: 1, ..script("job", "echo second; kill -9 $$; sleep 9") };
    let second = cloud.start("p2", again).await;
    let options = LogOptions { previous: true, tail_lines: Some(1), ..LogOptions::default() };
    assert_eq!(cloud.log(&second, options.clone()).await.lines().count(), 1);
    let missing = cloud.runtime.logs(&id, options).await;
    assert!(matches!(missing, Err(RuntimeError::ContainerNotFound(_))));
    let wrong = script("bad", "true");
    let wrong = ContainerConfig { command: vec!["/bin/nothing".to_owned()], ..wrong };
    let error = cloud.runtime.create_and_start("p2", wrong.clone()).await.unwrap_err();
    assert!(error.to_string().contains("/bin/nothing"), "{error}");
    let name = "unknown".to_owned();
    let unknown = ContainerConfig { name, image: "nowhere/nothing:1".to_owned(), ..wrong };
    let error = cloud.runtime.create_and_start("p2", unknown).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageNotFound(_)));
    let sandbox = cloud.runtime.sandbox("p2").await.unwrap().unwrap();
    assert_eq!(sandbox.containers.len(), 3, "what has no image leaves nothing");
    let failed = sandbox.containers.iter().find(|run| run.id.name == "bad").unwrap();
    assert_eq!(
        (failed.state, failed.exit_code, failed.started_at),
        (ContainerState::Exited, Some(128), None)
    );
    assert!(failed.message.contains("/bin/nothing"), "{}", failed.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn following_a_log_ends_with_the_container() {
    let cloud = Instance::new().await;
    let text = "for i in 1 2 3; do echo $i; sleep 0.2; done";
    let id = cloud.start("p3", script("count", text)).await;
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let log = tokio::time::timeout(Duration::from_secs(10), cloud.log(&id, options)).await;
    assert_eq!(log.unwrap(), "1\n2\n3\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_limit_and_oom() {
    let cloud = Instance::new().await;
    let run = ContainerConfig {
        resources: Resources {
            memory_limit_bytes: Some(32 << 20),
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            ..Resources::default()
        },
        ..script("hog", "sleep 0.3; tail /dev/zero")
    };
    let id = cloud.start("p4", run).await;
    let find = |controller: &str, v1: &str, v2: &str| {
        let group = format!("yunfan-{}/podp4/hog-0", cloud.tag);
        std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}/{group}/{v1}"))
            .or_else(|_| std::fs::read_to_string(format!("/sys/fs/cgroup/{group}/{v2}")))
            .unwrap()
    };
    let limit = find("memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit.trim(), (32 << 20).to_string());
    assert!(find("cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    assert_eq!(find("pids", "pids.max", "pids.max").trim(), "4096");
    if std::path::Path::new("/sys/fs/cgroup/devices").exists() {
        let devices = find("devices", "devices.list", "");
        assert!(devices.contains("c 1:3 rwm") && !devices.contains("a *:*"), "{devices}");
    }
    let status = cloud.exited(&id).await;
    assert!(status.oom_killed, "{status:?}");
    assert_ne!(status.exit_code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_manager_finds_everything_and_a_killed_shim_is_noticed() {
    let cloud = Instance::new().await;
    let id = cloud.start("p5", script("loop", "while true; do echo tick; sleep 0.1; done")).await;
    let done = cloud.start("p5", script("done", "exit 3")).await;
    cloud.exited(&done).await;
    let before = cloud.status(&id).await;
    // Nothing of the first runtime is used: that is what a killed process leaves.
    let second = EmbeddedRuntime::open(common::config(&cloud.tag, cloud.dir.path())).await.unwrap();
    let found = second.list().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].config.hostname, "p5-host");
    let states: Vec<_> = found[0].containers.iter().map(|c| (c.state, c.exit_code)).collect();
    assert_eq!(states, [(ContainerState::Exited, Some(3)), (ContainerState::Running, None)]);
    assert_eq!(found[0].containers[1].pid, before.pid);
    let command = ["echo", "still", "here"].map(str::to_owned).to_vec();
    let result = second.exec_sync(&id, command, Duration::from_secs(5)).await.unwrap();
    assert_eq!(result.stdout, b"still here\n");

    let mut events = second.events();
    let shim = rustix::process::Pid::from_raw(found[0].shim_pid.unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    loop {
        if let RuntimeEvent::SandboxDied { pod_uid } = events.recv().await.unwrap() {
            assert_eq!(pod_uid, "p5");
            break;
        }
    }
    let dead = second.sandbox("p5").await.unwrap().unwrap();
    assert!(!dead.ready);
    assert!(dead.containers.iter().all(|c| c.state == ContainerState::Exited));
    let again = second.run_sandbox(cloud.sandbox("p5")).await;
    assert!(matches!(again, Err(RuntimeError::SandboxDead(_))));

    let third = EmbeddedRuntime::open(common::config(&cloud.tag, cloud.dir.path())).await.unwrap();
    let dead = third.sandbox("p5").await.unwrap().unwrap();
    assert!(!dead.ready);
    assert_eq!(dead.containers[0].exit_code, Some(3));
    assert_eq!(dead.containers[1].exit_code, Some(137));
    assert_eq!(dead.containers.iter().map(|c| c.lost).collect::<Vec<_>>(), [false, true]);
    third.clear_sandbox("p5").await.unwrap();
    assert!(third.list().await.unwrap().is_empty());
    third.run_sandbox(cloud.sandbox("p5")).await.unwrap();
    let again = ContainerConfig { attempt: 1, ..script("loop", "sleep 100") };
    let again = third.create_and_start("p5", again).await.unwrap();
    // What the lost run wrote is still there.
    assert!(std::fs::read_to_string(third.log_path(&id)).unwrap().contains("tick"));
    assert!(third.logs(&again, LogOptions { previous: true, ..Default::default() }).await.is_ok());
}

/// Pid of the process that shims are forked from.
fn spawner(cloud: &Instance) -> rustix::process::Pid {
    let traces = common::traces(&cloud.tag, cloud.dir.path());
    let found = traces.iter().find(|trace| trace.contains(" --pods ")).expect("no spawner");
    rustix::process::Pid::from_raw(found.split(' ').nth(1).unwrap().parse().unwrap()).unwrap()
}

fn read_of(pid: i32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn shims_are_copies_of_one_process_which_may_die() {
    let cloud = Instance::new().await;
    let first = cloud.start("p10", script("sleep", "sleep 1000")).await;
    let old = spawner(&cloud);
    rustix::process::kill_process(old, rustix::process::Signal::KILL).unwrap();
    let second = cloud.start("p11", script("sleep", "sleep 1000")).await;
    assert_ne!(spawner(&cloud), old);
    for id in [&first, &second] {
        assert_eq!(cloud.sh(id, "echo well").await, "well\n");
        let shim = cloud.runtime.sandbox(&id.pod_uid).await.unwrap().unwrap().shim_pid.unwrap();
        let line = read_of(shim, "cmdline").replace('\0', " ");
        assert!(line.trim_end().ends_with(&format!("/pods/{}", id.pod_uid)), "{line:?}");
        let names = read_of(shim, "mountinfo").lines().filter(|line| line.contains(" nsfs ")).count();
        assert_eq!(names, 0, "the names of network namespaces are mounted in a pod's mount namespace");
    }
    // Of what the linker wrote, next to nothing is a shim's alone while others have it too.
    let shim = cloud.runtime.sandbox("p11").await.unwrap().unwrap().shim_pid.unwrap();
    let memory = read_of(shim, "smaps_rollup");
    let private = memory.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    let private: u64 = private.split_whitespace().next().unwrap().parse().unwrap();
    assert!(private < 768, "{private} KiB");
    // One that ends is nobody's zombie.
    cloud.runtime.remove_sandbox("p11").await.unwrap();
    let children = || {
        let own = spawner(&cloud).as_raw_nonzero();
        read_of(own.get(), &format!("task/{own}/children"))
    };
    assert_eq!(children(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn teardown_leaves_nothing() {
    let cloud = Instance::new().await;
    assert!(common::traces(&cloud.tag, cloud.dir.path()).is_empty());
    for pod in ["p6", "p7"] {
        cloud.start(pod, script("sleep", "sleep 1000 & sleep 1000")).await;
    }
    let processes = || {
        let there = common::traces(&cloud.tag, cloud.dir.path());
        there.iter().filter(|trace| trace.starts_with("process")).count()
    };
    // Two shims and what they are forked from, and two processes in each container once their shells got that far.
    for _ in 0..500 {
        if processes() == 7 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(processes(), 7);
    yunfan_runtime::teardown(&cloud.tag, &cloud.dir.path().join("agent")).unwrap();
    for _ in 0..100 {
        if common::traces(&cloud.tag, cloud.dir.path()).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(common::traces(&cloud.tag, cloud.dir.path()), Default::default());
    yunfan_runtime::teardown(&cloud.tag, &cloud.dir.path().join("agent")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_configurations_name_the_field() {
    let cloud = Instance::new().await;
    let mut sandbox = cloud.sandbox("p8");
    sandbox.uid = "../x".to_owned();
    assert!(cloud.runtime.run_sandbox(sandbox).await.unwrap_err().to_string().starts_with("uid"));
    let mut sandbox = cloud.sandbox("p8");
    sandbox.netns = Some("/run/netns/yf-none".into());
    let error = cloud.runtime.run_sandbox(sandbox).await.unwrap_err().to_string();
    assert!(error.contains("network namespace /run/netns/yf-none"), "{error}");
    let missing = cloud.runtime.create_and_start("p9", script("a", "true")).await.unwrap_err();
    assert!(matches!(missing, RuntimeError::SandboxNotFound(_)));
    cloud.runtime.run_sandbox(cloud.sandbox("p8")).await.unwrap();
    for (change, field) in [
        (script("A/b", "true"), "name"),
        (ContainerConfig { working_dir: Some("x".to_owned()), ..script("a", "true") }, "workingDir"),
        (ContainerConfig { run_as_non_root: true, ..script("a", "true") }, "runAsNonRoot"),
    ] {
        let error = cloud.runtime.create_and_start("p8", change).await.unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    let nobody = ContainerId::new("p8", "nobody", 0);
    let error = cloud.runtime.exec_sync(&nobody, vec!["x".to_owned()], Duration::from_secs(1)).await;
    assert!(matches!(error, Err(RuntimeError::ContainerNotFound(_))));
}

/// Not a test by itself: the process that `a_killed_manager` kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a role of another test"]
async fn manager_role() {
    let Ok(text) = std::env::var("YUNFAN_TEST_MANAGER") else {
        return;
    };
    let (tag, dir, sandbox): (String, std::path::PathBuf, _) = serde_json::from_str(&text).unwrap();
    let runtime = EmbeddedRuntime::open(common::config(&tag, &dir)).await.unwrap();
    runtime.run_sandbox(sandbox).await.unwrap();
    let run = script("loop", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done");
    runtime.create_and_start("k1", run).await.unwrap();
    std::fs::write(dir.join("started"), "").unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_manager_loses_nothing() {
    let cloud = Instance::new().await;
    let dir = cloud.dir.path();
    let role = serde_json::to_string(&(&cloud.tag, dir, cloud.sandbox("k1"))).unwrap();
    let mut manager = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["manager_role", "--exact", "--ignored"])
        .env("YUNFAN_TEST_MANAGER", role)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !dir.join("started").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    manager.kill().unwrap();
    manager.wait().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let runtime = EmbeddedRuntime::open(common::config(&cloud.tag, dir)).await.unwrap();
    let found = runtime.sandbox("k1").await.unwrap().unwrap();
    assert_eq!(found.containers[0].state, ContainerState::Running);
    let id = found.containers[0].id.clone();
    let log = std::fs::read_to_string(runtime.log_path(&id)).unwrap();
    let texts: Vec<&str> = log.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    let expected: Vec<String> = (1..=texts.len()).map(|n| n.to_string()).collect();
    assert!(texts.len() >= 9, "it went on while nobody watched");
    assert_eq!(texts, expected);
    let status = runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    assert_eq!(status.exit_code, Some(137));
}
