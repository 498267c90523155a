//! A thousand Pods with one container each on one node.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use yunfan_bench::numbers::{median, ms};
use yunfan_bench::process::Cloud;

use crate::left::{Left, cpu_ticks, memory_kib};
use crate::seen::Watched;
use crate::{PORT, Run};

const PODS: usize = 1000;
/// Pods that are started one by one.
const SINGLE: usize = 30;
/// How long nothing happens, twice: once for the CPU that is used meanwhile, once for whether memory grows.
const QUIET: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(600);
/// A thousand Pods need more than a slice of 24 bits.
const UP: [&str; 5] = ["up", "--cluster-cidr", "10.231.0.0/16", "--node-cidr-mask-size", "22"];

/// Measures all of it, and prints it.
pub(crate) async fn run(run: &Run<'_>) -> anyhow::Result<()> {
    let pods = run.scaled(PODS);
    let dir = run.scratch.join("real");
    let cloud = Cloud::start_with(run.yunfan, &dir, PORT, &UP)?;
    let imported = Command::new(run.yunfan)
        .args(["image", "import", "--name", "bench/web:1", "--data-dir"])
        .arg(&dir)
        .arg(run.archive)
        .output()?;
    ensure!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let tag = std::fs::read_to_string(dir.join("instance"))?.trim().to_owned();
    let client = yunfan_client::connect(&dir.join("kubeconfig")).await?;
    single(&client).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;

    // Looked at after a Pod was there, because the first one makes what all share.
    let before = Left::count(&tag);
    let base = memory_kib(&tag, cloud.pid());
    let mut watched = Watched::start(client.clone(), |_| {});
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let started = Instant::now();
    deployments.create(&PostParams::default(), &deployment("many", pods)?).await?;
    let took = watched.until(started, LIMIT, |counts| counts.ready == pods).await?;
    println!(
        "{pods} pods on one node, all Ready   {:>7.1} s   {:.1}/s; first to last bound or not, image present",
        took.as_secs_f64(),
        pods as f64 / took.as_secs_f64()
    );
    tokio::time::sleep(Duration::from_secs(20)).await;
    let full = memory_kib(&tag, cloud.pid());
    let own = |now: u64| now.saturating_sub(base) as f64 / 1024.0 / pods as f64;
    println!("our memory for each of them (Pss)    {:>7.2} MiB", own(full));
    let ticks = cpu_ticks(&tag, cloud.pid());
    tokio::time::sleep(QUIET).await;
    let idle = (cpu_ticks(&tag, cloud.pid()) - ticks) as f64 / QUIET.as_secs_f64();
    println!("CPU with them when nothing happens   {idle:>7.2} % of a core, over {} s", QUIET.as_secs());
    tokio::time::sleep(QUIET).await;
    println!(
        "our memory for each, {} s later     {:>7.2} MiB",
        2 * QUIET.as_secs(),
        own(memory_kib(&tag, cloud.pid()))
    );

    let started = Instant::now();
    let none = json!({"spec": {"replicas": 0}});
    deployments.patch("many", &PatchParams::default(), &Patch::Merge(none)).await?;
    let took = watched.until(started, LIMIT, |counts| counts.there == 0).await?;
    println!("all of them gone                     {:>7.1} s", took.as_secs_f64());
    let after = settled(&tag, before).await;
    println!("before: {before}");
    println!("after:  {after}");
    println!(
        "memory after (Pss)                   {:>+7.1} MiB",
        (memory_kib(&tag, cloud.pid()) as f64 - base as f64) / 1024.0
    );
    ensure!(before == after, "something was left");
    Ok(())
}

/// The node clears up after an object is gone: waits until it has, or does not any more.
async fn settled(tag: &str, wanted: Left) -> Left {
    let started = Instant::now();
    loop {
        let now = Left::count(tag);
        if now == wanted || started.elapsed() > Duration::from_secs(60) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn template() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "c", "image": "bench/web:1", "imagePullPolicy": "IfNotPresent", "command": ["/bin/sleep", "1000000"],
        }],
    })
}

fn deployment(name: &str, replicas: usize) -> anyhow::Result<Deployment> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": template()},
        },
    }))?)
}

/// Create → Running of one Pod after another.
async fn single(client: &Client) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let mut watched = Watched::start(client.clone(), |_| {});
    let mut times = Vec::new();
    for number in 0..SINGLE {
        let name = format!("single-{number}");
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": template()}))?;
        let started = Instant::now();
        api.create(&PostParams::default(), &pod).await?;
        times.push(watched.until(started, LIMIT, |counts| counts.running == 1).await?);
        api.delete(&name, &DeleteParams::default()).await?;
        watched.until(started, LIMIT, |counts| counts.there == 0).await?;
    }
    let worst = times.iter().max().copied().unwrap_or_default();
    println!(
        "pod, create to Running       {:>15} ms   p50 of {SINGLE}, worst {} ms",
        ms(median(&mut times)),
        ms(worst)
    );
    Ok(())
}
