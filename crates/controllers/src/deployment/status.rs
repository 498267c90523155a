//! A Deployment's status: counts, and the conditions Available and Progressing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
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
    let set = sets.new.as_ref().map(|set| set.name_any()).unwrap_or_default();
    let before = deployment.status.as_ref();
    let moved = before.is_none_or(|b| {
        b.updated_replicas.unwrap_or(0) != updated || b.available_replicas.unwrap_or(0) != available_now
    });
    let known = before.into_iter().flat_map(|b| b.conditions.iter().flatten());
    let known = known.filter(|c| c.type_.as_deref() == Some("Progressing")).find_map(|c| c.reason.as_deref());
    let progressing = if spec.paused.unwrap_or(false) && known != Some("ProgressDeadlineExceeded") {
        ("Unknown", "DeploymentPaused", "Deployment is paused".to_owned())
    } else if finished(spec, sets) {
        ("True", "NewReplicaSetAvailable", format!("ReplicaSet \"{set}\" has successfully progressed."))
    } else if !moved && deadline_passed(deployment, spec) {
        ("False", "ProgressDeadlineExceeded", format!("ReplicaSet \"{set}\" has timed out progressing."))
    } else if !moved && matches!(known, Some("DeploymentPaused" | "DeploymentResumed")) {
        ("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned())
    } else {
        ("True", "ReplicaSetUpdated", format!("ReplicaSet \"{set}\" is progressing."))
    };
    let mut all = vec![
        condition(deployment, "Available", available, false),
        condition(deployment, "Progressing", progressing, moved),
    ];
    all.extend(failure(sets).map(|failure| condition(deployment, "ReplicaFailure", failure, false)));
    json!(all)
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

/// When to look whether the progress deadline passed.
pub(super) fn progress_deadline(deployment: &Deployment, spec: &DeploymentSpec) -> Option<Duration> {
    let progressing = deployment
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .find(|c| c.type_.as_deref() == Some("Progressing"))?;
    let waits = progressing.status.as_deref() != Some("False")
        && progressing.reason.as_deref() != Some("NewReplicaSetAvailable");
    let seconds = u64::try_from(spec.progress_deadline_seconds.unwrap_or(600)).ok()?;
    (waits && !spec.paused.unwrap_or(false)).then(|| Duration::from_secs(seconds + 1))
}

fn deadline_passed(deployment: &Deployment, spec: &DeploymentSpec) -> bool {
    let progressing = deployment
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .find(|c| c.type_.as_deref() == Some("Progressing"));
    let Some(condition) = progressing.filter(|known| known.reason.as_deref() != Some(NOT_MADE)) else {
        return false;
    };
    if condition.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return true;
    }
    let since = condition.last_update_time.as_ref().map_or(i64::MAX, |time| time.0.as_second());
    let limit = i64::from(spec.progress_deadline_seconds.unwrap_or(600));
    condition.reason.as_deref() != Some("NewReplicaSetAvailable")
        && Timestamp::now().as_second().saturating_sub(since) > limit
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
}
