//! A Deployment's status: counts, and the conditions Available and Progressing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::Loop;
use super::sets::{Sets, available, bounds, replicas, size, status_of, status_size};

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
            "conditions": conditions,
        });
        let old = json!({
            "observedGeneration": before.observed_generation,
            "replicas": before.replicas.unwrap_or(0),
            "updatedReplicas": before.updated_replicas.unwrap_or(0),
            "readyReplicas": before.ready_replicas.unwrap_or(0),
            "availableReplicas": before.available_replicas.unwrap_or(0),
            "unavailableReplicas": before.unavailable_replicas.unwrap_or(0),
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

/// The conditions Available and Progressing as they are now; times change only with what they date.
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
    let progressing = if finished(spec, sets) {
        ("True", "NewReplicaSetAvailable", format!("ReplicaSet \"{set}\" has successfully progressed."))
    } else if !moved && deadline_passed(deployment, spec) {
        ("False", "ProgressDeadlineExceeded", format!("ReplicaSet \"{set}\" has timed out progressing."))
    } else {
        ("True", "ReplicaSetUpdated", format!("ReplicaSet \"{set}\" is progressing."))
    };
    json!([
        condition(deployment, "Available", available, false),
        condition(deployment, "Progressing", progressing, moved)
    ])
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
    let waits = progressing.status.as_deref() == Some("True")
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
    let Some(condition) = progressing else { return false };
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
