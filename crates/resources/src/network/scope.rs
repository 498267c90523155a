//! Among which networks addresses are the same everywhere.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IpVersion, Share};

/// SubnetPools whose addresses are told apart: no two have the same. Routers lead between Networks of one scope, and not from one scope into another.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "network.yunfan.io",
    version = "v1",
    kind = "AddressScope",
    plural = "addressscopes",
    namespaced,
    doc = "SubnetPools whose addresses are told apart, and between whose Networks routers lead.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".spec.ipVersion"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AddressScopeSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Of which version its pools are. It can't be changed.
    #[serde(default)]
    pub ip_version: IpVersion,
    /// Which other projects may have SubnetPools in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub shared_with: Vec<Share>,
}
