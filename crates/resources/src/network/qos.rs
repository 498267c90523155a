//! Quality of service: how much may come to a port and leave it, and how its packets are marked.
//!
//! What a rule may say is Neutron's (`neutron-lib`, `api/definitions/qos.py`), as far as nodes carry it out.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Direction, Share, is_shared_with};

/// The most that a limit lets pass, kilobits (1000 bits) a second: the kernel counts no further.
pub const MOST_KBPS: u32 = 100_000_000;
/// The longest burst of a limit, kilobits.
pub const MOST_BURST_KBITS: u32 = 34_000_000;

/// How much may come to ports and leave them, and how their packets are marked. The cloud's admin writes it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "network.yunfan.io",
    version = "v1",
    kind = "QosPolicy",
    plural = "qospolicies",
    doc = "How much may come to Ports and leave them, and how their packets are marked.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Project","type":"string","jsonPath":".spec.project"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct QosPolicySpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Id of the project whose policy it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Whether new Networks of the project have it that name none; one policy of a project is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub project_default: bool,
    /// Which other projects may use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub shared_with: Vec<Share>,
    /// What holds for each port: one limit each way at most, and one mark.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub rules: Vec<QosRule>,
    /// Free words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub tags: Vec<String>,
}

impl QosPolicySpec {
    /// Whether objects of the project with this id may have it without its owner's doing.
    pub fn is_for(&self, project: &str) -> bool {
        self.project.as_deref() == Some(project) || is_shared_with(&self.shared_with, project)
    }
}

/// One rule of a [`QosPolicy`]: a limit or a mark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QosRule {
    /// The rule's id; made when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// No more than this passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<BandwidthLimit>,
    /// What leaves the port has this DSCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 56))]
    pub dscp_mark: Option<u8>,
}

/// How much passes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BandwidthLimit {
    /// Which way, as the port sees it.
    pub direction: Direction,
    /// Kilobits (1000 bits) a second.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_kbps: u32,
    /// Kilobits that may pass at once after a time in which less did; 0 for a fitting number. What the rate lets pass within a second may
    /// always.
    #[serde(default)]
    #[schemars(range(max = 34_000_000))]
    pub max_burst_kbps: u32,
}

/// Whether a DSCP is one that Neutron takes: the even ones up to 56, but for a few.
pub fn is_dscp(mark: i64) -> bool {
    (0..=56).contains(&mark) && mark % 2 == 0 && ![2, 4, 6, 42, 44, 50, 52, 54].contains(&mark)
}

#[cfg(test)]
mod tests {
    use super::super::EVERY_PROJECT;
    use super::*;

    #[test]
    fn a_policy_is_for_its_owner_and_whom_it_is_shared_with() {
        let share = |project: &str| Share { id: None, project: project.to_owned() };
        let mut policy =
            QosPolicySpec { project: Some("a".into()), shared_with: vec![share("b")], ..Default::default() };
        assert!(policy.is_for("a") && policy.is_for("b") && !policy.is_for("c"));
        policy.shared_with.push(share(EVERY_PROJECT));
        assert!(policy.is_for("c"));
    }

    #[test]
    fn marks_are_those_that_neutron_takes() {
        let all: Vec<i64> = (-1..70).filter(|mark| is_dscp(*mark)).collect();
        assert_eq!((all.len(), all[0], all[1], all.last()), (21, 0, 8, Some(&56)));
    }
}
