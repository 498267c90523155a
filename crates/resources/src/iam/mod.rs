//! `iam.yunfan.io/v1`: who there is. Role assignments are RBAC bindings, but for those that RBAC has no place for ([`RoleGrant`]).

mod access_rule;
mod catalog;
mod delegated;

pub use access_rule::AccessRule;
pub use catalog::{
    CatalogEndpoint, CatalogEndpointSpec, CatalogService, CatalogServiceSpec, EndpointFilters, EndpointGroup,
    EndpointGroupSpec, Interface, Region, RegionSpec,
};
pub use delegated::{ApplicationCredential, ApplicationCredentialSpec, Trust, TrustSpec};

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A name space for users and projects, as in Keystone. A new cloud has one, named `default`.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "Domain",
    doc = "A name space for users and projects.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Enabled","type":"boolean","jsonPath":".spec.enabled"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct DomainSpec {
    /// Immutable id; `default` for the first domain, else the object's uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Users of a disabled domain can't sign in, and its projects give no tokens.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Refuses changes and deletion until it is switched off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub immutable: bool,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// What else clients wrote down about it: each value as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// A tenant: an OpenStack project, and the owner of a Kubernetes namespace of the same name.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "Project",
    doc = "A tenant: an OpenStack project, and the owner of a Kubernetes namespace.",
    status = "ProjectStatus",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".status.namespace"}"#,
    printcolumn = r#"{"name":"Enabled","type":"boolean","jsonPath":".spec.enabled"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ProjectSpec {
    /// Immutable id of 32 hexadecimal digits; filled in from the uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `metadata.name` of the Domain; `default` when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// `metadata.name` of the Project that this one is below; its domain when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// A disabled project issues no tokens.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Refuses changes and deletion through the OpenStack door until it is switched off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub immutable: bool,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Ids of the endpoints that its catalog shows, beside those of its groups; where it names none of either, its catalog shows all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(min = 1, max = 255)))]
    pub endpoints: Vec<String>,
    /// Ids of EndpointGroups whose endpoints its catalog shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(min = 1, max = 255)))]
    pub endpoint_groups: Vec<String>,
    /// What else clients wrote down about it: each value as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// What became of a [`Project`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectStatus {
    /// The home namespace: named like the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A person or a program that signs in with a password. Its name is `metadata.name`, and so is the
/// user name in RBAC subjects. The password hash is in a Secret (`names::password_secret`).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "User",
    doc = "A person or a program that signs in with a password.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Enabled","type":"boolean","jsonPath":".spec.enabled"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct UserSpec {
    /// Immutable id of 32 hexadecimal digits; filled in from the uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// E-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// `metadata.name` of the Domain; `default` when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The Project (`metadata.name`) that an unscoped sign-in gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_project: Option<String>,
    /// A disabled user can't sign in, and tokens issued before stop working.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Keystone's options: each value as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// What else clients wrote down about the user: each value as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// Users who get roles together. Its `metadata.name` is the group's name in RBAC subjects.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "Group",
    doc = "Users who get roles together.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct GroupSpec {
    /// Immutable id of 32 hexadecimal digits; filled in from the uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `metadata.name` of the Domain; `default` when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// `metadata.name` of the Users in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// What else clients wrote down about it: each value as JSON.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
}

/// A role that RBAC has no binding for: on a domain, or one that all projects below a domain or a project inherit. The loop of
/// projects makes a RoleBinding of each inherited one in every namespace that it reaches.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "RoleGrant",
    doc = "A role on a domain, or one that projects below inherit.",
    status = "RoleGrantStatus",
    printcolumn = r#"{"name":"Role","type":"string","jsonPath":".spec.clusterRole"}"#,
    printcolumn = r#"{"name":"User","type":"string","jsonPath":".spec.user"}"#,
    printcolumn = r#"{"name":"Group","type":"string","jsonPath":".spec.group"}"#,
    printcolumn = r#"{"name":"Domain","type":"string","jsonPath":".spec.domain"}"#,
    printcolumn = r#"{"name":"Project","type":"string","jsonPath":".spec.project"}"#,
    printcolumn = r#"{"name":"Inherited","type":"boolean","jsonPath":".spec.inherited"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.user) != has(self.group)", "message": "exactly one of user and group has the role"},
    {"rule": "has(self.domain) != has(self.project)", "message": "the role is on exactly one of domain and project"},
]))]
pub struct RoleGrantSpec {
    /// The ClusterRole that is bound in projects.
    pub cluster_role: String,
    /// `metadata.name` of the User who has it; else a group does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `metadata.name` of the Group that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `metadata.name` of the Domain that it is on; else it is on a project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// `metadata.name` of the Project that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Whether it is for all projects below, and not for what it is on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherited: bool,
}

/// What became of a [`RoleGrant`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoleGrantStatus {
    /// Whether every project that there was at that time has its binding.
    #[serde(default)]
    pub bound: bool,
}

fn yes() -> bool {
    true
}
