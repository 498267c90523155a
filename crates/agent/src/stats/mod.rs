//! What the node and the containers on it use: looked at time and again, so that a rate is known when it is asked for.
//!
//! The numbers come from the containers' cgroups (through the runtime), from `/proc`, and, for the network, from the counters of the
//! network namespace that a Pod's processes are in. Nothing is kept but the last two looks.

mod host;
mod summary;
mod text;
mod volumes;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use yunfan_runtime::{ContainerId, ContainerState, ContainerStats, Runtime};

use self::host::{Host, Traffic};
use crate::server::Api;

/// How often it is looked: what is told is over the time between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// Where there is much to look at, it is looked less often, so that looking takes no more than one part in so many of a core's time …
const SHARE: u32 = 250;
/// … but at least so often.
const SELDOM: Duration = Duration::from_secs(40);
/// What was seen longer ago is not told any more.
const STALE: Duration = Duration::from_secs(90);

/// One look at something.
#[derive(Clone, Copy, Debug)]
struct Look<T> {
    at: Instant,
    /// The same moment as people tell it.
    time: Timestamp,
    seen: T,
}

/// The last look and the one before it.
#[derive(Clone, Copy, Debug)]
struct Looks<T> {
    last: Look<T>,
    before: Option<Look<T>>,
}

impl<T: Copy> Looks<T> {
    fn after(before: Option<&Self>, last: Look<T>) -> Self {
        Self { last, before: before.map(|looks| looks.last) }
    }

    /// CPU time per time between the looks, in billionths of a core, and how long that was. None before there were two looks, and
    /// where the count began anew.
    fn rate(&self, cpu: impl Fn(&T) -> Duration) -> Option<(u64, Duration)> {
        let before = self.before.as_ref()?;
        let window = self.last.at.checked_duration_since(before.at).filter(|window| !window.is_zero())?;
        let used = cpu(&self.last.seen).checked_sub(cpu(&before.seen))?;
        let nano_cores = used.as_nanos() * 1_000_000_000 / window.as_nanos();
        Some((u64::try_from(nano_cores).ok()?, window))
    }
}

/// How long to wait after a look that took so long.
fn pause(took: Duration) -> Duration {
    (took * SHARE).clamp(EVERY, SELDOM)
}

/// A container that runs.
#[derive(Clone, Debug)]
struct Container {
    id: ContainerId,
    image: String,
    started: Option<SystemTime>,
    looks: Looks<ContainerStats>,
}

/// A Pod that has a container which runs.
#[derive(Clone, Debug)]
struct PodUse {
    namespace: String,
    name: String,
    containers: Vec<Container>,
    /// Absent where its processes are in the node's own network namespace.
    traffic: Option<Traffic>,
}

/// All that was seen at the last look.
#[derive(Clone, Debug, Default)]
struct Seen {
    node: Option<Looks<Host>>,
    /// By uid.
    pods: BTreeMap<String, PodUse>,
}

impl Seen {
    fn containers(&self) -> impl Iterator<Item = &Container> + Clone {
        self.pods.values().flat_map(|pod| &pod.containers)
    }
}

/// What is used on this node.
pub(crate) struct Stats {
    node: String,
    root: PathBuf,
    runtime: Arc<dyn Runtime>,
    seen: Mutex<Arc<Seen>>,
}

impl Stats {
    /// Numbers of the node with this name; `root` is on the file system that holds the workloads' disks.
    pub(crate) fn new(node: &str, root: &Path, runtime: Arc<dyn Runtime>) -> Self {
        Self { node: node.to_owned(), root: root.to_owned(), runtime, seen: Mutex::default() }
    }

