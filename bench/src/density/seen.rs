//! Pods as they are watched: no more of them than is asked about, so that the benchmark takes little of the machine.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use http::Request;
use k8s_openapi::serde::Deserialize;
use kube::Client;
use kube::core::WatchEvent;
use tokio::sync::watch;

#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "k8s_openapi::serde")]
struct Meta {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(crate = "k8s_openapi::serde", rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(crate = "k8s_openapi::serde", default)]
struct Status {
    phase: Option<String>,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "k8s_openapi::serde")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "k8s_openapi::serde")]
struct Pod {
    metadata: Meta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

/// A Pod that got a node just now.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// The node.
    pub(crate) node: String,
}

/// How many Pods there are, and how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All.
    pub(crate) there: usize,
    /// With a node.
    pub(crate) bound: usize,
    /// Whose phase is Running.
    pub(crate) running: usize,
    /// That are ready.
    pub(crate) ready: usize,
}

#[derive(Default)]
struct Known {
    all: HashSet<String>,
    bound: HashSet<String>,
    running: HashSet<String>,
    ready: HashSet<String>,
}

/// Follows all Pods of a cloud.
pub(crate) struct Watched {
    counts: watch::Receiver<Counts>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watched {
    /// Begins to follow them; `on_bound` is told of each that gets a node.
    pub(crate) fn start(client: Client, on_bound: impl Fn(Bound) + Send + Sync + 'static) -> Self {
        let (sender, counts) = watch::channel(Counts::default());
        let task = tokio::spawn(async move { follow(client, &sender, &on_bound).await });
        Self { counts, task }
    }

    /// Waits until the Pods are as wanted; says how long after `since` that was.
    ///
    /// # Errors
    /// It takes longer than `limit`, or the watch ended.
    pub(crate) async fn until(
        &mut self,
        since: Instant,
        limit: Duration,
        wanted: impl Fn(Counts) -> bool,
    ) -> anyhow::Result<Duration> {
        let wait = self.counts.wait_for(|counts| wanted(*counts));
        let ended = tokio::time::timeout(limit, wait).await.map(|found| found.map(drop));
        match ended {
            Ok(Ok(())) => Ok(since.elapsed()),
            Ok(Err(_)) => bail!("the watch ended: {:?}", (&mut self.task).await),
            Err(_) => bail!("it took longer than {limit:?}: {:?}", self.now()),
        }
    }

    /// How far they are.
    pub(crate) fn now(&self) -> Counts {
        *self.counts.borrow()
    }
}

async fn follow(
    client: Client,
    sender: &watch::Sender<Counts>,
    on_bound: &(impl Fn(Bound) + Send + Sync),
) -> anyhow::Result<()> {
    let path = "/api/v1/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds=3600";
    let stream = client.request_events::<Pod>(Request::get(path).body(Vec::new())?).await?;
    let mut stream = std::pin::pin!(stream);
    let mut known = Known::default();
    while let Some(event) = stream.next().await {
        match event? {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                if let Some(bound) = known.apply(&pod) {
                    on_bound(bound);
                }
            }
            WatchEvent::Deleted(pod) => known.forget(&key(&pod)),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(error) => bail!("the watch failed: {error:?}"),
        }
        sender.send_replace(known.counts());
    }
    Err(anyhow::anyhow!("the server ended it")).context("watching Pods")
}

fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.metadata.namespace, pod.metadata.name)
}

impl Known {
    fn apply(&mut self, pod: &Pod) -> Option<Bound> {
        let key = key(pod);
        if pod.status.phase.as_deref() == Some("Running") {
            self.running.insert(key.clone());
        }
        let ready = |condition: &Condition| condition.kind == "Ready" && condition.status == "True";
        if pod.status.conditions.iter().any(ready) {
            self.ready.insert(key.clone());
        }
        self.all.insert(key.clone());
        let node = pod.spec.node_name.clone()?;
        let Meta { name, namespace } = pod.metadata.clone();
        self.bound.insert(key).then_some(Bound { namespace, name, node })
    }

    fn forget(&mut self, key: &str) {
        self.all.remove(key);
        self.bound.remove(key);
        self.running.remove(key);
        self.ready.remove(key);
    }

    fn counts(&self) -> Counts {
        Counts {
            there: self.all.len(),
            bound: self.bound.len(),
            running: self.running.len(),
            ready: self.ready.len(),
        }
    }
}
