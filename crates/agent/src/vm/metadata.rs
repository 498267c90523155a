//! What guests are told about themselves, by the metadata service and by config drives.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::ResourceExt;
use yunfan_client::{Informer, Writer, is_not_found};
use yunfan_network::{GuestData, GuestDisk, GuestLink, MetadataProvider, Subnet6Config, SubnetConfig};
use yunfan_resources::Identified;
use yunfan_resources::compute::{KeyPair, NetworkAttachment, VirtualMachine};
use yunfan_resources::iam::Project;
use yunfan_resources::k8s::api::core::v1::Node;
use yunfan_resources::names::ZONE_LABEL;
use yunfan_resources::network::{Network, Port, Subnet, network_place, workload_port};
use yunfan_resources::storage::Volume;

use crate::Shared;
use crate::members::{addresses, subnet_config, subnet6_config};

/// Finds a guest by the Port that holds the address that asks.
pub(crate) struct Guests {
    networks: Informer<Network>,
    ports: Informer<Port>,
    machines: Informer<VirtualMachine>,
    subnets: Informer<Subnet>,
    key_pairs: Informer<KeyPair>,
    projects: Informer<Project>,
    nodes: Informer<Node>,
    volumes: Informer<Volume>,
}

impl Guests {
    pub(crate) fn new(shared: &Shared) -> Arc<Self> {
        let informers = &shared.informers;
        Arc::new(Self {
            networks: informers.of(),
            ports: informers.of(),
            machines: shared.placed(),
            subnets: informers.of(),
            key_pairs: informers.of(),
            projects: informers.of(),
            nodes: informers.of(),
            volumes: shared.placed(),
        })
    }

