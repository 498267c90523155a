//! Many nodes: agents without containers, all in this process. Each has its Node object and a lease that it renews; a Pod that is bound to one gets
//! the status that an agent would write when its containers run. One watch serves all of them, where real ones have one each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::stream::{StreamExt, TryStreamExt};
use http::Request;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use yunfan_bench::process::Cloud;

use crate::left::memory_kib;
use crate::seen::{Bound, Watched};
use crate::{PORT, Run, backlog, beside};

/// Requests under way at once.
pub(crate) const CONNECTIONS: usize = 32;
/// How often a lease is renewed, as the kubelet does it.
const RENEW: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(600);
/// A cloud without a node of its own, with five thousand slices for nodes.
pub(crate) const SERVER: [&str; 3] = ["server", "--cluster-cidr", "10.160.0.0/11"];

/// Measures all of it, and prints it.
pub(crate) async fn run(run: &Run<'_>) -> anyhow::Result<()> {
    replicas(run).await?;
    backlog::run(run).await?;
    large(run).await
}

/// A Deployment of 5,000 replicas on 1,000 nodes.
async fn replicas(run: &Run<'_>) -> anyhow::Result<()> {
    let (count, pods) = (run.scaled(1000), run.scaled(5000));
    let cloud = Cloud::start_with(run.yunfan, &run.scratch.join("replicas"), PORT, &SERVER)?;
    let client = yunfan_client::connect(&cloud.dir.join("kubeconfig")).await?;
    let nodes = Nodes::start(&client, count).await?;
    let mut watched = nodes.watch(&client);
    let started = Instant::now();
    create(&client, "/apis/apps/v1/namespaces/default/deployments", &deployment("many", pods)).await?;
    let bound = watched.until(started, LIMIT, |counts| counts.bound == pods).await?.as_secs_f64();
    println!("{pods} replicas on {count} nodes, all bound   {bound:>7.2} s   {}", beside(bound, 96.0));
    let ready = watched.until(started, LIMIT, |counts| counts.ready == pods).await?;
    println!("all of them Ready                     {:>7.2} s", ready.as_secs_f64());
    Ok(())
}

/// 30,000 Pods on 5,000 nodes: memory.
async fn large(run: &Run<'_>) -> anyhow::Result<()> {
    let (count, pods) = (run.scaled(5000), run.scaled(30_000));
    let cloud = Cloud::start_with(run.yunfan, &run.scratch.join("large"), PORT, &SERVER)?;
    let tag = std::fs::read_to_string(cloud.dir.join("instance"))?.trim().to_owned();
    let client = yunfan_client::connect(&cloud.dir.join("kubeconfig")).await?;
    let started = Instant::now();
    let nodes = Nodes::start(&client, count).await?;
    println!("{count} nodes registered                {:>7.2} s", started.elapsed().as_secs_f64());
    let mut watched = nodes.watch(&client);
    let started = Instant::now();
    create_pods(&client, pods).await?;
    let bound = watched.until(started, LIMIT, |counts| counts.bound == pods).await?.as_secs_f64();
    let rate = pods as f64 / bound;
    println!(
        "{pods} pods made and bound on them     {bound:>7.2} s   {rate:.0}/s; Kubernetes 176/s ({:.1})",
        rate / 176.0
    );
    watched.until(started, LIMIT, |counts| counts.ready == pods).await?;
    for wait in [0, 60] {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        let memory = memory_kib(&tag, cloud.pid()) / 1024;
        let ratio = memory as f64 / 3427.0;
        println!(
            "memory {wait:>2} s after the last is Ready    {memory:>7} MiB   Kubernetes at its peak 3,427 MiB ({ratio:.2})"
        );
    }
    Ok(())
}

/// Nodes that live as long as this does.
pub(crate) struct Nodes {
    tasks: tokio::task::JoinSet<()>,
    bound: mpsc::UnboundedSender<Bound>,
    late: Arc<AtomicU64>,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.tasks.abort_all();
        let late = self.late.load(Ordering::Relaxed);
        if late > 0 {
            println!("({late} requests of the nodes failed)");
        }
    }
}

impl Nodes {
    /// Registers them.
    ///
    /// # Errors
    /// The cloud refuses one.
    pub(crate) async fn start(client: &Client, count: usize) -> anyhow::Result<Self> {
        futures::stream::iter(0..count)
            .map(Ok)
            .try_for_each_concurrent(CONNECTIONS, |number| register(client, number))
            .await?;
        let (bound, mut pods) = mpsc::unbounded_channel::<Bound>();
        let (mut tasks, late) = (tokio::task::JoinSet::new(), Arc::new(AtomicU64::new(0)));
        let (of_leases, of_pods) = (late.clone(), late.clone());
        let renewing = client.clone();
        tasks.spawn(async move { renew(&renewing, count, &of_leases).await });
        let client = client.clone();
        tasks.spawn(async move {
            let all = futures::stream::poll_fn(move |context| pods.poll_recv(context));
            all.for_each_concurrent(CONNECTIONS, |pod| async {
                if run_pod(&client, pod).await.is_err() {
                    of_pods.fetch_add(1, Ordering::Relaxed);
                }
            })
            .await;
        });
        Ok(Self { tasks, bound, late })
    }

