//! Which networks a change is about, and which namespaces have to do with a network.

use std::collections::{BTreeSet, HashSet};

use kube::ResourceExt;
use yunfan_client::ObjectKey;
use yunfan_resources::network::Network;

use super::{Links, Work, network_key};

impl Links {
    /// The Networks of a namespace, and those of others that Ports of it are on.
    pub(super) fn networks_of(&self, namespace: Option<String>) -> Vec<Work> {
        let space = namespace.clone().unwrap_or_default();
        let networks = self.network_objects.in_namespace(&space);
        let own = networks.into_iter().map(|network| Work::Network(ObjectKey::of(network.as_ref())));
        let ports = self.ports.in_namespace(&space);
        let foreign: HashSet<&str> =
            ports.iter().map(|port| port.spec.network.as_str()).filter(|name| name.contains('/')).collect();
        own.chain(foreign.into_iter().map(|name| network_key(namespace.clone(), name))).collect()
    }

    /// The Networks that have a QosPolicy, themselves or by one of their Ports.
    pub(super) fn networks_with(&self, policy: &str) -> Vec<Work> {
        let ports = self.ports.list();
        let has = |named: &Option<String>| named.as_deref() == Some(policy);
        let by_port: HashSet<Work> = ports
            .iter()
            .filter(|port| has(&port.spec.qos_policy))
            .map(|port| network_key(port.namespace(), &port.spec.network))
            .collect();
        let networks = self.network_objects.list();
        let named = networks.iter().filter(|network| has(&network.spec.qos_policy));
        let named = named.map(|network| Work::Network(ObjectKey::of(network.as_ref())));
        named.chain(by_port).collect()
    }

    /// The other namespaces that have Ports on a Network.
    pub(super) fn guests_of(&self, network: &Network) -> BTreeSet<String> {
        if network.spec.shared_with.is_empty() {
            return BTreeSet::new();
        }
        let (owner, name) = (network.namespace().unwrap_or_default(), network.name_any());
        let ports = self.ports.list();
        let spaces = ports.iter().filter_map(|port| {
            let namespace = port.namespace()?;
            (namespace != owner && port.spec.is_on(&namespace, &owner, &name)).then_some(namespace)
        });
        spaces.collect()
    }
}
