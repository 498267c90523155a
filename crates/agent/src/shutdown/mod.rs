//! The node's own shutdown: who hears of it ([`logind`], or a command), and what Pods are told ([`Shutdown`]). `pod/shutdown.rs`
//! ends them, and `vm/shutdown.rs` machines.

mod logind;
mod periods;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use yunfan_client::Severity;
use yunfan_runtime::kit;

pub(crate) use periods::CRITICAL_PRIORITY;
pub use periods::{InvalidPeriods, ShutdownPeriods};

use crate::Shared;
use crate::pod::Pods;
use crate::vm::Machines;
pub(crate) use logind::{DROP_INS, remove_drop_in};

/// What a node says of itself meanwhile, in the kubelet's words.
pub(crate) const MESSAGE: &str = "node is shutting down";
/// The reason of events about it.
const EVENT: &str = "Shutdown";
/// Where it is noted, below the agent's directory, how long Pods have: `yunfan down` waits for them.
const NOTE: &str = "shutdown.json";

/// Whether the node shuts down, and whose turn it is to end.
pub(crate) struct Shutdown {
    periods: ShutdownPeriods,
    state: watch::Sender<State>,
    /// Held by whoever carries it out: the host's shutdown and `yunfan down` may come together.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    on: bool,
    /// Until when each group has time, as far as its turn has come.
    turns: Vec<Instant>,
}

impl Shutdown {
    pub(crate) fn new(periods: ShutdownPeriods) -> Arc<Self> {
        Arc::new(Self { periods, state: watch::Sender::default(), turn: tokio::sync::Mutex::default() })
    }

    pub(crate) fn periods(&self) -> &ShutdownPeriods {
        &self.periods
    }

    pub(crate) fn is_on(&self) -> bool {
        self.state.borrow().on
    }

    /// Waits until it is not any more as `on` says.
    pub(crate) async fn changed(&self, on: bool) {
        // The sender is this very object's.
        let _ = self.state.subscribe().wait_for(|state| state.on != on).await;
    }

    /// From now on the node shuts down. What it has done of that already is not done again.
    pub(crate) fn begin(&self) {
        self.state.send_modify(|state| state.on = true);
    }

    pub(crate) fn cancel(&self) {
        self.state.send_replace(State::default());
    }

    /// A group is to end, within `period` from when its turn came first. Returns until when.
    pub(crate) fn turn_of(&self, group: usize, period: Duration) -> Instant {
        let mut until = Instant::now() + period;
        self.state.send_modify(|state| match state.turns.get(group) {
            Some(known) => until = *known,
            None => state.turns.push(until),
        });
        until
    }

    pub(crate) fn group_of(&self, pod: &Pod) -> usize {
        self.periods.group_of(pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default())
    }