    /// Follows the Pods, and runs those that get one of these nodes.
    pub(crate) fn watch(&self, client: &Client) -> Watched {
        let bound = self.bound.clone();
        Watched::start(client.clone(), move |pod| {
            if pod.node.starts_with("hollow-") {
                // Fails only when the nodes are gone.
                let _ = bound.send(pod);
            }
        })
    }
}

async fn register(client: &Client, number: usize) -> anyhow::Result<()> {
    let name = format!("hollow-{number}");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
    create(client, "/api/v1/nodes", &node).await?;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()}});
    create(client, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &lease).await?;
    let capacity = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
    let status = json!({"status": {
        "capacity": capacity, "allocatable": capacity,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hollow",
            "lastHeartbeatTime": seconds(), "lastTransitionTime": seconds()}],
        "addresses": [{"type": "Hostname", "address": name}],
        "nodeInfo": {"machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "",
            "kubeletVersion": "v1.36.0", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"},
    }});
    patch(client, &format!("/api/v1/nodes/{name}/status"), &status).await
}

/// Renews all leases, each in its turn.
async fn renew(client: &Client, count: usize, late: &AtomicU64) {
    let pause = RENEW / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let mut ticks = tokio::time::interval(pause);
    let turns = futures::stream::poll_fn(|context| ticks.poll_tick(context).map(Some)).enumerate();
    turns
        .for_each_concurrent(CONNECTIONS, |(turn, _)| async move {
            let path = format!(
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/hollow-{}",
                turn % count
            );
            if patch(client, &path, &json!({"spec": {"renewTime": now()}})).await.is_err() {
                late.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
}

/// What an agent writes when a Pod's containers run.
async fn run_pod(client: &Client, pod: Bound) -> anyhow::Result<()> {
    let at = seconds();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": at});
    let conditions = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(condition);
    let status = json!({"status": {
        "phase": "Running", "startTime": at, "hostIP": "192.0.2.1", "podIP": "192.0.2.2", "podIPs": [{"ip": "192.0.2.2"}],
        "conditions": conditions,
        "containerStatuses": [{"name": "c", "ready": true, "started": true, "restartCount": 0, "image": "bench/web:1",
            "imageID": "sha256:0", "containerID": "hollow://0", "state": {"running": {"startedAt": at}}}],
    }});
    patch(client, &format!("/api/v1/namespaces/{}/pods/{}/status", pod.namespace, pod.name), &status).await
}

/// Makes Pods without an owner.
///
/// # Errors
/// The cloud refuses one.
pub(crate) async fn create_pods(client: &Client, count: usize) -> anyhow::Result<()> {
    futures::stream::iter(0..count)
        .map(Ok)
        .try_for_each_concurrent(CONNECTIONS, |number| async move {
            let mut pod = template();
            pod["apiVersion"] = json!("v1");
            pod["kind"] = json!("Pod");
            pod["metadata"] = json!({"name": format!("pod-{number}"), "labels": {"app": "many"}});
            create(client, "/api/v1/namespaces/default/pods", &pod).await
        })
        .await
}

fn template() -> Value {
    let requests = json!({"cpu": "100m", "memory": "64Mi"});
    json!({"spec": {"containers": [{"name": "c", "image": "bench/web:1", "resources": {"requests": requests}}]}})
}

fn deployment(name: &str, replicas: usize) -> Value {
    let mut template = template();
    template["metadata"] = json!({"labels": {"app": name}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    })
}

async fn create(client: &Client, path: &str, object: &Value) -> anyhow::Result<()> {
    let request =
        Request::post(path).header("content-type", "application/json").body(serde_json::to_vec(object)?)?;
    client.request_text(request).await.map(drop).with_context(|| format!("create in {path}"))
}

async fn patch(client: &Client, path: &str, change: &Value) -> anyhow::Result<()> {
    let request = Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(serde_json::to_vec(change)?)?;
    let answer = client.request_text(request).await.with_context(|| format!("change {path}"))?;
    ensure!(!answer.is_empty(), "{path} answered nothing");
    Ok(())
}

/// The time as leases have it.
fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn seconds() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
