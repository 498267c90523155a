//! Nodes: a new one takes no Pods before it is seen to be ready.

use serde_json::{Value, json};

use super::{Attempt, Operation};

/// The taint of a node that is not ready; the node loop takes it away.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

pub(super) fn admit(attempt: &mut Attempt<'_>) {
    if attempt.is("", "nodes")
        && attempt.operation == Operation::Create
        && let Some(node) = attempt.object.as_object_mut()
    {
        let spec = node.entry("spec").or_insert_with(|| json!({}));
        taint(spec);
    }
}

fn taint(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    let taints = spec.entry("taints").or_insert_with(|| json!([]));
    if taints.is_null() {
        *taints = json!([]);
    }
    let Some(taints) = taints.as_array_mut() else { return };
    if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == EFFECT) {
        taints.push(json!({"key": NOT_READY, "effect": EFFECT}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_node_is_tainted_once() {
        let mut spec = json!({"taints": [{"key": NOT_READY, "effect": "NoExecute"}]});
        taint(&mut spec);
        taint(&mut spec);
        let effects: Vec<_> = spec["taints"].as_array().unwrap().iter().map(|t| &t["effect"]).collect();
        assert_eq!(effects, ["NoExecute", EFFECT]);
        let mut bare = json!({"taints": null});
        taint(&mut bare);
        assert_eq!(bare, json!({"taints": [{"key": NOT_READY, "effect": EFFECT}]}));
    }
}
