//! Delete: at once, or by a mark that finalizers, or a Pod's node, take down.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use yunfan_objects::{ApiError, meta};

use super::create::text;
use super::update::is_finished;
use super::{
    Admitted, Commit, MAX_ATTEMPTS, Registry, Selection, Stored, Writer, Written, decode, encode, pause,
    too_contended,
};
use crate::admission::{Attempt, Operation, WritePlan};
use crate::cache::Entry;
use crate::kinds::Kind;

/// Finalizer of the garbage collector: dependents lose their owner.
const ORPHAN: &str = "orphan";
/// Finalizer of the garbage collector: dependents go first.
const FOREGROUND: &str = "foregroundDeletion";
/// A Pod's grace where it says nothing, seconds.
const POD_GRACE: i64 = 30;

/// What `DeleteOptions` (body or query) say.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    /// `Background`, `Foreground`, `Orphan`.
    pub(crate) propagation: Option<String>,
    pub(crate) dry_run: bool,
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
        for attempt in 0..MAX_ATTEMPTS {
            pause(attempt).await;
            self.cache.wait_current().await?;
            let entry = self.find(kind, namespace, name)?;
            let old = decode(kind, &entry);
            preconditions(kind, name, &old, options)?;
            let mut new = old.clone();
            let marked = mark(kind, &mut new, options);
            if is_finished(kind, &new) {
                // The chain refuses what may not go, and frees what it held.
                self.check_delete(writer, kind, namespace, name, &old).await?;
                if let Some(done) = self.remove_finished(writer, kind, namespace, name, &entry, new).await? {
                    return Ok(done);
                }
                continue;
            }
            if !marked {
                return Ok(Written::Stored(Stored::from(&entry)));
            }
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
        };
        // Where a quota must be computed first, the removal that follows does it again.
        self.admit(&mut request, &mut WritePlan::default()).await.map(|_| ())
    }

    #[expect(clippy::too_many_arguments, reason = "one step of delete, which is split for its length only")]
    async fn store_mark(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        entry: &Entry,
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
        };
        if let Admitted::Again = self.admit(&mut request, &mut plan).await? {
            return Ok(None);
        }
        let bytes = encode(kind, &mut new);
        if writer.dry_run || options_changed_nothing(&bytes, entry) {
            return Ok(Some(Written::Stored(Stored { bytes, revision: entry.revision })));
        }
        match self.commit(&entry.key, entry.revision, Some(bytes.clone()), plan).await? {
            Commit::Lost => Ok(None),
            Commit::Done(revision) => Ok(Some(Written::Stored(Stored { bytes, revision }))),
        }
    }

    /// Deletes all objects that are selected. Returns their last states.
    pub(crate) async fn delete_collection(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        selection: &Selection,
        options: &DeleteOptions,
    ) -> Result<Vec<Stored>, ApiError> {
        self.cache.wait_current().await?;
        let prefix = crate::keys::namespace_prefix(&kind.resource.prefix, namespace);
        let mut gone = Vec::new();
        for entry in kind.resource.cache.list(&prefix).entries {
            if !selection.matches(&entry) {
                continue;
            }
            let (namespace, name) = crate::keys::split_name(&kind.resource.prefix, &entry.key);
            match self.delete(writer, kind, namespace, name, options).await {
                Ok(written) => gone.push(written.into_stored()),
                // Somebody else was faster.
                Err(error) if error.code() == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }
}

fn options_changed_nothing(bytes: &[u8], entry: &Entry) -> bool {
    bytes == entry.bytes.as_ref()
}

fn preconditions(kind: &Kind, name: &str, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let resource = kind.descriptor.group_resource();
    if let Some(wanted) = &options.uid
        && wanted != text(old, "uid")
    {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {}",
            text(old, "uid")
        );
        return Err(ApiError::conflict(&resource, name, &why));
    }
    if let Some(wanted) = &options.revision
        && wanted != text(old, "resourceVersion")
    {
        let now = text(old, "resourceVersion");
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {now}"
        );
        return Err(ApiError::conflict(&resource, name, &why));
    }
    Ok(())
}

/// Marks the object for deletion; false if it is marked as it should be already.
fn mark(kind: &Kind, object: &mut Value, options: &DeleteOptions) -> bool {
    let before = object["metadata"].clone();
    propagation(object, options);
    let grace = grace(kind, object, options);
    let meta = &mut object["metadata"];
    let shorter = meta["deletionGracePeriodSeconds"].as_i64().is_none_or(|now| grace < now);
    if meta["deletionTimestamp"].is_null() || shorter {
        let at = Timestamp::now() + SignedDuration::from_secs(grace);
        if meta["deletionTimestamp"].is_null() {
            if let Some(generation) = meta["generation"].as_i64() {
                meta["generation"] = json!(generation + 1);
            }
            meta["deletionTimestamp"] = json!(meta::time(at));
        } else if kind.is("", "pods") {
            meta["deletionTimestamp"] = json!(meta::time(at));
        }
        meta["deletionGracePeriodSeconds"] = json!(grace);
        if kind.is("", "namespaces") {
            object["status"]["phase"] = json!("Terminating");
        }
    }
    object["metadata"] != before
}

fn propagation(object: &mut Value, options: &DeleteOptions) {
    let wanted = match options.propagation.as_deref() {
        Some("Orphan") => Some(ORPHAN),
        Some("Foreground") => Some(FOREGROUND),
        Some("Background") => None,
        _ => return,
    };
    let mut list = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    list.retain(|f| f != ORPHAN && f != FOREGROUND);
    list.extend(wanted.map(|f| json!(f)));
    let Some(meta) = object["metadata"].as_object_mut() else { return };
    if list.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".to_owned(), Value::Array(list));
    }
}

/// Seconds that the object has left: only Pods that are placed and not done have any.
fn grace(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    if !kind.is("", "pods") {
        return 0;
    }
    let placed = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let done = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !placed || done {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64();
    options.grace.or(own).unwrap_or(POD_GRACE).max(0)
}
