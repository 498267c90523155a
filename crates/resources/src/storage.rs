//! `storage.yunfan.io/v1`: disks of virtual machines that have a life of their own.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::{VirtualMachine, VolumeAttachment};

/// Most volumes of one virtual machine beside the one that it boots from.
pub const MAX_VOLUMES: usize = 8;

/// A disk that can be attached to one virtual machine after another. Its data lies on one node, which the scheduler chooses; a
/// machine that uses it runs there.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "storage.yunfan.io",
    version = "v1",
    kind = "Volume",
    namespaced,
    doc = "A disk that can be attached to one virtual machine after another.",
    status = "VolumeStatus",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Size","type":"integer","jsonPath":".spec.sizeGib","description":"GiB"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Machine","type":"string","jsonPath":".status.attachments[0].machine"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Size, GiB, at least 1. It can be raised, never lowered.
    #[schemars(range(min = 1, max = 65536))]
    pub size_gib: u32,
    /// `metadata.name` of the VolumeType.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// `metadata.name` of the Image, in the same namespace, that it begins as a copy of; empty when it is not given. Of a copy of a
    /// snapshot or a volume it is what that one was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// `metadata.name` of the VolumeSnapshot, in the same namespace, that it begins as a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// `metadata.name` of the Volume, in the same namespace, that it begins as a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_volume: Option<String>,
    /// Immutable id of the snapshot or the volume that it is a copy of, which may be gone by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// Whether a machine can boot from it; taken to be so for a copy of an image when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootable: Option<bool>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Node that its data lies on; written once by the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

/// What became of a [`Volume`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: VolumePhase,
    /// `Scheduled` (by the scheduler, with the per-filter counts when it is False).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The size that the data has on the node, GiB; less than `spec.sizeGib` while it is being extended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Machines that have it now: none or one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// Why the phase is `Error`, or what is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Where a [`Volume`] stands. Cinder's words are in brackets; those for what is under way follow from the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumePhase {
    /// Has no data on a node yet (creating).
    #[default]
    Creating,
    /// Can be attached (available).
    Available,
    /// A machine has it (in-use).
    InUse,
    /// Could not be made or extended; `message` says why (error).
    Error,
}

/// A machine that has a [`Volume`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The VirtualMachine's `metadata.name`.
    pub machine: String,
    /// The VirtualMachine's uid.
    pub uid: String,
    /// Where the guest is likely to see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_at: Option<Time>,
}

/// What a [`Volume`] held at one moment. It lies on the Volume's node, shares with it the image that both are made from, and with
/// file systems that can share blocks those, too; it does not need the Volume any more once it is there.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "storage.yunfan.io",
    version = "v1",
    kind = "VolumeSnapshot",
    plural = "volumesnapshots",
    namespaced,
    doc = "What a Volume held at one moment.",
    status = "VolumeSnapshotStatus",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Volume","type":"string","jsonPath":".spec.volume"}"#,
    printcolumn = r#"{"name":"Size","type":"integer","jsonPath":".spec.sizeGib","description":"GiB"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `metadata.name` of the Volume, in the same namespace.
    pub volume: String,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The Volume's id; written by the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<String>,
    /// The Volume's size when it was taken, GiB; written by the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u32>,
    /// Node that the Volume lies on; written by the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Image that the Volume was made from; written by the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The Volume's type; written by the API server.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// Whether a machine could boot from the Volume; written by the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootable: Option<bool>,
}

/// What became of a [`VolumeSnapshot`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSnapshotStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: SnapshotPhase,
    /// Why the phase is `Error`, or what is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Where a [`VolumeSnapshot`] stands. Cinder's words are in brackets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SnapshotPhase {
    /// Has no data on the node yet (creating).
    #[default]
    Creating,
    /// Volumes can be made from it (available).
    Available,
    /// Could not be taken; `message` says why (error).
    Error,
}

/// A sort of volumes that people choose from. There is one driver, so it is a name and no more.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "storage.yunfan.io",
    version = "v1",
    kind = "VolumeType",
    plural = "volumetypes",
    doc = "A sort of volumes that people choose from.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeTypeSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read; unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl Volume {
    /// Whether a machine can boot from it.
    pub fn is_bootable(&self) -> bool {
        self.spec.bootable.unwrap_or(self.spec.image.is_some())
    }

    /// The machine's wish for this volume, if it has one. Both must be of the same namespace.
    pub fn wish_of<'a>(&self, machine: &'a VirtualMachine) -> Option<&'a VolumeAttachment> {
        let same = machine.metadata.namespace == self.metadata.namespace;
        let name = self.metadata.name.as_deref().unwrap_or_default();
        machine.spec.volumes.iter().find(|wish| same && wish.volume == name)
    }
}
