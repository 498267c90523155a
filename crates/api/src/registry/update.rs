//! Update, and every patch: read, change, check, compare and swap.

use std::sync::Arc;

use serde_json::Value;
use yunfan_objects::subresource::Subresource;
use yunfan_objects::{ApiError, Descriptor, FieldError, GroupVersionKind, golang};

use super::asked::{Asking, Memo};
use super::create::text;
use super::grace::has_content;
use super::{
    Admitted, Commit, MAX_ATTEMPTS, Registry, Stored, Writer, Written, managed, pause, too_contended,
};
use crate::admission::{Attempt, Operation, WritePlan};
use crate::cache::Entry;
use crate::errors::store_error;
use crate::kinds::Kind;

/// Which part of the object a request may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status (where that has its own subresource).
    Main,
    /// The status.
    Status,
    /// The few fields that this subresource is for.
    Fields(&'static Subresource),
    /// Whatever the server itself changes on a client's behalf: a binding, a scale.
    Whole(&'static str),
}

impl Part {
    /// The subresource's name; empty for the object itself.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::Fields(subresource) => subresource.name,
            Self::Whole(name) => name,
        }
    }
}

impl Registry {
    /// Changes an object: `change` gets what is there (with its resourceVersion, in the kind's version) and
    /// gives what should be; it is called again when somebody else was faster.
    pub(crate) async fn modify<F>(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        mut change: F,
    ) -> Result<Written, ApiError>
    where
        F: FnMut(&Value) -> Result<Value, ApiError>,
    {
        let mut memo = Memo::default();
        for attempt in 0..MAX_ATTEMPTS {
            pause(attempt).await;
            self.cache.wait_current().await?;
            let entry = self.find(kind, namespace, name)?;
            let old = self.decode(kind, &entry).await?;
            let mut new = change(&old)?;
            self.preconditions(kind, name, &old, &new)?;
            let asked = (part.subresource() == "resize" && !writer.applies).then(|| new.clone());
            shape(kind, part, &mut new, &old);
            match asked {
                // Who asks a resize for more than it changes owns that nevertheless, as in Kubernetes.
                Some(mut asked) => {
                    kind.descriptor.default(&mut asked);
                    managed::track(writer, kind, part.subresource(), Some(&old), &mut asked);
                    take_managers(&mut new, &mut asked);
                }
                None => managed::track(writer, kind, part.subresource(), Some(&old), &mut new),
            }
            if let Part::Status = part {
                kind.descriptor.strategy.keep_of_status(&mut new, &old);
            }
            let place = (namespace, name);
            if let Some(done) =
                self.attempt(writer, kind, place, part, (&entry, &old), new, &mut memo).await?
            {
                return Ok(done);
            }
        }
        Err(too_contended(kind, name))
    }

