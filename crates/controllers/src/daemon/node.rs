//! Which nodes a DaemonSet's Pods belong on, and how a Pod is tied to its node.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use kube::ResourceExt;
use yunfan_resources::constraint::{taint_tolerated, term_matches};

use crate::history::HASH_LABEL;
use crate::pods::from_template;

const NAME_FIELD: &str = "metadata.name";
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

/// Taints that come and go with a node's state: daemons stay on it all the same.
const TOLERATED: [(&str, &str); 6] = [
    ("not-ready", "NoExecute"),
    ("unreachable", "NoExecute"),
    ("disk-pressure", "NoSchedule"),
    ("memory-pressure", "NoSchedule"),
    ("pid-pressure", "NoSchedule"),
    ("unschedulable", "NoSchedule"),
];

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// A Pod belongs there.
    Runs,
    /// A Pod that is there stays, but none comes.
    Stays,
    /// No Pod belongs there.
    Not,
}

/// What the node is to the DaemonSet.
pub(super) fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let empty = PodSpec::default();
    let spec = set.spec.template.spec.as_ref().unwrap_or(&empty);
    let name = node.name_any();
    if spec.node_name.as_ref().is_some_and(|named| !named.is_empty() && *named != name)
        || !selects(spec, node)
    {
        return Fit::Not;
    }
    let tolerations = tolerations(spec);
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let kept_off: Vec<&str> = taints
        .filter(|taint| taint.effect != "PreferNoSchedule" && !taint_tolerated(&tolerations, taint))
        .map(|taint| taint.effect.as_str())
        .collect();
    match kept_off.as_slice() {
        [] => Fit::Runs,
        effects if effects.contains(&"NoExecute") => Fit::Not,
        _ => Fit::Stays,
    }
}

fn selects(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.labels();
    let by_labels = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| term_matches(term, &node.name_any(), labels))
        })
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = spec.host_network == Some(true);
    let added = TOLERATED.into_iter().chain(network.then_some(("network-unavailable", "NoSchedule")));
    for (key, effect) in added {
        let toleration = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        all.retain(|known| (&known.key, &known.effect) != (&toleration.key, &toleration.effect));
        all.push(toleration);
    }
    all
}

/// The Pod for a node, of the present template.
pub(super) fn pod_of(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let mut pod = from_template(set, &set.spec.template);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    let generation = set.annotations().get(GENERATION).cloned();
    labels.extend(generation.map(|generation| (GENERATION_LABEL.to_owned(), generation)));
    if let Some(spec) = &mut pod.spec {
        spec.tolerations = Some(tolerations(spec));
        tie(spec, node);
    }
    pod
}

/// Lets the scheduler place the Pod on this node alone. What else the template requires of nodes has been looked at.
fn tie(spec: &mut PodSpec, node: &str) {
    let requirement = NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![requirement]), match_expressions: None };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node that a Pod is on, or is tied to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return Some(node);
    }
    let required = spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut named = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
    named.find_map(|field| match field.values.as_deref() {
        Some([node]) => Some(node.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(spec: Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "d", "namespace": "n", "uid": "u", "annotations": {GENERATION: "4"}},
            "spec": {"selector": {}, "template": {"metadata": {"labels": {"app": "d"}}, "spec": spec}},
        }))
        .unwrap()
    }

    #[test]
    fn daemons_belong_on_nodes_that_fit() {
        let node = |taints: Value| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}, "spec": {"taints": taints}}),
            )
            .unwrap()
        };
        let affinity = |value: &str| {
            let term = json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]});
            json!({"containers": [], "affinity": {"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
        };
        let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
        let plain = || json!({"containers": []});
        let lost = "node.kubernetes.io/unreachable";
        let no_net = "node.kubernetes.io/network-unavailable";
        for (spec, taints, expected) in [
            (plain(), Value::Null, Fit::Runs),
            (json!({"containers": [], "nodeSelector": {"zone": "a"}}), Value::Null, Fit::Runs),
            (json!({"containers": [], "nodeSelector": {"zone": "b"}}), Value::Null, Fit::Not),
            (json!({"containers": [], "nodeName": "n2"}), Value::Null, Fit::Not),
            (affinity("a"), Value::Null, Fit::Runs),
            (affinity("b"), Value::Null, Fit::Not),
            (plain(), taint("own", "NoSchedule"), Fit::Stays),
            (plain(), taint("own", "NoExecute"), Fit::Not),
            (plain(), taint("own", "PreferNoSchedule"), Fit::Runs),
            (
                json!({"containers": [], "tolerations": [{"operator": "Exists"}]}),
                taint("own", "NoExecute"),
                Fit::Runs,
            ),
            (plain(), taint(lost, "NoExecute"), Fit::Runs),
            (plain(), taint(no_net, "NoSchedule"), Fit::Stays),
            (json!({"containers": [], "hostNetwork": true}), taint(no_net, "NoSchedule"), Fit::Runs),
        ] {
            assert_eq!(fit(&set(spec.clone()), &node(taints.clone())), expected, "{spec} {taints}");
        }
    }

    #[test]
    fn a_pod_is_tied_to_its_node() {
        let pod = pod_of(&set(json!({"containers": []})), "n1", "abc");
        assert_eq!(node_of(&pod), Some("n1"));
        let value = json!(pod);
        assert_eq!(
            value["metadata"]["labels"],
            json!({"app": "d", HASH_LABEL: "abc", GENERATION_LABEL: "4"})
        );
        assert_eq!(value["metadata"]["generateName"], "d-");
        assert_eq!(value["spec"]["tolerations"].as_array().unwrap().len(), TOLERATED.len());
        let placed: Pod =
            serde_json::from_value(json!({"spec": {"nodeName": "n2", "containers": []}})).unwrap();
        assert_eq!((node_of(&placed), node_of(&Pod::default())), (Some("n2"), None));
    }
}
