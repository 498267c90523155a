//! HorizontalPodAutoscaler → the scale of what it names, so that its metrics come to their targets.
//!
//! Every 15 seconds, or as often as is set, each is looked at: what its metrics say ([`metrics`], read by [`fetch`]) becomes a number of Pods ([`usage`]), which is
//! brought into bounds ([`bounds`]) and written to the target's scale ([`crate::scale`]).

mod bounds;
mod fetch;
mod metrics;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_objects::selector::LabelSelector;

use self::bounds::{Past, Wish};
use self::metrics::{Failure, Measured};
use self::usage::{Scaled, Tolerances, milli};
use crate::scale::{Finder, Target};
use crate::status::{now, status_patch};
use crate::{AutoscalingSettings, Context};

const ABLE: &str = "AbleToScale";
const ACTIVE: &str = "ScalingActive";
const LIMITED: &str = "ScalingLimited";

/// Runs the loop.
pub async fn run(context: Context) {
    let autoscalers = context.informers.of::<HorizontalPodAutoscaler>();
    let pods = context.informers.of::<Pod>();
    tokio::join!(autoscalers.synced(), pods.synced());
    let queue = Queue::new();
    queue.feed(&autoscalers, |autoscaler| [ObjectKey::of(autoscaler)]);
    let finder = Finder::default();
    let settings = context.config.settings.autoscaling;
    let work = Arc::new(Loop { context, settings, autoscalers, pods, finder, known: Mutex::default() });
    run_loop("horizontalpodautoscaler", queue, 5, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// What is remembered of an autoscaler between looks.
struct Known {
    uid: Option<String>,
    spec: HorizontalPodAutoscalerSpec,
    looked: Instant,
    past: Past,
    /// Of the Pods that it scales.
    selector: Option<LabelSelector>,
}

struct Loop {
    context: Context,
    settings: AutoscalingSettings,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    /// Where objects are that have a scale.
    finder: Finder,
    known: Mutex<HashMap<ObjectKey, Known>>,
}

/// A number of Pods and why, where there is one; and what the metrics say.
type Wished = (Option<(i32, String)>, Vec<MetricStatus>);
/// Why nothing can be said, and what the metrics say all the same.
type Unknown = (String, Vec<MetricStatus>);

/// How one look went.
struct Look<'a> {
    key: &'a ObjectKey,
    autoscaler: &'a HorizontalPodAutoscaler,
    spec: &'a HorizontalPodAutoscalerSpec,
    /// As it is to be.
    status: HorizontalPodAutoscalerStatus,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(autoscaler) = self.autoscalers.get_key(key) else {
            self.lock().remove(key);
            return Ok(None);
        };
        let spec = &autoscaler.spec;
        if let Some(wait) = self.begin(key, &autoscaler) {
            return Ok(Some(wait));
        }
        let status = autoscaler.status.clone().unwrap_or_default();
        let mut look = Look { key, autoscaler: &autoscaler, spec, status };
        // What went wrong is in the events; the next look is no sooner for it.
        if let Err(why) = self.look(&mut look).await {
            tracing::debug!(autoscaler = %key, %why, "an autoscaler can't scale");
        }
        let before = autoscaler.status.clone().unwrap_or_default();
        if let Some(patch) = status_patch(&autoscaler.metadata, &before, &look.status) {
            let writer = &self.context.writer;
            let written =
                writer.merge_status::<HorizontalPodAutoscaler>(key.namespace(), &key.name, &patch).await;
            if let Err(error) = written
                && !is_not_found(&error)
            {
                let why = crate::pod_writer::reason(&error);
                self.warn(&look, "FailedUpdateStatus", why);
            }
        }
        Ok(Some(self.settings.period))
    }

    /// Takes note that an autoscaler is looked at; tells how long to wait where it was a moment ago and did not change.
    fn begin(&self, key: &ObjectKey, autoscaler: &HorizontalPodAutoscaler) -> Option<Duration> {
        let mut all = self.lock();
        let now = Instant::now();
        let (uid, spec) = (autoscaler.uid(), autoscaler.spec.clone());
        match all.get_mut(key).filter(|known| known.uid == uid) {
            Some(known) => {
                let left = self.settings.period.saturating_sub(now.duration_since(known.looked));
                if known.spec == spec && !left.is_zero() {
                    return Some(left);
                }
                (known.spec, known.looked) = (spec, now);
            }
            None => {
                let past = Past::new(self.settings.stabilization);
                let known = Known { uid, spec, looked: now, past, selector: None };
                all.insert(key.clone(), known);
            }
        }
        None
    }

    async fn look(&self, look: &mut Look<'_>) -> Result<(), String> {
        let client = self.context.writer.client();
        let reference = &look.spec.scale_target_ref;
        let namespace = look.autoscaler.namespace().unwrap_or_default();
        let version = reference.api_version.as_deref().unwrap_or_default();
        let scale = self.finder.scale(client, (version, &reference.kind), (&namespace, &reference.name));
        let found = scale.await.and_then(|(_, read)| read.map_err(String::from));
        let mut target = match found {
            Ok(target) => target,
            Err(why) => {
                self.warn(look, "FailedGetScale", why.clone());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {why}");
                look.set(ABLE, false, "FailedGetScale", message);
                return Err(why);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        look.set(ABLE, true, "SucceededGetScale", message.to_owned());
        let current = target.wanted();
        self.past(look.key, |past| past.begin(current, Instant::now()));
        let wish = self.wish(look, &target).await;
        let (wished, metrics) = match wish {
            Ok(found) => found,
            Err((why, metrics)) => {
                look.counted(current, None, metrics);
                self.warn(look, "FailedComputeMetricsReplicas", why.clone());
                return Err(why);
            }
        };
        let (desired, why) = wished.unwrap_or((current, String::new()));
        let rescale = desired != current;
        if rescale {
            if let Err(error) = target.set(client, desired).await {
                let text = format!("New size: {desired}; reason: {why}; error: {error}");
                self.warn(look, "FailedRescale", text);
                let message = format!("the HPA controller was unable to update the target scale: {error}");
                look.set(ABLE, false, "FailedUpdateScale", message);
                look.counted(current, None, metrics);
                return Err(error);
            }
            let message = format!("the HPA controller was able to update the target scale to {desired}");
            look.set(ABLE, true, "SucceededRescale", message);
            let text = format!("New size: {desired}; reason: {why}");
            self.context.recorder.event(look.autoscaler, Severity::Normal, "SuccessfulRescale", text);
            let behavior = look.spec.behavior.as_ref();
            self.past(look.key, |past| past.scaled(current, desired, behavior, Instant::now()));
            look.status.last_scale_time = Some(now());
        }
        look.counted(current, Some(desired), metrics);
        Ok(())
    }

    /// How many Pods there should be, and why; none where nothing is scaled. With it what the metrics say, also where they fail.
    async fn wish(&self, look: &mut Look<'_>, target: &Target) -> Result<Wished, Unknown> {
        let (current, most) = (target.wanted(), look.spec.max_replicas);
        let least = look.spec.min_replicas.unwrap_or(1);
        if current == 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            look.set(ACTIVE, false, "ScalingDisabled", message.to_owned());
            return Ok((None, Vec::new()));
        }
        if current > most {
            return Ok((
                Some((most, "Current number of replicas above Spec.MaxReplicas".to_owned())),
                Vec::new(),
            ));
        }
        if current < least {
            return Ok((
                Some((least, "Current number of replicas below Spec.MinReplicas".to_owned())),
                Vec::new(),
            ));
        }
        let (desired, metric, metrics) = self.measure(look, target).await?;
        let why = if desired > current {
            format!("{metric} above target")
        } else {
            "All metrics below target".to_owned()
        };
        let wish = Wish { current, desired, least, most };
        let behavior = look.spec.behavior.as_ref();
        let bounded = self.past(look.key, |past| past.bound(wish, behavior, Instant::now()));
        let Some(bounded) = bounded else { return Ok((None, metrics)) };
        look.set(ABLE, true, bounded.able.0, bounded.able.1.to_owned());
        look.set(LIMITED, bounded.limited, bounded.limit.0, bounded.limit.1.to_owned());
        Ok((Some((bounded.replicas, why)), metrics))
    }

    /// The largest number of Pods that a metric asks for, which metric that is, and what all of them say.
    async fn measure(
        &self,
        look: &mut Look<'_>,
        target: &Target,
    ) -> Result<(i32, String, Vec<MetricStatus>), Unknown> {
        let pods = self.pods_of(look, target).map_err(|why| (why, Vec::new()))?;
        let measured = Measured {
            client: self.context.writer.client(),
            autoscaler: look.autoscaler,
            scaled: Scaled {
                pods: &pods,
                replicas: target.wanted(),
                tolerances: tolerances(look.spec, self.settings.tolerance),
                settings: self.settings,
                now: now().0,
            },
            selector: target.selector(),
            there: target.there(),
        };
        let specs = look.spec.metrics.clone().unwrap_or_default();
        let (mut best, mut first, mut failed) = (None, None, 0);
        let mut statuses = Vec::with_capacity(specs.len());
        for spec in &specs {
            match measured.propose(spec).await {
                Ok(found) => {
                    statuses.push(found.status);
                    if best.as_ref().is_none_or(|(replicas, _)| *replicas == 0 || found.replicas > *replicas)
                    {
                        best = Some((found.replicas, found.name));
                    }
                }
                Err(failure) => {
                    failed += 1;
                    // It has a place among the others all the same.
                    statuses.push(MetricStatus::default());
                    self.warn(look, failure.reason, failure.why.clone());
                    first.get_or_insert(failure);
                }
            }
        }
        match (best, first) {
            (Some((replicas, name)), None) => Ok(self.found(look, replicas, name, statuses)),
            // With a metric unknown there may be more, but never fewer.
            (Some((replicas, name)), Some(_)) if replicas >= target.wanted() => {
                Ok(self.found(look, replicas, name, statuses))
            }
            (_, Some(Failure { reason, why, error })) => {
                let message = format!("the HPA was unable to compute the replica count: {why}");
                look.set(ACTIVE, false, reason, message);
                let all = specs.len();
                Err((
                    format!("invalid metrics ({failed} invalid out of {all}), first error is: {error}"),
                    statuses,
                ))
            }
            (None, None) => Err(("there are no metrics".to_owned(), statuses)),
        }
    }

    fn found(
        &self,
        look: &mut Look<'_>,
        replicas: i32,
        name: String,
        statuses: Vec<MetricStatus>,
    ) -> (i32, String, Vec<MetricStatus>) {
        let message = format!("the HPA was able to successfully calculate a replica count from {name}");
        look.set(ACTIVE, true, "ValidMetricFound", message);
        (replicas, name, statuses)
    }

    /// The Pods that the target selects, if it says which and no other autoscaler has them.
    fn pods_of(&self, look: &mut Look<'_>, target: &Target) -> Result<Vec<Arc<Pod>>, String> {
        let text = target.selector();
        let refuse = |look: &mut Look<'_>, reason, why: &str, message: &str| {
            self.warn(look, reason, why.to_owned());
            let condition = if reason == "SelectorRequired" { "InvalidSelector" } else { reason };
            look.set(ACTIVE, false, condition, message.to_owned());
            why.to_owned()
        };
        if text.is_empty() {
            let message = "the HPA target's scale is missing a selector";
            return Err(refuse(look, "SelectorRequired", "selector is required", message));
        }
        let selector = match LabelSelector::parse(text) {
            Ok(selector) => selector,
            Err(error) => {
                let why = error.message();
                let why =
                    format!("couldn't convert selector into a corresponding internal selector object: {why}");
                return Err(refuse(look, "InvalidSelector", &why, &why));
            }
        };
        // Read once: every autoscaler of the namespace looks at them below.
        let labels = |pod: Arc<Pod>| (json!(pod.metadata.labels), pod);
        let mut pods: Vec<_> = self.pods.in_namespace(&look.key.namespace).into_iter().map(labels).collect();
        pods.retain(|(labels, _)| selector.matches(labels));
        let mut all = self.lock();
        if let Some(known) = all.get_mut(look.key) {
            known.selector = Some(selector);
        }
        let of = all.iter().filter(|(key, _)| key.namespace == look.key.namespace);
        let has_one = |known: &Known| {
            known.selector.as_ref().is_some_and(|own| pods.iter().any(|(labels, _)| own.matches(labels)))
        };
        let mut names: Vec<&ObjectKey> = of.filter(|(_, known)| has_one(known)).map(|(key, _)| key).collect();
        names.sort();
        if names.len() > 1 {
            let names: Vec<String> =
                names.iter().map(|key| format!("{{{} {}}}", key.name, key.namespace)).collect();
            let why =
                format!("pods by selector {text} are controlled by multiple HPAs: [{}]", names.join(" "));
            drop(all);
            return Err(refuse(look, "AmbiguousSelector", &why, &why));
        }
        Ok(pods.into_iter().map(|(_, pod)| pod).collect())
    }

    fn warn(&self, look: &Look<'_>, reason: &'static str, why: String) {
        self.context.recorder.event(look.autoscaler, Severity::Warning, reason, why);
    }

    /// Works with an autoscaler's past; none where it was forgotten meanwhile.
    fn past<T>(&self, key: &ObjectKey, work: impl FnOnce(&mut Past) -> T) -> Option<T> {
        self.lock().get_mut(key).map(|known| work(&mut known.past))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Known>> {
        // Nothing panics under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Look<'_> {
    /// Sets a condition. Its time is that of the last change of its status.
    fn set(&mut self, kind: &str, status: bool, reason: &str, message: String) {
        let status = if status { "True" } else { "False" };
        let conditions = self.status.conditions.get_or_insert_default();
        let known = conditions.iter().position(|one| one.type_ == kind);
        let since = known.map(|at| &conditions[at]).filter(|one| one.status == status);
        let new = HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            observed_generation: None,
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since
                .and_then(|one| one.last_transition_time.clone())
                .or_else(|| Some(now())),
        };
        match known {
            Some(at) => conditions[at] = new,
            None => conditions.push(new),
        }
    }

    /// Takes down how many there are and should be, and what the metrics say.
    fn counted(&mut self, current: i32, desired: Option<i32>, metrics: Vec<MetricStatus>) {
        self.status.current_replicas = Some(current);
        self.status.desired_replicas = desired.unwrap_or(self.status.desired_replicas);
        self.status.current_metrics = Some(metrics).filter(|metrics| !metrics.is_empty());
    }
}

fn tolerances(spec: &HorizontalPodAutoscalerSpec, usual: f64) -> Tolerances {
    let given = |rules: Option<&HPAScalingRules>| {
        let milli = rules.and_then(|rules| milli(&rules.tolerance.as_ref()?.0));
        milli.map_or(usual, |milli| milli as f64 / 1000.0)
    };
    let behavior = spec.behavior.as_ref();
    Tolerances {
        up: given(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        down: given(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    }
}