    /// Looks, again and again.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let began = Instant::now();
            self.look().await;
            tokio::time::sleep(pause(began.elapsed())).await;
        }
    }

    fn seen(&self) -> Arc<Seen> {
        // Nothing panics under this lock.
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fresh = seen.node.as_ref().is_some_and(|node| node.last.at.elapsed() < STALE);
        if fresh { seen } else { Arc::default() }
    }

    async fn look(&self) {
        let before = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known: HashMap<&ContainerId, &Looks<ContainerStats>> =
            before.pods.values().flat_map(|pod| &pod.containers).map(|one| (&one.id, &one.looks)).collect();
        let mut seen = Seen::default();
        match tokio::task::spawn_blocking(Host::read).await {
            Ok(Some(host)) => seen.node = Some(Looks::after(before.node.as_ref(), look_at(host))),
            _ => tracing::warn!("the node's own use of CPU and memory can't be read"),
        }
        let sandboxes = match self.runtime.list().await {
            Ok(sandboxes) => sandboxes,
            Err(error) => {
                tracing::warn!(%error, "what containers use can't be read");
                Vec::new()
            }
        };
        for sandbox in sandboxes {
            let mut pod = PodUse {
                namespace: sandbox.config.namespace.clone(),
                name: sandbox.config.name.clone(),
                containers: Vec::new(),
                traffic: None,
            };
            for run in sandbox.containers.into_iter().filter(|run| run.state == ContainerState::Running) {
                // One that ends just now has nothing to tell.
                let Ok(stats) = self.runtime.stats(&run.id).await else { continue };
                if let (None, Some(_), Some(pid)) = (pod.traffic, &sandbox.config.netns, run.pid) {
                    pod.traffic = Traffic::of_process(pid);
                }
                let looks = Looks::after(known.get(&run.id).copied(), look_at(stats));
                pod.containers.push(Container {
                    id: run.id,
                    image: run.image,
                    started: run.started_at,
                    looks,
                });
            }
            if !pod.containers.is_empty() {
                seen.pods.insert(sandbox.config.uid, pod);
            }
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen);
    }
}

fn look_at<T>(seen: T) -> Look<T> {
    Look { at: Instant::now(), time: Timestamp::now(), seen }
}

/// `GET /stats/summary`: the kubelet's Summary API. Each CPU's `windowSeconds`, which the kubelet has not, is the time that its rate
/// is over.
pub(crate) async fn summary(State(api): State<Api>) -> Response {
    let volumes = volumes::of(api.workloads.mounts()).await;
    axum::Json(summary::of(&api.stats.node, &api.stats.seen(), summary::Disk::of(&api.stats.root), &volumes))
        .into_response()
}

/// `GET /metrics/resource`: counters in Prometheus' text format, by the kubelet's names.
pub(crate) async fn resource(State(api): State<Api>) -> Response {
    prometheus(text::of(&api.stats.seen()))
}

/// `GET /metrics/cadvisor`: the same by the names that cAdvisor has for them, which dashboards know.
pub(crate) async fn cadvisor(State(api): State<Api>) -> Response {
    prometheus(text::cadvisor(&api.stats.seen()))
}

/// `GET /metrics`: the node's agent itself, by the kubelet's names.
pub(crate) async fn own(State(api): State<Api>) -> Response {
    let volumes = volumes::of(api.workloads.mounts()).await;
    prometheus(text::own(&api.stats.node, &api.stats.seen(), &volumes, &api.workloads.ends()))
}

/// `GET /metrics/probes`: how the tries of Pods' probes went.
pub(crate) async fn probes(State(api): State<Api>) -> Response {
    prometheus(text::probes(&api.workloads.probed()))
}

fn prometheus(text: String) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_to_look_at_is_looked_at_less_often() {
        assert_eq!([1, 100, 1000].map(|millis| pause(Duration::from_millis(millis)).as_secs()), [10, 25, 40]);
    }

    /// Looks at a container ten seconds apart.
    pub(super) fn looks(before: Option<u64>, last: u64) -> Looks<ContainerStats> {
        let start = Instant::now();
        let at = |seconds: u64, cpu: u64| Look {
            at: start + Duration::from_secs(seconds),
            time: "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(seconds),
            seen: ContainerStats {
                cpu: Duration::from_millis(cpu),
                memory_bytes: 5 << 20,
                pids: 3,
                usage_bytes: 7 << 20,
                rss_bytes: 4 << 20,
                page_faults: 90,
                major_page_faults: 1,
            },
        };
        Looks { last: at(10, last), before: before.map(|cpu| at(0, cpu)) }
    }

    #[test]
    fn a_rate_is_over_the_time_between_two_looks() {
        let rate = |before, last| looks(before, last).rate(|stats| stats.cpu);
        assert_eq!(rate(Some(1000), 3500), Some((250_000_000, Duration::from_secs(10))));
        assert_eq!(rate(Some(1000), 1000), Some((0, Duration::from_secs(10))));
        assert_eq!(rate(None, 3500), None, "one look tells no rate");
        assert_eq!(rate(Some(5000), 100), None, "the count began anew");
    }

    #[test]
    fn this_host_can_be_read() {
        let host = Host::read().unwrap();
        assert!(host.cpu > Duration::ZERO && host.memory.working_set > 0);
        assert!(Traffic::of_process(i32::try_from(std::process::id()).unwrap()).is_some());
        assert_eq!(Traffic::of_process(i32::MAX), None);
    }
}
