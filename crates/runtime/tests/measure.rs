//! Prints how long things take. Not run by default, because it asserts nothing:
//! `cargo test -p yunfan-runtime --test measure -- --ignored --nocapture`.
#![allow(clippy::print_stdout)]

mod common;

use std::time::{Duration, Instant};

use common::{Instance, script};
use yunfan_runtime::Runtime;

const RUNS: usize = 30;

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let (half, most) = (times[times.len() / 2], times[times.len() * 9 / 10]);
    println!("{what:32} p50 {half:>10.2?}  p90 {most:>10.2?}");
}

fn memory(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure() {
    let cloud = Instance::new().await;
    let mut times: [Vec<Duration>; 6] = Default::default();
    let mut memories = Vec::new();
    for run in 0..RUNS {
        let uid = format!("m{run}");
        let mut clock = Instant::now();
        let mut lap = |index: usize| {
            times[index].push(clock.elapsed());
            clock = Instant::now();
        };
        cloud.runtime.run_sandbox(cloud.sandbox(&uid)).await.unwrap();
        lap(0);
        let run = script("a", "sleep 1000");
        let id = cloud.runtime.create_and_start(&uid, run).await.unwrap();
        lap(1);
        let echo = vec!["echo".to_owned()];
        cloud.runtime.exec_sync(&id, echo, Duration::from_secs(5)).await.unwrap();
        lap(2);
        let sandbox = cloud.runtime.sandbox(&uid).await.unwrap().unwrap();
        memories.push(sandbox.shim_pid.unwrap());
    }
    let pss: Vec<u64> = memories.iter().map(|pid| memory(*pid, "Pss:")).collect();
    let private: Vec<u64> =
        memories.iter().map(|pid| memory(*pid, "Private_Dirty:") + memory(*pid, "Private_Clean:")).collect();
    let rss: Vec<u64> = memories.iter().map(|pid| memory(*pid, "Rss:")).collect();
    for run in 0..RUNS {
        let uid = format!("m{run}");
        let id = yunfan_runtime::ContainerId::new(&uid, "a", 0);
        let mut clock = Instant::now();
        cloud.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
        times[3].push(clock.elapsed());
        clock = Instant::now();
        cloud.runtime.remove_container(&id).await.unwrap();
        times[4].push(clock.elapsed());
        clock = Instant::now();
        cloud.runtime.remove_sandbox(&uid).await.unwrap();
        times[5].push(clock.elapsed());
    }
    let names =
        ["run sandbox", "create and start", "exec_sync echo", "kill", "remove container", "remove sandbox"];
    for (name, times) in names.iter().zip(&mut times) {
        print(name, times);
    }
    let mean = |values: &[u64]| values.iter().sum::<u64>() / values.len() as u64;
    println!(
        "shim, {RUNS} alive: mean Pss {} KiB, private {} KiB, Rss {} KiB",
        mean(&pss),
        mean(&private),
        mean(&rss)
    );
    many(&cloud).await;
}

/// All at once, and many commands in one pod.
async fn many(cloud: &Instance) {
    let clock = Instant::now();
    let starts = (0..RUNS).map(|run| async move {
        let id = cloud.start(&format!("n{run}"), script("a", "sleep 1000")).await;
        (id, clock.elapsed())
    });
    let mut started = futures::future::join_all(starts).await;
    started.sort_by_key(|(_, at)| *at);
    let (id, last) = started.remove(RUNS - 1);
    println!("{RUNS} pods at once: half after {:?}, all after {last:?}", started[RUNS / 2].1);
    let shim = cloud.runtime.sandbox(&id.pod_uid).await.unwrap().unwrap().shim_pid.unwrap();
    let fds = || std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    let (before, pss) = (fds(), memory(shim, "Pss:"));
    for _ in 0..100 {
        cloud.sh(&id, "true").await;
    }
    let after = memory(shim, "Pss:");
    println!("shim after 100 commands: {} more descriptors, Pss {pss} -> {after} KiB", fds() - before);
}
