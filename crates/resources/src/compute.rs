//! `compute.yunfan.io/v1`: virtual machines and what they are made by.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::groups::{GroupPolicy, HostAggregate, HostAggregateSpec, ServerGroup, ServerGroupSpec};
pub use crate::guest_file::GuestFile;
pub use crate::keypair::{KeyPair, KeyPairSpec};

/// A size of virtual machines.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "compute.yunfan.io",
    version = "v1",
    kind = "Flavor",
    doc = "A size of virtual machines.",
    printcolumn = r#"{"name":"VCPUs","type":"integer","jsonPath":".spec.vcpus"}"#,
    printcolumn = r#"{"name":"Memory","type":"integer","jsonPath":".spec.memoryMib","description":"MiB"}"#,
    printcolumn = r#"{"name":"Disk","type":"integer","jsonPath":".spec.diskGib","description":"GiB"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct FlavorSpec {
    /// Immutable id, which a Nova client may choose (`1`, `m1.tiny`); the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Virtual CPUs, at least 1.
    #[schemars(range(min = 1, max = 512))]
    pub vcpus: u32,
    /// Memory, MiB, at least 1.
    #[schemars(range(min = 1))]
    pub memory_mib: u32,
    /// Root disk, GiB; 0 takes the image's own size.
    #[serde(default)]
    pub disk_gib: u32,
    /// Disk to swap to, MiB. Guests get none: no machine is made with a flavor that asks for one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub swap_mib: u32,
    /// Disk that ends with the machine beside the root disk, GiB. Guests get none: no machine is made with a flavor that asks for one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ephemeral_gib: u32,
    /// Nova's factor of network bandwidth, for people: none of its drivers acts on it any more, nor does anything here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rxtx_factor: Option<f64>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65535))]
    pub description: Option<String>,
    /// Free key-value pairs for people and their tools; nothing here acts on them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_specs: BTreeMap<String, String>,
    /// Whether only the projects in `projects` are shown it.
    #[serde(default)]
    pub private: bool,
    /// Ids of the projects that are shown a private flavor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub projects: Vec<String>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A virtual machine.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "compute.yunfan.io",
    version = "v1",
    kind = "VirtualMachine",
    shortname = "vm",
    namespaced,
    doc = "A virtual machine.",
    status = "VirtualMachineStatus",
    selectable = ".spec.nodeName",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.addresses[0].ip"}"#,
    printcolumn = r#"{"name":"Flavor","type":"string","jsonPath":".spec.flavor"}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read; also the source of the guest's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// `metadata.name` of the Flavor. The size itself is copied into `resources` when the machine is
    /// made, so that a changed or deleted Flavor changes nothing here.
    pub flavor: String,
    /// The size; filled in from the Flavor by admission when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<VmResources>,
    /// `metadata.name` of the Image, in the same namespace; none for a machine that boots from a Volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The Volumes to attach. A Volume is attached to one machine at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9))]
    pub volumes: Vec<VolumeAttachment>,
    /// The networks to join, in the order of the guest's interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachment>,
    /// `metadata.name` of the KeyPair, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_pair: Option<String>,
    /// User data for the guest, base64, at most 65,535 bytes encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65535))]
    pub user_data: Option<String>,
    /// Files that cloud-init writes in the guest when it first starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub files: Vec<GuestFile>,
    /// Whether the guest finds what the metadata service tells on a CD, too, as with Nova's config drive. It is made at each start.
    #[serde(default, skip_serializing_if = "is_false")]
    pub config_drive: bool,
    /// Free key-value pairs that the guest can read from the metadata service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Host name that the guest is told, which may be a fully qualified one; made from the display name when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub hostname: Option<String>,
    /// Free words, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub tags: Vec<String>,
    /// Set where Nova's users may not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<VmLock>,
    /// Whether it should run.
    #[serde(default)]
    pub run_state: RunState,
    /// `metadata.name` of the Image that is made of its root disk while it is shelved, marked with [`crate::image::SHELVED`]. Once that
    /// is there the machine leaves its node; its next root disk begins as a child of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shelved_image: Option<String>,
    /// Raised by one to ask for a new root disk from `image`; done when `status.rebuildGeneration` has the same value.
    #[serde(default)]
    pub rebuild_generation: i64,
    /// The size before a resize that nobody has confirmed or reverted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resized_from: Option<VmSize>,
    /// `metadata.name` of the Image to boot instead of the root disk, which the guest then sees as a second disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue_image: Option<String>,
    /// Whether an administrator said that it is broken. It goes on running.
    #[serde(default)]
    pub marked_error: bool,
    /// The newest actions that were asked for through the OpenStack door, oldest first; what became of them is in
    /// `status.results`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub actions: Vec<VmAction>,
    /// Where it may be placed, beside `nodeSelector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<VmPlacement>,
    /// Raised by one to ask for a reboot; done when `status.rebootGeneration` has the same value.
    #[serde(default)]
    pub reboot_generation: i64,
    /// How the reboot of `rebootGeneration` is done.
    #[serde(default)]
    pub reboot_kind: RebootKind,
    /// Node it is placed on; written once by the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
}

