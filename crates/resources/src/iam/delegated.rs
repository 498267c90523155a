//! What a user lets others do in their name: programs (application credentials) and other users (trusts).
//!
//! Both are written by the OpenStack door for the users whose they are, and by nobody else but the cloud's admins.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AccessRule;

/// A name and a secret by which a program gets tokens of its user for one project. The secret's hash is in a Secret
/// ([`crate::names::app_credential_secret`]).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "ApplicationCredential",
    doc = "A name and a secret by which a program gets tokens of its user for one project.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"User","type":"string","jsonPath":".spec.user"}"#,
    printcolumn = r#"{"name":"Project","type":"string","jsonPath":".spec.project"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationCredentialSpec {
    /// Immutable id of 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Name, unique among its user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `metadata.name` of the User.
    pub user: String,
    /// Id of the User: another of the same name does not come into it.
    pub user_id: String,
    /// `metadata.name` of the Project.
    pub project: String,
    /// Id of the Project.
    pub project_id: String,
    /// Ids of the roles that its tokens have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// When it ends, microseconds since 1970; never when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// Whether its tokens may make and delete credentials and trusts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unrestricted: bool,
    /// The only requests to OpenStack's services that its tokens are good for; for any, also the Kubernetes API, where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub access_rules: Vec<AccessRule>,
}

/// What one user (the trustor) lets another (the trustee) do as them in one project.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "iam.yunfan.io",
    version = "v1",
    kind = "Trust",
    doc = "What one user lets another do as them in one project.",
    printcolumn = r#"{"name":"Trustor","type":"string","jsonPath":".spec.trustor"}"#,
    printcolumn = r#"{"name":"Trustee","type":"string","jsonPath":".spec.trustee"}"#,
    printcolumn = r#"{"name":"Project","type":"string","jsonPath":".spec.project"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TrustSpec {
    /// Immutable id of 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A trust has no name of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// `metadata.name` of the User who trusts.
    pub trustor: String,
    /// Their id.
    pub trustor_id: String,
    /// `metadata.name` of the User who is trusted.
    pub trustee: String,
    /// Their id.
    pub trustee_id: String,
    /// `metadata.name` of the Project.
    pub project: String,
    /// Id of the Project.
    pub project_id: String,
    /// Ids of the roles that the trustee gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Whether the trustee's tokens name the trustor as their user; else they name the trustee, with the same rights. True when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impersonation: Option<bool>,
    /// When it ends, microseconds since 1970; never when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// How many tokens may still be got by it; any number when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_uses: Option<u64>,
}
