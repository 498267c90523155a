//! Keys by which users get into their machines; a part of [`crate::compute`].

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A public SSH key that guests get from the metadata service.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "compute.yunfan.io",
    version = "v1",
    kind = "KeyPair",
    plural = "keypairs",
    namespaced,
    doc = "A public SSH key that guests get from the metadata service.",
    printcolumn = r#"{"name":"Fingerprint","type":"string","jsonPath":".spec.fingerprint"}"#,
    printcolumn = r#"{"name":"User","type":"string","jsonPath":".spec.user"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct KeyPairSpec {
    /// Free name that people read; unique for a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Key in OpenSSH's one-line format.
    pub public_key: String,
    /// MD5 fingerprint, sixteen pairs of hexadecimal digits with colons between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// `metadata.name` of the User whose key it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}
