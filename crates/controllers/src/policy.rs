//! Validating policies: what is odd about their expressions, as the schemas of the kinds show it that they match, is told in their status.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use yunfan_client::{Informer, ObjectKey, Queue, is_not_found, run_loop};
use yunfan_objects::admission::typecheck::{self, Matched, Subject};
use yunfan_objects::{Descriptor, builtin, crd};

use crate::Context;

/// Runs the loop.
pub async fn run(context: Context) {
    let policies = context.informers.of::<ValidatingAdmissionPolicy>();
    let definitions = context.informers.of::<CustomResourceDefinition>();
    tokio::join!(policies.synced(), definitions.synced());
    let queue = Queue::new();
    queue.feed(&policies, |policy| [ObjectKey::of(policy)]);
    let work = Arc::new(Loop { context, policies, definitions });
    run_loop("validatingadmissionpolicy-status", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    policies: Informer<ValidatingAdmissionPolicy>,
    definitions: Informer<CustomResourceDefinition>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(policy) = self.policies.get_key(key) else { return Ok(None) };
        let checked = policy.status.as_ref().and_then(|status| status.observed_generation);
        let generation = policy.metadata.generation;
        if policy.metadata.deletion_timestamp.is_some() || checked >= generation {
            return Ok(None);
        }
        let object = json!(*policy);
        let mut subjects = Vec::new();
        for kind in typecheck::matched(&object) {
            subjects.extend(self.subject(&kind).await?);
        }
        let params = self.params(&object["spec"]["paramKind"]);
        // There may be many expressions, and much in a schema.
        let checked =
            tokio::task::spawn_blocking(move || typecheck::warnings(&object, subjects, params.as_ref()));
        // Without an answer there is nothing to tell: it ended with the process.
        let Ok(warnings) = checked.await else { return Ok(None) };
        let warnings = if warnings.is_empty() { Value::Null } else { Value::Array(warnings) };
        let patch = json!({
            "metadata": {"resourceVersion": policy.metadata.resource_version},
            "status": {"observedGeneration": generation, "typeChecking": {"expressionWarnings": warnings}},
        });
        match self.context.writer.merge_status::<ValidatingAdmissionPolicy>(None, &key.name, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(None),
        }
    }

    /// A kind that a policy matches, where something is known of it.
    async fn subject(&self, [group, version, plural]: &Matched) -> kube::Result<Option<Subject>> {
        let fits = |kind: &Descriptor| {
            kind.group == *group && kind.version == *version && kind.plural == *plural && kind.served
        };
        if let Some(known) = find(builtin::descriptors(), fits) {
            return Ok(Some(known));
        }
        if group.is_empty() {
            return Ok(None);
        }
        // As it is now: a policy may come right behind the definition of what it is about.
        let definition =
            self.context.writer.get::<CustomResourceDefinition>(None, &format!("{plural}.{group}")).await;
        match definition {
            Err(error) if is_not_found(&error) => Ok(None),
            definition => Ok(find(kinds_of(&definition?), fits)),
        }
    }

    fn params(&self, kind: &Value) -> Option<Subject> {
        let fits = |known: &Descriptor| {
            kind["apiVersion"] == known.api_version() && kind["kind"] == known.kind && known.served
        };
        find(builtin::descriptors(), fits).or_else(|| {
            let named =
                |definition: &&Arc<CustomResourceDefinition>| kind["kind"] == definition.spec.names.kind;
            let definitions = self.definitions.list();
            definitions.iter().filter(named).find_map(|definition| find(kinds_of(definition), fits))
        })
    }
}

/// The kinds that a definition makes; none for one that is refused, which there is not.
fn kinds_of(definition: &CustomResourceDefinition) -> Vec<Descriptor> {
    crd::descriptors(&json!(definition)).unwrap_or_default()
}

fn find(kinds: Vec<Descriptor>, fits: impl Fn(&Descriptor) -> bool) -> Option<Subject> {
    let found = kinds.iter().find(|kind| fits(kind))?;
    Some(Subject::new(found.gvk(), &found.schema))
}
