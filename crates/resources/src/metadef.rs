//! Kinds of `image.yunfan.io/v1` beside images: what the properties of images, volumes, flavors and servers mean, for people and dashboards.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Describes properties, objects and tags that images and the like may have: Glance's metadata definitions.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "image.yunfan.io",
    version = "v1",
    kind = "MetadefNamespace",
    plural = "metadefnamespaces",
    doc = "Describes properties, objects and tags that images and the like may have.",
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.id"}"#,
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MetadefNamespaceSpec {
    /// The name by which Glance's clients know it, e.g. `OS::Compute::Quota`; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Id of the project that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Whether Glance shows it to other projects than that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
    /// A protected one can't be deleted through Glance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub resource_types: Vec<MetadefResourceType>,
    /// Properties by name, each described by a JSON schema.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "schemas")]
    pub properties: Map<String, Value>,
    /// Properties that belong together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub objects: Vec<MetadefObject>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 80)))]
    pub tags: Vec<String>,
}

/// What a [`MetadefNamespace`] is for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetadefResourceType {
    /// The type's name, as Heat's are: `OS::Glance::Image`.
    pub name: String,
    /// What the properties' names begin with on such a resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Which of a resource's properties are meant, where it has several sorts: `image` of a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties_target: Option<String>,
}

/// Properties of a [`MetadefNamespace`] that belong together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetadefObject {
    /// Its name.
    pub name: String,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Names of the properties that must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub required: Vec<String>,
    /// Properties by name, each described by a JSON schema.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "schemas")]
    pub properties: Map<String, Value>,
}

/// An object with any members.
fn schemas(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
