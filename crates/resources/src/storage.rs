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
    selectable = ".spec.nodeName",
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
    /// `metadata.name` of the Volume, in the same namespace, that it begins as a copy of; `NAMESPACE/NAME` of one that goes over to this
    /// namespace ([`MOVES_TO`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_volume: Option<String>,
    /// Immutable id of the snapshot or the volume that it is a copy of, which may be gone by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// Whether a machine can boot from it; taken to be so for a copy of an image when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootable: Option<bool>,
    /// Whether machines and Pods only read it; it can be changed while none has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// The extra spec of its type that no node's driver meets, so that none takes it; written by the API server when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmet: Option<String>,
    /// Free key-value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Node that its data lies on; written once by the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

/// Annotation of a Volume that goes over to another namespace, whose name it is: a Volume there may begin as a copy of it
/// (`sourceVolume: NAMESPACE/NAME`), with the id that it had; then it goes itself.
pub const MOVES_TO: &str = "storage.yunfan.io/moves-to";
/// Annotation of such a Volume: the id that it had, for when it stays after all.
pub const MOVED_ID: &str = "storage.yunfan.io/moved-id";
/// Annotation of such a Volume: since when it goes (RFC 3339).
pub const MOVED_AT: &str = "storage.yunfan.io/moved-at";

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
    selectable = ".spec.nodeName",
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

/// The availability zone that all volumes are in, and the key of a type's extra specs that names zones (Cinder, "Extra specs").
const ZONE: &str = "nova";
const ZONES: &str = "availability_zones";

/// What the one driver of volumes says of itself, by the names of Cinder's capabilities. What a type demands is compared with it.
pub const CAPABILITIES: [(&str, &str); 5] = [
    ("volume_backend_name", "local"),
    ("vendor_name", "Yunfan"),
    ("storage_protocol", "local"),
    ("driver_version", "1.0"),
    ("multiattach", "False"),
];

/// A sort of volumes that people choose from.
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
    /// What volumes of the type demand of the driver, as Cinder's extra specs: capabilities by name. Keys with another scope than
    /// `capabilities:` demand nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_specs: BTreeMap<String, String>,
    /// `metadata.name` of the VolumeQos that says how fast machines may use volumes of the type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<String>,
    /// Whether only the projects in `projects` are shown it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub private: bool,
    /// Ids of the projects that are shown a private type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub projects: Vec<String>,
    /// Ids of the projects whose volumes are of the type where they name none through the OpenStack door.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub default_of: Vec<String>,
}

/// How fast machines may use volumes of a type, as Cinder's QoS specs say it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "storage.yunfan.io",
    version = "v1",
    kind = "VolumeQos",
    plural = "volumeqoses",
    doc = "How fast machines may use volumes of a type.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Consumer","type":"string","jsonPath":".spec.consumer"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeQosSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read; unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Who acts on it. Types can only have one that machines act on.
    #[serde(default)]
    pub consumer: QosConsumer,
    /// Its keys: those of [`IoLimits`] in Cinder's spelling (`read_iops_sec`). Types can't have one with other keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub specs: BTreeMap<String, String>,
}

/// Who acts on a [`VolumeQos`], in Cinder's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QosConsumer {
    /// What a volume is attached to.
    FrontEnd,
    /// What keeps the volume: here nothing that could.
    #[default]
    BackEnd,
    /// Both.
    Both,
}

/// Most that a machine reads from and writes to one volume; 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IoLimits {
    /// Bytes a second, read and written.
    pub total_bytes_sec: u32,
    /// Bytes a second, read.
    pub read_bytes_sec: u32,
    /// Bytes a second, written.
    pub write_bytes_sec: u32,
    /// Requests a second, reading and writing.
    pub total_iops_sec: u32,
    /// Requests a second that read.
    pub read_iops_sec: u32,
    /// Requests a second that write.
    pub write_iops_sec: u32,
}