/// Size of a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmResources {
    /// Virtual CPUs.
    #[schemars(range(min = 1, max = 512))]
    pub vcpus: u32,
    /// Memory, MiB.
    #[schemars(range(min = 1))]
    pub memory_mib: u32,
    /// Root disk, GiB; 0 takes the image's own size.
    #[serde(default)]
    pub disk_gib: u32,
}

/// A size and the Flavor that it came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmSize {
    /// `metadata.name` of the Flavor.
    pub flavor: String,
    /// The size.
    pub resources: VmResources,
}

/// A lock against changes by users; administrators are not held up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmLock {
    /// Whether an administrator locked it, so that only one can unlock it.
    #[serde(default)]
    pub by_admin: bool,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub reason: Option<String>,
}

/// One action that somebody asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmAction {
    /// Id of the request, `req-` and a UUID.
    pub request: String,
    /// Nova's word for it.
    pub action: String,
    /// Id of the user.
    #[serde(default)]
    pub user: String,
    /// Id of the user's project.
    #[serde(default)]
    pub project: String,
    /// When it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// What became of one action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmResult {
    /// Id of the request.
    pub request: String,
    /// When the node was done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// Why it failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Where a virtual machine may be placed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmPlacement {
    /// The availability zone that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The one node that will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Ids of machines in the same namespace, none of which may be on the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub different_node: Vec<String>,
    /// Ids of machines in the same namespace, one of which must be on the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub same_node: Vec<String>,
    /// An address range of which the node's own address must be, `10.0.0.0/24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_cidr: Option<String>,
    /// `metadata.name` of the ServerGroup, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The policy of that group, copied here when the machine is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<GroupPolicy>,
    /// Machines of an anti-affinity group that may share a node; 1 when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_per_node: Option<u32>,
}

/// One interface of a virtual machine: the Port that it holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAttachment {
    /// `metadata.name` of the Network, in the same namespace; one that is shared with the project as `NAMESPACE/NAME`. With a Port that is
    /// named, that Port's Network is meant.
    pub network: String,
    /// `metadata.name` of the Port. Where none is given the port loop makes one, named by
    /// [`crate::network::workload_port`], that is deleted with the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The address that a Port made for this attachment should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_ip: Option<String>,
    /// `metadata.name`s of the SecurityGroups of a Port made for this attachment; the project's default group when no
    /// list is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub security_groups: Option<Vec<String>>,
    /// Free word, by which the guest tells its network cards apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 60))]
    pub tag: Option<String>,
}

/// A Volume that a virtual machine has, or is to have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeAttachment {
    /// `metadata.name` of the Volume, in the same namespace.
    pub volume: String,
    /// Whether the machine boots from it; one at most, and then the machine has no Image. It can't be detached.
    #[serde(default)]
    pub boot: bool,
    /// Whether the Volume is deleted with the machine.
    #[serde(default)]
    pub delete_on_termination: bool,
    /// Where the guest is likely to see it (`/dev/vdb`); guests find it surely by its serial number, the beginning of its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Free word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// How fast the machine may use it: what the Volume's type said when the machine got it; written by the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<crate::storage::IoLimits>,
}

/// Whether a virtual machine should run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunState {
    /// It should run, and is started again when its QEMU ends. A guest that powers itself off makes it `Stopped`.
    #[default]
    Running,
    /// It should be shut off; its disk and its Ports stay.
    Stopped,
    /// Its processors should be halted; what it holds stays.
    Paused,
    /// As `Paused`: its memory stays where it is, and is lost with the node. Nova's word tells how it is let go on.
    Suspended,
    /// As `Stopped`, until somebody unshelves it. It leaves its node where its root disk is kept elsewhere: in a Volume, or in
    /// `spec.shelvedImage`.
    Shelved,
}

/// How to reboot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RebootKind {
    /// Ask the guest by ACPI; after 60 s do it hard.
    #[default]
    Soft,
    /// Reset.
    Hard,
}

