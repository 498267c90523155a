//! The node's own shutdown: who hears of it ([`logind`], or a command), and what Pods are told ([`Shutdown`]). `pod/shutdown.rs`
//! ends them.

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

pub(crate) use periods::CRITICAL_PRIORITY;
pub use periods::{InvalidPeriods, ShutdownPeriods};

use crate::Shared;
use crate::pod::Pods;
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
}

#[derive(Default)]
struct State {
    on: bool,
    /// Until when each group has time, as far as its turn has come.
    turns: Vec<Instant>,
}

impl Shutdown {
    pub(crate) fn new(periods: ShutdownPeriods) -> Arc<Self> {
        Arc::new(Self { periods, state: watch::Sender::default() })
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

    pub(crate) fn begin(&self) {
        self.state.send_replace(State { on: true, turns: Vec::new() });
    }

    pub(crate) fn cancel(&self) {
        self.state.send_replace(State::default());
    }

    /// The next group is to end, within `period`. Returns until when.
    pub(crate) fn next_turn(&self, period: Duration) -> Instant {
        let until = Instant::now() + period;
        self.state.send_modify(|state| state.turns.push(until));
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
}

/// Ends the node's Pods because it shuts down, and says so.
pub(crate) async fn carry_out(shared: &Shared, shutdown: &Shutdown, pods: &Pods) {
    tell(shared, "Shutdown manager detected shutdown event");
    shutdown.begin();
    pods.shut_down().await;
}

/// Waits for systemd to say that the host shuts down, until dropped. Nothing is done without periods.
pub(crate) async fn follow(shared: Shared, tag: String, shutdown: Arc<Shutdown>, pods: Arc<Pods>) {
    if shutdown.periods.is_empty() {
        // The end of a part would be that of the agent.
        return std::future::pending().await;
    }
    let logind = logind::Logind::new(Path::new(DROP_INS), &tag, shutdown.periods.whole());
    logind
        .follow(move |begins| {
            let (shared, shutdown, pods) = (shared.clone(), shutdown.clone(), pods.clone());
            async move {
                if begins {
                    carry_out(&shared, &shutdown, &pods).await;
                } else {
                    tell(&shared, "Shutdown manager detected shutdown cancellation");
                    shutdown.cancel();
                    pods.look_at_all().await;
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
    std::fs::write(path, serde_json::to_vec(&Note { seconds: periods.whole().as_secs() })?)
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
        shutdown.next_turn(Duration::from_secs(3000));
        assert!(shutdown.left(&low).unwrap() > Duration::from_secs(2000));
        assert_eq!(shutdown.left(&high), None);
        shutdown.next_turn(Duration::ZERO);
        assert_eq!(shutdown.left(&high), Some(Duration::ZERO));
        shutdown.cancel();
        assert!(!shutdown.is_on() && shutdown.left(&low).is_none());
    }
}
