//! What a node's conditions say, and the taints that follow from them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use serde_json::{Value, json};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Conditions that every node's agent reports.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that keep new Pods away while they are true, and the taints that do it.
const PRESSURE: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

fn conditions(node: &Node) -> impl Iterator<Item = &NodeCondition> {
    node.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

/// What the node's condition Ready says: True, False, Unknown; none while nobody said it.
pub(super) fn ready(node: &Node) -> Option<&str> {
    conditions(node).find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str())
}

/// When the node last told its state, by its own clock.
pub(super) fn heartbeat(node: &Node) -> Option<Timestamp> {
    let ready = conditions(node).find(|condition| condition.type_ == "Ready")?;
    ready.last_heartbeat_time.as_ref().map(|time| time.0)
}

/// The conditions of a node that is not heard of; none where they say so already.
pub(super) fn unknown_conditions(node: &Node, now: &str) -> Option<Value> {
    let known: Vec<&NodeCondition> = conditions(node).collect();
    let born = node.metadata.creation_timestamp.as_ref().map(|time| json!(time));
    let said = |kind: &str| known.iter().find(|condition| condition.type_ == kind);
    if REPORTED.iter().all(|kind| said(kind).is_some_and(|condition| condition.status == "Unknown")) {
        return None;
    }
    let mut all: Vec<Value> = known.iter().map(|condition| json!(condition)).collect();
    for condition in &mut all {
        let reported = REPORTED.iter().any(|kind| condition["type"] == *kind);
        if reported && condition["status"] != "Unknown" {
            condition["status"] = json!("Unknown");
            condition["reason"] = json!("NodeStatusUnknown");
            condition["message"] = json!("Kubelet stopped posting node status.");
            condition["lastTransitionTime"] = json!(now);
        }
    }
    all.extend(REPORTED.iter().filter(|kind| said(kind).is_none()).map(|kind| {
        json!({"type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
               "message": "Kubelet never posted node status.", "lastHeartbeatTime": born,
               "lastTransitionTime": now})
    }));
    Some(json!(all))
}

/// The taints that a node should have; none where it has them. Those of others stay. Whether Pods may be driven away now is asked
/// where it matters, for each time is counted; while all nodes are lost, none are.
pub(super) fn taints_of(
    node: &Node,
    all_lost: bool,
    mut may_evict: impl FnMut() -> bool,
) -> Option<Vec<Taint>> {
    let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = match ready(node) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        // Of a node that never said how it is nothing is known until it should have.
        _ => None,
    };
    let under: Vec<&str> =
        conditions(node).filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect();
    let drives = |taint: &Taint| is_of_ready(taint) && taint.effect == "NoExecute";
    let mut taints: Vec<Taint> = before
        .iter()
        .filter(|taint| {
            let pressure = PRESSURE.iter().find(|(_, key)| *key == taint.key);
            let stays =
                !is_of_ready(taint) || (Some(taint.key.as_str()) == wanted && !(drives(taint) && all_lost));
            stays && pressure.is_none_or(|(condition, _)| under.contains(condition))
        })
        .cloned()
        .collect();
    let add = |taints: &mut Vec<Taint>, key: &str, effect: &str| {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = (effect == "NoExecute").then(crate::status::now);
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added,
                ..Taint::default()
            });
        }
    };
    for (condition, key) in PRESSURE {
        if under.contains(&condition) {
            add(&mut taints, key, "NoSchedule");
        }
    }
    if let Some(key) = wanted {
        add(&mut taints, key, "NoSchedule");
        // One that drives away already goes on to do so under the other name.
        let driven = before.iter().any(drives);
        let has = taints.iter().any(drives);
        if !all_lost && !has && (driven || may_evict()) {
            add(&mut taints, key, "NoExecute");
        }
    }
    (taints != before).then_some(taints)
}

