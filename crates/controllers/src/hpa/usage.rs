//! From what Pods use to how many of them there should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use yunfan_objects::Quantity;

use crate::AutoscalingSettings;
use crate::pods::phase;

/// What a Pod was seen to use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PodMetric {
    pub(super) at: Timestamp,
    /// The time that it was seen over.
    pub(super) window: Duration,
    /// Thousandths.
    pub(super) value: i64,
}

/// By the Pods' names.
pub(super) type Metrics = BTreeMap<String, PodMetric>;

/// How far from its target something may be without anything being done: shares of the target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerances {
    pub(super) up: f64,
    pub(super) down: f64,
}

impl Tolerances {
    pub(super) fn include(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// The Pods that are scaled, and what there is to know beside what they use.
pub(super) struct Scaled<'a> {
    pub(super) pods: &'a [Arc<Pod>],
    /// How many are asked for now.
    pub(super) replicas: i32,
    pub(super) tolerances: Tolerances,
    pub(super) settings: AutoscalingSettings,
    pub(super) now: Timestamp,
}

/// The Pods by what their metrics are worth.
#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

impl Scaled<'_> {
    /// How many Pods there should be for each to use so much of what it requests, in percent; how much of it they use, and how much
    /// one uses on average, thousandths.
    pub(super) fn by_utilization(
        &self,
        metrics: Metrics,
        resource: &str,
        container: Option<&str>,
        target: i32,
    ) -> Result<(i32, i32, i64), String> {
        let (groups, metrics) = self.sorted_out(metrics, Some(resource))?;
        let requests = self.requests(container, resource)?;
        let utilization = |metrics: &Metrics| utilization(metrics, &requests);
        let (percent, average) = utilization(&metrics)?;
        let ratio = |metrics: &Metrics| Ok(f64::from(utilization(metrics)?.0) / f64::from(target));
        // All of what they request; more where more is the target.
        let full = i128::from(target.max(100));
        let missing = |pod: &str| {
            let request = requests.get(pod).copied().unwrap_or(0);
            i64::try_from(i128::from(request) * full / 100).unwrap_or(i64::MAX)
        };
        Ok((self.count(&groups, metrics, ratio, missing)?, percent, average))
    }

    /// How many Pods there should be for each to use so much, thousandths; and how much one uses on average. `resource` is what is
    /// used, where it is something that nodes measure.
    pub(super) fn by_value(
        &self,
        metrics: Metrics,
        resource: Option<&str>,
        target: i64,
    ) -> Result<(i32, i64), String> {
        let (groups, metrics) = self.sorted_out(metrics, resource)?;
        let ratio = |metrics: &Metrics| Ok(average(metrics) as f64 / target as f64);
        let usage = average(&metrics);
        Ok((self.count(&groups, metrics, ratio, |_| target)?, usage))
    }

    /// How many Pods there should be where something that they share is at this ratio of its target.
    pub(super) fn by_ratio(&self, ratio: f64) -> Result<i32, String> {
        if self.replicas == 0 {
            return Ok(up(ratio));
        }
        if self.tolerances.include(ratio) {
            return Ok(self.replicas);
        }
        self.any()?;
        let ready = self.pods.iter().filter(|pod| phase(pod) == "Running" && crate::pods::is_ready(pod));
        Ok(up(ratio * ready.count() as f64))
    }

    /// How many Pods there should be for each to have so much of something that they share, and how much one of the `replicas` that
    /// there are has; thousandths.
    pub(super) fn by_share(&self, usage: i64, target: i64, replicas: i32) -> (i32, i64) {
        let ratio = usage as f64 / (target as f64 * f64::from(replicas));
        let count = if self.tolerances.include(ratio) { replicas } else { up(usage as f64 / target as f64) };
        (count, (usage as f64 / f64::from(replicas)).ceil() as i64)
    }

    fn any(&self) -> Result<(), String> {
        match self.pods.is_empty() {
            true => Err("no pods returned by selector while calculating replica count".to_owned()),
            false => Ok(()),
        }
    }

