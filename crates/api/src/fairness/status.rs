//! What FlowSchemas are told of the level that they name, and the objects that every cluster has: they come back when they are
//! deleted.

use std::sync::{Arc, PoisonError, Weak};

use futures::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_identity::UserInfo;
use yunfan_objects::ApiError;

use super::schemas::level_of;
use super::{Fairness, GROUP, SCHEMAS};
use crate::bootstrap;
use crate::registry::{Part, Registry, Writer};
use crate::warnings::Warnings;

/// Who owns the condition, as in Kubernetes.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";
/// After a write that failed.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

impl Fairness {
    /// Works until the registry is gone.
    pub(crate) async fn run(self: Arc<Self>, registry: Weak<Registry>) {
        loop {
            self.changed.notified().await;
            let Some(registry) = registry.upgrade() else { return };
            while let Err(error) = self.settle(&registry).await {
                tracing::warn!(%error, "the status of flow schemas can't be written, it is tried again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Writes what is not so yet.
    ///
    /// # Errors
    /// The first write that the store refuses.
    pub(crate) async fn settle(&self, registry: &Arc<Registry>) -> Result<(), ApiError> {
        // One at a time, so that nothing is written twice.
        let _alone = self.settling.lock().await;
        let mandatory = {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            // Before a cloud has any, it is made by its start.
            !told.schemas.is_empty()
                && ["exempt", "catch-all"]
                    .iter()
                    .any(|name| !told.schemas.contains_key(*name) || !told.levels.contains_key(*name))
        };
        if mandatory {
            bootstrap::flows(registry).await?;
        }
        // All at one time, so that the store groups them.
        let writes = self.stale().into_iter().map(|(name, condition)| tell(registry, name, condition));
        try_join_all(writes).await.map(|_| ())
    }

    /// The schemas whose condition does not say what is so.
    fn stale(&self) -> Vec<(String, Value)> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = told.schemas.iter().filter_map(|(name, object)| {
            let level = level_of(object);
            let dangling = !told.levels.contains_key(&level);
            let status = if dangling { "True" } else { "False" };
            let conditions = object["status"]["conditions"].as_array();
            let own = conditions.into_iter().flatten().find(|condition| condition["type"] == "Dangling");
            if own.is_some_and(|own| own["status"] == status) {
                return None;
            }
            let (reason, end) = match dangling {
                true => ("NotFound", "but there is no such object"),
                false => ("Found", "and it exists"),
            };
            let message = format!(
                "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}"
            );
            let at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let condition = json!({"type": "Dangling", "status": status, "lastTransitionTime": at,
                "reason": reason, "message": message});
            Some((name.clone(), condition))
        });
        stale.collect()
    }
}

async fn tell(registry: &Arc<Registry>, name: String, condition: Value) -> Result<(), ApiError> {
    let user = UserInfo::authenticated("system:apiserver", [yunfan_identity::user::MASTERS_GROUP]);
    let warnings = Warnings::default();
    let writer = Writer { manager: MANAGER, ..Writer::system(&user, &warnings) };
    let Some(kind) = registry.kinds.table().get(GROUP, "v1", SCHEMAS) else { return Ok(()) };
    let told = |object: &Value| {
        let mut object = object.clone();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let others = conditions.into_iter().filter(|other| other["type"] != condition["type"]);
        let all: Vec<Value> = others.chain([condition.clone()]).collect();
        object["status"]["conditions"] = json!(all);
        Ok(object)
    };
    match registry.modify(&writer, &kind, "", &name, Part::Status, told).await {
        Err(error) if error.code() != 404 => Err(error),
        _ => Ok(()),
    }
}
