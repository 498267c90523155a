//! Create.

use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_objects::{ApiError, meta};

use super::asked::{Asking, Memo};
use super::{Admitted, Commit, MAX_ATTEMPTS, Registry, Stored, Writer, managed, pause, too_contended};
use crate::admission::{Attempt, Operation, WritePlan};
use crate::kinds::Kind;

/// How many generated names are tried.
const MAX_NAMES: u32 = 8;

impl Registry {
    /// Makes an object that was decoded already.
    pub(crate) async fn create(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        namespace: &str,
        mut object: Value,
    ) -> Result<Stored, ApiError> {
        let descriptor = &kind.descriptor;
        let generate = text(&object, "generateName").to_owned();
        let generated = text(&object, "name").is_empty() && !generate.is_empty();
        let given = text(&object, "resourceVersion").parse::<u64>();
        meta::fill_new(&mut object, descriptor.namespaced.then_some(namespace), Timestamp::now())?;
        descriptor.default(&mut object);
        // What the server adds from here on is nobody's.
        managed::track(writer, kind, "", None, &mut object);
        writer.warnings.extend(descriptor.strategy.warnings_of_given(&object));
        descriptor.prepare_create(&mut object);
        let (mut names, mut memo) = (1, Memo::default());
        let settle = |object: &mut Value| {
            descriptor.default(object);
            descriptor.prepare_create(object);
        };
        for attempt in 0..MAX_ATTEMPTS {
            pause(attempt).await;
            self.cache.wait_current().await?;
            let name = text(&object, "name").to_owned();
            let key = kind.key(namespace, &name);
            let taken = !name.is_empty() && kind.resource.cache.get(&key).is_some();
            if taken && generated && names < MAX_NAMES {
                names += 1;
                object["metadata"]["name"] = json!(meta::generate_name(&generate));
                continue;
            }
            let mut candidate = object.clone();
            let mut plan = WritePlan::default();
            let mut request = Attempt {
                kind,
                operation: Operation::Create,
                subresource: "",
                namespace: if descriptor.namespaced { namespace } else { "" },
                name: &name,
                object: &mut candidate,
                old: None,
                user: writer.user,
                system: writer.system,
                warnings: writer.warnings,
            };
            let valid = |object: &Value| {
                descriptor.validate_create(object)?;
                writer.warnings.extend(descriptor.strategy.warnings(object, None));
                Ok(())
            };
            let asking = Asking::of_new(writer, &settle, &mut memo, generated);
            if let Admitted::Again = self.admit(&mut request, &mut plan, &valid, asking).await? {
                continue;
            }
            if !writer.dry_run && given.as_ref().is_ok_and(|given| *given != 0) {
                // As in Kubernetes, where the store refuses it: who is asked about the object is asked first.
                return Err(ApiError::unclassified(
                    "resourceVersion should not be set on objects to be created",
                ));
            }
            if taken {
                // Only now: what is wrong with the object itself, or is not allowed, is said first.
                let resource = descriptor.group_resource();
                return Err(match generate.as_str() {
                    "" => ApiError::already_exists(&resource, &name),
                    _ => ApiError::name_not_generated(&resource, &name),
                });
            }
            let encoded = self.encode(kind, &candidate).await?;
            let bytes = encoded.shown;
            if writer.dry_run {
                // Nothing was made, so nobody has looked at what was given.
                return Ok(Stored { bytes, revision: given.unwrap_or(0) });
            }
            if let Commit::Done(revision) = self.commit(&key, 0, Some(encoded.stored), plan).await? {
                self.after_write(kind, namespace, &name, &candidate).await?;
                return Ok(Stored { bytes, revision });
            }
        }
        Err(too_contended(kind, text(&object, "name")))
    }

    /// What follows from a write at once: a quota's usage is computed.
    pub(super) async fn after_write(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<(), ApiError> {
        if kind.is("", "resourcequotas") && object["status"]["hard"] != object["spec"]["hard"] {
            self.compute_quota(namespace, name).await?;
        }
        Ok(())
    }
}

/// A text of the metadata; empty where there is none.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}
