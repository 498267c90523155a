//! `image.yunfan.io/v1`: disk images of virtual machines. (OCI images stay OCI: they live in registries
//! and in each node's image store, and are no objects.)

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
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
    /// What the bytes are wrapped in.
    #[serde(default, skip_serializing_if = "ContainerFormat::is_bare")]
    pub container_format: ContainerFormat,
    /// Who may read it beside its own project.
    #[serde(default, skip_serializing_if = "Visibility::is_private")]
    pub visibility: Visibility,
    /// Ids of the projects that it is shared with; they count where the visibility is `shared`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub members: Vec<String>,
    /// Whether lists leave it out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hidden: bool,
    /// Whether its bytes are kept from everybody for now.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deactivated: bool,
    /// `metadata.name` of the Volume, in the same namespace, whose bytes it gets; empty for one whose bytes are uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_volume: Option<String>,
    /// `metadata.name` of the VolumeSnapshot, in the same namespace, whose bytes it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_snapshot: Option<String>,
    /// `metadata.name` of the VirtualMachine, in the same namespace, whose root disk's bytes it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_machine: Option<String>,
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

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Formats of disk images, by Glance's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    #[default]
    Qcow2,
    /// VMware's sparse extents, with the descriptor inside.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Virtual PC's, fixed or dynamic.
    Vhd,
    /// Hyper-V's.
    Vhdx,
    /// A CD's or DVD's file system (ISO 9660), used as a disk.
    Iso,
    /// A machine image of Amazon's: a disk's bytes as they are.
    Ami,
    /// A kernel, which is kept and not booted from.
    Aki,
    /// A kernel's first file system, which is kept and not booted from.
    Ari,
}

impl DiskFormat {
    /// Every format.
    pub const ALL: [DiskFormat; 10] = [
        DiskFormat::Raw,
        DiskFormat::Qcow2,
        DiskFormat::Vmdk,
        DiskFormat::Vdi,
        DiskFormat::Vhd,
        DiskFormat::Vhdx,
        DiskFormat::Iso,
        DiskFormat::Ami,
        DiskFormat::Aki,
        DiskFormat::Ari,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Vmdk => "vmdk",
            DiskFormat::Vdi => "vdi",
            DiskFormat::Vhd => "vhd",
            DiskFormat::Vhdx => "vhdx",
            DiskFormat::Iso => "iso",
            DiskFormat::Ami => "ami",
            DiskFormat::Aki => "aki",
            DiskFormat::Ari => "ari",
        }
    }

    /// Whether a machine can boot from such an image, and a volume begin as its copy.
    pub fn is_disk(self) -> bool {
        !matches!(self, DiskFormat::Aki | DiskFormat::Ari)
    }
}

/// What an image's bytes are wrapped in: nothing, or what goes with the disk format of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContainerFormat {
    /// Nothing.
    #[default]
    Bare,
    /// See [`DiskFormat::Ami`].
    Ami,
    /// See [`DiskFormat::Aki`].
    Aki,
    /// See [`DiskFormat::Ari`].
    Ari,
}

impl ContainerFormat {
    /// Every one.
    pub const ALL: [ContainerFormat; 4] =
        [ContainerFormat::Bare, ContainerFormat::Ami, ContainerFormat::Aki, ContainerFormat::Ari];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ContainerFormat::Bare => "bare",
            ContainerFormat::Ami => "ami",
            ContainerFormat::Aki => "aki",
            ContainerFormat::Ari => "ari",
        }
    }

    fn is_bare(&self) -> bool {
        *self == ContainerFormat::Bare
    }
}

/// Who may read an [`Image`] beside its own project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Nobody.
    #[default]
    Private,
    /// The projects that it is shared with.
    Shared,
    /// Everybody who knows its id; it is in nobody's lists.
    Community,
    /// Everybody. Only who may write images of all projects makes one so.
    Public,
}

impl Visibility {
    /// Every one.
    pub const ALL: [Visibility; 4] =
        [Visibility::Private, Visibility::Shared, Visibility::Community, Visibility::Public];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Visibility::Private => "private",
            Visibility::Shared => "shared",
            Visibility::Community => "community",
            Visibility::Public => "public",
        }
    }

    fn is_private(&self) -> bool {
        *self == Visibility::Private
    }
}

/// Annotation of an Image that is a backup of a machine: [`Backup`], JSON. What has it makes older ones go, so the API server takes it
/// of those alone who may delete the images of the namespace.
pub const BACKUP: &str = "compute.yunfan.io/backup";

/// Annotation of an Image that holds a shelved machine's root disk: that machine's uid. It goes when the machine runs again, or is gone,
/// so the API server takes it of those alone who may delete the images of the namespace.
pub const SHELVED: &str = "compute.yunfan.io/shelved";

/// What an Image is a backup of, and how many of them stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The machine's id.
    pub machine: String,
    /// A word that tells backups of one machine apart: `daily`, `weekly`. Those of one word replace one another.
    pub sort: String,
    /// How many of that word stay once this one is there, the newest.
    pub rotation: u32,
    /// When it was asked for, microseconds since 1970: of two that were made in one second it says which is the newer one.
    #[serde(default)]
    pub at: i64,
}

