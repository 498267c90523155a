//! Validating policies: what is odd about their expressions, as the schemas of the kinds show it that they match, is told in their status,
//! and looked at again when the definition of such a kind, or of its parameters, changes.

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
    queue.feed(&policies, |policy| [Work::Changed(ObjectKey::of(policy))]);
    let all = policies.clone();
    queue.feed(&definitions, move |definition| {
        let about = all.list().into_iter().filter(|policy| is_about(&json!(**policy), definition));
        about.map(|policy| Work::Again(ObjectKey::of(policy.as_ref()))).collect::<Vec<_>>()
    });
    let work = Arc::new(Loop { context, policies, definitions });
    run_loop("validatingadmissionpolicy-status", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// A policy, which may have changed.
    Changed(ObjectKey),
    /// One whose kinds may have.
    Again(ObjectKey),
}

struct Loop {
    context: Context,
    policies: Informer<ValidatingAdmissionPolicy>,
    definitions: Informer<CustomResourceDefinition>,
}

impl Loop {
    async fn reconcile(&self, work: &Work) -> kube::Result<Option<Duration>> {
        let (Work::Changed(key) | Work::Again(key)) = work;
        let Some(policy) = self.policies.get_key(key) else { return Ok(None) };
        let checked = policy.status.as_ref().and_then(|status| status.observed_generation);
        let generation = policy.metadata.generation;
        let was_checked = checked >= generation;
        if policy.metadata.deletion_timestamp.is_some() || (was_checked && matches!(work, Work::Changed(_))) {
            return Ok(None);
        }
        let object = json!(*policy);
        let told = object["status"]["typeChecking"]["expressionWarnings"].clone();
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
        if was_checked && warnings == told {
            return Ok(None);
        }
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

/// Whether a policy matches a kind that the definition makes, or has it for its parameters.
fn is_about(policy: &Value, definition: &CustomResourceDefinition) -> bool {
    let of = &definition.spec;
    let params = &policy["spec"]["paramKind"];
    let of_group = |version: &str| version.split_once('/').is_some_and(|(group, _)| group == of.group);
    let is_param = params["kind"] == of.names.kind && params["apiVersion"].as_str().is_some_and(of_group);
    is_param
        || typecheck::matched(policy)
            .iter()
            .any(|[group, _, plural]| *group == of.group && *plural == of.names.plural)
}

/// The kinds that a definition makes; none for one that is refused, which there is not.
fn kinds_of(definition: &CustomResourceDefinition) -> Vec<Descriptor> {
    crd::descriptors(&json!(definition)).unwrap_or_default()
}

fn find(kinds: Vec<Descriptor>, fits: impl Fn(&Descriptor) -> bool) -> Option<Subject> {
    let found = kinds.iter().find(|kind| fits(kind))?;
    Some(Subject::new(found.gvk(), &found.schema))
}
