//! Aggregated ClusterRoles: their rules are those of the roles that they select. (Access is decided by the selection itself; this is for
//! who reads the role.)

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, is_not_found, run_loop};

use crate::Context;
use crate::pods::matches;

/// Runs the loop.
pub async fn run(context: Context) {
    let roles = context.informers.of::<ClusterRole>();
    roles.synced().await;
    let queue = Queue::new();
    let all = roles.clone();
    // Any role may be one that an aggregated one selects, or has just ceased to be.
    queue.feed(&roles, move |_| {
        let all = all.list();
        let aggregated = all.iter().filter(|role| role.aggregation_rule.is_some());
        aggregated.map(|role| ObjectKey::of(role.as_ref())).collect::<Vec<_>>()
    });
    let work = Arc::new(Loop { context, roles });
    run_loop("clusterrole-aggregation", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    roles: Informer<ClusterRole>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(role) = self.roles.get_key(key) else { return Ok(None) };
        let rules = rules_of(&role, &self.roles.list());
        if role.metadata.deletion_timestamp.is_some()
            || role.aggregation_rule.is_none()
            || role.rules.as_deref().unwrap_or_default() == rules
        {
            return Ok(None);
        }
        let patch = json!({"metadata": {"resourceVersion": role.resource_version()}, "rules": rules});
        match self.context.writer.merge::<ClusterRole>(None, &key.name, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(None),
        }
    }
}

/// The rules of all roles that this one selects, each once, in the order of the roles' names.
fn rules_of(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let selectors =
        role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten());
    let selectors: Vec<_> = selectors.collect();
    let selected = all.iter().filter(|other| {
        let labels = other.metadata.labels.as_ref();
        other.metadata.name != role.metadata.name
            && selectors.iter().any(|selector| matches(selector, labels))
    });
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_role_has_the_rules_of_those_that_it_selects() {
        let role = |name: &str, labels: Value, rules: &[&str]| -> Arc<ClusterRole> {
            let rules: Vec<Value> = rules
                .iter()
                .map(|what| json!({"verbs": ["get"], "apiGroups": [""], "resources": [what]}))
                .collect();
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "rules": rules}))
                    .unwrap(),
            )
        };
        let mut whole = ClusterRole::clone(&role("whole", json!({"to": "whole"}), &["own"]));
        let selector = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "whole"}}, {"matchLabels": {"also": "x"}}]});
        whole.aggregation_rule = serde_json::from_value(selector).unwrap();
        let all = [
            Arc::new(whole.clone()),
            role("a", json!({"to": "whole"}), &["pods", "nodes"]),
            role("b", json!({"also": "x", "to": "whole"}), &["nodes", "jobs"]),
            role("c", json!({"to": "other"}), &["secrets"]),
        ];
        let what: Vec<_> =
            rules_of(&whole, &all).into_iter().map(|rule| rule.resources.unwrap()[0].clone()).collect();
        assert_eq!(what, ["pods", "nodes", "jobs"]);
        whole.aggregation_rule = None;
        assert!(rules_of(&whole, &all).is_empty());
    }
}
