//! `image.yunfan.io/v1`: disk images of virtual machines. (OCI images stay OCI: they live in registries
//! and in each node's image store, and are no objects.)

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A disk image that virtual machines start from.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "image.yunfan.io",
    version = "v1",
    kind = "Image",
    namespaced,
    doc = "A disk image that virtual machines start from.",
    status = "ImageStatus",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Format","type":"string","jsonPath":".spec.diskFormat"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Size","type":"integer","jsonPath":".status.sizeBytes"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Immutable id, which a Glance client may choose; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Format of the bytes.
    #[serde(default)]
    pub disk_format: DiskFormat,
    /// Smallest disk that the image fits on, GiB.
    #[serde(default)]
    pub min_disk_gib: u32,
    /// Least memory that the guest needs, MiB.
    #[serde(default)]
    pub min_ram_mib: u32,
    /// Free properties, as Glance's clients set them (`hw_*`, `os_*`, …).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Free words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// A protected image can't be deleted.
    #[serde(default)]
    pub protected: bool,
}

/// Formats of disk images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    #[default]
    Qcow2,
}

/// What became of an [`Image`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: ImagePhase,
    /// Bytes as uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Bytes of the disk that a guest sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_size_bytes: Option<u64>,
    /// SHA-512 of the uploaded bytes, lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<String>,
    /// MD5 of the uploaded bytes, lower-case hexadecimal (Glance's `checksum`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// Names of the Nodes that hold the bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Why the phase is `Failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Where an [`Image`] stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePhase {
    /// Has no bytes yet (Glance: queued).
    #[default]
    Queued,
    /// Bytes are being written (Glance: saving).
    Saving,
    /// Can be used (Glance: active).
    Active,
    /// The bytes were refused or lost (Glance: killed).
    Failed,
}
