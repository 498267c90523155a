//! `bench-cloud`: how long a cloud takes to be ready, a Pod to run and a virtual machine to be active, and how much memory the idle cloud
//! takes; each beside a peer or a limit measured in the same run.
//!
//! Use: `bench-cloud YUNFAN WEB_ARCHIVE GUEST_DISK`, as root; `make bench` calls it.

#![expect(clippy::print_stdout, reason = "a benchmark speaks to whoever runs it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use yunfan_bench::numbers::{median, ms, ratio};
use yunfan_bench::process::{Cloud, Etcd, LIMIT, pss};
use yunfan_resources::compute::{VirtualMachine, VmPhase};
use yunfan_resources::image::{Image, ImagePhase};

const STARTS: usize = 5;
const PODS: usize = 30;
const MACHINES: usize = 10;

fn main() -> anyhow::Result<()> {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [yunfan, archive, disk] = words.as_slice() else {
        bail!("use: bench-cloud YUNFAN WEB_ARCHIVE GUEST_DISK");
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let scratch = tempfile::tempdir_in("/var/tmp")?;
    let result = runtime.block_on(run(yunfan, archive, disk, scratch.path()));
    for name in ["main", "start"] {
        let dir = scratch.path().join(name);
        let _ = Command::new(yunfan).args(["down", "--delete-data", "--data-dir"]).arg(&dir).output();
    }
    result
}

async fn run(yunfan: &Path, archive: &Path, disk: &Path, scratch: &Path) -> anyhow::Result<()> {
    ready(yunfan, scratch)?;
    let cloud = Cloud::start(yunfan, &scratch.join("main"), 17443)?;
    memory(&cloud, scratch)?;
    let client = yunfan_client::connect(&cloud.dir.join("kubeconfig")).await?;
    prepare(&client, &cloud, yunfan, archive, disk).await?;
    pods(&client).await?;
    machines(&client, disk).await?;
    Ok(())
}

/// Process start to `ready`, on a new and on a used data directory; etcd alone as the peer.
fn ready(yunfan: &Path, scratch: &Path) -> anyhow::Result<()> {
    let dir = scratch.join("start");
    let (mut fresh, mut used, mut etcd) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..STARTS {
        let _ = std::fs::remove_dir_all(&dir);
        fresh.push(Cloud::start(yunfan, &dir, 17444)?.took);
        used.push(Cloud::start(yunfan, &dir, 17444)?.took);
        etcd.push(Etcd::start(&scratch.join(format!("etcd-{round}")), 17379)?.took);
    }
    let (fresh, used, etcd) = (median(&mut fresh), median(&mut used), median(&mut etcd));
    println!(
        "ready, new data directory    {:>8} ms   {}",
        ms(fresh),
        ratio(etcd, fresh, "etcd alone, empty")
    );
    println!("ready, used data directory   {:>8} ms   {}", ms(used), ratio(etcd, used, "etcd alone, empty"));
    Ok(())
}

/// Proportional memory of the idle cloud, beside etcd's.
fn memory(cloud: &Cloud, scratch: &Path) -> anyhow::Result<()> {
    let etcd = Etcd::start(&scratch.join("etcd-memory"), 17379)?;
    std::thread::sleep(Duration::from_secs(20));
    let (own, peer) = (pss(cloud.pid())?, pss(etcd.pid())?);
    println!(
        "idle memory after 20 s       {own:>8} MiB  {:.2} of etcd alone ({peer} MiB)",
        own as f64 / peer as f64
    );
    Ok(())
}

async fn prepare(
    client: &Client,
    cloud: &Cloud,
    yunfan: &Path,
    archive: &Path,
    disk: &Path,
) -> anyhow::Result<()> {
    let imported = Command::new(yunfan)
        .args(["image", "import", "--name", "bench/web:1", "--data-dir"])
        .arg(&cloud.dir)
        .arg(archive)
        .output()?;
    ensure!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "bench"}}))?;
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let objects = [
        ("network.yunfan.io/v1", "Network", json!({"metadata": {"name": "lan"}, "spec": {}})),
        (
            "network.yunfan.io/v1",
            "Subnet",
            json!({"metadata": {"name": "lan"}, "spec": {"network": "lan", "cidr": "10.10.0.0/24"}}),
        ),
        (
            "compute.yunfan.io/v1",
            "Flavor",
            json!({"metadata": {"name": "small"}, "spec": {"vcpus": 1, "memoryMib": 128}}),
        ),
        (
            "image.yunfan.io/v1",
            "Image",
            json!({"metadata": {"name": "guest"}, "spec": {"diskFormat": "qcow2"}}),
        ),
    ];
    for (version, kind, mut object) in objects {
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        let plural = format!("{}s", kind.to_lowercase());
        let scope = if kind == "Flavor" { "" } else { "/namespaces/bench" };
        let request = http::Request::post(format!("/apis/{version}{scope}/{plural}"))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&object)?)?;
        client.request::<serde_json::Value>(request).await?;
    }
    upload(client, cloud, disk).await
}

