//! A Job's policies: what a Pod's failure means, and when enough has succeeded.

use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::ResourceExt;

use super::indexes::Indexes;

/// What the failure policy says of a failed Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It counts towards the limits.
    Count,
    /// It counts for nothing.
    Ignore,
    /// It counts, and its index failed for good.
    FailIndex,
    /// The Job failed, for this reason.
    FailJob(String),
}

/// What the first rule that fits says; a Pod that no rule fits counts.
pub(super) fn on_failure(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Action {
    let Some(status) = &pod.status else { return Action::Count };
    let rules = policy.into_iter().flat_map(|policy| &policy.rules);
    for (index, rule) in rules.enumerate() {
        let place = format!("matching {} rule at index {index}", rule.action);
        let who = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        let why = if let Some(codes) = &rule.on_exit_codes {
            exit_code(status, codes).map(|(container, code)| {
                format!("Container {container} for pod {who} failed with exit code {code} {place}")
            })
        } else {
            let mut conditions = status.conditions.iter().flatten();
            let fits = conditions.find(|condition| {
                rule.on_pod_conditions.iter().flatten().any(|pattern| {
                    pattern.type_ == condition.type_
                        && pattern.status.as_deref().unwrap_or("True") == condition.status
                })
            });
            fits.map(|condition| format!("Pod {who} has condition {} {place}", condition.type_))
        };
        let Some(why) = why else { continue };
        match rule.action.as_str() {
            "Ignore" => return Action::Ignore,
            "Count" => return Action::Count,
            "FailIndex" => return Action::FailIndex,
            "FailJob" => return Action::FailJob(why),
            _ => {}
        }
    }
    Action::Count
}

/// The first container that ended with an exit code that the requirement names.
fn exit_code<'a>(
    status: &'a PodStatus,
    wanted: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let fits = |container: &'a ContainerStatus| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let named = wanted.container_name.as_ref().is_none_or(|name| *name == container.name);
        let listed = wanted.values.contains(&code) == (wanted.operator == "In");
        (named && code != 0 && listed).then_some((container.name.as_str(), code))
    };
    let containers = status.container_statuses.iter().flatten();
    containers.chain(status.init_container_statuses.iter().flatten()).find_map(fits)
}

/// Why the Job has succeeded, where a rule of its success policy is met.
pub(super) fn on_success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    succeeded: &Indexes,
) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = policy?.rules.iter().position(|rule| {
        let enough = |have: i32| rule.succeeded_count.is_some_and(|count| have >= count);
        match &rule.succeeded_indexes {
            None => enough(succeeded.len()),
            Some(indexes) => {
                let wanted = Indexes::parse(indexes, completions);
                let common = succeeded.common(&wanted);
                !wanted.is_empty() && (common == wanted.len() || enough(common))
            }
        }
    })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(exits: &[(&str, i32)], condition: Option<&str>) -> Pod {
        let containers: Vec<Value> = exits
            .iter()
            .map(|(name, code)| {
                json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                       "state": {"terminated": {"exitCode": code}}})
            })
            .collect();
        let conditions: Vec<Value> =
            condition.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"},
            "status": {"containerStatuses": containers, "conditions": conditions}}))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [1, 2]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [7, 8]}},
            {"action": "Count", "onExitCodes": {"operator": "In", "values": [7]}},
            {"action": "FailJob", "onPodConditions": [{"type": "Bad"}]},
        ]}))
        .unwrap();
        let fail = |why: &str| Action::FailJob(why.to_owned());
        for (pod, expected) in [
            (pod(&[("main", 1)], Some("DisruptionTarget")), Action::Ignore),
            (
                pod(&[("side", 0), ("main", 2)], None),
                fail("Container main for pod n/p failed with exit code 2 matching FailJob rule at index 1"),
            ),
            (pod(&[("side", 1)], None), Action::FailIndex),
            (pod(&[("side", 7)], None), Action::Count),
            (pod(&[("side", 8)], None), Action::Count),
            (
                pod(&[("side", 8)], Some("Bad")),
                fail("Pod n/p has condition Bad matching FailJob rule at index 4"),
            ),
            (pod(&[("side", 0)], None), Action::Count),
        ] {
            assert_eq!(on_failure(Some(&policy), &pod), expected);
        }
        assert_eq!(on_failure(None, &pod(&[("main", 1)], None)), Action::Count);
    }

    #[test]
    fn success_is_what_a_rule_says() {
        let policy =
            |rules: Value| -> SuccessPolicy { serde_json::from_value(json!({"rules": rules})).unwrap() };
        for (rules, succeeded, met) in [
            (json!([{"succeededIndexes": "0,2-3"}]), "0,2", None),
            (json!([{"succeededIndexes": "0,2-3"}]), "0-3", Some(0)),
            (json!([{"succeededIndexes": "0,2-3", "succeededCount": 1}]), "3", Some(0)),
            (json!([{"succeededIndexes": "9"}, {"succeededCount": 2}]), "1,4", Some(1)),
            (json!([{"succeededCount": 2}]), "1", None),
            (json!([{"succeededCount": 0}]), "", None),
        ] {
            let said = on_success(Some(&policy(rules.clone())), 5, &Indexes::parse(succeeded, 5));
            assert_eq!(
                said,
                met.map(|at: usize| format!("Matched rules at index {at}")),
                "{rules} {succeeded}"
            );
        }
    }
}
