//! The default limits of projects → the ResourceQuota of each: what a project says nothing else of.
//!
//! A new project has them before it is said to have a namespace ([`crate::project`] sees to that). Which of a quota's limits are default ones
//! stands beside them, so that a default that changes, or goes, does so everywhere.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Value, json};
use yunfan_client::{Informer, ObjectKey, Queue, Writer, is_conflict, is_exists, is_not_found, run_loop};
use yunfan_resources::iam::Project;
use yunfan_resources::names::{DEFAULT_LIMITS, DEFAULT_QUOTA, NO_LIMITS, PROJECT_QUOTA, SYSTEM_NAMESPACE};

use crate::Context;

/// Runs the loop.
pub async fn run(context: Context) {
    let work = Arc::new(Loop {
        quotas: context.informers.of::<ResourceQuota>(),
        projects: context.informers.of::<Project>(),
        writer: context.writer.clone(),
    });
    tokio::join!(work.quotas.synced(), work.projects.synced());
    let queue = Queue::new();
    let projects = work.projects.clone();
    queue.feed(&work.quotas, move |quota| {
        let (namespace, name) = (quota.namespace().unwrap_or_default(), quota.name_any());
        match name.as_str() {
            DEFAULT_QUOTA if namespace == SYSTEM_NAMESPACE => {
                projects.list().iter().filter_map(|project| home(project)).collect()
            }
            PROJECT_QUOTA => vec![namespace],
            _ => Vec::new(),
        }
    });
    queue.feed(&work.projects, home);
    run_loop("quota", queue, 1, move |namespace: String| {
        let work = work.clone();
        async move { work.reconcile(&namespace).await }
    })
    .await;
}

fn home(project: &Project) -> Option<String> {
    project.status.as_ref()?.namespace.clone()
}

struct Loop {
    quotas: Informer<ResourceQuota>,
    projects: Informer<Project>,
    writer: Writer,
}

impl Loop {
    async fn reconcile(&self, namespace: &str) -> kube::Result<Option<Duration>> {
        if self.projects.list().iter().any(|project| home(project).as_deref() == Some(namespace)) {
            fill(&self.quotas, &self.writer, namespace).await?;
        }
        Ok(None)
    }
}

/// Brings the limits of a project's namespace to what the default ones are.
pub(crate) async fn fill(
    quotas: &Informer<ResourceQuota>,
    writer: &Writer,
    namespace: &str,
) -> kube::Result<()> {
    let default = quotas.get_key(&ObjectKey::new(SYSTEM_NAMESPACE, DEFAULT_QUOTA));
    let own = quotas.get_key(&ObjectKey::new(namespace, PROJECT_QUOTA));
    let Some(patch) = filled(default.as_deref(), own.as_deref()) else { return Ok(()) };
    let Some(own) = own else {
        let mut quota: ResourceQuota = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
        quota.metadata = ObjectMeta {
            name: Some(PROJECT_QUOTA.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..quota.metadata
        };
        return match writer.create(&quota).await {
            // Somebody was faster, and what they made wakes us.
            Err(error) if !is_exists(&error) && !is_not_found(&error) => Err(error),
            _ => Ok(()),
        };
    };
    let mut patch = patch;
    patch["metadata"]["resourceVersion"] = json!(own.resource_version());
    match writer.merge::<ResourceQuota>(Some(namespace), PROJECT_QUOTA, &patch).await {
        Err(error) if !is_conflict(&error) && !is_not_found(&error) => Err(error),
        _ => Ok(()),
    }
}

/// A list of keys in an annotation.
fn keys(quota: Option<&ResourceQuota>, annotation: &str) -> Vec<String> {
    let text = quota.and_then(|quota| quota.metadata.annotations.as_ref()?.get(annotation));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What changes in a project's quota; nothing where it has what it should.
fn filled(default: Option<&ResourceQuota>, own: Option<&ResourceQuota>) -> Option<Value> {
    let hard = |quota: Option<&ResourceQuota>| {
        quota.and_then(|quota| quota.spec.as_ref()?.hard.clone()).unwrap_or_default()
    };
    let (wanted, has) = (hard(default), hard(own));
    let (known, free) = (keys(own, DEFAULT_LIMITS), keys(own, NO_LIMITS));
    let mut change = serde_json::Map::new();
    let mut from_default = Vec::new();
    for (key, limit) in &wanted {
        let is_own = free.contains(key) || has.contains_key(key) && !known.contains(key);
        if is_own {
            continue;
        }
        from_default.push(key.clone());
        if has.get(key) != Some(limit) {
            change.insert(key.clone(), json!(limit));
        }
    }
    for key in known.iter().filter(|key| !wanted.contains_key(*key) && has.contains_key(*key)) {
        change.insert(key.clone(), Value::Null);
    }
    if change.is_empty() && from_default == known {
        return None;
    }
    let list = json!(from_default).to_string();
    Some(json!({"metadata": {"annotations": {DEFAULT_LIMITS: list}}, "spec": {"hard": change}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(hard: Value, known: &str, free: &str) -> ResourceQuota {
        let annotations = json!({DEFAULT_LIMITS: known, NO_LIMITS: free});
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": {"hard": hard}}))
            .unwrap()
    }

    #[test]
    fn a_project_has_the_default_limits_that_it_says_nothing_of() {
        let default = quota(json!({"a": "1", "b": "2", "c": "3"}), "[]", "[]");
        let new = filled(Some(&default), None).unwrap();
        assert_eq!(new["spec"]["hard"], json!({"a": "1", "b": "2", "c": "3"}));
        assert!(filled(None, None).is_none());
        // It has a limit of its own, none of another, and an older default of the third.
        let own = quota(json!({"a": "9", "c": "1"}), r#"["c"]"#, r#"["b"]"#);
        let change = filled(Some(&default), Some(&own)).unwrap();
        assert_eq!(change["spec"]["hard"], json!({"c": "3"}));
        assert_eq!(change["metadata"]["annotations"][DEFAULT_LIMITS], r#"["c"]"#);
        let done = quota(json!({"a": "9", "c": "3"}), r#"["c"]"#, r#"["b"]"#);
        assert!(filled(Some(&default), Some(&done)).is_none());
        // A default that goes takes with it what came from it, and nothing else.
        let change = filled(None, Some(&done)).unwrap();
        assert_eq!(change["spec"]["hard"], json!({"c": null}));
    }
}
