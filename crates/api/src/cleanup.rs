//! A definition that is marked for deletion goes when its objects have gone: they are deleted here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::Value;
use yunfan_identity::UserInfo;
use yunfan_objects::ApiError;
use yunfan_objects::crd::CLEANUP;

use crate::keys;
use crate::kinds::{CRD_GROUP, CRD_PLURAL, Kind};
use crate::registry::{DeleteOptions, Part, Registry, Writer};
use crate::warnings::Warnings;

/// Objects with finalizers are looked at again this often.
const AGAIN: Duration = Duration::from_secs(1);
/// A look at all definitions even if nothing changed.
const IDLE: Duration = Duration::from_secs(300);

/// Works until the registry is gone.
pub(crate) async fn run(registry: Weak<Registry>) {
    let prefix = keys::kind_prefix(CRD_GROUP, CRD_PLURAL);
    let Some(mut cursor) = registry.upgrade().map(|r| r.cache.kind(&prefix).cursor_now()) else { return };
    loop {
        let busy = {
            let Some(registry) = registry.upgrade() else { return };
            // What changed does not matter: each marked definition is looked at.
            if cursor.take().is_err() {
                cursor = registry.cache.kind(&prefix).cursor_now();
            }
            pass(&registry, &prefix).await
        };
        let pause = if busy { AGAIN } else { IDLE };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cursor.changed() => {}
        }
    }
}

/// Deletes the objects of each marked definition. True if something is left to do.
async fn pass(registry: &Arc<Registry>, prefix: &str) -> bool {
    let mut busy = false;
    for entry in registry.cache.kind(prefix).list(prefix).entries {
        let definition = entry.value();
        let held =
            definition["metadata"]["finalizers"].as_array().is_some_and(|f| f.iter().any(|f| f == CLEANUP));
        if definition["metadata"]["deletionTimestamp"].is_null() || !held {
            continue;
        }
        match clean(registry, definition).await {
            Ok(true) => {}
            Ok(false) => busy = true,
            Err(error) => {
                tracing::warn!(%error, key = %entry.key, "cannot delete the objects of a definition");
                busy = true;
            }
        }
    }
    busy
}

async fn clean(registry: &Arc<Registry>, definition: &Value) -> Result<bool, ApiError> {
    let user =
        UserInfo::authenticated(yunfan_resources::names::component_user("definitions"), Vec::<String>::new());
    let warnings = Warnings::default();
    let writer = Writer::system(&user, &warnings);
    let spec = &definition["spec"];
    let (group, plural) =
        (spec["group"].as_str().unwrap_or_default(), spec["names"]["plural"].as_str().unwrap_or_default());
    let table = registry.kinds.table();
    let found = table
        .resources()
        .iter()
        .find(|r| r.definition.is_some() && r.storage.group == group && r.storage.plural == plural);
    if let Some(resource) = found {
        let kind = Kind { descriptor: resource.storage.clone(), resource: resource.clone() };
        registry.cache.wait_current().await?;
        let all = resource.cache.list(&resource.prefix).entries;
        registry.delete_entries(&writer, &kind, &all, &DeleteOptions::default()).await?;
        if resource.cache.len() > 0 {
            return Ok(false);
        }
    }
    let Some(kind) = table.get(CRD_GROUP, "v1", CRD_PLURAL) else { return Ok(false) };
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    let without = |object: &Value| {
        let mut object = object.clone();
        if let Some(list) = object["metadata"]["finalizers"].as_array_mut() {
            list.retain(|f| f != CLEANUP);
        }
        Ok(object)
    };
    match registry.modify(&writer, &kind, "", name, Part::Main, without).await {
        Err(error) if error.code() != 404 => Err(error),
        _ => Ok(true),
    }
}
