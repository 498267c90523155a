//! Objects that the store could not open: it keeps them encrypted, and the key is not there. Each is refused by its name; nothing else is
//! the worse for it. When the key comes back, they are written anew, so that all who look see them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use yunfan_identity::Attributes;
use yunfan_objects::ApiError;
use yunfan_store::{Compare, KeyValue, Op, RangeRequest, SEALED, StoreError, Txn};

use super::{Commit, Registry, Stored, Writer, Written};
use crate::admission::WritePlan;
use crate::cache::Entry;
use crate::chain;
use crate::keys;
use crate::kinds::Kind;

/// Objects that one refusal names, at most.
const NAMED: usize = 10;
/// How often it is looked whether they can be read by now.
const LOOK: Duration = Duration::from_secs(5);
/// The verb that one needs, as in Kubernetes, to delete an object that can't be read.
const VERB: &str = "unsafe-delete-ignore-read-errors";

/// Why these can't be read; none if they all can.
pub(crate) fn refusal<'e>(entries: impl IntoIterator<Item = &'e Arc<Entry>>) -> Option<ApiError> {
    let mut all = entries.into_iter().filter_map(|entry| Some((&*entry.key, entry.unreadable()?)));
    let named: Vec<String> = all.by_ref().take(NAMED).map(|(key, why)| one(key, why)).collect();
    let more = all.count();
    if named.is_empty() {
        return None;
    }
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    Some(ApiError::internal(format!("{}{more}", named.join("; "))))
}

fn one(key: &str, why: &str) -> String {
    let shown = key.strip_prefix(keys::REGISTRY).unwrap_or(key);
    format!("the object {shown:?} cannot be read from the store: {why}")
}

/// As [`refusal`], for what was read from the store.
pub(super) fn check_kept(found: &[KeyValue]) -> Result<(), ApiError> {
    match found.iter().find_map(|kv| Some((kv, yunfan_store::unreadable(&kv.value)?))) {
        Some((kv, why)) => Err(ApiError::internal(one(&String::from_utf8_lossy(&kv.key), why))),
        None => Ok(()),
    }
}

impl Registry {
    /// Removes an object that can't be read, without asking anything of it: its finalizers and owners are not known.
    pub(super) async fn remove_unread(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        entry: &Arc<Entry>,
    ) -> Result<Option<Written>, ApiError> {
        let (_, name) = keys::split_name(&kind.resource.prefix, &entry.key);
        let descriptor = &kind.descriptor;
        let asked = Attributes {
            user: writer.user,
            verb: VERB,
            group: &descriptor.group,
            version: &descriptor.version,
            resource: &descriptor.plural,
            subresource: "",
            namespace,
            name,
            path: "",
            selected: &[],
            labels: &[],
        };
        let decision = self.judge.authorize(&asked).await;
        if !decision.is_allowed() {
            return Err(chain::forbidden(&asked, &descriptor.group_resource(), name, &decision));
        }
        let last = serde_json::json!({"apiVersion": descriptor.api_version(), "kind": descriptor.kind,
            "metadata": {"name": name, "namespace": namespace}});
        let stored = Stored { bytes: yunfan_objects::codec::encode(&last), revision: entry.revision };
        if writer.dry_run {
            return Ok(Some(Written::Deleted(stored)));
        }
        tracing::warn!(key = %entry.key, user = writer.user.name, "an object that cannot be read is removed; addresses, ports and quota that it held stay taken");
        match self.commit(&entry.key, entry.revision, None, WritePlan::default()).await? {
            Commit::Lost => Ok(None),
            Commit::Done(_) => Ok(Some(Written::Deleted(stored))),
        }
    }
}

/// Writes what can be read again anew, until the registry is gone.
pub(crate) async fn run(registry: Weak<Registry>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(registry) = registry.upgrade() else { return };
        for entry in registry.cache.unreadable() {
            match heal(&registry, &entry).await {
                Ok(true) => tracing::info!(key = %entry.key, "an object can be read again"),
                // Others may need another key.
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(key = %entry.key, %error, "an object cannot be written anew");
                }
            }
        }
    }
}

/// Whether it could be read, and was written (by whomever).
async fn heal(registry: &Registry, entry: &Entry) -> Result<bool, StoreError> {
    let key = Bytes::copy_from_slice(entry.key.as_bytes());
    let found = registry.store.range(RangeRequest::key(key.clone())).await?.kvs.pop();
    let Some(kv) = found else { return Ok(true) };
    if kv.value.starts_with(SEALED) {
        return Ok(false);
    }
    let txn = Txn {
        compares: vec![Compare::ModRevision { key: key.clone(), equals: kv.mod_revision }],
        success: vec![Op::Put { key, value: kv.value }],
        failure: Vec::new(),
    };
    registry.store.txn(txn).await.map(|_| true)
}
