//! What several loops ask of Pods.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// The owner reference that says who controls the object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the Pod has ended and will not run again.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the Pod is neither ended nor about to be deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Since when the Pod is ready; none while it is not.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "True")?;
    // A condition without a time has been true for as long as anyone knows.
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0))
}

/// Whether the Pod has been ready for `min_ready_seconds`; if it is ready but not for long enough yet, how long
/// that takes.
pub(crate) fn availability(
    pod: &Pod,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Result<(), Option<Duration>> {
    let Some(since) = ready_since(pod) else { return Err(None) };
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let ready_for = now.as_second() - since.as_second();
    match i64::from(min_ready_seconds) - ready_for {
        left if left <= 0 => Ok(()),
        left => Err(Some(Duration::from_secs(left.unsigned_abs()))),
    }
}

/// Whether a label selector (with expressions) matches; an empty one matches everything.
pub(crate) fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    let by_labels =
        selector.match_labels.iter().flatten().all(|(key, value)| label(key).is_some_and(|v| v == value));
    by_labels
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = label(&expression.key);
            let among = || value.is_some_and(|v| expression.values.iter().flatten().any(|x| x == v));
            match expression.operator.as_str() {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                // Validation lets no other operator through; one that came anyway matches nothing.
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_match_as_kubernetes_says() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "zone", "operator": "NotIn", "values": ["x"]},
            ],
        }))
        .unwrap();
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        assert!(matches(&selector, Some(&labels(&[("app", "web"), ("tier", "a")]))));
        assert!(!matches(&selector, Some(&labels(&[("app", "web"), ("tier", "c")]))));
        assert!(!matches(&selector, Some(&labels(&[("app", "web"), ("tier", "a"), ("old", "")]))));
        assert!(!matches(&selector, Some(&labels(&[("app", "web"), ("tier", "a"), ("zone", "x")]))));
        assert!(!matches(&selector, None));
    }

    #[test]
    fn a_pod_becomes_available_after_its_min_ready_seconds() {
        let pod: Pod = serde_json::from_value(json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap();
        let at = |second: &str| second.parse::<Timestamp>().unwrap();
        assert_eq!(availability(&pod, 0, at("2026-01-01T00:00:00Z")), Ok(()));
        assert_eq!(availability(&pod, 10, at("2026-01-01T00:00:04Z")), Err(Some(Duration::from_secs(6))));
        assert_eq!(availability(&pod, 10, at("2026-01-01T00:00:10Z")), Ok(()));
        assert_eq!(availability(&Pod::default(), 0, at("2026-01-01T00:00:10Z")), Err(None));
    }
}