    /// Waits until what guests are told is known.
    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.networks.synced(),
            self.subnets.synced(),
            self.ports.synced(),
            self.key_pairs.synced(),
            self.projects.synced(),
            self.nodes.synced(),
            self.volumes.synced()
        );
    }

    fn find(&self, network_uid: &str, source: Ipv4Addr) -> Option<GuestData> {
        let network =
            self.networks.list().into_iter().find(|n| n.metadata.uid.as_deref() == Some(network_uid))?;
        let namespace = network.namespace()?;
        let address = source.to_string();
        let ports = match network.spec.shared_with.is_empty() {
            true => self.ports.in_namespace(&namespace),
            false => self.ports.list(),
        };
        let port = ports.into_iter().find(|port| {
            let own = port.namespace().unwrap_or_default();
            port.spec.is_on(&own, &namespace, &network.name_any())
                && port.spec.fixed_ips.iter().any(|fixed| fixed.ip.as_deref() == Some(address.as_str()))
        })?;
        let holder = port.spec.holder.as_ref().filter(|holder| holder.kind == "VirtualMachine")?;
        let namespace = port.namespace()?;
        let machine = self.machines.get(Some(&namespace), &holder.name)?;
        if machine.uid().as_ref() != Some(&holder.uid) {
            return None;
        }
        let key = machine.spec.key_pair.as_ref().and_then(|name| self.key_pairs.get(Some(&namespace), name));
        let mut guest = self.guest(&machine, key.as_deref());
        guest.local_ipv4 = Some(source);
        guest.mac = port.spec.mac_address.as_ref().and_then(|mac| mac.parse().ok());
        Some(guest)
    }

    /// What a machine is told by its config drive: that stays as it is, so a key that is not here yet is asked for.
    pub(crate) async fn of(&self, machine: &VirtualMachine, writer: &Writer) -> kube::Result<GuestData> {
        let namespace = machine.namespace();
        let key = match &machine.spec.key_pair {
            None => None,
            Some(name) => match self.key_pairs.get(namespace.as_deref(), name) {
                Some(key) => Some(key),
                None => match writer.get::<KeyPair>(namespace.as_deref(), name).await {
                    Ok(key) => Some(Arc::new(key)),
                    Err(error) if is_not_found(&error) => None,
                    Err(error) => return Err(error),
                },
            },
        };
        Ok(self.guest(machine, key.as_deref()))
    }

    fn guest(&self, machine: &VirtualMachine, key: Option<&KeyPair>) -> GuestData {
        let namespace = machine.namespace().unwrap_or_default();
        let spec = &machine.spec;
        let key = key.map(|key| {
            let name = key.spec.display_name.clone().unwrap_or_else(|| key.name_any());
            (name, key.spec.public_key.trim().to_owned())
        });
        let links = self.links_of(machine);
        let first = links.first();
        GuestData {
            instance_id: machine.id(),
            hostname: machine.hostname(),
            name: machine.display_name(),
            project_id: self.projects.get(None, &namespace).map(|project| project.id()).unwrap_or_default(),
            public_keys: key.into_iter().collect(),
            files: spec
                .files
                .iter()
                .filter_map(|file| Some((file.path.clone(), STANDARD.decode(&file.contents).ok()?)))
                .collect(),
            user_data: spec.user_data.as_ref().and_then(|data| STANDARD.decode(data.trim()).ok()),
            availability_zone: self.zone_of(machine),
            meta: spec.metadata.clone(),
            local_ipv4: first.and_then(|link| link.addresses.first()).map(|(ip, _)| *ip),
            mac: first.map(|link| link.mac),
            instance_type: spec.flavor.clone(),
            links,
            disks: self.disks_of(machine),
        }
    }

    /// A machine's volumes that have tags.
    fn disks_of(&self, machine: &VirtualMachine) -> Vec<GuestDisk> {
        let namespace = machine.namespace();
        let tagged = machine.spec.volumes.iter().filter_map(|wish| {
            let volume = self.volumes.get(namespace.as_deref(), &wish.volume)?;
            Some(GuestDisk { serial: volume.id(), path: wish.device.clone(), tag: wish.tag.clone()? })
        });
        tagged.collect()
    }

    /// A machine's network cards, as far as their Ports are there.
    fn links_of(&self, machine: &VirtualMachine) -> Vec<GuestLink> {
        let namespace = machine.namespace().unwrap_or_default();
        let of_port = |(index, attachment): (usize, &NetworkAttachment)| {
            let name = attachment.port.clone();
            let name = name.unwrap_or_else(|| workload_port("VirtualMachine", &machine.name_any(), index));
            let port = self.ports.get(Some(&namespace), &name)?;
            let holder = port.spec.holder.as_ref()?;
            if Some(&holder.uid) != machine.metadata.uid.as_ref() {
                return None;
            }
            let (owner, on) = network_place(&namespace, &port.spec.network);
            let network = self.networks.get(Some(owner), on)?;
            let (mac, ips, ips6) = addresses(&port).ok()?;
            let subnets = self.subnets.in_namespace(owner);
            let here = || subnets.iter().filter(|subnet| subnet.spec.network == on);
            let six: Vec<Subnet6Config> = here().filter_map(|subnet| subnet6_config(subnet)).collect();
            let within6 =
                |ip: &Ipv6Addr| Some((*ip, six.iter().find(|subnet| subnet.cidr.contains(ip))?.clone()));
            let on: Vec<SubnetConfig> = here().filter_map(|subnet| subnet_config(subnet)).collect();
            let within =
                |ip: &Ipv4Addr| Some((*ip, on.iter().find(|subnet| subnet.cidr.contains(ip))?.clone()));
            Some(GuestLink {
                id: port.id(),
                mac,
                mtu: network.spec.mtu,
                network: network.id(),
                addresses: ips.iter().filter_map(within).collect(),
                addresses6: ips6.iter().filter_map(within6).collect(),
                tag: attachment.tag.clone(),
            })
        };
        machine.spec.networks.iter().enumerate().filter_map(of_port).collect()
    }

    /// The zone of the node that a machine is on.
    fn zone_of(&self, machine: &VirtualMachine) -> String {
        let node = machine.spec.node_name.as_ref().and_then(|name| self.nodes.get(None, name));
        let label = node.as_ref().and_then(|node| node.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned());
        label.unwrap_or_else(|| "nova".to_owned())
    }
}

#[async_trait::async_trait]
impl MetadataProvider for Guests {
    async fn lookup(&self, network_uid: &str, source: Ipv4Addr) -> Option<GuestData> {
        self.find(network_uid, source)
    }
}
