//! How fast Pods may be driven off the nodes of a zone that are lost. Where many are lost at once, it is rather the network or we who
//! have a problem, and moving everything would make it worse: rates and thresholds are kube-controller-manager's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use yunfan_client::Informer;
use yunfan_resources::names::ZONE_LABEL;

use super::health::ready;
use crate::NodeSettings;

const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// Label of nodes that don't count when it is told how a zone is.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
/// How long what was seen of all nodes counts.
const FRESH: Duration = Duration::from_secs(1);

/// How a zone is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Zone {
    nodes: usize,
    lost: usize,
}

/// All zones, as they were when last looked at.
pub(super) struct Zones {
    settings: NodeSettings,
    looked: Option<Instant>,
    zones: HashMap<String, Zone>,
    /// When the last node of a zone began to drive its Pods away.
    evicted: HashMap<String, Instant>,
}

impl Zones {
    pub(super) fn new(settings: NodeSettings) -> Self {
        Self { settings, looked: None, zones: HashMap::new(), evicted: HashMap::new() }
    }

    /// Looks at all nodes, if that is some time ago. Returns whether some is ready now where none was.
    pub(super) fn look(&mut self, nodes: &Informer<Node>, now: Instant) -> bool {
        if self.looked.is_some_and(|at| now.duration_since(at) < FRESH) {
            return false;
        }
        let nodes = nodes.list();
        self.count(nodes.iter().map(AsRef::as_ref), now)
    }

    fn count<'a>(&mut self, nodes: impl Iterator<Item = &'a Node>, now: Instant) -> bool {
        let before = self.are_all_lost();
        self.looked = Some(now);
        self.zones.clear();
        for node in nodes.filter(|node| !node.labels().contains_key(EXCLUDED)) {
            let zone = self.zones.entry(zone_of(node)).or_default();
            zone.nodes += 1;
            zone.lost += usize::from(ready(node) != Some("True"));
        }
        let zones = &self.zones;
        self.evicted.retain(|zone, _| zones.contains_key(zone));
        before && !self.are_all_lost()
    }

    /// Whether not a single node is ready: then Pods stay where they are.
    pub(super) fn are_all_lost(&self) -> bool {
        !self.zones.is_empty() && self.zones.values().all(|zone| zone.lost == zone.nodes)
    }

    /// Whether this node's Pods may be driven away now; if so, others have to wait.
    pub(super) fn may_evict(&mut self, node: &Node, now: Instant) -> bool {
        let name = zone_of(node);
        let zone = self.zones.get(&name).copied().unwrap_or_default();
        let Some(pause) = zone.pause(&self.settings).filter(|_| !self.are_all_lost()) else { return false };
        if self.evicted.get(&name).is_some_and(|at| now.duration_since(*at) < pause) {
            return false;
        }
        self.evicted.insert(name, now);
        true
    }
}

impl Zone {
    /// The time from one node to the next; none where none may be.
    fn pause(self, settings: &NodeSettings) -> Option<Duration> {
        // Divided as kube-controller-manager does it: 0.55 times 100 is more than 55.
        let much = self.nodes > 0 && self.lost as f64 / self.nodes as f64 >= settings.unhealthy_zone;
        let rate = match self.lost < self.nodes && self.lost > 2 && much {
            // Also where a zone is lost as a whole: other zones have room.
            false => settings.eviction_rate,
            true if self.nodes > settings.large_zone => settings.secondary_eviction_rate,
            true => 0.0,
        };
        // None at a rate of nothing, or of so little that no clock goes so far.
        Duration::try_from_secs_f64(1.0 / rate).ok()
    }
}

fn zone_of(node: &Node) -> String {
    let label = |key: &str| node.labels().get(key).cloned().unwrap_or_default();
    // No label has this character.
    format!("{}:{}", label(REGION_LABEL), label(ZONE_LABEL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nodes(zone: &str, well: usize, lost: usize) -> Vec<Node> {
        let status = |at: usize| if at < well { "True" } else { "Unknown" };
        let node = |at: usize| {
            let node = json!({"metadata": {"name": format!("{zone}{at}"), "labels": {ZONE_LABEL: zone}},
                "status": {"conditions": [{"type": "Ready", "status": status(at)}]}});
            serde_json::from_value(node).unwrap()
        };
        (0..well + lost).map(node).collect()
    }

    /// How many nodes may drive Pods away within so many seconds.
    fn evicted(groups: &[Vec<Node>], of: &Node, seconds: u64) -> usize {
        let (mut zones, start) = (Zones::new(NodeSettings::default()), Instant::now());
        zones.count(groups.iter().flatten(), start);
        (0..seconds).filter(|second| zones.may_evict(of, start + Duration::from_secs(*second))).count()
    }

    #[test]
    fn the_more_of_a_zone_is_lost_the_slower_pods_leave_it() {
        for (well, lost, expected) in [
            (5, 1, 20),
            // Two are never too many, three of five are.
            (1, 2, 20),
            (2, 3, 0),
            (3, 3, 20),
            (20, 31, 2),
            // Just as many as are too many, where a product of the two would be more than 55.
            (45, 55, 2),
            (22, 28, 0),
        ] {
            let zone = nodes("a", well, lost);
            assert_eq!(evicted(std::slice::from_ref(&zone), &zone[well], 200), expected, "{well} {lost}");
        }
    }

    #[test]
    fn a_zone_that_is_lost_as_a_whole_is_left_while_there_is_another() {
        let (lost, well) = (nodes("a", 0, 4), nodes("b", 1, 0));
        assert_eq!(evicted(&[lost.clone(), well], &lost[0], 30), 3);
        assert_eq!(evicted(&[lost.clone(), nodes("b", 0, 1)], &lost[0], 30), 0, "all are lost");
    }

    #[test]
    fn rates_and_thresholds_are_what_they_are_set_to() {
        let zone = Zone { nodes: 10, lost: 4 };
        let pause = |settings| zone.pause(&settings).map(|pause| pause.as_secs());
        let usual = NodeSettings { eviction_rate: 0.5, ..NodeSettings::default() };
        assert_eq!(pause(usual), Some(2));
        assert_eq!(pause(NodeSettings { unhealthy_zone: 0.4, ..usual }), None);
        assert_eq!(pause(NodeSettings { unhealthy_zone: 0.4, large_zone: 9, ..usual }), Some(100));
        assert_eq!(pause(NodeSettings { eviction_rate: 0.0, ..usual }), None);
    }

    #[test]
    fn it_is_told_when_the_first_node_is_back() {
        let (mut zones, now) = (Zones::new(NodeSettings::default()), Instant::now());
        let mut seen = |well, lost| zones.count(nodes("a", well, lost).iter(), now);
        assert_eq!([seen(1, 1), seen(0, 2), seen(1, 1), seen(2, 0)], [false, false, true, false]);
        let mut excluded = nodes("b", 0, 1);
        excluded[0].metadata.labels.get_or_insert_default().insert(EXCLUDED.to_owned(), String::new());
        zones.count(nodes("a", 1, 0).iter().chain(&excluded), now);
        assert_eq!(zones.zones.len(), 1);
    }
}
