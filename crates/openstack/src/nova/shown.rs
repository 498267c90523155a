//! The whole view of a server, in the form that is written to answers: a list of a thousand is encoded once, without a tree between.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;

use super::state::{State, state_of};
use super::view::{
    ACCESS, CREATOR, Context, DISK_CONFIG, LAUNCH_INDEX, addresses, annotation, fault, flavor, host_id,
    number, reservation, updated,
};
use crate::zone::ZONE;
use crate::{ids, stamp};

#[derive(Serialize)]
struct Link {
    rel: &'static str,
    href: String,
}

/// Nova's word for the image of a server that boots from a volume is an empty text.
#[derive(Serialize)]
#[serde(untagged)]
enum Base<'a> {
    None(&'static str),
    Image { id: &'a str, links: [Link; 1] },
}

#[derive(Serialize)]
struct Attached<'a> {
    id: &'a str,
    /// Since 2.3.
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_on_termination: Option<bool>,
}

#[derive(Serialize)]
struct Group<'a> {
    name: &'a str,
}

/// A VirtualMachine as Nova shows a server. Of `Option<Option<_>>` the outer one says whether the member is there at all.
#[derive(Serialize)]
pub(super) struct Server<'a> {
    id: String,
    name: String,
    status: &'static str,
    tenant_id: &'a str,
    user_id: &'a str,
    metadata: &'a BTreeMap<String, String>,
    #[serde(rename = "hostId")]
    host_id: String,
    image: Base<'a>,
    flavor: Value,
    created: String,
    updated: String,
    addresses: Value,
    #[serde(rename = "accessIPv4")]
    access_v4: &'a str,
    #[serde(rename = "accessIPv6")]
    access_v6: &'a str,
    links: [Link; 2],
    #[serde(rename = "OS-DCF:diskConfig")]
    disk_config: &'a str,
    #[serde(rename = "OS-EXT-AZ:availability_zone")]
    zone: &'a str,
    config_drive: &'static str,
    key_name: Option<&'a str>,
    #[serde(rename = "OS-SRV-USG:launched_at")]
    launched_at: Option<String>,
    #[serde(rename = "OS-SRV-USG:terminated_at")]
    terminated_at: Option<String>,
    #[serde(rename = "OS-EXT-STS:task_state")]
    task_state: Option<&'static str>,
    #[serde(rename = "OS-EXT-STS:vm_state")]
    vm_state: &'static str,
    #[serde(rename = "OS-EXT-STS:power_state")]
    power_state: u8,
    #[serde(rename = "os-extended-volumes:volumes_attached")]
    volumes: Vec<Attached<'a>>,
    /// Nova says nothing of groups where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    security_groups: Vec<Group<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Value>,
    #[serde(flatten)]
    later: Later<'a>,
    #[serde(flatten)]
    admin: Option<ForAdmins<'a>>,
    #[serde(rename = "OS-EXT-SRV-ATTR:hostname", skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
}

/// The members that came with later microversions.
#[derive(Default, Serialize)]
struct Later<'a> {
    /// 2.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    locked: Option<bool>,
    /// 2.19.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<Option<&'a str>>,
    /// 2.26.
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a [String]>,
    /// 2.63.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_image_certificates: Option<()>,
    /// 2.73.
    #[serde(skip_serializing_if = "Option::is_none")]
    locked_reason: Option<Option<&'a str>>,
    /// 2.71, of one server alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_groups: Option<Vec<&'a str>>,
    /// 2.96.
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned_availability_zone: Option<Option<&'a str>>,
    /// 2.16, for an admin.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_status: Option<&'static str>,
}

/// The members that only an admin sees.
#[derive(Serialize)]
struct ForAdmins<'a> {
    #[serde(rename = "OS-EXT-SRV-ATTR:host")]
    host: Option<&'a str>,
    #[serde(rename = "OS-EXT-SRV-ATTR:hypervisor_hostname")]
    hypervisor: Option<&'a str>,
    #[serde(rename = "OS-EXT-SRV-ATTR:instance_name")]
    instance_name: &'a str,
    #[serde(flatten)]
    launch: Option<Launch<'a>>,
}

/// Those of them that came with 2.3.
#[derive(Serialize)]
struct Launch<'a> {
    #[serde(rename = "OS-EXT-SRV-ATTR:launch_index")]
    index: u32,
    #[serde(rename = "OS-EXT-SRV-ATTR:reservation_id")]
    reservation: String,
    #[serde(rename = "OS-EXT-SRV-ATTR:root_device_name")]
    root_device: &'static str,
    #[serde(rename = "OS-EXT-SRV-ATTR:kernel_id")]
    kernel: &'static str,
    #[serde(rename = "OS-EXT-SRV-ATTR:ramdisk_id")]
    ramdisk: &'static str,
    #[serde(rename = "OS-EXT-SRV-ATTR:user_data")]
    user_data: Option<&'a str>,
}

fn link(rel: &'static str, href: String) -> Link {
    Link { rel, href }
}

/// The volumes that a server has, or is to have.
fn volumes<'a>(context: &'a Context, vm: &VirtualMachine) -> Vec<Attached<'a>> {
    let id = |name: &String| context.volumes.get(&(ids::namespace(vm).to_owned(), name.clone()));
    let known = vm.spec.volumes.iter().filter_map(|wish| Some((wish, id(&wish.volume)?)));
    known
        .map(|(wish, id)| Attached {
            id,
            delete_on_termination: context.since(3).then_some(wish.delete_on_termination),
        })
        .collect()
}

