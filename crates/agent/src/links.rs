//! Workloads ↔ networks on this node: which network a workload joins, what each network here must know, and when it goes.

mod program;
mod which;

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, run_loop};
use yunfan_network::{
    NetworkConfig, NetworkError, NetworkKind, NodeNetworks, PodAttach, ServiceRule, Subnet6Config,
    SubnetConfig, Tap, TapAttach,
};
use yunfan_resources::names::{
    CLUSTER_NETWORK, DEFAULT_NETWORK_ANNOTATION, NETWORK_ANNOTATION, SYSTEM_NAMESPACE, ZONE_LABEL,
};
use yunfan_resources::network::{
    AddressGroup, FloatingIp, Network, Port, PortPhase, QosPolicy, Router, SecurityGroup, Subnet, SubnetPool,
    network_place, workload_port,
};

use crate::members::{addresses, for_pod, members, subnet_config, subnet6_config};
use crate::pod::tenant;
use crate::turns::Turns;
use crate::{Shared, firewall, routers, services};

/// Uid of the cluster network on every node.
const CLUSTER_UID: &str = "cluster";
/// MTU of the cluster network, bytes.
const CLUSTER_MTU: u32 = 1500;
/// Changes of Services and their endpoints within this time are programmed together.
const SETTLE: Duration = Duration::from_millis(20);

/// Where the node's slice of the cluster network is kept, below the agent's directory.
const SLICE: &str = "slice";
/// Namespaces that are no project's: their Pods are on the cluster network, unless they say otherwise themselves.
const OWN_NAMESPACES: [&str; 2] = [SYSTEM_NAMESPACE, "default"];

/// Why a workload can't be plugged in now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// Something has to come first; its coming wakes the workload.
    #[error("{0}")]
    Waits(String),
    #[error("{0}")]
    Network(#[from] NetworkError),
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("port {port}: {what}")]
    BadPort { port: String, what: String },
}

/// Where a Pod's network is.
#[derive(Clone, Debug)]
pub(crate) struct PodLink {
    /// None for the host's.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) ip: IpAddr,
    pub(crate) dns: yunfan_runtime::DnsConfig,
}

/// A machine's plug: its tap device and its Port.
pub(crate) struct MachineLink {
    pub(crate) tap: Tap,
    pub(crate) port: Arc<Port>,
}

/// What there is to keep up to date.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    /// A Network by its namespace and name.
    Network(ObjectKey),
    /// All Services at once.
    Services,
    /// All Routers at once.
    Routers,
}

pub(crate) struct Links {
    shared: Shared,
    networks: NodeNetworks,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    network_objects: Informer<Network>,
    subnets: Informer<Subnet>,
    pools: Informer<SubnetPool>,
    ports: Informer<Port>,
    groups: Informer<SecurityGroup>,
    qualities: Informer<QosPolicy>,
    addresses: Informer<AddressGroup>,
    routers: Informer<Router>,
    floating: Informer<FloatingIp>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    queue: Queue<Work>,
    /// One change of a network's presence at a time, by network uid.
    turns: Turns,
}

impl Links {
    pub(crate) fn new(shared: Shared, networks: NodeNetworks) -> Arc<Self> {
        let informers = &shared.informers;
        Arc::new(Self {
            nodes: informers.of(),
            namespaces: informers.of(),
            network_objects: informers.of(),
            subnets: informers.of(),
            pools: informers.of(),
            ports: informers.of(),
            groups: informers.of(),
            qualities: informers.of(),
            addresses: informers.of(),
            routers: informers.of(),
            floating: informers.of(),
            services: informers.of(),
            slices: informers.of(),
            shared,
            networks,
            queue: Queue::new(),
            turns: Turns::default(),
        })
    }