/// Puts the guest's disk where the agent keeps images, through its own API.
async fn upload(client: &Client, cloud: &Cloud, disk: &Path) -> anyhow::Result<()> {
    let images: Api<Image> = Api::namespaced(client.clone(), "bench");
    let image = images.get("guest").await?;
    let id = yunfan_resources::Identified::id(&image);
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    let node = nodes.list(&Default::default()).await?.items.into_iter().next().context("no node")?;
    let status = node.status.clone().context("no status")?;
    let port = status.daemon_endpoints.and_then(|d| d.kubelet_endpoint).context("no port")?.port;
    let pki = cloud.dir.join("pki");
    let sent = Command::new("curl")
        .args(["-fsS", "-X", "PUT", "--data-binary"])
        .arg(format!("@{}", disk.display()))
        .args(["--cacert"])
        .arg(pki.join("ca.crt"))
        .arg("--cert")
        .arg(pki.join("admin.crt"))
        .arg("--key")
        .arg(pki.join("admin.key"))
        .arg(format!("https://127.0.0.1:{port}/images/bench/{id}?format=qcow2"))
        .output()?;
    ensure!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let info: serde_json::Value = serde_json::from_slice(&sent.stdout)?;
    let status = json!({"status": {"phase": ImagePhase::Active, "sizeBytes": info["sizeBytes"],
        "virtualSizeBytes": info["virtualSizeBytes"], "sha512": info["sha512"], "nodes": [node.name_any()]}});
    images.patch_status("guest", &Default::default(), &kube::api::Patch::Merge(status)).await?;
    Ok(())
}

/// Create → Running of one Pod after another, each deleted before the next; the limit is a process in new namespaces.
async fn pods(client: &Client) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "bench");
    let mut events = watcher(api.clone(), Config::default()).boxed();
    let (mut times, mut bare) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        let name = format!("pod-{number}");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 1,
                     "containers": [{"name": "web", "image": "bench/web:1", "imagePullPolicy": "IfNotPresent"}]},
        }))?;
        let started = Instant::now();
        api.create(&PostParams::default(), &pod).await?;
        until(&mut events, |pod: &Pod| {
            pod.name_any() == name && pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
        })
        .await?;
        times.push(started.elapsed());
        api.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        let started = Instant::now();
        Command::new("unshare").args(["-mnipuf", "/bin/true"]).status()?;
        bare.push(started.elapsed());
        // The next one must not pay for the end of this one.
        while api.get_opt(&name).await?.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let worst = times.iter().max().copied().unwrap_or_default();
    let (time, bare) = (median(&mut times), median(&mut bare));
    println!(
        "pod, create to Running       {:>8} ms   p50 of {PODS}, worst {} ms; {:.1} times `unshare /bin/true` ({} ms)",
        ms(time),
        ms(worst),
        time.as_secs_f64() / bare.as_secs_f64(),
        ms(bare)
    );
    Ok(())
}

/// Create → Active; the limit is QEMU itself, from start to its first answer.
async fn machines(client: &Client, disk: &Path) -> anyhow::Result<()> {
    let api: Api<VirtualMachine> = Api::namespaced(client.clone(), "bench");
    let mut events = watcher(api.clone(), Config::default()).boxed();
    let (mut times, mut bare) = (Vec::new(), Vec::new());
    for number in 0..MACHINES {
        let name = format!("vm-{number}");
        let machine: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "compute.yunfan.io/v1", "kind": "VirtualMachine", "metadata": {"name": name},
            "spec": {"flavor": "small", "image": "guest", "networks": [{"network": "lan"}]},
        }))?;
        let started = Instant::now();
        api.create(&PostParams::default(), &machine).await?;
        until(&mut events, |vm: &VirtualMachine| {
            vm.name_any() == name && vm.status.as_ref().is_some_and(|s| s.phase == VmPhase::Active)
        })
        .await?;
        times.push(started.elapsed());
        api.delete(&name, &DeleteParams::default()).await?;
        while api.get_opt(&name).await?.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bare.push(bare_qemu(disk)?);
    }
    let worst = times.iter().max().copied().unwrap_or_default();
    let (time, bare) = (median(&mut times), median(&mut bare));
    println!(
        "vm, create to ACTIVE         {:>8} ms   p50 of {MACHINES}, worst {} ms; {:.1} times QEMU alone ({} ms)",
        ms(time),
        ms(worst),
        time.as_secs_f64() / bare.as_secs_f64(),
        ms(bare)
    );
    Ok(())
}

/// QEMU from its start to its greeting.
fn bare_qemu(disk: &Path) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg",
            "-m",
            "128",
            "-display",
            "none",
            "-nodefaults",
            "-snapshot",
        ])
        .args(["-qmp", "stdio", "-drive"])
        .arg(format!("if=virtio,format=qcow2,file={}", disk.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("qemu-system-x86_64 is missing: install qemu-system-x86")?;
    let mut greeting = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut greeting)?;
    let took = started.elapsed();
    child.kill()?;
    child.wait()?;
    ensure!(greeting.contains("QMP"), "QEMU said {greeting:?}");
    Ok(took)
}

async fn until<K, S>(events: &mut S, done: impl Fn(&K) -> bool) -> anyhow::Result<()>
where
    S: futures::Stream<Item = Result<Event<K>, kube::runtime::watcher::Error>> + Unpin,
{
    let wait = async {
        while let Some(event) = events.next().await {
            if let Event::Apply(object) | Event::InitApply(object) = event?
                && done(&object)
            {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    tokio::time::timeout(LIMIT, wait).await.context("it took more than a minute")?
}
