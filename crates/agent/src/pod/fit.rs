//! Whether this node has room for a Pod, and is one that the Pod accepts: what the scheduler has seen to already, but for those who
//! name the node themselves, and for what changed meanwhile.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod};
use kube::ResourceExt;
use yunfan_resources::constraint::{selects_node, taint_tolerated};
use yunfan_resources::requests::{EPHEMERAL_STORAGE, Requests, amount};

use super::admit::Rejection;
use super::downward::Allocatable;

/// Too little of a resource: thousandths of CPUs, whole units of anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) resource: String,
    pub(super) requested: i64,
    pub(super) used: i64,
    pub(super) capacity: i64,
}

impl Shortage {
    pub(super) fn rejection(&self) -> Rejection {
        let Self { resource, requested, used, capacity } = self;
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Rejection::new(&format!("OutOf{resource}"), message)
    }

    /// How much has to come free.
    pub(super) fn missing(&self) -> i64 {
        self.requested.saturating_sub(self.capacity.saturating_sub(self.used))
    }
}

/// What a Pod has of its node: while it waits for more or less than that, what it was given.
pub(super) fn given(pod: &Pod) -> Requests {
    let Some(spec) = &pod.spec else { return Requests::default() };
    let status = pod.status.as_ref();
    let lists = [
        status.and_then(|status| status.init_container_statuses.as_ref()),
        status.and_then(|status| status.container_statuses.as_ref()),
    ];
    let states: BTreeMap<&str, _> = lists
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|state| Some((state.name.as_str(), state.allocated_resources.as_ref()?)))
        .collect();
    Requests::of_pod_by(spec, |container: &Container| match states.get(container.name.as_str()) {
        Some(allocated) => Requests::of_amounts(allocated.iter()),
        None => Requests::of_container(container),
    })
}

/// What a Pod asks for.
pub(super) fn asked(pod: &Pod) -> Requests {
    pod.spec.as_ref().map(Requests::of_pod).unwrap_or_default()
}

/// What there is too little of, beside `used`, on a node that gives Pods so much. What it says nothing of is not counted.
pub(super) fn shortages(asked: &Requests, used: &Requests, allocatable: &Allocatable) -> Vec<Shortage> {
    let others = asked.others.keys().map(String::as_str).filter(|name| *name != EPHEMERAL_STORAGE);
    let names = ["pods", "cpu", "memory", EPHEMERAL_STORAGE].into_iter().chain(others);
    let short = names.filter_map(|name| {
        let (requested, used) = (asked.amount(name), used.amount(name));
        let capacity = amount(name, allocatable.get(name)?);
        // A node that has no addresses for Pods yet does not know how many it can take.
        let unknown = name == "pods" && capacity == 0;
        let fits = requested == 0 || unknown || requested <= capacity.saturating_sub(used);
        (!fits).then(|| Shortage { resource: name.to_owned(), requested, used, capacity })
    });
    short.collect()
}

/// Why a Pod is on a node that it does not accept, or that does not keep it.
pub(super) fn misplaced(pod: &Pod, node: &Node, is_static: bool) -> Option<Rejection> {
    let spec = pod.spec.as_ref()?;
    let failed = |predicate: &str, why: &str| {
        Some(Rejection::new(predicate, format!("Predicate {predicate} failed: {why}")))
    };
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let terms = required.map(|selector| selector.node_selector_terms.as_slice());
    if !selects_node(spec.node_selector.as_ref(), terms, &node.name_any(), node.labels()) {
        return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    if !is_static && taints.any(|taint| taint.effect == "NoExecute" && !taint_tolerated(tolerations, taint)) {
        return failed("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    }
    None
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod(requests: Value) -> Pod {
        from_value(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}))
            .unwrap()
    }

    fn node(spec: Value) -> Node {
        from_value(json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}}, "spec": spec})).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_told_resource_by_resource() {
        let all = [
            ("pods", "2"),
            ("cpu", "4"),
            ("memory", "1Gi"),
            (EPHEMERAL_STORAGE, "1Gi"),
            ("example.com/gpu", "1"),
        ];
        let node: Allocatable =
            all.into_iter().map(|(name, much)| (name.to_owned(), Quantity(much.to_owned()))).collect();
        let wish = asked(&pod(
            json!({"cpu": "3", "memory": "1Gi", EPHEMERAL_STORAGE: "2Gi", "example.com/gpu": "1"}),
        ));
        let mut used = given(&pod(json!({"cpu": "1500m", "example.com/gpu": "1"})));
        let short = shortages(&wish, &used, &node);
        let reasons: Vec<String> = short.iter().map(|short| short.rejection().reason).collect();
        assert_eq!(reasons, ["OutOfcpu", "OutOfephemeral-storage", "OutOfexample.com/gpu"]);
        assert_eq!(
            short[0].rejection().message,
            "Node didn't have enough resource: cpu, requested: 3000, used: 1500, capacity: 4000"
        );
        assert_eq!(short[0].missing(), 500);
        used.add(&given(&pod(json!({}))));
        let full = shortages(&asked(&pod(json!({}))), &used, &node);
        assert_eq!(
            full[0].rejection(),
            Rejection::new(
                "OutOfpods",
                "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"
            )
        );
        let unknown = Allocatable::from([("pods".to_owned(), Quantity("0".to_owned()))]);
        assert_eq!(shortages(&wish, &used, &unknown), []);
    }

    #[test]
    fn a_pod_that_waits_for_more_has_what_it_was_given() {
        let mut waiting = pod(json!({"cpu": "3"}));
        assert_eq!(given(&waiting).cpu, 3000);
        waiting.status = from_value(json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "",
            "ready": true, "restartCount": 0, "allocatedResources": {"cpu": "1"}}]}))
        .unwrap();
        assert_eq!((given(&waiting).cpu, asked(&waiting).cpu), (1000, 3000));
    }

    #[test]
    fn a_node_that_a_pod_does_not_accept_does_not_run_it() {
        let why = |spec: Value, node_spec: Value, is_static| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod: Pod = from_value(json!({"spec": spec})).unwrap();
            misplaced(&pod, &node(node_spec), is_static)
        };
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        let refused = Some(Rejection::new("NodeAffinity", message));
        assert_eq!(why(json!({"nodeSelector": {"disk": "ssd"}}), json!({}), false), None);
        assert_eq!(why(json!({"nodeSelector": {"disk": "none"}}), json!({}), true), refused);
        let affinity = |values: Value| {
            let term = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": values}]});
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
        };
        assert_eq!(why(affinity(json!(["ssd", "hdd"])), json!({}), false), None);
        assert_eq!(why(affinity(json!(["hdd"])), json!({}), false), refused);
        let taint = |effect: &str| json!({"taints": [{"key": "k", "effect": effect}]});
        assert_eq!(why(json!({}), taint("NoSchedule"), false), None);
        assert_eq!(why(json!({}), taint("NoExecute"), true), None, "it is the node's own");
        assert_eq!(why(json!({"tolerations": [{"operator": "Exists"}]}), taint("NoExecute"), false), None);
        let kept_off = why(json!({}), taint("NoExecute"), false).unwrap();
        assert_eq!(kept_off.reason, "TaintToleration");
    }
}
