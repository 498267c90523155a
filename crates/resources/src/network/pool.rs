//! Where Subnets get their ranges from.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Share;

/// Ranges that Subnets get theirs from, so that no two of a project overlap.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "network.yunfan.io",
    version = "v1",
    kind = "SubnetPool",
    plural = "subnetpools",
    namespaced,
    doc = "Ranges that Subnets get theirs from, so that no two of a project overlap.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Prefixes","type":"string","jsonPath":".spec.prefixes"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SubnetPoolSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The ranges, e.g. `10.8.0.0/16` (IPv4) or `2001:db8::/48` (IPv6, without any of IPv4 beside), apart from one another. None is taken away while Subnets are of the pool.
    #[schemars(length(min = 1, max = 64))]
    pub prefixes: Vec<String>,
    /// Length of the prefix of a Subnet that asks for none; the shortest that is allowed when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 128))]
    pub default_length: Option<u8>,
    /// The shortest prefix of a Subnet, which is the largest Subnet; 8 when it is not given, of IPv6 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 128))]
    pub min_length: Option<u8>,
    /// The longest prefix of a Subnet, which is the smallest Subnet; 32 when it is not given, of IPv6 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 128))]
    pub max_length: Option<u8>,
    /// How many addresses, of IPv6 how many /64s, all Subnets of the pool in one namespace have at most; any number when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u32>,
    /// `metadata.name` of the AddressScope that it is in, in the same namespace; one that is shared with the project as `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_scope: Option<String>,
    /// Whether Subnets are of it that ask for the default pool; of each version one is. An administrator says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_default: bool,
    /// Which other projects may have Subnets of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub shared_with: Vec<Share>,
    /// Free words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub tags: Vec<String>,
}

impl SubnetPoolSpec {
    /// Whether its prefixes are of IPv6.
    pub fn is_of_ipv6(&self) -> bool {
        self.prefixes.first().is_some_and(|prefix| prefix.contains(':'))
    }

    /// The shortest and the longest prefix of its Subnets.
    pub fn lengths(&self) -> (u8, u8) {
        let (shortest, longest) = if self.is_of_ipv6() { (64, 128) } else { (8, 32) };
        (self.min_length.unwrap_or(shortest), self.max_length.unwrap_or(longest))
    }

    /// The prefix's length of a Subnet that asks for none.
    pub fn usual_length(&self) -> u8 {
        self.default_length.unwrap_or(self.lengths().0)
    }
}