fn is_of_ready(taint: &Taint) -> bool {
    taint.key == NOT_READY || taint.key == UNREACHABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str) -> Taint {
        Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }
    }

    fn node(conditions: Value, taints: &[Taint]) -> Node {
        let node = json!({"spec": {"taints": taints}, "status": {"conditions": conditions}});
        serde_json::from_value(node).unwrap()
    }

    /// Keys and effects of the taints that the node is to have.
    fn keys(node: &Node, all_lost: bool, may_evict: bool) -> Vec<String> {
        let own = node.spec.as_ref().unwrap().taints.clone().unwrap_or_default();
        let taints = taints_of(node, all_lost, || may_evict).unwrap_or(own);
        let word = |taint: &Taint| {
            format!("{}:{}", taint.key.trim_start_matches("node.kubernetes.io/"), taint.effect)
        };
        taints.iter().map(word).collect()
    }

    #[test]
    fn pressure_becomes_a_taint_and_goes_with_it() {
        let conditions = |memory: &str| {
            json!([{"type": "MemoryPressure", "status": memory}, {"type": "DiskPressure", "status": "False"},
                {"type": "Ready", "status": "True"}])
        };
        let (own, memory) = (taint("example.com/own"), taint("node.kubernetes.io/memory-pressure"));
        let before = [own.clone(), taint(UNREACHABLE), taint("node.kubernetes.io/disk-pressure")];
        let under = [own.clone(), memory];
        let of =
            |memory: &str, taints: &[Taint]| taints_of(&node(conditions(memory), taints), false, || true);
        assert_eq!(of("True", &before).as_deref(), Some(&under[..]));
        assert_eq!(of("True", &under), None);
        assert_eq!(of("False", &under).as_deref(), Some(std::slice::from_ref(&own)));
        assert_eq!(of("Unknown", &under).as_deref(), Some(&[own][..]));
    }

    #[test]
    fn a_node_drives_its_pods_away_when_it_may_and_some_node_is_left() {
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        let of =
            |status: &str, taints: &[Taint], all_lost, may| keys(&node(ready(status), taints), all_lost, may);
        let both = |key: &str| [format!("{key}:NoSchedule"), format!("{key}:NoExecute")];
        assert_eq!(of("False", &[], false, true), both("not-ready"));
        assert_eq!(of("Unknown", &[], false, true), both("unreachable"));
        assert_eq!(of("Unknown", &[], false, false), ["unreachable:NoSchedule"]);
        assert_eq!(of("Unknown", &[], true, true), ["unreachable:NoSchedule"]);
        let drives = |key: &str| Taint { effect: "NoExecute".to_owned(), ..taint(key) };
        let tainted = [taint(NOT_READY), drives(NOT_READY)];
        assert_eq!(
            of("Unknown", &tainted, false, false),
            both("unreachable"),
            "it goes on under the other name"
        );
        assert_eq!(of("False", &tainted, true, false), ["not-ready:NoSchedule"], "no node is left");
        assert!(of("True", &tainted, false, false).is_empty());
        assert!(keys(&node(json!([]), &tainted[..1]), false, true).is_empty(), "nothing says that it is not");
    }

    #[test]
    fn a_node_that_is_not_heard_of_has_all_conditions() {
        let conditions = json!([{"type": "Ready", "status": "True", "reason": "Fine"},
            {"type": "MemoryPressure", "status": "Unknown", "reason": "Own"}, {"type": "Odd", "status": "False", "reason": "Odd"}]);
        let unknown = unknown_conditions(&node(conditions, &[]), "2026-01-01T00:00:00Z").unwrap();
        let listed: Vec<_> = unknown
            .as_array()
            .unwrap()
            .iter()
            .map(|each| (&each["type"], &each["status"], &each["reason"]))
            .collect();
        assert_eq!(
            json!(listed),
            json!([
                ["Ready", "Unknown", "NodeStatusUnknown"],
                ["MemoryPressure", "Unknown", "Own"],
                ["Odd", "False", "Odd"],
                ["DiskPressure", "Unknown", "NodeStatusNeverUpdated"],
                ["PIDPressure", "Unknown", "NodeStatusNeverUpdated"],
            ])
        );
        assert_eq!(unknown_conditions(&node(unknown, &[]), "2026-01-01T00:00:01Z"), None);
    }
}
