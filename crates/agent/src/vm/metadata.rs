//! What guests are told about themselves by the metadata service.

use std::net::Ipv4Addr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::ResourceExt;
use yunfan_client::{Informer, Informers};
use yunfan_network::{GuestData, MetadataProvider};
use yunfan_resources::Identified;
use yunfan_resources::compute::{KeyPair, VirtualMachine};
use yunfan_resources::iam::Project;
use yunfan_resources::k8s::api::core::v1::Node;
use yunfan_resources::names::ZONE_LABEL;
use yunfan_resources::network::{Network, Port};

/// Finds a guest by the Port that holds the address that asks.
pub(crate) struct Guests {
    networks: Informer<Network>,
    ports: Informer<Port>,
    machines: Informer<VirtualMachine>,
    key_pairs: Informer<KeyPair>,
    projects: Informer<Project>,
    nodes: Informer<Node>,
}

impl Guests {
    pub(crate) fn new(informers: &Informers) -> Arc<Self> {
        Arc::new(Self {
            networks: informers.of(),
            ports: informers.of(),
            machines: informers.of(),
            key_pairs: informers.of(),
            projects: informers.of(),
            nodes: informers.of(),
        })
    }

    fn find(&self, network_uid: &str, source: Ipv4Addr) -> Option<GuestData> {
        let network =
            self.networks.list().into_iter().find(|n| n.metadata.uid.as_deref() == Some(network_uid))?;
        let namespace = network.namespace()?;
        let address = source.to_string();
        let port = self.ports.in_namespace(&namespace).into_iter().find(|port| {
            port.spec.network == network.name_any()
                && port.spec.fixed_ips.iter().any(|fixed| fixed.ip.as_deref() == Some(address.as_str()))
        })?;
        let holder = port.spec.holder.as_ref().filter(|holder| holder.kind == "VirtualMachine")?;
        let machine = self.machines.get(Some(&namespace), &holder.name)?;
        if machine.uid().as_ref() != Some(&holder.uid) {
            return None;
        }
        let spec = &machine.spec;
        let key = spec.key_pair.as_ref().and_then(|name| self.key_pairs.get(Some(&namespace), name));
        let key = key.map(|key| {
            let name = key.spec.display_name.clone().unwrap_or_else(|| key.name_any());
            (name, key.spec.public_key.clone())
        });
        Some(GuestData {
            instance_id: machine.id(),
            hostname: machine.hostname(),
            name: machine.display_name(),
            project_id: self.projects.get(None, &namespace).map(|project| project.id()).unwrap_or_default(),
            public_keys: key.into_iter().collect(),
            user_data: spec.user_data.as_ref().and_then(|data| STANDARD.decode(data.trim()).ok()),
            availability_zone: self.zone_of(&machine),
            meta: spec.metadata.clone(),
            local_ipv4: Some(source),
            mac: port.spec.mac_address.as_ref().and_then(|mac| mac.parse().ok()),
            instance_type: spec.flavor.clone(),
        })
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