    /// The Pods' groups, and the metrics of those that are ready (or not known).
    fn sorted_out(&self, mut metrics: Metrics, resource: Option<&str>) -> Result<(Groups, Metrics), String> {
        self.any()?;
        let groups = self.groups(&metrics, resource);
        metrics.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
        if metrics.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
        }
        Ok((groups, metrics))
    }

    fn groups(&self, metrics: &Metrics, resource: Option<&str>) -> Groups {
        let mut groups = Groups::default();
        for pod in self.pods {
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" {
                groups.ignored.insert(name);
            } else if phase(pod) == "Pending" {
                groups.unready.insert(name);
            } else if let Some(metric) = metrics.get(&name) {
                // Starting takes CPU that says nothing of the load.
                if resource == Some("cpu") && self.is_starting(pod, metric) {
                    groups.unready.insert(name);
                } else {
                    groups.ready += 1;
                }
            } else {
                groups.missing.insert(name);
            }
        }
        groups
    }

    fn is_starting(&self, pod: &Pod, metric: &PodMetric) -> bool {
        let Some(status) = &pod.status else { return true };
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        let (Some(ready), Some(start)) = (ready, &status.start_time) else { return true };
        let changed = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
        let since = |from: Timestamp, wait: Duration| from.checked_add(wait).unwrap_or(Timestamp::MAX);
        let unready = ready.status == "False";
        if since(start.0, self.settings.cpu_initialization) > self.now {
            unready || metric.at < since(changed, metric.window)
        } else {
            unready && since(start.0, self.settings.readiness_delay) > changed
        }
    }

    /// The number that brings the ratio to one. `missing` is what a Pod without metrics is taken to use before any is taken away.
    fn count(
        &self,
        groups: &Groups,
        mut metrics: Metrics,
        ratio: impl Fn(&Metrics) -> Result<f64, String>,
        missing: impl Fn(&str) -> i64,
    ) -> Result<i32, String> {
        let first = ratio(&metrics)?;
        let with_unready = !groups.unready.is_empty() && first > 1.0;
        if !with_unready && groups.missing.is_empty() {
            let same = self.tolerances.include(first);
            return Ok(if same { self.replicas } else { up(first * groups.ready as f64) });
        }
        // Whoever is not known is taken to use what makes the change smaller.
        let taken = |value| PodMetric { at: self.now, window: Duration::ZERO, value };
        for pod in groups.missing.iter().filter(|_| first != 1.0) {
            metrics.insert(pod.clone(), taken(if first < 1.0 { missing(pod) } else { 0 }));
        }
        for pod in groups.unready.iter().filter(|_| with_unready) {
            metrics.insert(pod.clone(), taken(0));
        }
        let then = ratio(&metrics)?;
        let turns = (first < 1.0 && then > 1.0) || (first > 1.0 && then < 1.0);
        let count = up(then * metrics.len() as f64);
        let wrong_way = (then < 1.0 && count > self.replicas) || (then > 1.0 && count < self.replicas);
        Ok(if self.tolerances.include(then) || turns || wrong_way { self.replicas } else { count })
    }

    /// What each Pod requests of a resource, or one container of it does; thousandths.
    fn requests(&self, container: Option<&str>, resource: &str) -> Result<BTreeMap<String, i64>, String> {
        let of_pod = |pod: &Arc<Pod>| Ok((pod.name_any(), request(pod, container, resource)?));
        self.pods.iter().map(of_pod).collect()
    }
}

fn request(pod: &Pod, container: Option<&str>, resource: &str) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let name = pod.name_any();
    let whole = spec.resources.as_ref().and_then(|all| all.requests.as_ref()).filter(|_| container.is_none());
    if let Some(all) = whole.filter(|all| !all.is_empty()) {
        let own = all.get(resource).and_then(|amount| milli(&amount.0));
        return own.ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
    }
    let stays = |one: &&Container| one.restart_policy.as_deref() == Some("Always");
    let side = spec.init_containers.iter().flatten().filter(stays);
    let mut counted =
        spec.containers.iter().chain(side).filter(|one| container.is_none_or(|only| one.name == only));
    let sum = counted.try_fold(None, |sum: Option<i64>, one| {
        let requests = one.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let own = requests.and_then(|requests| milli(&requests.get(resource)?.0));
        let missing = || format!("missing request for {resource} in container {} of Pod {name}", one.name);
        Ok::<_, String>(Some(sum.unwrap_or(0).saturating_add(own.ok_or_else(missing)?)))
    })?;
    match (sum, container) {
        (None, Some(container)) => Err(format!("container {container} not found in Pod {name}")),
        (sum, _) => Ok(sum.unwrap_or(0)),
    }
}

/// A quantity in thousandths.
pub(super) fn milli(text: &str) -> Option<i64> {
    let amount: Quantity = text.parse().ok()?;
    Some(i64::try_from(amount.milli()).unwrap_or(i64::MAX))
}

/// How much of their requests Pods use in percent, and how much one uses on average.
fn utilization(metrics: &Metrics, requests: &BTreeMap<String, i64>) -> Result<(i32, i64), String> {
    let known: Vec<(i64, i64)> =
        metrics.iter().filter_map(|(pod, metric)| Some((metric.value, *requests.get(pod)?))).collect();
    let used: i128 = known.iter().map(|(used, _)| i128::from(*used)).sum();
    let requested: i128 = known.iter().map(|(_, requested)| i128::from(*requested)).sum();
    if requested == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
    Ok((percent, i64::try_from(used / known.len() as i128).unwrap_or(i64::MAX)))
}

/// Of metrics that are not empty.
fn average(metrics: &Metrics) -> i64 {
    let sum: i128 = metrics.values().map(|metric| i128::from(metric.value)).sum();
    i64::try_from(sum / (metrics.len().max(1) as i128)).unwrap_or(i64::MAX)
}

/// The next whole number, which ends at the largest there is.
fn up(number: f64) -> i32 {
    number.ceil() as i32
}