    /// How long the Pod still has, once its turn to end has come.
    pub(crate) fn left(&self, pod: &Pod) -> Option<Duration> {
        let until = self.state.borrow().turns.get(self.group_of(pod)).copied()?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Waits until the Pod has less time by its turn than `grace` says at that moment.
    pub(crate) async fn hurries(&self, pod: &Pod, grace: impl Fn() -> Duration) {
        let group = self.group_of(pod);
        let mut turns = self.state.subscribe();
        // The sender is this very object's.
        let _ = turns
            .wait_for(|state| {
                let until = state.turns.get(group);
                until.is_some_and(|until| until.saturating_duration_since(Instant::now()) < grace())
            })
            .await;
    }
}

/// What runs on the node.
#[derive(Clone)]
pub(crate) struct Workloads {
    pub(crate) pods: Arc<Pods>,
    pub(crate) machines: Arc<Machines>,
}

/// Ends the node's workloads because it shuts down, and says so. Machines have the time of the Pods that are not critical for the cluster,
/// which may be what machines need; where all time is for critical ones, they have that.
pub(crate) async fn carry_out(shared: &Shared, shutdown: &Shutdown, workloads: &Workloads) {
    tell(shared, "Shutdown manager detected shutdown event");
    shutdown.begin();
    let _one = shutdown.turn.lock().await;
    let periods = shutdown.periods();
    let (ordinary, time) = periods.ordinary();
    let (first, time) = match time {
        Duration::ZERO => (periods.each().len(), periods.whole()),
        time => (ordinary, time),
    };
    tokio::join!(workloads.pods.shut_down(0..first), workloads.machines.shut_down(time));
    workloads.pods.shut_down(first..periods.each().len()).await;
    workloads.pods.until_told().await;
}

/// Waits for systemd to say that the host shuts down, until dropped. Nothing is done without periods.
pub(crate) async fn follow(shared: Shared, tag: String, shutdown: Arc<Shutdown>, workloads: Workloads) {
    if shutdown.periods.is_empty() {
        // The end of a part would be that of the agent.
        return std::future::pending().await;
    }
    let logind = logind::Logind::new(Path::new(DROP_INS), &tag, shutdown.periods.whole());
    logind
        .follow(move |begins| {
            let (shared, shutdown, workloads) = (shared.clone(), shutdown.clone(), workloads.clone());
            async move {
                if begins {
                    carry_out(&shared, &shutdown, &workloads).await;
                } else {
                    tell(&shared, "Shutdown manager detected shutdown cancellation");
                    shutdown.cancel();
                    workloads.pods.look_at_all().await;
                    workloads.machines.look_at_all().await;
                }
            }
            .boxed()
        })
        .await;
    std::future::pending().await
}

fn tell(shared: &Shared, message: &'static str) {
    tracing::info!(message);
    if let Some(node) = shared.informers.of::<Node>().get(None, &shared.node) {
        shared.recorder.event(node.as_ref(), Severity::Normal, EVENT, message);
    }
}

#[derive(Serialize, Deserialize)]
struct Note {
    seconds: u64,
}

/// Notes how long Pods have, for whoever ends the agent.
pub(crate) fn note(root: &Path, periods: &ShutdownPeriods) -> std::io::Result<()> {
    let path = root.join(NOTE);
    if periods.is_empty() {
        return match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    // Half a note after a crash would mean that nobody is waited for.
    let note = Note { seconds: periods.whole().as_secs() };
    kit::write_json(&path, &note, true).map_err(std::io::Error::other)
}

/// How long the Pods of the agent in `root` have to end when its node shuts down; none where they are not told of that.
pub fn shutdown_period(root: &Path) -> Option<Duration> {
    let note: Note = serde_json::from_slice(&std::fs::read(root.join(NOTE)).ok()?).ok()?;
    Some(Duration::from_secs(note.seconds))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_noted_is_what_down_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(shutdown_period(dir.path()), None);
        note(dir.path(), &ShutdownPeriods::new(7, 2, &[]).unwrap()).unwrap();
        assert_eq!(shutdown_period(dir.path()), Some(Duration::from_secs(7)));
        for _ in 0..2 {
            note(dir.path(), &ShutdownPeriods::default()).unwrap();
            assert_eq!(shutdown_period(dir.path()), None);
        }
    }

    #[tokio::test]
    async fn pods_have_time_when_their_turn_has_come() {
        let pod = |priority| -> Pod {
            serde_json::from_value(json!({"spec": {"priority": priority, "containers": []}})).unwrap()
        };
        let (low, high) = (pod(0), pod(2_000_001_000));
        let shutdown = Shutdown::new(ShutdownPeriods::new(3600, 600, &[]).unwrap());
        assert!(!shutdown.is_on());
        shutdown.begin();
        shutdown.changed(false).await;
        assert_eq!((shutdown.left(&low), shutdown.left(&high)), (None, None));
        let until = shutdown.turn_of(0, Duration::from_secs(3000));
        shutdown.begin();
        assert_eq!(shutdown.turn_of(0, Duration::from_secs(9000)), until, "who asks again gets no more time");
        assert!(shutdown.left(&low).unwrap() > Duration::from_secs(2000));
        assert_eq!(shutdown.left(&high), None);
        shutdown.turn_of(1, Duration::ZERO);
        assert_eq!(shutdown.left(&high), Some(Duration::ZERO));
        shutdown.cancel();
        assert!(!shutdown.is_on() && shutdown.left(&low).is_none());
    }
}
