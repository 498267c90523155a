//! Where a Pod runs, among its labels: its programs, and who selects Pods, need not read Nodes for that.

use serde_json::json;

use super::super::{Attempt, Operation, View};

/// What a Pod takes over of its Node's labels.
const COPIED: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Gives a Pod that is made on a Node, or bound to one, that Node's place. A Node that is not there has none.
pub(super) fn fill(view: &View<'_>, attempt: &mut Attempt<'_>) {
    let is_bound =
        attempt.operation == Operation::Update && attempt.subresource == "binding" && attempt.is("", "pods");
    if !is_bound && !attempt.makes_pod() {
        return;
    }
    let Some(name) = attempt.object["spec"]["nodeName"].as_str().filter(|name| !name.is_empty()) else {
        return;
    };
    let Some(node) = view.get("", "nodes", "", name) else { return };
    for label in COPIED {
        if let Some(place) = node.value()["metadata"]["labels"][label].as_str() {
            attempt.object["metadata"]["labels"][label] = json!(place);
        }
    }
}
