//! What operators and tenants group: machines that are placed with regard to one another, and nodes.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the machines of a group lie to one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GroupPolicy {
    /// On one node.
    #[default]
    Affinity,
    /// Each on another node.
    AntiAffinity,
    /// On one node, if that is possible.
    SoftAffinity,
    /// Each on another node, if that is possible.
    SoftAntiAffinity,
}

/// Virtual machines that are placed with regard to one another.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "compute.yunfan.io",
    version = "v1",
    kind = "ServerGroup",
    plural = "servergroups",
    namespaced,
    doc = "Virtual machines that are placed with regard to one another.",
    printcolumn = r#"{"name":"Policy","type":"string","jsonPath":".spec.policy"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ServerGroupSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// How its machines lie to one another.
    #[serde(default)]
    pub policy: GroupPolicy,
    /// Machines of an anti-affinity group that may share a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_per_node: Option<u32>,
    /// Id of the user who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// Nodes that an operator groups. Its zone is written to the nodes as the label `topology.kubernetes.io/zone`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "compute.yunfan.io",
    version = "v1",
    kind = "HostAggregate",
    plural = "hostaggregates",
    doc = "Nodes that an operator groups.",
    printcolumn = r#"{"name":"Zone","type":"string","jsonPath":".spec.metadata.availability_zone"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct HostAggregateSpec {
    /// Number that Nova's clients know it by.
    pub number: i64,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free key-value pairs; `availability_zone` is the zone of its nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Names of its Nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10000))]
    pub nodes: Vec<String>,
    /// When it was changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Time>,
}