impl Image {
    /// Says of an Image that is to be made what it is a backup of.
    pub fn mark_backup(&mut self, backup: &Backup) {
        // Its fields are text and a number.
        if let Ok(text) = serde_json::to_string(backup) {
            self.metadata.annotations.get_or_insert_default().insert(BACKUP.to_owned(), text);
        }
    }

    /// Says of an Image that is to be made that it is to hold this machine's root disk while that is shelved.
    pub fn mark_shelved(&mut self, machine_uid: &str) {
        self.metadata.annotations.get_or_insert_default().insert(SHELVED.to_owned(), machine_uid.to_owned());
    }

    /// The uid of the machine whose root disk it holds, where it is for a shelved one.
    pub fn shelved(&self) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(SHELVED).map(String::as_str)
    }

    /// What it is a backup of, where it is one.
    pub fn backup(&self) -> Option<Backup> {
        serde_json::from_str(self.metadata.annotations.as_ref()?.get(BACKUP)?).ok()
    }

    /// Whether it is a backup of the same machine and by the same word; those of another namespace are none of it.
    pub fn is_backup_beside(&self, other: &Backup) -> bool {
        self.backup().is_some_and(|own| own.machine == other.machine && own.sort == other.sort)
    }

    /// Under what name nodes keep its bytes: its uid, which is nobody's choice and no other image's ever.
    pub fn kept_as(&self) -> String {
        self.metadata.uid.clone().unwrap_or_default()
    }

    /// Whether it is still to be made of this Volume of its own namespace.
    pub fn is_being_made_of(&self, volume: &str) -> bool {
        let phase = self.status.as_ref().map(|status| status.phase).unwrap_or_default();
        self.spec.source_volume.as_deref() == Some(volume)
            && matches!(phase, ImagePhase::Queued | ImagePhase::Saving)
    }

    /// Whether it is still to be made of the root disk of this machine of its own namespace.
    pub fn is_being_made_of_machine(&self, machine: &str) -> bool {
        let phase = self.status.as_ref().map(|status| status.phase).unwrap_or_default();
        self.spec.source_machine.as_deref() == Some(machine)
            && self.metadata.deletion_timestamp.is_none()
            && matches!(phase, ImagePhase::Queued | ImagePhase::Saving)
    }

    /// Whether its bytes are made by a node of what is there, and not uploaded.
    pub fn is_made(&self) -> bool {
        let spec = &self.spec;
        spec.source_volume.is_some() || spec.source_snapshot.is_some() || spec.source_machine.is_some()
    }

    /// Whether others than its own project may read it.
    pub fn is_granted(&self) -> bool {
        match self.spec.visibility {
            Visibility::Private => false,
            Visibility::Shared => !self.spec.members.is_empty(),
            Visibility::Community | Visibility::Public => true,
        }
    }
}

/// Annotation on a Role and its binding that let others than its own project read an image: the image's generation that they are for.
pub const GRANTED: &str = "image.yunfan.io/generation";

/// The name of the Role, and of its binding, that let others than its own project read the image of this name.
pub fn grant_name(image: &str) -> String {
    format!("image:{image}")
}

/// An image as machines and volumes of `namespace` name it: by its name alone where it is in the same namespace, else with its own
/// namespace in front, `NAMESPACE/NAME`.
pub fn reference(image: &Image, namespace: &str) -> String {
    let name = image.metadata.name.as_deref().unwrap_or_default();
    match image.metadata.namespace.as_deref() {
        Some(own) if own != namespace => format!("{own}/{name}"),
        _ => name.to_owned(),
    }
}

/// Namespace and name of the image that something in `namespace` names so. See [`reference`].
pub fn referred<'a>(namespace: &'a str, reference: &'a str) -> (&'a str, &'a str) {
    reference.split_once('/').unwrap_or((namespace, reference))
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
    /// Bytes that it takes on a node: those, and the disk that machines read where that is another file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
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
    /// What the projects that it is shared with said to that; who has said nothing is not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberAnswer>,
}

/// What a project said to an image that is shared with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberAnswer {
    /// The project's id.
    pub project: String,
    /// Whether the image is to be in its lists; it may be used in any case.
    pub accepted: bool,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// Where an [`Image`] stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePhase {
    /// Has no bytes yet (Glance: queued).
    #[default]
    Queued,
    /// Bytes are being written (Glance: saving).
    Saving,
    /// Bytes are here, and wait to be imported (Glance: uploading).
    Staged,
    /// Can be used (Glance: active).
    Active,
    /// The bytes were refused or lost (Glance: killed).
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_api() {
        for format in DiskFormat::ALL {
            assert_eq!(serde_json::to_value(format).unwrap(), format.name());
        }
        for one in Visibility::ALL {
            assert_eq!(serde_json::to_value(one).unwrap(), one.name());
        }
        for one in ContainerFormat::ALL {
            assert_eq!(serde_json::to_value(one).unwrap(), one.name());
        }
    }

    #[test]
    fn an_image_elsewhere_is_named_with_its_namespace() {
        let mut image = Image::new("os", ImageSpec::default());
        image.metadata.namespace = Some("shop".into());
        assert_eq!((reference(&image, "shop"), reference(&image, "demo")), ("os".into(), "shop/os".into()));
        assert_eq!(referred("demo", "os"), ("demo", "os"));
        assert_eq!(referred("demo", "shop/os"), ("shop", "os"));
    }
}
