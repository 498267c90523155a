//! A Deployment's status: counts, and the conditions Available and Progressing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, ReplicaSet};
use kube::ResourceExt;
use serde_json::{Value, json};
use yunfan_client::Severity;

use super::Loop;
use super::sets::{Sets, available, bounds, replicas, size, status_of, status_size};
use crate::pod_writer::{namespace_ends, reason};

impl Loop {
    pub(super) async fn write_status(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        sets: &Sets,
    ) -> kube::Result<()> {
        let before = deployment.status.clone().unwrap_or_default();
        let total: i32 = sets.all().map(|set| status_size(set)).sum();
        let ready: i32 = sets.all().map(|set| status_of(set, |s| s.ready_replicas)).sum();
        let available_now: i32 = sets.all().map(|set| available(set)).sum();
        let updated = sets.new.as_deref().map_or(0, status_size);
        let conditions = conditions(deployment, spec, sets, available_now, updated);
        let patch = json!({
            "observedGeneration": deployment.metadata.generation,
            "replicas": total,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": available_now,
            "unavailableReplicas": (replicas(spec).max(total) - available_now).max(0),
            "terminatingReplicas": terminating(sets),
            "conditions": conditions,
        });
        let old = json!({
            "observedGeneration": before.observed_generation,
            "replicas": before.replicas.unwrap_or(0),
            "updatedReplicas": before.updated_replicas.unwrap_or(0),
            "readyReplicas": before.ready_replicas.unwrap_or(0),
            "availableReplicas": before.available_replicas.unwrap_or(0),
            "unavailableReplicas": before.unavailable_replicas.unwrap_or(0),
            "terminatingReplicas": before.terminating_replicas,
            "conditions": before.conditions,
        });
        if patch == old {
            return Ok(());
        }
        let (namespace, name) = (deployment.namespace(), deployment.name_any());
        let written = self
            .context
            .writer
            .merge_status::<Deployment>(namespace.as_deref(), &name, &json!({"status": patch}))
            .await;
        match written {
            Err(error) if !yunfan_client::is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Reason of a Deployment whose update came to its end.
const COMPLETE: &str = "NewReplicaSetAvailable";
/// Reason of a Deployment whose update has not gone on for too long.
const LATE: &str = "ProgressDeadlineExceeded";
/// Reason of a Deployment whose set can't be made.
const NOT_MADE: &str = "ReplicaSetCreateError";

impl Loop {
    /// Says that the set of the present template can't be made: nothing else of the Deployment goes on until it is.
    pub(super) async fn tell_not_made(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        error: &kube::Error,
    ) -> kube::Result<()> {
        if namespace_ends(error) {
            return Ok(());
        }
        let why = format!("Failed to create new replica set {:?}: {}", set.name_any(), reason(error));
        self.context.recorder.event(deployment, Severity::Warning, NOT_MADE, why.clone());
        let known = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut conditions: Vec<Value> = known
            .filter(|known| known.type_.as_deref() != Some("Progressing"))
            .map(|condition| json!(condition))
            .collect();
        let now = condition(deployment, "Progressing", ("False", NOT_MADE, why), false);
        let before = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if before.into_iter().any(|before| json!(before) == now) {
            return Ok(());
        }
        conditions.push(now);
        let (namespace, name) = (deployment.namespace(), deployment.name_any());
        // The counts are of the template before: who looks at the generation must go on waiting.
        let patch = json!({"status": {"conditions": conditions}});
        match self.context.writer.merge_status::<Deployment>(namespace.as_deref(), &name, &patch).await {
            Err(error) if !yunfan_client::is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// How many Pods are being deleted; none while a set does not say.
fn terminating(sets: &Sets) -> Option<i32> {
    sets.all().map(|set| set.status.as_ref()?.terminating_replicas).sum()
}

/// Why a set can't make or delete its Pods, the newest set's reason first.
fn failure(sets: &Sets) -> Option<(&str, &str, String)> {
    let all = sets.new.iter().chain(sets.old.iter().rev());
    let mut conditions = all.flat_map(|set| set.status.iter().flat_map(|s| s.conditions.iter().flatten()));
    let failing = conditions
        .find(|c| c.type_.as_deref() == Some("ReplicaFailure") && c.status.as_deref() == Some("True"))?;
    Some(("True", failing.reason.as_deref().unwrap_or_default(), failing.message.clone().unwrap_or_default()))
}

/// The conditions Available, Progressing and ReplicaFailure as they are now; times change only with what they date.
fn conditions(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    available_now: i32,
    updated: i32,
) -> Value {
    let (_, unavailable) = bounds(spec);
    let is_available = available_now >= replicas(spec) - unavailable;
    let available = if is_available {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned())
    };
    let before = deployment.status.clone().unwrap_or_default();
    let ready: i32 = sets.all().map(|set| status_of(set, |s| s.ready_replicas)).sum();
    let old: i32 = sets.old.iter().map(|set| status_size(set)).sum();
    // Pods that are lost are no progress: else one that comes and goes would keep the deadline away for ever.
    let moved = deployment.status.is_none()
        || updated > before.updated_replicas.unwrap_or(0)
        || old < before.replicas.unwrap_or(0) - before.updated_replicas.unwrap_or(0)
        || ready > before.ready_replicas.unwrap_or(0)
        || available_now > before.available_replicas.unwrap_or(0);
    let progress = progress(deployment, spec, sets, moved);
    let mut all = vec![condition(deployment, "Available", available, false)];
    all.extend(progress.map(|progress| condition(deployment, "Progressing", progress, moved)));
    all.extend(failure(sets).map(|failure| condition(deployment, "ReplicaFailure", failure, false)));
    json!(all)
}

/// How the update goes on; nothing for a Deployment that has no deadline for that.
fn progress(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    moved: bool,
) -> Option<(&'static str, &'static str, String)> {
    let set = sets.new.as_ref().map(|set| set.name_any()).unwrap_or_default();
    let done = format!("ReplicaSet \"{set}\" has successfully progressed.");
    let before = progressing(deployment);
    let known = before.and_then(|before| before.reason.as_deref());
    // An update that came to its end has: that Pods are lost later, or more of them are wished for, is none.
    let stays = sets.old.iter().all(|set| status_size(set) == 0)
        && known == Some(COMPLETE)
        && before.is_some_and(|before| before.message.as_ref() == Some(&done));
    deadline(spec)?;
    Some(if spec.paused.unwrap_or(false) && known != Some(LATE) {
        ("Unknown", "DeploymentPaused", "Deployment is paused".to_owned())
    } else if stays || finished(spec, sets) {
        ("True", COMPLETE, done)
    } else if !moved && deadline_passed(deployment, spec) {
        ("False", LATE, format!("ReplicaSet \"{set}\" has timed out progressing."))
    } else if !moved && matches!(known, Some("DeploymentPaused" | "DeploymentResumed")) {
        ("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned())
    } else {
        ("True", "ReplicaSetUpdated", format!("ReplicaSet \"{set}\" is progressing."))
    })
}

fn condition(deployment: &Deployment, kind: &str, now: (&str, &str, String), touch: bool) -> Value {
    let (status, reason, message) = now;
    let before = deployment
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .find(|c| c.type_.as_deref() == Some(kind));
    let at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let time = |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.map_or(json!(at), |time| json!(time))
    };
    let transition = match before {
        Some(b) if b.status.as_deref() == Some(status) => time(b.last_transition_time.as_ref()),
        _ => json!(at),
    };
    let update = match before {
        Some(b) if b.status.as_deref() == Some(status) && b.reason.as_deref() == Some(reason) && !touch => {
            time(b.last_update_time.as_ref())
        }
        _ => json!(at),
    };
    json!({"type": kind, "status": status, "reason": reason, "message": message,
           "lastTransitionTime": transition, "lastUpdateTime": update})
}

fn progressing(deployment: &Deployment) -> Option<&DeploymentCondition> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_.as_deref() == Some("Progressing"))
}

/// How many seconds an update may take without progress; the largest number stands for any time.
fn deadline(spec: &DeploymentSpec) -> Option<i32> {
    Some(spec.progress_deadline_seconds.unwrap_or(600)).filter(|seconds| *seconds != i32::MAX)
}

/// How many seconds are left until the progress deadline passes, by what the Deployment says of itself.
fn left(deployment: &Deployment, spec: &DeploymentSpec) -> Option<i64> {
    let condition = progressing(deployment)?;
    if matches!(condition.reason.as_deref(), Some(COMPLETE | LATE | NOT_MADE)) {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0.as_second();
    let now = Timestamp::now().as_second();
    Some(since.saturating_add(deadline(spec)?.into()).saturating_sub(now))
}

/// When to look whether the progress deadline passed.
pub(super) fn progress_deadline(deployment: &Deployment, spec: &DeploymentSpec) -> Option<Duration> {
    if spec.paused.unwrap_or(false) {
        return None;
    }
    let seconds = u64::try_from(left(deployment, spec)?.max(0)).ok()?;
    Some(Duration::from_secs(seconds + 1))
}

fn deadline_passed(deployment: &Deployment, spec: &DeploymentSpec) -> bool {
    let late = progressing(deployment).is_some_and(|known| known.reason.as_deref() == Some(LATE));
    late || left(deployment, spec).is_some_and(|left| left < 0)
}

pub(super) fn finished(spec: &DeploymentSpec, sets: &Sets) -> bool {
    let wanted = replicas(spec);
    let old: i32 = sets.old.iter().map(|set| size(set).max(status_size(set))).sum();
    sets.new.as_ref().is_some_and(|new| {
        old == 0 && size(new) == wanted && status_size(new) == wanted && available(new) >= wanted
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// The reasons of the conditions, as they are after those that were there.
    fn reasons(paused: bool, ready: i32, before: &str, failing: bool) -> Vec<String> {
        let now = Timestamp::now().to_string();
        let known =
            json!({"type": "Progressing", "status": "Unknown", "reason": before, "lastUpdateTime": now});
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "paused": paused, "selector": {}, "template": {}},
            "status": {"updatedReplicas": 2, "availableReplicas": ready, "conditions": [known]}}))
        .unwrap();
        let failure =
            json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}]);
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web-1"}, "spec": {"replicas": 2, "selector": {}},
            "status": {"replicas": 2, "availableReplicas": ready, "terminatingReplicas": 1,
                "conditions": if failing { failure } else { json!([]) }}}))
        .unwrap();
        let sets = Sets { new: Some(Arc::new(set)), old: Vec::new() };
        assert_eq!(terminating(&sets), Some(1));
        let conditions = conditions(&deployment, &deployment.spec, &sets, ready, 2);
        conditions.as_array().unwrap().iter().map(|c| c["reason"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn conditions_say_how_an_update_goes() {
        let (few, enough) = ("MinimumReplicasUnavailable", "MinimumReplicasAvailable");
        for (paused, ready, before, failing, expected) in [
            (false, 2, "ReplicaSetUpdated", false, vec![enough, "NewReplicaSetAvailable"]),
            (false, 0, "ReplicaSetUpdated", false, vec![few, "ReplicaSetUpdated"]),
            (true, 0, "ReplicaSetUpdated", false, vec![few, "DeploymentPaused"]),
            (true, 0, "ProgressDeadlineExceeded", false, vec![few, "ProgressDeadlineExceeded"]),
            (false, 0, "DeploymentPaused", false, vec![few, "DeploymentResumed"]),
            (false, 0, "ReplicaSetUpdated", true, vec![few, "ReplicaSetUpdated", "FailedCreate"]),
        ] {
            assert_eq!(reasons(paused, ready, before, failing), expected, "{paused} {ready} {before}");
        }
    }

    /// The status and reason of Progressing, where `before` was said at `at` of so many Pods of the newest set, available ones and all, and
    /// there are `now` of them.
    fn progress(deadline: i32, before: (&str, &str, Timestamp), then: (i32, i32), now: (i32, i32)) -> Value {
        let (reason, message, at) = before;
        let known = json!({"type": "Progressing", "status": "True", "reason": reason, "message": message,
            "lastUpdateTime": at.to_string()});
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": {}, "template": {}, "progressDeadlineSeconds": deadline},
            "status": {"replicas": then.1, "updatedReplicas": then.1, "readyReplicas": then.0, "availableReplicas": then.0,
                "conditions": [known]}}))
        .unwrap();
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"name": "web-1"}, "spec": {"replicas": 2, "selector": {}},
            "status": {"replicas": now.1, "readyReplicas": now.0, "availableReplicas": now.0}}))
        .unwrap();
        let sets = Sets { new: Some(Arc::new(set)), old: Vec::new() };
        let conditions = conditions(&deployment, &deployment.spec, &sets, now.0, now.1);
        let mut all = conditions.as_array().unwrap().iter();
        all.find(|one| one["type"] == "Progressing").map_or(Value::Null, |one| one["reason"].clone())
    }

    #[test]
    fn an_update_that_does_not_go_on_is_late_and_one_that_is_done_stays_so() {
        let (now, long_ago) = (Timestamp::now(), "2020-01-01T00:00:00Z".parse().unwrap());
        let (going, done) = ("ReplicaSetUpdated", "ReplicaSet \"web-1\" has successfully progressed.");
        for (deadline, before, then, after, expected) in [
            (600, (going, "", now), (0, 2), (0, 2), json!(going)),
            (600, (going, "", long_ago), (0, 2), (0, 2), json!(LATE)),
            (600, (going, "", long_ago), (0, 2), (1, 2), json!(going)),
            (600, (going, "", long_ago), (1, 2), (0, 2), json!(LATE)),
            (600, (LATE, "", now), (1, 2), (1, 2), json!(LATE)),
            (600, (LATE, "", now), (1, 2), (2, 2), json!(COMPLETE)),
            (600, (COMPLETE, done, long_ago), (2, 2), (1, 2), json!(COMPLETE)),
            (600, (COMPLETE, done, long_ago), (1, 2), (1, 1), json!(COMPLETE)),
            (600, (COMPLETE, "of another set", now), (0, 0), (0, 1), json!(going)),
            (i32::MAX, (going, "", long_ago), (0, 2), (0, 2), Value::Null),
        ] {
            assert_eq!(progress(deadline, before, then, after), expected, "{before:?} {then:?} {after:?}");
        }
    }
}
