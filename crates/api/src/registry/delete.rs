//! Delete: at once, or by a mark that finalizers, or a Pod's node, take down.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use yunfan_objects::{ApiError, GroupResource};

use super::asked::Memo;
use super::create::text;
use super::grace::{self, Step};
use super::{Admitted, Commit, MAX_ATTEMPTS, Registry, Stored, Writer, Written, pause, too_contended};
use crate::admission::{Attempt, Operation, WritePlan};
use crate::cache::Entry;
use crate::kinds::Kind;

/// What `DeleteOptions` (body or query) say.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    /// Seconds; below zero for the shortest there is.
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    /// `Background`, `Foreground`, `Orphan`.
    pub(crate) propagation: Option<String>,
    /// The answer says that the object is still there (`orphanDependents: false`, the old form).
    pub(crate) accepted: bool,
    pub(crate) dry_run: bool,
    /// It is one of many that go at once.
    pub(crate) collection: bool,
    /// Even if it can't be read (`ignoreStoreReadErrorWithClusterBreakingPotential`).
    pub(crate) unread: bool,
    /// All of it as it was given, for webhooks and policies.
    pub(crate) shown: Value,
}

impl Registry {
    /// Deletes one object, or marks it.
    pub(crate) async fn delete(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Written, ApiError> {
        let (place, mut memo) = ((namespace, name), Memo::default());
        for attempt in 0..MAX_ATTEMPTS {
            pause(attempt).await;
            self.cache.wait_current().await?;
            if options.unread {
                let entry = self.find_kept(kind, namespace, name)?;
                if entry.unreadable().is_some() {
                    match self.remove_unread(writer, kind, namespace, &entry).await? {
                        Some(done) => return Ok(done),
                        None => continue,
                    }
                }
            }
            let entry = self.find(kind, namespace, name)?;
            let old = self.decode(kind, &entry).await?;
            preconditions(kind, name, &old, options)?;
            let new = match grace::step(kind, &old, options, Timestamp::now()) {
                Step::Wait => {
                    return Ok(Written::Stored(Stored::from(&self.present_one(kind, entry).await?)));
                }
                Step::Mark(new) => {
                    self.ask_deletion(writer, kind, place, options.collection, &old, &mut memo).await?;
                    new
                }
                Step::Remove(last) => {
                    // The chain refuses what may not go, and frees what it held.
                    self.check_delete(writer, kind, namespace, name, &old).await?;
                    self.ask_deletion(writer, kind, place, options.collection, &old, &mut memo).await?;
                    let gone = self.remove_finished(writer, kind, namespace, name, &entry, last).await?;
                    match gone {
                        Some(done) => return Ok(done),
                        None => continue,
                    }
                }
            };
            if let Some(done) = self.store_mark(writer, kind, namespace, name, &entry, &old, new).await? {
                return Ok(done);
            }
        }
        Err(too_contended(kind, name))
    }

    async fn check_delete(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        old: &Value,
    ) -> Result<(), ApiError> {
        let mut copy = old.clone();
        let mut request = Attempt {
            kind,
            operation: Operation::Delete,
            subresource: "",
            namespace: if kind.descriptor.namespaced { namespace } else { "" },
            name,
            object: &mut copy,
            old: Some(old),
            user: writer.user,
            system: writer.system,
            warnings: writer.warnings,
        };
        // Where a quota must be computed first, the removal that follows does it again.
        self.admit(&mut request, &mut WritePlan::default(), &|_| Ok(()), None).await.map(|_| ())
    }

    #[expect(clippy::too_many_arguments, reason = "one step of delete, which is split for its length only")]
    async fn store_mark(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        entry: &Arc<Entry>,
        old: &Value,
        mut new: Value,
    ) -> Result<Option<Written>, ApiError> {
        let mut plan = WritePlan::default();
        let mut request = Attempt {
            kind,
            operation: Operation::Update,
            subresource: "",
            namespace: if kind.descriptor.namespaced { namespace } else { "" },
            name,
            object: &mut new,
            old: Some(old),
            user: writer.user,
            system: writer.system,
            warnings: writer.warnings,
        };
        if let Admitted::Again = self.admit(&mut request, &mut plan, &|_| Ok(()), None).await? {
            return Ok(None);
        }
        let encoded = self.encode(kind, &new).await?;
        let bytes = encoded.shown;
        if writer.dry_run || options_changed_nothing(&encoded.stored, entry) {
            return Ok(Some(Written::Stored(Stored { bytes, revision: entry.revision })));
        }
        match self.commit(&entry.key, entry.revision, Some(encoded.stored), plan).await? {
            Commit::Lost => Ok(None),
            Commit::Done(revision) => Ok(Some(Written::Stored(Stored { bytes, revision }))),
        }
    }

    /// Deletes these objects. What somebody else deletes first is gone as well.
    pub(crate) async fn delete_entries(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        entries: &[Arc<Entry>],
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let options = &DeleteOptions { collection: true, ..options.clone() };
        for entry in entries {
            let (namespace, name) = crate::keys::split_name(&kind.resource.prefix, &entry.key);
            match self.delete(writer, kind, namespace, name, options).await {
                Err(error) if error.code() != 404 => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn options_changed_nothing(bytes: &[u8], entry: &Entry) -> bool {
    bytes == entry.bytes.as_ref()
}

pub(super) fn preconditions(
    kind: &Kind,
    name: &str,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    // Kubernetes names the kind here, not the resource.
    let resource = GroupResource::new(&kind.descriptor.group, &kind.descriptor.kind);
    let checks = [
        (&options.uid, "uid", "UID", "deleted and then recreated"),
        (&options.revision, "resourceVersion", "ResourceVersion", "modified"),
    ];
    for (wanted, field, shown, what) in checks {
        let now = text(old, field);
        if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != now) {
            let why = format!(
                "the {shown} in the precondition ({wanted}) does not match the {shown} in record ({now}). The object might have been {what}"
            );
            return Err(ApiError::conflict(&resource, name, &why));
        }
    }
    Ok(())
}
