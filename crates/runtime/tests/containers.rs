//! What the embedded runtime does beside the suite: shims, and what is found and left. Needs root, `ip` and a static busybox.

mod common;

use std::time::{Duration, Instant};

use common::{Instance, script};
use yunfan_runtime::{
    ContainerConfig, ContainerState, EmbeddedRuntime, LogOptions, Runtime, RuntimeError, RuntimeEvent,
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_sandbox_is_found_as_such() {
    let cloud = Instance::new().await;
    let done = cloud.start("p6", script("done", "exit 3")).await;
    cloud.exited(&done).await;
    let goes_on = cloud.start("p6", script("loop", "sleep 1000")).await;
    cloud.runtime.stop_sandbox("p6").await.unwrap();
    let before = cloud.runtime.sandbox("p6").await.unwrap().unwrap();
    assert_eq!((before.ready, before.shim_pid), (false, None));
    // Its shim said that it goes, and is gone a moment later.
    let end = Instant::now() + Duration::from_secs(10);
    let left =
        || common::traces(&cloud.tag, cloud.dir.path()).into_iter().find(|trace| trace.contains("pods/p6"));
    while let Some(trace) = left() {
        assert!(Instant::now() < end, "{trace}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = EmbeddedRuntime::open(common::config(&cloud.tag, cloud.dir.path())).await.unwrap();
    let found = second.sandbox("p6").await.unwrap().unwrap();
    assert_eq!(format!("{:?}", found.containers), format!("{:?}", before.containers));
    assert!(!found.ready);
    assert!(found.containers.iter().all(|run| !run.lost), "{found:?}");
    assert_eq!(found.containers.iter().map(|run| run.exit_code).collect::<Vec<_>>(), [Some(3), Some(137)]);
    second.discard_layers("p6").await.unwrap();
    second.remove_container(&goes_on).await.unwrap();
    second.remove_sandbox("p6").await.unwrap();
    assert!(!cloud.dir.path().join("agent/pods/p6").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_a_log_leaves_nothing_behind() {
    let cloud = Instance::new().await;
    let id = cloud.start("p11", script("loop", "sleep 1000")).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut followers = Vec::new();
    for _ in 0..20 {
        followers.push(cloud.runtime.logs(&id, options.clone()).await.unwrap());
    }
    assert!(tasks() >= before + 20, "each one is followed");
    drop(followers);
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while tasks() > before {
        assert!(std::time::Instant::now() < end, "{} tasks are left of {before}", tasks());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_containers_processes_are_given_another_score() {
    use yunfan_runtime::Resources;
    let cloud = Instance::new().await;
    let of = |score| Resources { oom_score_adj: Some(score), ..Resources::default() };
    let first = ContainerConfig { resources: of(900), ..script("c", "sleep 1000 & sleep 1000 & wait") };
    let id = cloud.start("p9", first).await;
    // What asks is no child of the first process, and has the score that the container began with.
    let scores = async || cloud.sh(&id, "cat /proc/[2-9]/oom_score_adj /proc/1/oom_score_adj").await;
    let count = |text: &str, score: &str| text.lines().filter(|line| *line == score).count();
    let before = scores().await;
    assert!(count(&before, "900") >= 3, "{before}");
    cloud.runtime.update_container(&id, of(950)).await.unwrap();
    let after = scores().await;
    assert_eq!(count(&after, "950"), 3, "{after}");
    cloud.runtime.update_container(&id, Resources::default()).await.unwrap();
    let after = scores().await;
    assert_eq!(count(&after, "950"), 3, "{after}: where nothing is said of it, it stays");
}
