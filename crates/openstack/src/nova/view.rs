//! A VirtualMachine as Nova shows a server.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha224};
use yunfan_resources::Identified;
use yunfan_resources::compute::{Flavor, KeyPair, ServerGroup, VirtualMachine, VmAddress};
use yunfan_resources::image::{Image, referred};
use yunfan_resources::network::{FloatingIp, Network, SecurityGroup, network_place};
use yunfan_resources::storage::Volume;

use super::shown::Server;
use super::state::refused;
use crate::lean::Member;
use crate::microversion::Microversion;
use crate::{ids, stamp};

/// Annotation on a VirtualMachine made here: the id of the user who made it.
pub(crate) const CREATOR: &str = "compute.yunfan.io/user-id";
/// Annotation: the ids and names of the flavors that it had, by the names of their objects, JSON. They are shown when those are gone.
pub(super) const FLAVORS: &str = "compute.yunfan.io/flavors";
/// Annotation: who is to grow the file system of its disk, in Nova's words.
pub(super) const DISK_CONFIG: &str = "compute.yunfan.io/disk-config";
/// Annotation: the id of the request for servers that this one was made by.
pub(super) const RESERVATION: &str = "compute.yunfan.io/reservation-id";
/// Annotation: which one of that request's servers it is, from 0.
pub(super) const LAUNCH_INDEX: &str = "compute.yunfan.io/launch-index";
/// Annotation: the addresses at which its owner says that it is reached.
pub(super) const ACCESS: [(&str, &str); 2] =
    [("accessIPv4", "compute.yunfan.io/access-ipv4"), ("accessIPv6", "compute.yunfan.io/access-ipv6")];

/// What a server's view needs to know beside the machine itself: names and ids by (namespace, name).
#[derive(Default)]
pub(super) struct Context {
    pub(super) flavors: HashMap<String, Flavor>,
    pub(super) images: HashMap<(String, String), String>,
    pub(super) networks: HashMap<(String, String), String>,
    pub(super) keys: HashMap<(String, String), String>,
    pub(super) volumes: HashMap<(String, String), String>,
    pub(super) groups: HashMap<(String, String), String>,
    /// Display names of the security groups of machines, by the machines' uids.
    pub(super) security_groups: HashMap<String, Vec<String>>,
    /// Floating IPs by the namespaces and names of the Ports that they stand for.
    pub(super) floating: HashMap<(String, String), Vec<String>>,
    /// Zones of nodes by their names.
    pub(super) zones: HashMap<String, String>,
    /// Project ids by namespace.
    pub(super) projects: HashMap<String, String>,
    pub(super) endpoint: String,
    /// Whether the caller sees where machines run.
    pub(super) admin: bool,
    pub(super) version: u32,
}

impl Context {
    /// Whether the request speaks 2.`minor` or later.
    pub(super) fn since(&self, minor: u32) -> bool {
        Microversion(self.version) >= Microversion(minor)
    }