impl VolumeQosSpec {
    /// The limits that it sets to machines.
    ///
    /// # Errors
    /// Says what of it nobody acts on.
    pub fn limits(&self) -> Result<IoLimits, String> {
        if self.consumer == QosConsumer::BackEnd {
            return Err("its consumer is the back-end, which sets no limits: it must be front-end".to_owned());
        }
        let mut limits = IoLimits::default();
        for (key, value) in &self.specs {
            let place = match key.as_str() {
                "total_bytes_sec" => &mut limits.total_bytes_sec,
                "read_bytes_sec" => &mut limits.read_bytes_sec,
                "write_bytes_sec" => &mut limits.write_bytes_sec,
                "total_iops_sec" => &mut limits.total_iops_sec,
                "read_iops_sec" => &mut limits.read_iops_sec,
                "write_iops_sec" => &mut limits.write_iops_sec,
                _ => return Err(format!("nobody acts on its key {key}")),
            };
            *place = value.parse().map_err(|_| format!("its key {key} is no number up to {}", u32::MAX))?;
        }
        let both = |total: u32, one: u32, other: u32| total > 0 && (one > 0 || other > 0);
        if both(limits.total_bytes_sec, limits.read_bytes_sec, limits.write_bytes_sec)
            || both(limits.total_iops_sec, limits.read_iops_sec, limits.write_iops_sec)
        {
            return Err("a total goes with no limit of reading or writing alone".to_owned());
        }
        Ok(limits)
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The first demand among extra specs that the driver does not meet: its key. They are read as Cinder's filter of capabilities reads
/// them: a value, or one behind `<is>`, `<in>`, `<or>` or `s==`.
pub fn unmet<'a>(specs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<&'a str> {
    let mut demands = specs.into_iter().filter_map(|(key, wanted)| match key.split_once(':') {
        None => Some((key, key, wanted)),
        Some(("capabilities", name)) => Some((key, name, wanted)),
        // Not of the driver, but of where its volumes are.
        Some(("RESKEY", "availability_zones")) => Some((key, ZONES, wanted)),
        Some(_) => None,
    });
    demands.find(|(_, name, wanted)| !is_met(name, wanted)).map(|(key, ..)| key)
}

fn is_met(name: &str, wanted: &str) -> bool {
    if name == ZONES {
        return wanted.split(',').any(|zone| zone.trim() == ZONE);
    }
    let Some((_, own)) = CAPABILITIES.iter().find(|(known, _)| *known == name) else { return false };
    let wanted = wanted.trim();
    let behind = |word: &str| wanted.strip_prefix(word).map(str::trim);
    if let Some(flag) = behind("<is>") {
        return flag.eq_ignore_ascii_case(own);
    }
    if let Some(part) = behind("<in>") {
        return own.contains(part);
    }
    if let Some(any) = behind("<or>") {
        return any.split("<or>").any(|one| one.trim() == *own);
    }
    behind("s==").unwrap_or(wanted) == *own
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

#[cfg(test)]
mod tests {
    use super::{IoLimits, QosConsumer, VolumeQosSpec, unmet};

    #[test]
    fn a_qos_spec_is_numbers_that_somebody_acts_on() {
        let of = |consumer, specs: &[(&str, &str)]| {
            let specs = specs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            VolumeQosSpec { consumer, specs, ..VolumeQosSpec::default() }.limits()
        };
        let fine = of(QosConsumer::Both, &[("read_iops_sec", "100"), ("total_bytes_sec", "5")]);
        assert_eq!(fine, Ok(IoLimits { read_iops_sec: 100, total_bytes_sec: 5, ..IoLimits::default() }));
        for (consumer, key, value) in [
            (QosConsumer::BackEnd, "read_iops_sec", "1"),
            (QosConsumer::FrontEnd, "iops_bytes", "1"),
            (QosConsumer::FrontEnd, "read_iops_sec", "many"),
        ] {
            assert!(of(consumer, &[(key, value)]).is_err(), "{key}={value}");
        }
        assert!(of(QosConsumer::FrontEnd, &[("total_iops_sec", "1"), ("read_iops_sec", "1")]).is_err());
    }

    #[test]
    fn a_type_demands_what_the_driver_has() {
        for met in [
            ("volume_backend_name", "local"),
            ("capabilities:vendor_name", "s== Yunfan"),
            ("storage_protocol", "<or> iSCSI <or> local"),
            ("vendor_name", "<in> Yun"),
            ("multiattach", "<is> false"),
            ("lvm:mirrors", "2"),
        ] {
            assert_eq!(unmet([met]), None, "{met:?}");
        }
        for wrong in
            [("volume_backend_name", "ceph"), ("multiattach", "<is> True"), ("capabilities:colour", "red")]
        {
            assert_eq!(unmet([("vendor_name", "Yunfan"), wrong]), Some(wrong.0));
        }
    }
}