fn later<'a>(context: &'a Context, vm: &'a VirtualMachine, one: bool) -> Later<'a> {
    let (lock, placement) = (vm.spec.lock.as_ref(), vm.spec.placement.as_ref());
    let since = |minor: u32| context.since(minor);
    let group = || {
        let name = placement.and_then(|placement| placement.group.as_ref())?;
        let at = (ids::namespace(vm).to_owned(), name.clone());
        Some(context.groups.get(&at).unwrap_or(name).as_str())
    };
    let up = if vm.spec.node_name.is_some() { "UP" } else { "" };
    Later {
        locked: since(9).then_some(lock.is_some()),
        description: since(19).then_some(vm.spec.description.as_deref()),
        tags: since(26).then_some(&vm.spec.tags),
        trusted_image_certificates: since(63).then_some(()),
        locked_reason: since(73).then_some(lock.and_then(|lock| lock.reason.as_deref())),
        server_groups: (one && since(71)).then(|| group().into_iter().collect()),
        pinned_availability_zone: since(96)
            .then_some(placement.and_then(|placement| placement.zone.as_deref())),
        host_status: (context.admin && since(16)).then_some(up),
    }
}

fn for_admins<'a>(context: &Context, vm: &'a VirtualMachine) -> Option<ForAdmins<'a>> {
    let node = vm.spec.node_name.as_deref();
    let launch = || Launch {
        index: number(vm, LAUNCH_INDEX).unwrap_or(0),
        reservation: reservation(vm),
        root_device: "/dev/vda",
        kernel: "",
        ramdisk: "",
        user_data: vm.spec.user_data.as_deref(),
    };
    context.admin.then(|| ForAdmins {
        host: node,
        hypervisor: node,
        instance_name: ids::name(vm),
        launch: context.since(3).then(launch),
    })
}

/// Its host name: what the guest was told, for an admin, and what it is to be told, for everybody since 2.90.
fn hostname(context: &Context, vm: &VirtualMachine) -> Option<String> {
    if context.admin && context.since(3) {
        let told = vm.status.as_ref().and_then(|status| status.hostname.clone());
        return Some(told.unwrap_or_else(|| vm.hostname()));
    }
    context.since(90).then(|| vm.hostname())
}

/// How far it is, which Nova says of some states.
fn progress(state: State) -> Option<u8> {
    let told =
        matches!(state.status, "ACTIVE" | "BUILD" | "REBUILD" | "RESIZE" | "VERIFY_RESIZE" | "MIGRATING");
    told.then_some(if state.status == "ACTIVE" { 100 } else { 0 })
}

fn base<'a>(context: &'a Context, vm: &'a VirtualMachine) -> Base<'a> {
    let Some(name) = &vm.spec.image else { return Base::None("") };
    let id = context.image(ids::namespace(vm), name).unwrap_or(name);
    let bookmark = format!("{}/compute/images/{id}", context.endpoint);
    Base::Image { id, links: [link("bookmark", bookmark)] }
}

impl<'a> Server<'a> {
    /// The view of a machine. `one` is whether a single server was asked for.
    pub(super) fn of(context: &'a Context, vm: &'a VirtualMachine, one: bool) -> Self {
        let now = Timestamp::now();
        let (id, state, namespace) = (vm.id(), state_of(vm, now), ids::namespace(vm));
        let project = context.projects.get(namespace).map(String::as_str).unwrap_or_default();
        let node = vm.spec.node_name.as_deref();
        let key = vm.spec.key_pair.as_ref();
        let key = key.map(|name| context.keys.get(&(namespace.to_owned(), name.clone())).unwrap_or(name));
        let said = |key: &str| annotation(vm, key).map(String::as_str);
        let started = vm.status.as_ref().and_then(|status| status.started_at.as_ref());
        let groups = vm.metadata.uid.as_ref().and_then(|uid| context.security_groups.get(uid));
        let endpoint = &context.endpoint;
        Self {
            name: vm.display_name(),
            status: state.status,
            tenant_id: project,
            user_id: said(CREATOR).unwrap_or_default(),
            metadata: &vm.spec.metadata,
            host_id: node.map_or_else(String::new, |node| host_id(project, node)),
            image: base(context, vm),
            flavor: flavor(context, vm),
            created: stamp::seconds(stamp::created(vm)),
            updated: stamp::seconds(updated(vm)),
            addresses: addresses(context, vm),
            access_v4: said(ACCESS[0].1).unwrap_or_default(),
            access_v6: said(ACCESS[1].1).unwrap_or_default(),
            links: [
                link("self", format!("{endpoint}/compute/v2.1/servers/{id}")),
                link("bookmark", format!("{endpoint}/compute/servers/{id}")),
            ],
            disk_config: said(DISK_CONFIG).unwrap_or("MANUAL"),
            zone: node.map_or("", |node| context.zones.get(node).map_or(ZONE, String::as_str)),
            config_drive: if vm.spec.config_drive { "True" } else { "" },
            key_name: key.map(String::as_str),
            launched_at: started.map(|at| stamp::micros_bare(at.0)),
            terminated_at: None,
            task_state: state.task,
            vm_state: state.vm,
            power_state: state.power,
            volumes: volumes(context, vm),
            security_groups: groups.into_iter().flatten().map(|name| Group { name }).collect(),
            progress: progress(state),
            fault: (state.status == "ERROR").then(|| fault(vm, now)),
            later: later(context, vm, one),
            admin: for_admins(context, vm),
            hostname: hostname(context, vm),
            id,
        }
    }
}