    /// The id of the image that a machine in `namespace` names so.
    pub(super) fn image(&self, namespace: &str, reference: &str) -> Option<&String> {
        let (namespace, name) = referred(namespace, reference);
        self.images.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Remembers the ids of these images.
    pub(super) fn add_images(&mut self, images: &[Image]) {
        self.images.extend(images.iter().map(|image| (key(image), image.id())));
    }

    /// Remembers the display names of these networks.
    pub(super) fn add_networks(&mut self, networks: &[Network]) {
        self.networks.extend(networks.iter().map(|network| (key(network), network.display_name())));
    }

    /// Remembers which machines are in which of these security groups: their ports are.
    pub(super) fn add_security_groups(&mut self, ports: &[Member], groups: &[SecurityGroup]) {
        let names: HashMap<(String, String), String> =
            groups.iter().map(|group| (key(group), group.display_name())).collect();
        for port in ports {
            let Some(machine) = port.machine() else { continue };
            let found = self.security_groups.entry(machine.to_owned()).or_default();
            for group in port.groups() {
                let name = names.get(&(port.namespace().to_owned(), group.clone())).unwrap_or(group);
                if !found.contains(name) {
                    found.push(name.clone());
                }
            }
        }
    }

    /// Remembers these floating IPs.
    pub(super) fn add_floating(&mut self, all: &[FloatingIp]) {
        for one in all {
            let (Some(port), Some(ip)) = (&one.spec.port, &one.spec.ip) else { continue };
            let at = (ids::namespace(one).to_owned(), port.clone());
            self.floating.entry(at).or_default().push(ip.clone());
        }
    }

    /// Remembers the ids of these volumes.
    pub(super) fn add_volumes(&mut self, volumes: &[Volume]) {
        self.volumes.extend(volumes.iter().map(|volume| (key(volume), volume.id())));
    }

    /// Remembers the ids of these server groups.
    pub(super) fn add_groups(&mut self, groups: &[ServerGroup]) {
        self.groups.extend(groups.iter().map(|group| (key(group), group.id())));
    }

    /// Remembers the display names of these key pairs.
    pub(super) fn add_keys(&mut self, keys: &[KeyPair]) {
        self.keys.extend(keys.iter().map(|pair| (key(pair), super::keypairs::display(pair))));
    }
}

fn key<K: kube::Resource>(object: &K) -> (String, String) {
    (ids::namespace(object).to_owned(), ids::name(object).to_owned())
}

/// When anything about a machine last changed, as far as it says.
pub(super) fn updated(vm: &VirtualMachine) -> Timestamp {
    let status = vm.status.as_ref();
    let conditions = status.into_iter().flat_map(|status| &status.conditions);
    let started = status.and_then(|status| status.started_at.as_ref()).map(|at| at.0);
    conditions
        .map(|condition| condition.last_transition_time.0)
        .chain(started)
        .fold(stamp::created(vm), Timestamp::max)
}

/// `self` and `bookmark`.
pub(super) fn links(endpoint: &str, path: &str, id: &str) -> Value {
    json!([
        {"rel": "self", "href": format!("{endpoint}/compute/v2.1/{path}/{id}")},
        {"rel": "bookmark", "href": format!("{endpoint}/compute/{path}/{id}")},
    ])
}

/// The short form, of `GET /servers`.
pub(super) fn brief(context: &Context, vm: &VirtualMachine) -> Value {
    json!({"id": vm.id(), "name": vm.display_name(), "links": links(&context.endpoint, "servers", &vm.id())})
}

/// The whole of it. `one` is whether a single server was asked for.
pub(super) fn full(context: &Context, vm: &VirtualMachine, one: bool) -> Value {
    // Its keys are texts, and nothing in it can fail to be encoded.
    serde_json::to_value(Server::of(context, vm, one)).unwrap_or_default()
}

/// Members that only the whole view has; `PUT` and a rebuild show them since 2.75.
const NOT_IN_UPDATES: [&str; 7] = [
    "security_groups",
    "key_name",
    "config_drive",
    "OS-SRV-USG:launched_at",
    "OS-SRV-USG:terminated_at",
    "os-extended-volumes:volumes_attached",
    "host_status",
];

/// What `PUT` and a rebuild answer with.
pub(super) fn updated_view(context: &Context, vm: &VirtualMachine, rebuilt: bool) -> Value {
    let mut server = full(context, vm, true);
    if !context.since(75)
        && let Some(members) = server.as_object_mut()
    {
        let key_name = rebuilt && context.since(54);
        members.retain(|name, _| {
            let extended = name.starts_with("OS-EXT-") || NOT_IN_UPDATES.contains(&name.as_str());
            !extended || (name == "key_name" && key_name)
        });
        // These lists never had what the extensions added.
        for entries in members.get_mut("addresses").and_then(Value::as_object_mut).into_iter().flatten() {
            for entry in entries.1.as_array_mut().into_iter().flatten() {
                *entry = json!({"addr": entry["addr"], "version": entry["version"]});
            }
        }
    }
    if rebuilt && context.since(57) {
        server["user_data"] = json!(vm.spec.user_data);
        // A rebuild tells it to everybody, by this name alone.
        if let Some(members) = server.as_object_mut() {
            members.remove("OS-EXT-SRV-ATTR:user_data");
        }
    }
    server
}

pub(super) fn annotation<'a>(vm: &'a VirtualMachine, key: &str) -> Option<&'a String> {
    vm.metadata.annotations.as_ref().and_then(|all| all.get(key))
}

pub(super) fn number(vm: &VirtualMachine, key: &str) -> Option<u32> {
    annotation(vm, key).and_then(|text| text.parse().ok())
}