/// What became of a [`VirtualMachine`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: VmPhase,
    /// `Scheduled` (by the scheduler, with the per-filter counts when it is False) and `Ready` (by the agent).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// One per interface, in the order of `spec.networks`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<VmAddress>,
    /// The last `spec.rebootGeneration` that was carried out.
    #[serde(default)]
    pub reboot_generation: i64,
    /// The last `spec.rebuildGeneration` that was carried out.
    #[serde(default)]
    pub rebuild_generation: i64,
    /// The size that it has; differs from `spec.resources` while a resize is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<VmResources>,
    /// Whether it was started from a rescue image.
    #[serde(default)]
    pub rescued: bool,
    /// What became of `spec.actions`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<VmResult>,
    /// `kvm` or `tcg`: what runs the guest's instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Host name that the guest is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// When the guest was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// Why the phase is `Error`, or what is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Where a [`VirtualMachine`] stands. Nova's words are in brackets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VmPhase {
    /// Not placed yet (BUILD, scheduling).
    #[default]
    Pending,
    /// Placed; the node makes its disk and interfaces (BUILD, spawning).
    Building,
    /// The guest runs (ACTIVE).
    Active,
    /// Its processors are halted (PAUSED, SUSPENDED).
    Paused,
    /// Shut off (SHUTOFF, SHELVED).
    Stopped,
    /// Shelved, and gone from its node or just going (SHELVED_OFFLOADED). It is placed anew once it is to run again.
    Offloaded,
    /// Could not be made or started; `message` says why (ERROR).
    Error,
}

/// One address of a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmAddress {
    /// `metadata.name` of the Network.
    pub network: String,
    /// `metadata.name` of the Port.
    pub port: String,
    /// IP address.
    pub ip: String,
    /// MAC address, six lower-case pairs with colons.
    pub mac: String,
}

impl VirtualMachine {
    /// The Volume that it boots from, where it does.
    pub fn boot_volume(&self) -> Option<&VolumeAttachment> {
        self.spec.volumes.iter().find(|attachment| attachment.boot)
    }

    /// The host name that the guest is told: the one that was asked for, or the display name as a DNS label.
    pub fn hostname(&self) -> String {
        let name = self.spec.hostname.clone().filter(|name| !name.is_empty());
        name.unwrap_or_else(|| dns_label(&crate::Identified::display_name(self)))
    }

    /// The first label of [`Self::hostname`]: what its ports answer to in the network's DNS.
    pub fn host_label(&self) -> String {
        let name = self.hostname();
        let first: String = name.split('.').next().unwrap_or_default().chars().take(63).collect();
        first.trim_end_matches('-').to_owned()
    }

    /// Whether it runs, or should be started, otherwise than its spec says: with another size, disk or image to boot.
    pub fn is_outdated(&self) -> bool {
        let Some(status) = &self.status else { return false };
        self.is_resizing() || self.is_rebuilding() || status.rescued != self.spec.rescue_image.is_some()
    }

    /// Whether it has another size than its spec says.
    pub fn is_resizing(&self) -> bool {
        match self.status.as_ref().and_then(|status| status.resources.as_ref()) {
            Some(has) => Some(has) != self.spec.resources.as_ref(),
            // Nobody wrote down what it was started with; a size that is to be reverted is none that it has.
            None => self.spec.resized_from.is_some(),
        }
    }

    /// Whether it is to get a new root disk.
    pub fn is_rebuilding(&self) -> bool {
        self.spec.rebuild_generation > self.status.as_ref().map_or(0, |status| status.rebuild_generation)
    }

    /// Whether it is shelved and takes nothing of any node: nobody places it before it is to run again.
    pub fn is_offloaded(&self) -> bool {
        self.spec.node_name.is_none()
            && self.status.as_ref().is_some_and(|status| status.phase == VmPhase::Offloaded)
    }

    /// Whether its processors should be halted.
    pub fn wants_halt(&self) -> bool {
        matches!(self.spec.run_state, RunState::Paused | RunState::Suspended)
    }
}

/// Turns a free name into a DNS label (RFC 1123): lower case, anything else than letters and digits
/// becomes `-`, at most 63 characters, never empty.
pub fn dns_label(name: &str) -> String {
    let mut label: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(63)
        .collect();
    while label.ends_with('-') {
        label.pop();
    }
    let label = label.trim_start_matches('-');
    if label.is_empty() { "x".to_owned() } else { label.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resize_is_done_when_the_status_says_so() {
        let size = |vcpus| VmResources { vcpus, memory_mib: 64, disk_gib: 1 };
        let mut vm = VirtualMachine::new("vm", Default::default());
        vm.spec.resources = Some(size(2));
        vm.status = Some(VirtualMachineStatus::default());
        assert!(!vm.is_resizing(), "it may be made just now");
        vm.spec.resized_from = Some(VmSize { flavor: "f".into(), resources: size(1) });
        assert!(vm.is_resizing());
        vm.status = Some(VirtualMachineStatus { resources: Some(size(1)), ..Default::default() });
        assert!(vm.is_resizing());
        vm.status = Some(VirtualMachineStatus { resources: Some(size(2)), ..Default::default() });
        assert!(!vm.is_resizing());
    }

    #[test]
    fn free_names_become_dns_labels() {
        assert_eq!(dns_label("Web Server #1"), "web-server--1");
        assert_eq!(dns_label("--"), "x");
        assert_eq!(dns_label(&"a".repeat(80)).len(), 63);
    }
}
