//! `storage.yunfan.io/v1`: Volumes that belong together (Cinder's generic volume groups).

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Label of a Volume: the id of the [`VolumeGroup`] that it is in.
pub const GROUP_LABEL: &str = "storage.yunfan.io/group";
/// Label of a VolumeSnapshot: the id of the [`VolumeGroupSnapshot`] that it was taken with.
pub const GROUP_SNAPSHOT_LABEL: &str = "storage.yunfan.io/group-snapshot";

/// What groups of volumes are like.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "storage.yunfan.io",
    version = "v1",
    kind = "VolumeGroupType",
    plural = "volumegrouptypes",
    doc = "What groups of volumes are like.",
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupTypeSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether only administrators are shown it.
    #[serde(default)]
    pub private: bool,
    /// Free key-value pairs. A group whose type has `consistent_group_snapshot_enabled` = `<is> True` is refused a snapshot: volumes are
    /// copied one after the other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub group_specs: BTreeMap<String, String>,
}

/// Volumes of a namespace that are handled together: those with its id in their label [`GROUP_LABEL`].
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "storage.yunfan.io",
    version = "v1",
    kind = "VolumeGroup",
    plural = "volumegroups",
    namespaced,
    doc = "Volumes of a namespace that are handled together.",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.groupType"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Id of the VolumeGroupType.
    pub group_type: String,
    /// Ids of the VolumeTypes that its volumes may have.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub volume_types: Vec<String>,
    /// Id of the VolumeGroupSnapshot that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_snapshot: Option<String>,
    /// Id of the VolumeGroup that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_group: Option<String>,
}

/// Snapshots of all volumes of a group: those with its id in their label [`GROUP_SNAPSHOT_LABEL`].
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "storage.yunfan.io",
    version = "v1",
    kind = "VolumeGroupSnapshot",
    plural = "volumegroupsnapshots",
    namespaced,
    doc = "Snapshots of all volumes of a group.",
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeGroupSnapshotSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Id of the VolumeGroup.
    pub group: String,
    /// Id of that one's VolumeGroupType.
    pub group_type: String,
}
