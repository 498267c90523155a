//! The end of Pods when their node is short of memory, of disk or of numbers for processes (Kubernetes' documentation, "Node-pressure
//! Eviction"): what is looked at and from when on it is too little ([`settings`]), what follows ([`state`]), who goes first ([`rank`]).
//! `pod/evict.rs` ends them.

mod rank;
mod settings;
mod state;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use yunfan_client::Severity;

pub(crate) use self::rank::{Candidate, ContainerUse, PodUse, message, rank};
pub use self::settings::{EvictionSettings, EvictionTexts, InvalidThreshold, parse_period};
pub(crate) use self::settings::{Signal, Threshold};
pub(crate) use self::state::Observations;
use self::state::State;
use crate::Shared;
use crate::cleaning::Cleaning;
use crate::pod::Pods;
use crate::pressure::{Left, Shortages, observe};

/// How often the node is looked at (the kubelet's).
const PERIOD: Duration = Duration::from_secs(10);
/// How long a Pod has to be gone before the next one goes (the kubelet's).
const GONE: Duration = Duration::from_secs(30);

/// What the node is short of now.
pub(crate) fn look(settings: &EvictionSettings, root: &Path) -> Shortages {
    State::default().judge(settings, &observe(root), Instant::now()).shortages
}

/// Looks at the node again and again, says in `told` what it is short of, and ends Pods where there must be more; until dropped.
pub(crate) async fn keep(
    shared: Shared,
    settings: EvictionSettings,
    pods: Arc<Pods>,
    images: Arc<Cleaning>,
    told: watch::Sender<Shortages>,
) {
    let reclaimer = Arc::new(Reclaimer { shared, settings, pods, images, done: Notify::new() });
    let mut state = State::default();
    // To measure what is on a disk takes as long as those want who fill it: nothing else waits for that.
    let (mut of_disk, mut of_others) = (JoinSet::new(), JoinSet::new());
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // There may be more to do.
            () = reclaimer.done.notified() => {}
        }
        let observations = observe(&reclaimer.shared.root);
        let verdict = state.judge(&reclaimer.settings, &observations, Instant::now());
        told.send_if_modified(|known| std::mem::replace(known, verdict.shortages) != verdict.shortages);
        for threshold in verdict.reclaim {
            let tasks = if threshold.signal.is_of_disk() { &mut of_disk } else { &mut of_others };
            while tasks.try_join_next().is_some() {}
            let Some(left) = observations[threshold.signal as usize].filter(|_| tasks.is_empty()) else {
                continue;
            };
            tasks.spawn(reclaimer.clone().reclaim(threshold, left));
        }
    }
}

/// Sees to it that there is more of something.
struct Reclaimer {
    shared: Shared,
    settings: EvictionSettings,
    pods: Arc<Pods>,
    images: Arc<Cleaning>,
    /// A Pod ended.
    done: Notify,
}

impl Reclaimer {
    async fn reclaim(self: Arc<Self>, threshold: Threshold, left: Left) {
        let resource = threshold.signal.resource();
        tracing::warn!(resource, "the node is short of something");
        if let Some(node) = self.shared.informers.of::<Node>().get(None, &self.shared.node) {
            let text = format!("Attempting to reclaim {resource}");
            self.shared.recorder.event(node.as_ref(), Severity::Warning, "EvictionThresholdMet", text);
        }
        if threshold.signal.is_of_disk() {
            self.images.free_all().await;
            if state::is_well(&self.settings, &observe(&self.shared.root), Signal::is_of_disk) {
                return;
            }
        }
        let Some(pod) = self.pods.evict(&threshold, left, self.settings.most_grace).await else { return };
        if tokio::time::timeout(GONE, self.pods.ended(&pod)).await.is_err() {
            tracing::warn!(pod = pod.metadata.name, "a Pod that makes room did not end in time");
        }
        self.done.notify_one();
    }
}