/// What servers of one request have in common.
pub(super) fn reservation(vm: &VirtualMachine) -> String {
    let own = || format!("r-{}", &ids::stable(&vm.id())[..8]);
    annotation(vm, RESERVATION).cloned().unwrap_or_else(own)
}

/// The same node is another id for each project, so that tenants can tell machines apart and nothing more.
pub(super) fn host_id(project: &str, node: &str) -> String {
    ids::hex(&Sha224::digest(format!("{project}{node}")))
}

/// The ids and names of a machine's flavors as they were when it got them, with those of one more.
pub(super) fn remembered(
    vm: Option<&VirtualMachine>,
    more: Option<&Flavor>,
) -> BTreeMap<String, (String, String)> {
    let text = vm.and_then(|vm| annotation(vm, FLAVORS));
    let mut all: BTreeMap<String, (String, String)> =
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if let (Some(vm), Some(_)) = (vm, more) {
        // It can go back to the one that it has; older ones are of no use.
        all.retain(|name, _| *name == vm.spec.flavor);
    }
    all.extend(more.map(|flavor| (ids::name(flavor).to_owned(), (flavor.id(), flavor.display_name()))));
    all
}

pub(super) fn flavor(context: &Context, vm: &VirtualMachine) -> Value {
    let known = context.flavors.get(&vm.spec.flavor);
    // What is written down of it is read only where the flavor is not there any more.
    let gone = || {
        let gone = remembered(Some(vm), None).remove(&vm.spec.flavor);
        gone.unwrap_or_else(|| (vm.spec.flavor.clone(), vm.spec.flavor.clone()))
    };
    if !context.since(47) {
        let id = known.map_or_else(|| gone().0, Identified::id);
        let bookmark = format!("{}/compute/flavors/{id}", context.endpoint);
        return json!({"id": id, "links": [{"rel": "bookmark", "href": bookmark}]});
    }
    let (vcpus, ram, disk) = match (&vm.spec.resources, known) {
        (Some(size), _) => (size.vcpus, size.memory_mib, size.disk_gib),
        (None, Some(flavor)) => (flavor.spec.vcpus, flavor.spec.memory_mib, flavor.spec.disk_gib),
        (None, None) => (0, 0, 0),
    };
    json!({
        "original_name": known.map_or_else(|| gone().1, Identified::display_name),
        "vcpus": vcpus, "ram": ram, "disk": disk, "ephemeral": 0, "swap": 0,
        "extra_specs": known.map(|flavor| flavor.spec.extra_specs.clone()).unwrap_or_default(),
    })
}

/// `{NETWORK: [{"addr", "version", ...}]}`
pub(super) fn addresses(context: &Context, vm: &VirtualMachine) -> Value {
    let mut by_network = Map::new();
    let namespace = ids::namespace(vm);
    let status = vm.status.as_ref();
    let mut put = |address: &VmAddress, ip: &str, sort: &str| {
        let (owner, network) = network_place(namespace, &address.network);
        let at = (owner.to_owned(), network.to_owned());
        let network = context.networks.get(&at).unwrap_or(&address.network);
        let entry = json!({
            "addr": ip, "version": if ip.contains(':') { 6 } else { 4 },
            "OS-EXT-IPS:type": sort, "OS-EXT-IPS-MAC:mac_addr": address.mac,
        });
        if let Value::Array(entries) = by_network.entry(network.clone()).or_insert_with(|| json!([])) {
            entries.push(entry);
        }
    };
    let all = || status.into_iter().flat_map(|status| &status.addresses);
    all().for_each(|address| put(address, &address.ip, "fixed"));
    // Behind those of the network itself, each once for its port.
    let mut shown: Vec<&str> = Vec::new();
    for address in all() {
        let at = (namespace.to_owned(), address.port.clone());
        if shown.contains(&address.port.as_str()) {
            continue;
        }
        shown.push(&address.port);
        for ip in context.floating.get(&at).into_iter().flatten() {
            put(address, ip, "floating");
        }
    }
    Value::Object(by_network)
}

