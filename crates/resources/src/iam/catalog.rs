//! Services that an operator adds to the catalog beside the cloud's own, and which endpoints single projects see of it.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A part of the catalog: where endpoints are.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "iam.yunfan.io", version = "v1", kind = "Region", doc = "A part of the catalog.")]
#[serde(rename_all = "camelCase")]
pub struct RegionSpec {
    /// Immutable id, which is also its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A region has no name but its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Id of the region that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Attributes of a client's own, each as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// A service in the catalog.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "CatalogService",
    doc = "A service in the catalog.",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.type"}"#,
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CatalogServiceSpec {
    /// Immutable id of 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What clients look for, e.g. `object-store`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether the catalog shows it.
    #[serde(default = "super::yes")]
    pub enabled: bool,
    /// Attributes of a client's own, each as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// Whom an endpoint is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    /// Everybody.
    #[default]
    Public,
    /// Other services.
    Internal,
    /// Operators.
    Admin,
}

/// Where a [`CatalogService`] is.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "CatalogEndpoint",
    doc = "Where a service of the catalog is.",
    printcolumn = r#"{"name":"Interface","type":"string","jsonPath":".spec.interface"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".spec.url"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CatalogEndpointSpec {
    /// Immutable id of 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Id of the service.
    pub service_id: String,
    /// Whom it is for.
    pub interface: Interface,
    /// Where it is.
    pub url: String,
    /// Id of the region that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether the catalog shows it.
    #[serde(default = "super::yes")]
    pub enabled: bool,
    /// Attributes of a client's own, each as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// Endpoints that some projects see: those that have all that it names. Which projects these are, they say themselves
/// ([`super::ProjectSpec::endpoint_groups`]).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "EndpointGroup",
    doc = "Endpoints of the catalog that some projects see.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Interface","type":"string","jsonPath":".spec.filters.interface"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct EndpointGroupSpec {
    /// Immutable id of 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What its endpoints have.
    #[serde(default)]
    pub filters: EndpointFilters,
}

/// What the endpoints of an [`EndpointGroup`] have; all endpoints have what is not given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointFilters {
    /// Id of their service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_id: Option<String>,
    /// Whom they are for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Interface>,
    /// Id of their region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}