    pub(crate) fn networks(&self) -> NodeNetworks {
        self.networks.clone()
    }

    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.nodes.synced(),
            self.namespaces.synced(),
            self.network_objects.synced(),
            self.subnets.synced(),
            self.pools.synced(),
            self.ports.synced(),
            self.groups.synced(),
            self.qualities.synced(),
            self.addresses.synced(),
            self.routers.synced(),
            self.floating.synced(),
            self.services.synced(),
            self.slices.synced(),
        );
    }

    /// Keeps what is on this node up to date with the objects, until dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        self.synced().await;
        self.queue.feed(&self.network_objects, |network| [Work::Network(ObjectKey::of(network))]);
        self.queue.feed(&self.subnets, |subnet| [network_key(subnet.namespace(), &subnet.spec.network)]);
        // In which scope its addresses are says which networks routers lead to.
        self.queue.feed(&self.pools, |_| [Work::Routers]);
        // Who is in a group may count on every network of the project.
        let all = self.clone();
        let of_port = move |port: &Port| {
            let own = network_key(port.namespace(), &port.spec.network);
            let rest = [own, Work::Services, Work::Routers];
            all.networks_of(port.namespace()).into_iter().chain(rest).collect::<Vec<_>>()
        };
        self.queue.feed(&self.ports, of_port);
        let all = self.clone();
        self.queue.feed(&self.groups, move |group| all.networks_of(group.namespace()));
        let all = self.clone();
        self.queue.feed(&self.addresses, move |group| all.networks_of(group.namespace()));
        let all = self.clone();
        self.queue.feed(&self.qualities, move |policy| all.networks_with(&policy.name_any()));
        // What is behind a port by a router's routes is under the rules of the port's groups.
        let all = self.clone();
        let of_router = move |router: &Router| {
            all.networks_of(router.namespace()).into_iter().chain([Work::Routers]).collect::<Vec<_>>()
        };
        self.queue.feed(&self.routers, of_router);
        self.queue.feed(&self.floating, |_| [Work::Routers]);
        self.queue.feed(&self.services, |_| [Work::Services]);
        // Whose namespace it is decides which addresses a Service may have.
        self.queue.feed(&self.namespaces, |_| [Work::Services]);
        self.queue.feed(&self.slices, |_| [Work::Services]);
        let work = self.clone();
        run_loop("links", self.queue.clone(), 2, move |key| {
            let work = work.clone();
            async move { work.reconcile(&key).await }
        })
        .await;
    }

    /// Wakes Pods when something that they may wait for comes: a Port, or this node's slice.
    pub(crate) fn wake_pods<T>(&self, queue: &Queue<T>, key: impl Fn(String, String) -> T + Send + 'static)
    where
        T: Clone + Eq + Hash + Send + 'static,
    {
        queue.feed(&self.ports, move |port| {
            let holder = port.spec.holder.as_ref().filter(|holder| holder.kind == "Pod")?;
            Some(key(port.namespace().unwrap_or_default(), holder.name.clone()))
        });
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>, LinkError> {
        match work {
            Work::Network(key) => self.refresh(key).await?,
            Work::Routers => {
                tokio::time::sleep(SETTLE).await;
                self.route().await?;
            }
            Work::Services => {
                tokio::time::sleep(SETTLE).await;
                let rules = self.service_rules();
                self.networks.set_services(rules).await?;
            }
        }
        Ok(None)
    }

    fn service_rules(&self) -> Vec<ServiceRule> {
        let node = self.nodes.get(None, &self.shared.node);
        let zone = node.as_ref().and_then(|node| node.labels().get(ZONE_LABEL));
        let surroundings = services::Surroundings {
            node: &self.shared.node,
            zone: zone.map(String::as_str),
            network_uid: &|ns, name| {
                let (owner, name) = network_place(ns, name);
                self.network_objects.get(Some(owner), name).and_then(|network| network.uid())
            },
            is_confined: &|ns| tenant::is_confined(self.namespaces.get(None, ns).as_deref()),
        };
        let (services, slices) = (self.services.list(), self.slices.list());
        services::rules(&services, &slices, &self.ports.list(), &surroundings)
    }

    /// Makes the routers of this node, and writes down which floating IPs they serve.
    async fn route(&self) -> Result<(), LinkError> {
        let objects = routers::Objects {
            routers: self.routers.list(),
            ports: self.ports.list(),
            subnets: self.subnets.list(),
            pools: self.pools.list(),
            networks: self.network_objects.list(),
            floating: self.floating.list(),
        };
        let here = self.networks.attachments();
        let is_here = |uid: &str| here.iter().any(|attached| attached.network_uid == uid);
        let is_ours =
            |port: &Port| here.iter().any(|attached| Some(&attached.port_uid) == port.uid().as_ref());
        let (routers, served) = routers::routers(&objects, is_here, is_ours);
        self.networks.set_routers(routers).await?;
        for (ip, nodes) in routers::news(&objects.floating, &served, &self.shared.node) {
            let patch = json!({"status": {"nodes": nodes}});
            self.write::<FloatingIp>(ip.namespace(), &ip.name_any(), &patch).await?;
        }
        Ok(())
    }

    /// Brings a network that is on this node up to date.
    async fn refresh(&self, key: &ObjectKey) -> Result<(), LinkError> {
        let Some(network) = self.network_objects.get_key(key) else { return Ok(()) };
        let uid = network.uid().unwrap_or_default();
        let _turn = self.turns.wait(&uid).await;
        if !self.is_here(&uid) {
            return Ok(());
        }
        self.ensure(&network).await
    }

    async fn ensure(&self, network: &Network) -> Result<(), LinkError> {
        let uid = network.uid().unwrap_or_default();
        let namespace = network.namespace().unwrap_or_default();
        let name = network.name_any();
        let subnets: Vec<SubnetConfig> = self
            .subnets
            .in_namespace(&namespace)
            .iter()
            .filter(|subnet| subnet.spec.network == name)
            .filter_map(|subnet| subnet_config(subnet))
            .collect();
        let all = self.subnets.in_namespace(&namespace);
        let own = all.iter().filter(|subnet| subnet.spec.network == name);
        let subnets6: Vec<Subnet6Config> = own.filter_map(|subnet| subnet6_config(subnet)).collect();
        if !(self.groups.is_synced() && self.addresses.is_synced() && self.qualities.is_synced()) {
            return Err(LinkError::Waits(
                "the API server has not said yet what the security groups and QoS policies are".to_owned(),
            ));
        }
        let mut ports = self.ports.in_namespace(&namespace);
        let routers = self.routers.in_namespace(&namespace);
        let routes = routers::routes_on(&name, &routers, &ports);
        let guests = self.guests_of(network);
        for guest in &guests {
            ports.extend(self.ports.in_namespace(guest));
        }
        let spaces = || guests.iter().chain([&namespace]);
        let quality = |port: &Port| {
            let named = port.spec.qos_policy.as_ref().or(network.spec.qos_policy.as_ref());
            let policy = named.and_then(|name| self.qualities.get(None, name));
            policy.map(|policy| firewall::qos(&policy)).unwrap_or_default()
        };
        let objects = firewall::Objects {
            ports: &ports,
            groups: &spaces().flat_map(|space| self.groups.in_namespace(space)).collect::<Vec<_>>(),
            addresses: &spaces().flat_map(|space| self.addresses.in_namespace(space)).collect::<Vec<_>>(),
            up: network.spec.admin_state_up.unwrap_or(true),
        };
        let policy = firewall::policy((&namespace, &name), &objects, &routes, quality);
        let members = members(&namespace, &name, &ports);
        let config = NetworkConfig {
            uid: uid.clone(),
            name,
            namespace,
            kind: NetworkKind::Tenant,
            subnets,
            subnets6,
            mtu: network.spec.mtu,
        };
        self.program(config, members, policy, &ports).await
    }

    /// Plugs a Pod in, or finds it plugged in.
    pub(crate) async fn attach_pod(&self, pod: &Pod) -> Result<PodLink, LinkError> {
        let namespace = pod.namespace().unwrap_or_default();
        if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            let dns = self.networks.dns_config(CLUSTER_UID, &namespace).unwrap_or_default();
            return Ok(pod_link(None, self.shared.host, dns));
        }
        let asked = pod.annotations().get(NETWORK_ANNOTATION).cloned();
        let default = || {
            let namespace = self.namespaces.get(None, &namespace)?;
            namespace.annotations().get(DEFAULT_NETWORK_ANNOTATION).cloned()
        };
        if asked.is_none() && !self.namespaces.is_synced() && !OWN_NAMESPACES.contains(&namespace.as_str()) {
            let text = format!("it is not known yet which network Pods of the namespace {namespace} join");
            return Err(LinkError::Waits(text));
        }
        match asked.or_else(default).filter(|network| !network.is_empty() && network != CLUSTER_NETWORK) {
            Some(_) => self.attach_pod_to_tenant(pod, &namespace).await,
            None => self.attach_pod_to_cluster(pod, namespace).await,
        }
    }

    async fn attach_pod_to_cluster(&self, pod: &Pod, namespace: String) -> Result<PodLink, LinkError> {
        let slice = self.slice().await?;
        {
            let _turn = self.turns.wait(CLUSTER_UID).await;
            self.networks
                .ensure(NetworkConfig {
                    uid: CLUSTER_UID.to_owned(),
                    name: CLUSTER_NETWORK.to_owned(),
                    namespace: "kube-system".to_owned(),
                    kind: NetworkKind::Cluster { node_cidr: slice },
                    subnets: Vec::new(),
                    subnets6: Vec::new(),
                    mtu: CLUSTER_MTU,
                })
                .await?;
        }
        let pod_uid = pod.uid().unwrap_or_default();
        let ip = self.networks.allocate_cluster_ip(&pod_uid).await?;
        let host_ports = services::host_ports(pod);
        let attach = PodAttach { pod_uid, port_uid: None, mac: None, ips: vec![ip], host_ports };
        let net = self.networks.attach_pod(CLUSTER_UID, attach).await?;
        Ok(pod_link(
            Some(net.netns),
            ip.into(),
            self.networks.dns_config(CLUSTER_UID, &namespace).unwrap_or_default(),
        ))
    }

    /// This node's slice of the cluster network, which a controller gives out. While the API server is away, the one that it had.
    async fn slice(&self) -> Result<Ipv4Net, LinkError> {
        let file = self.shared.root.join(SLICE);
        let kept = std::fs::read_to_string(&file).ok().and_then(|text| text.parse().ok());
        let node = self.nodes.get(None, &self.shared.node);
        if node.is_none() && !self.nodes.is_synced() {
            let waits = || {
                LinkError::Waits("the API server has not said yet which addresses the node has".to_owned())
            };
            return kept.ok_or_else(waits);
        }
        let slice = node.and_then(|node| node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok());
        if let Some(slice) = slice
            && kept != Some(slice)
            && let Err(error) = std::fs::write(&file, slice.to_string())
        {
            tracing::warn!(%error, "the node's slice can't be kept for when the API server is away");
        }
        slice.ok_or_else(|| LinkError::Waits(format!("node {} has no podCIDR yet", self.shared.node)))
    }

    /// On the network of its Port, whatever it says itself: a Port was asked whether it may be there.
    async fn attach_pod_to_tenant(&self, pod: &Pod, namespace: &str) -> Result<PodLink, LinkError> {
        let port = self.port(namespace, &workload_port("Pod", &pod.name_any(), 0), pod.uid())?;
        let network = self.network(namespace, &port.spec.network)?;
        let uid = network.uid().unwrap_or_default();
        let (mac, ips) = for_pod(&port)?;
        let ip = ips[0];
        let _turn = self.turns.wait(&uid).await;
        self.ensure(&network).await?;
        let attach = PodAttach {
            pod_uid: pod.uid().unwrap_or_default(),
            port_uid: port.uid(),
            mac: Some(mac),
            ips,
            host_ports: services::host_ports(pod),
        };
        let net = self.networks.attach_pod(&uid, attach).await?;
        self.plugged_in(&port, &network).await?;
        Ok(pod_link(
            Some(net.netns),
            ip.into(),
            self.networks.dns_config(&uid, namespace).unwrap_or_default(),
        ))
    }

    /// Plugs a machine's interface in: on the network of its Port, whatever the machine says. A Port was asked whether it may be there.
    pub(crate) async fn attach_machine(
        &self,
        namespace: &str,
        port: &str,
        holder: Option<String>,
    ) -> Result<MachineLink, LinkError> {
        let port = self.port(namespace, port, holder)?;
        let network = self.network(namespace, &port.spec.network)?;
        let uid = network.uid().unwrap_or_default();
        let (mac, ips, ips6) = addresses(&port)?;
        let _turn = self.turns.wait(&uid).await;
        self.ensure(&network).await?;
        let attach = TapAttach { port_uid: port.uid().unwrap_or_default(), mac, ips, ips6 };
        let tap = self.networks.attach_tap(&uid, attach).await?;
        self.plugged_in(&port, &network).await?;
        Ok(MachineLink { tap, port })
    }

    fn network(&self, namespace: &str, name: &str) -> Result<Arc<Network>, LinkError> {
        let (owner, name) = network_place(namespace, name);
        self.network_objects
            .get(Some(owner), name)
            .ok_or_else(|| LinkError::Waits(format!("network {name} does not exist in namespace {owner}")))
    }

    /// A Port that is held by the workload with this uid.
    pub(crate) fn port(
        &self,
        namespace: &str,
        name: &str,
        holder: Option<String>,
    ) -> Result<Arc<Port>, LinkError> {
        let waits = || LinkError::Waits(format!("port {name} is not there yet"));
        let port = self.ports.get(Some(namespace), name).ok_or_else(waits)?;
        match &port.spec.holder {
            Some(present) if Some(&present.uid) == holder.as_ref() => Ok(port),
            Some(present) => {
                let text = format!("port {name} is held by {} {}", present.kind, present.name);
                Err(LinkError::Waits(text))
            }
            None => Err(waits()),
        }
    }

    /// Writes down on the Port and on its Network that they are here.
    async fn plugged_in(&self, port: &Port, network: &Network) -> Result<(), LinkError> {
        let node = &self.shared.node;
        let status = port.status.clone().unwrap_or_default();
        if status.phase != PortPhase::Active || status.node.as_ref() != Some(node) {
            let patch = json!({"status": {"phase": "Active", "node": node}});
            self.write::<Port>(port.namespace(), &port.name_any(), &patch).await?;
        }
        let mut nodes = network.status.clone().unwrap_or_default().nodes;
        if !nodes.contains(node) {
            nodes.push(node.clone());
            let patch = json!({"status": {"nodes": nodes}});
            self.write::<Network>(network.namespace(), &network.name_any(), &patch).await?;
        }
        Ok(())
    }

    async fn write<K: yunfan_client::Watched>(
        &self,
        namespace: Option<String>,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<(), LinkError> {
        match self.shared.writer.merge_status::<K>(namespace.as_deref(), name, patch).await {
            Err(error) if !yunfan_client::is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Unplugs a Pod; one that is not plugged in is no error.
    pub(crate) async fn detach_pod(&self, pod_uid: &str) -> Result<(), LinkError> {
        let attachments = self.networks.attachments();
        let attached = attachments.into_iter().find(|a| a.pod_uid.as_deref() == Some(pod_uid));
        self.networks.detach(pod_uid).await?;
        if let Some(attachment) = attached {
            self.left(&attachment.network_uid, &attachment.port_uid).await?;
        }
        Ok(())
    }

    /// Unplugs a machine's interface by its Port's uid.
    pub(crate) async fn detach_port(&self, network_uid: &str, port_uid: &str) -> Result<(), LinkError> {
        self.networks.detach(port_uid).await?;
        self.left(network_uid, port_uid).await
    }

    /// The ports of machines (taps) that are plugged in on this node, as (network uid, port uid).
    pub(crate) fn plugged_machines(&self) -> HashSet<(String, String)> {
        let all = self.networks.attachments().into_iter();
        all.filter(|a| a.pod_uid.is_none()).map(|a| (a.network_uid, a.port_uid)).collect()
    }

    /// The plugs of a machine that is gone, and those whose Port is gone.
    pub(crate) fn stray_machines(&self, machine_uid: &str) -> Vec<(String, String)> {
        let ports = self.ports.list();
        let stray = |port_uid: &String| {
            let port = ports.iter().find(|port| port.metadata.uid.as_ref() == Some(port_uid));
            port.is_none_or(|port| port.spec.holder.as_ref().is_some_and(|holder| holder.uid == machine_uid))
        };
        self.plugged_machines().into_iter().filter(|(_, port)| stray(port)).collect()
    }

    /// The plugs of Ports that a machine holds.
    pub(crate) fn held_by(&self, machine_uid: &str) -> Vec<(String, String)> {
        let ports = self.ports.list();
        let held = |port_uid: &String| {
            let port = ports.iter().find(|port| port.metadata.uid.as_ref() == Some(port_uid));
            port.is_some_and(|port| port.spec.holder.as_ref().is_some_and(|holder| holder.uid == machine_uid))
        };
        self.plugged_machines().into_iter().filter(|(_, port)| held(port)).collect()
    }

    /// Whether a workload of this node is on the network.
    fn is_here(&self, network_uid: &str) -> bool {
        self.networks.attachments().iter().any(|a| a.network_uid == network_uid)
    }

    /// After an unplugging: the Port's status says so, and a network that nobody here is on goes.
    async fn left(&self, network_uid: &str, port_uid: &str) -> Result<(), LinkError> {
        let ports = self.ports.list();
        let node = Some(&self.shared.node);
        let port = ports.iter().find(|port| port.metadata.uid.as_deref() == Some(port_uid));
        if let Some(port) = port.filter(|port| port.status.as_ref().and_then(|s| s.node.as_ref()) == node) {
            let patch = json!({"status": {"phase": "Down", "node": null}});
            self.write::<Port>(port.namespace(), &port.name_any(), &patch).await?;
        }
        if network_uid == CLUSTER_UID {
            return Ok(());
        }
        let _turn = self.turns.wait(network_uid).await;
        if self.is_here(network_uid) {
            return Ok(());
        }
        self.networks.remove(network_uid).await?;
        let networks = self.network_objects.list();
        let Some(network) = networks.iter().find(|n| n.metadata.uid.as_deref() == Some(network_uid)) else {
            return Ok(());
        };
        let mut nodes = network.status.clone().unwrap_or_default().nodes;
        if nodes.iter().any(|n| Some(n) == node) {
            nodes.retain(|n| Some(n) != node);
            let patch = json!({"status": {"nodes": nodes}});
            self.write::<Network>(network.namespace(), &network.name_any(), &patch).await?;
        }
        Ok(())
    }
}

fn network_key(namespace: Option<String>, network: &str) -> Work {
    let namespace = namespace.unwrap_or_default();
    let (owner, name) = network_place(&namespace, network);
    Work::Network(ObjectKey::new(owner.to_owned(), name))
}

fn pod_link(netns: Option<PathBuf>, ip: IpAddr, dns: yunfan_network::DnsConfig) -> PodLink {
    PodLink {
        netns,
        ip,
        dns: yunfan_runtime::DnsConfig {
            servers: dns.servers.iter().map(ToString::to_string).collect(),
            searches: dns.searches,
            options: dns.options,
        },
    }
}