    fn preconditions(&self, kind: &Kind, name: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
        let resource = kind.descriptor.group_resource();
        if text(new, "name") != name {
            let message = format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                text(new, "name")
            );
            return Err(ApiError::bad_request(message));
        }
        let given = text(new, "resourceVersion");
        if matches!(given, "" | "0") && kind.descriptor.needs_revision() {
            let field = "metadata.resourceVersion";
            let error = FieldError::invalid(field, 0, "must be specified for an update");
            let plural = GroupVersionKind::new(&resource.group, "", &resource.resource);
            return Err(ApiError::invalid(&plural, name, &[error]));
        }
        if !matches!(given, "" | "0") && given != text(old, "resourceVersion") {
            return Err(match given.parse::<u64>() {
                Ok(_) => ApiError::modified(&resource, name),
                Err(_) => ApiError::unclassified(golang::number_error("ParseUint", given)),
            });
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one step of modify, which is split for its length only")]
    async fn attempt(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        (namespace, name): (&str, &str),
        part: Part,
        (entry, old): (&Arc<Entry>, &Value),
        mut new: Value,
        memo: &mut Memo,
    ) -> Result<Option<Written>, ApiError> {
        let mut plan = WritePlan::default();
        let mut request = Attempt {
            kind,
            operation: Operation::Update,
            subresource: part.subresource(),
            namespace: if kind.descriptor.namespaced { namespace } else { "" },
            name,
            object: &mut new,
            old: Some(old),
            user: writer.user,
            system: writer.system,
            warnings: writer.warnings,
        };
        // Nobody but the cloud writes the rules of its own kinds: what is there keeps to them.
        let ruled = matches!(part, Part::Main) && !kind.descriptor.builtin && !kind.is_own();
        let valid = |new: &Value| {
            if ruled {
                writer.warnings.extend(kind.descriptor.tolerated(new, old));
            }
            match part {
                Part::Status => kind.descriptor.validate_status_update(new, old)?,
                // Binding writes the one field that no other update may, and only where it was empty.
                Part::Whole("binding") => {}
                Part::Fields(subresource) => kind.descriptor.validate_part(subresource.name, new, old)?,
                _ => kind.descriptor.validate_update(new, old)?,
            }
            writer.warnings.extend(match part {
                Part::Main => kind.descriptor.strategy.warnings(new, Some(old)),
                Part::Status => kind.descriptor.strategy.status_warnings(new),
                Part::Fields(_) | Part::Whole(_) => Vec::new(),
            });
            Ok(())
        };
        let settle = |new: &mut Value| {
            shape(kind, part, new, old);
            if let Part::Status = part {
                kind.descriptor.strategy.keep_of_status(new, old);
            }
        };
        let asking = Asking::new(writer, &settle, memo);
        if let Admitted::Again = self.admit(&mut request, &mut plan, &valid, asking).await? {
            return Ok(None);
        }
        if is_finished(kind, &new) {
            return self.remove_finished(writer, kind, namespace, name, entry, new).await;
        }
        let encoded = self.encode(kind, &new).await?;
        let bytes = encoded.shown;
        // A write that changes nothing takes no revision and wakes nobody, unless keys have changed since the last one.
        if writer.dry_run || encoded.stored == entry.bytes && !self.is_sealed_otherwise(&entry.key).await? {
            return Ok(Some(Written::Stored(Stored { bytes, revision: entry.revision })));
        }
        match self.commit(&entry.key, entry.revision, Some(encoded.stored), plan).await? {
            Commit::Lost => Ok(None),
            Commit::Done(revision) => {
                self.after_write(kind, namespace, name, &new).await?;
                Ok(Some(Written::Stored(Stored { bytes, revision })))
            }
        }
    }

    /// Whether an object is kept with other keys than it would be if it were written now: writing all objects as they are is how
    /// clients of Kubernetes have them encrypted anew.
    async fn is_sealed_otherwise(&self, key: &str) -> Result<bool, ApiError> {
        match self.store.sealed() {
            Some(sealed) => sealed.is_stale(key.as_bytes()).await.map_err(store_error),
            None => Ok(false),
        }
    }

    /// The last finalizer of an object that is marked for deletion went: so does the object.
    pub(super) async fn remove_finished(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        name: &str,
        entry: &Arc<Entry>,
        last: Value,
    ) -> Result<Option<Written>, ApiError> {
        // What is freed is what the stored object holds.
        let stored = self.decode(kind, entry).await?;
        let mut plan = WritePlan::default();
        let mut copy = stored.clone();
        let mut request = Attempt {
            kind,
            operation: Operation::Delete,
            subresource: "",
            namespace: if kind.descriptor.namespaced { namespace } else { "" },
            name,
            object: &mut copy,
            old: Some(&stored),
            user: writer.user,
            // Whoever marked it was checked then.
            system: true,
            warnings: writer.warnings,
        };
        if let Admitted::Again = self.admit(&mut request, &mut plan, &|_| Ok(()), None).await? {
            return Ok(None);
        }
        let bytes = self.encode(kind, &last).await?.shown;
        if writer.dry_run {
            return Ok(Some(Written::Deleted(Stored { bytes, revision: entry.revision })));
        }
        match self.commit(&entry.key, entry.revision, None, plan).await? {
            Commit::Lost => Ok(None),
            Commit::Done(revision) => Ok(Some(Written::Deleted(Stored { bytes, revision }))),
        }
    }
}

/// Refuses an update of an object that was deleted and made again since it was read: where the new state says which
/// uid it is about, that must be the old one's.
pub(crate) fn same_uid(kind: &Kind, old: &Value, new: &Value) -> Result<(), ApiError> {
    let (uid, given) = (text(old, "uid"), text(new, "uid"));
    if given.is_empty() || given == uid {
        return Ok(());
    }
    let (descriptor, name) = (&kind.descriptor, text(old, "name"));
    let key = storage_key(descriptor, text(old, "namespace"), name);
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {given}, UID in object meta: {uid}"
    );
    Err(ApiError::conflict(&descriptor.group_resource(), name, &why))
}

/// Where Kubernetes would keep an object: clients are told so where a precondition fails.
fn storage_key(descriptor: &Descriptor, namespace: &str, name: &str) -> String {
    let (group, plural) = (descriptor.group.as_str(), descriptor.plural.as_str());
    let place = match (group, plural) {
        ("", "endpoints") => "services/endpoints".to_owned(),
        ("", "nodes") => "minions".to_owned(),
        ("", "replicationcontrollers") => "controllers".to_owned(),
        ("", "services") => "services/specs".to_owned(),
        ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", _) => format!("{group}/{plural}"),
        _ if descriptor.builtin => plural.to_owned(),
        _ => format!("{group}/{plural}"),
    };
    let parts = ["/registry", &place, namespace, name];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// Puts what the server owns into the changed object.
fn shape(kind: &Kind, part: Part, new: &mut Value, old: &Value) {
    let descriptor = &kind.descriptor;
    match part {
        Part::Main => {
            descriptor.default(new);
            descriptor.prepare_update(new, old);
        }
        Part::Status => descriptor.prepare_status_update(new, old),
        Part::Fields(subresource) => {
            let mut result = old.clone();
            subresource.take(&mut result, new);
            descriptor.prepare_part(&mut result, old);
            *new = result;
        }
        Part::Whole(name) => {
            descriptor.default(new);
            let status = new.get("status").cloned();
            descriptor.prepare_update(new, old);
            if let (Some(status), Some(map)) = (status, new.as_object_mut()) {
                map.insert("status".to_owned(), status);
            }
            // Where a Pod runs is not what its maker wishes: that is not counted.
            if name == "binding"
                && let Some(generation) = old["metadata"]["generation"].as_i64()
            {
                new["metadata"]["generation"] = generation.into();
            }
        }
    }
}

/// Gives an object the managedFields of another.
fn take_managers(object: &mut Value, other: &mut Value) {
    let managers = other["metadata"]["managedFields"].take();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        match managers {
            Value::Null => metadata.remove("managedFields"),
            managers => metadata.insert("managedFields".to_owned(), managers),
        };
    }
}

/// Whether an object that is marked for deletion has nothing left to wait for.
pub(super) fn is_finished(kind: &Kind, object: &Value) -> bool {
    let meta = &object["metadata"];
    let held = |list: &Value| list.as_array().is_some_and(|l| !l.is_empty());
    let marked = !meta["deletionTimestamp"].is_null();
    let has_time = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) != 0;
    let waits = kind.is("", "namespaces") && has_content(object);
    marked && !held(&meta["finalizers"]) && !has_time && !waits
}