/// Why a server is in ERROR.
pub(super) fn fault(vm: &VirtualMachine, now: Timestamp) -> Value {
    let (message, at) = match refused(vm, now) {
        Some(condition) => {
            (format!("No valid host was found. {}", condition.message), condition.last_transition_time.0)
        }
        None => {
            let message = vm.status.as_ref().and_then(|status| status.message.clone());
            let marked = vm.spec.marked_error.then(|| "An administrator set its state to error.".to_owned());
            (
                message
                    .filter(|_| !vm.spec.marked_error)
                    .or(marked)
                    .unwrap_or_else(|| "The node does not say why.".to_owned()),
                updated(vm),
            )
        }
    };
    json!({"code": 500, "created": stamp::seconds(at), "message": message})
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use yunfan_resources::compute::{
        VirtualMachineSpec, VirtualMachineStatus, VmAddress, VmPhase, VmResources, VolumeAttachment,
    };

    use super::super::state::state_of;
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn machine(phase: VmPhase) -> VirtualMachine {
        let spec = VirtualMachineSpec {
            id: Some("i1".into()),
            display_name: Some("Web 1".into()),
            flavor: "small".into(),
            image: Some("cirros".into()),
            resources: Some(VmResources { vcpus: 2, memory_mib: 512, disk_gib: 1 }),
            node_name: Some("n1".into()),
            ..VirtualMachineSpec::default()
        };
        let mut vm = VirtualMachine::new("web-1", spec);
        vm.metadata.namespace = Some("demo".into());
        vm.metadata.creation_timestamp = Some(Time(at(0)));
        vm.status = Some(VirtualMachineStatus {
            phase,
            addresses: vec![VmAddress {
                network: "net-x".into(),
                port: "p".into(),
                ip: "10.0.0.5".into(),
                mac: "fa:16:3e:00:00:01".into(),
            }],
            ..VirtualMachineStatus::default()
        });
        vm
    }

    fn context(version: u32, admin: bool) -> Context {
        let at = |name: &str| ("demo".to_owned(), name.to_owned());
        Context {
            images: [(at("cirros"), "image-id".to_owned())].into(),
            networks: [(at("net-x"), "My net".to_owned())].into(),
            projects: [("demo".to_owned(), "p1".to_owned())].into(),
            endpoint: "https://h".into(),
            admin,
            version,
            ..Context::default()
        }
    }

    #[test]
    fn no_room_becomes_an_error_with_the_schedulers_words() {
        let mut vm = machine(VmPhase::Pending);
        if let Some(status) = &mut vm.status {
            status.conditions = vec![Condition {
                type_: "Scheduled".into(),
                status: "False".into(),
                reason: "Unschedulable".into(),
                message: "0/1 nodes: 1 too little memory".into(),
                last_transition_time: Time(at(1)),
                observed_generation: None,
            }];
        }
        assert_eq!(state_of(&vm, at(5)).status, "BUILD");
        assert_eq!(state_of(&vm, at(60)).status, "ERROR");
        assert!(fault(&vm, at(60))["message"].as_str().unwrap().contains("too little memory"));
    }

    #[test]
    fn volumes_are_named_by_their_ids() {
        let mut vm = machine(VmPhase::Active);
        vm.spec.image = None;
        vm.spec.volumes = vec![VolumeAttachment { volume: "data".into(), ..VolumeAttachment::default() }];
        let mut context = context(2, false);
        context.volumes.insert(("demo".into(), "data".into()), "v-id".into());
        let view = full(&context, &vm, true);
        assert_eq!(view["image"], "");
        assert_eq!(view["os-extended-volumes:volumes_attached"], json!([{"id": "v-id"}]));
        context.version = 3;
        let view = full(&context, &vm, true);
        assert_eq!(view["os-extended-volumes:volumes_attached"][0]["delete_on_termination"], false);
    }

    #[test]
    fn the_view_follows_the_microversion() {
        let vm = machine(VmPhase::Active);
        let old = full(&context(1, false), &vm, true);
        assert!(old["flavor"]["id"].is_string() && old.get("locked").is_none());
        assert!(old.get("OS-EXT-SRV-ATTR:host").is_none());
        let new = full(&context(79, true), &vm, true);
        assert_eq!(new["flavor"]["ram"], 512);
        assert_eq!((&new["locked"], &new["description"]), (&json!(false), &Value::Null));
        assert_eq!(new["addresses"]["My net"][0]["addr"], "10.0.0.5");
        assert_eq!(new["image"]["id"], "image-id");
        assert_eq!(new["OS-EXT-SRV-ATTR:host"], "n1");
        assert_eq!(new["tenant_id"], "p1");
        assert_eq!(new["hostId"].as_str().map(str::len), Some(56));
    }
}
