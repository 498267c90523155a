//! StorageVersionMigrations: every object of a resource is written anew, as the server stores that resource today. (Kubernetes'
//! pkg/controller/storageversionmigrator.)
//!
//! Of several migrations of one resource the oldest runs, and the others wait. Where the resource is a definition's, that says so
//! while it lasts, and afterwards that nothing is stored in its older versions any more.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, is_conflict, is_not_found, run_loop};

use crate::kinds::{ServedKind, served};
use crate::pod_writer::reason;
use crate::{Context, status};

/// Who writes the objects.
const MANAGER: &str = "storage-version-migrator-controller";
/// Objects that are listed at a time.
const PAGE: u32 = 500;
/// For how long a resource may be missing: its definition may come right behind the migration.
const PATIENCE: i64 = 60;
/// When a missing resource is looked for again.
const AGAIN: Duration = Duration::from_secs(5);

const RUNNING: &str = "Running";
const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";
/// The condition of a definition.
const MIGRATING: &str = "StorageMigrating";

/// Runs the loop.
pub async fn run(context: Context) {
    let migrations = context.informers.of::<StorageVersionMigration>();
    migrations.synced().await;
    let queue = Queue::new();
    let all = migrations.clone();
    // The end of one lets another of the same resource begin.
    queue.feed(&migrations, move |changed| {
        let same = all.list().into_iter().filter(|other| of(other) == of(changed));
        same.map(|other| ObjectKey::of(other.as_ref())).collect::<Vec<_>>()
    });
    let work = Arc::new(Loop { context, migrations });
    run_loop("storageversionmigration", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    migrations: Informer<StorageVersionMigration>,
}

impl Loop {
    /// Takes one step; that it was taken is a change, which leads to the next.
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(migration) = self.migrations.get_key(key) else { return Ok(None) };
        let over = is(&migration, SUCCEEDED) || is(&migration, FAILED);
        match (is(&migration, RUNNING), over) {
            (true, true) => self.finish(&migration).await?,
            (false, true) => {}
            (false, false) if self.is_next(&migration) => self.begin(&migration).await?,
            // It waits for others.
            (false, false) => {}
            (true, false) => return self.migrate(&migration).await,
        }
        Ok(None)
    }

    /// Whether no other one of the same resource runs, or is older.
    fn is_next(&self, migration: &StorageVersionMigration) -> bool {
        let age = |of: &StorageVersionMigration| (of.creation_timestamp(), of.name_any());
        let others = self.migrations.list();
        let mut others = others.iter().filter(|other| of(other) == of(migration));
        !others.any(|other| {
            let over = is(other, SUCCEEDED) || is(other, FAILED);
            is(other, RUNNING) || !over && age(other) < age(migration)
        })
    }

    async fn begin(&self, migration: &StorageVersionMigration) -> kube::Result<()> {
        if let Some(definition) = self.definition(migration).await? {
            let why = format!("Migration {} is running", migration.name_any());
            self.tell_definition(&definition, true, "MigrationRunning", why, false).await?;
        }
        self.tell(migration, RUNNING, true, "MigrationRunning", "The migration is running").await
    }

    async fn finish(&self, migration: &StorageVersionMigration) -> kube::Result<()> {
        if let Some(definition) = self.definition(migration).await? {
            let mut known = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let begun = known.find(|condition| condition.type_ == MIGRATING);
            // Where the definition changed meanwhile, something may have been stored in yet another version.
            let same = begun.is_some_and(|begun| begun.observed_generation == definition.metadata.generation);
            let (reason, why) = match (is(migration, SUCCEEDED), same) {
                (true, true) => (
                    "MigrationSucceeded",
                    "The migration has succeeded and the stored versions have been updated",
                ),
                (true, false) => (
                    "MigrationSucceeded",
                    "The migration has succeeded but the stored versions have not been updated due to a generation mismatch",
                ),
                (false, _) => ("MigrationFailed", "The migration has failed"),
            };
            let settles = same && is(migration, SUCCEEDED);
            self.tell_definition(&definition, false, reason, why.to_owned(), settles).await?;
        }
        self.tell(migration, RUNNING, false, "MigrationCompleted", "Migration completed").await
    }

    async fn migrate(&self, migration: &StorageVersionMigration) -> kube::Result<Option<Duration>> {
        let client = self.context.writer.client();
        let (group, plural) = of(migration);
        let all = served(client).await?;
        let found =
            all.kinds.iter().find(|kind| kind.resource.group == group && kind.resource.plural == plural);
        let Some(kind) = found else {
            let now = status::now().0.as_second();
            let made = migration.creation_timestamp().map_or(now, |made| made.0.as_second());
            let unknown = all.failed.iter().any(|version| version.split('/').next() == Some(group));
            if unknown || now - made < PATIENCE {
                return Ok(Some(AGAIN));
            }
            return self.fail(migration, "resource does not exist in discovery").await.map(|()| None);
        };
        let until = migration.status.as_ref().and_then(|status| status.resource_version.clone());
        let Some(until) = until.filter(|until| !until.is_empty()) else {
            let page = kind.api(client, None).list_metadata(&ListParams::default().limit(1)).await?;
            let (before, mut after) =
                (migration.status.clone(), migration.status.clone().unwrap_or_default());
            after.resource_version = page.metadata.resource_version;
            let patch = status::status_patch(&migration.metadata, &before, &Some(after));
            return self.patch(migration, patch).await.map(|()| None);
        };
        match self.rewrite(kind, until.parse().unwrap_or(u64::MAX)).await? {
            Some(why) => self.fail(migration, &why).await?,
            None => self.tell(migration, SUCCEEDED, true, "StorageVersionMigrationSucceeded", "").await?,
        }
        Ok(None)
    }

    /// Writes all objects of a kind that were not written since. What can't be written for good ends it, and is told.
    async fn rewrite(&self, kind: &ServedKind, until: u64) -> kube::Result<Option<String>> {
        let client = self.context.writer.client();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match kind.api(client, None).list_metadata(&params).await {
                Ok(page) => page,
                Err(error) => {
                    match rest_of(&error).filter(|rest| params.continue_token.as_ref() != Some(rest)) {
                        Some(rest) => {
                            params = params.continue_token(&rest);
                            continue;
                        }
                        None => return Err(error),
                    }
                }
            };
            for object in &page.items {
                let written = object.resource_version().and_then(|revision| revision.parse::<u64>().ok());
                if written.is_some_and(|written| written > until) {
                    continue;
                }
                // With both, an object that was changed, removed or made again since is left alone: that was written today.
                let apply = json!({
                    "apiVersion": kind.resource.api_version, "kind": kind.resource.kind,
                    "metadata": {"uid": object.uid(), "resourceVersion": object.resource_version()},
                });
                let api = kind.api(client, object.namespace().as_deref());
                let done =
                    api.patch(&object.name_any(), &PatchParams::apply(MANAGER), &Patch::Apply(apply)).await;
                match done {
                    Err(error) if is_conflict(&error) || is_not_found(&error) => {}
                    Err(error) if passes(&error) => return Err(error),
                    Err(error) => return Ok(Some(reason(&error))),
                    Ok(_) => {}
                }
            }
            match page.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => params = params.continue_token(&next),
                None => return Ok(None),
            }
        }
    }

    async fn fail(&self, migration: &StorageVersionMigration, why: &str) -> kube::Result<()> {
        let why = format!("migration encountered unhandled error: {why}");
        self.tell(migration, FAILED, true, "StorageVersionMigrationFailed", &why).await
    }

    /// Sets a condition of a migration.
    async fn tell(
        &self,
        migration: &StorageVersionMigration,
        kind: &str,
        holds: bool,
        reason: &str,
        message: &str,
    ) -> kube::Result<()> {
        let (before, mut after) = (migration.status.clone(), migration.status.clone().unwrap_or_default());
        let conditions = after.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(Condition {
            type_: kind.to_owned(),
            status: word(holds),
            reason: reason.to_owned(),
            message: message.to_owned(),
            last_transition_time: status::now(),
            observed_generation: migration.metadata.generation,
        });
        self.patch(migration, status::status_patch(&migration.metadata, &before, &Some(after))).await
    }

    async fn patch(
        &self,
        migration: &StorageVersionMigration,
        patch: Option<serde_json::Value>,
    ) -> kube::Result<()> {
        let Some(patch) = patch else { return Ok(()) };
        let writer = &self.context.writer;
        match writer.merge_status::<StorageVersionMigration>(None, &migration.name_any(), &patch).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The definition of the resource, where it has one.
    async fn definition(
        &self,
        migration: &StorageVersionMigration,
    ) -> kube::Result<Option<CustomResourceDefinition>> {
        let (group, plural) = of(migration);
        if group.is_empty() {
            return Ok(None);
        }
        match self.context.writer.get(None, &format!("{plural}.{group}")).await {
            Ok(definition) => Ok(Some(definition)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the condition of a definition. `settles` says that all is stored in the version that it stores now.
    async fn tell_definition(
        &self,
        definition: &CustomResourceDefinition,
        holds: bool,
        reason: &str,
        message: String,
        settles: bool,
    ) -> kube::Result<()> {
        let (before, mut after) = (definition.status.clone(), definition.status.clone().unwrap_or_default());
        let conditions = after.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != MIGRATING);
        conditions.push(CustomResourceDefinitionCondition {
            type_: MIGRATING.to_owned(),
            status: word(holds),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(status::now()),
            observed_generation: definition.metadata.generation,
        });
        let stored = definition.spec.versions.iter().find(|version| version.storage);
        if let Some(stored) = stored.filter(|_| settles) {
            after.stored_versions = Some(vec![stored.name.clone()]);
        }
        let Some(patch) = status::status_patch(&definition.metadata, &before, &Some(after)) else {
            return Ok(());
        };
        let name = definition.name_any();
        self.context.writer.merge_status::<CustomResourceDefinition>(None, &name, &patch).await.map(|_| ())
    }
}

/// Group and plural of what a migration is of.
fn of(migration: &StorageVersionMigration) -> (&str, &str) {
    let resource = &migration.spec.as_ref().map(|spec| &spec.resource);
    resource.map_or(("", ""), |resource| (resource.group.as_str(), resource.resource.as_str()))
}

fn is(migration: &StorageVersionMigration, kind: &str) -> bool {
    let mut conditions = migration.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}

fn word(holds: bool) -> String {
    if holds { "True" } else { "False" }.to_owned()
}

/// Where a list goes on whose history is gone meanwhile, with what is there now: what is new there was written today anyway.
fn rest_of(error: &kube::Error) -> Option<String> {
    let kube::Error::Api(status) = error else { return None };
    let rest = status.metadata.as_ref()?.continue_.clone()?;
    (status.code == 410 && !rest.is_empty()).then_some(rest)
}

/// Whether a refusal may be none a moment later.
fn passes(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500 | 503 | 504),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_where_its_history_is_gone() {
        let error = |code: u16, next: &str| {
            let status = json!({"status": "Failure", "code": code, "reason": "Expired", "message": "too old",
                "metadata": {"continue": next}});
            kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
        };
        assert_eq!(rest_of(&error(410, "there")).as_deref(), Some("there"));
        assert_eq!(rest_of(&error(410, "")), None);
        assert_eq!(rest_of(&error(500, "there")), None);
    }
}
