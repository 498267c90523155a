//! The public face: all networks of one node.

use crate::check;
use crate::error::{NetworkError, Result};
use crate::ipam::Ipam;
use crate::metadata::MetadataProvider;
use crate::names::{Names, check_uid};
use crate::namespace::{self, Namespace};
use crate::network::{Common, Network};
use crate::servers;
use crate::state::{SavedNetwork, StateDir};
use crate::teardown::remove_namespace;
use crate::types::{
    Attachment, Config, DialFrom, DnsConfig, HostPort, Member, NetworkConfig, NetworkKind, Policy, Protocol,
    RouterConfig, ServiceRule,
};
use crate::uplink::{self, Uplink};
use crate::view::{ServiceBook, Shared};
use crate::{conntrack, doors, services, six};
use rustix::net::SocketType;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, Weak};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// How long [`NodeNetworks::dial`] waits for an answer.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);
/// Services that one node programs.
const MAX_SERVICES: usize = 10_000;

/// The networks of one node. A cheap handle; all clones are the same thing. When the last one goes, the servers
/// inside the networks stop, and everything else stays for the next [`NodeNetworks::open`].
#[derive(Clone)]
pub struct NodeNetworks(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) names: Names,
    pub(crate) state: StateDir,
    pub(crate) common: Common,
    pub(crate) networks: RwLock<HashMap<String, Arc<Network>>>,
    /// By port uid.
    pub(crate) attachments: Mutex<BTreeMap<String, Attachment>>,
    pub(crate) ipam: Mutex<Ipam>,
    notes: Mutex<BTreeSet<String>>,
    /// Why networks of an earlier process are closed, by their uids.
    closed: Mutex<BTreeMap<String, String>>,
    /// Which networks go on with IPv4 alone, by their uids.
    without_six: Mutex<BTreeMap<String, String>>,
    /// Fingerprint of the host's doors in the kernel; held while they are being replaced.
    doors: Arc<tokio::sync::Mutex<Option<u64>>>,
    /// The routers in the kernel, if they are known, each with its networks' namespaces.
    pub(crate) routed: Mutex<Option<Vec<Routed>>>,
    /// Held while a network is made, changed or removed.
    pub(crate) structure: tokio::sync::Mutex<()>,
}

/// A router, and what tells the namespaces of its networks from later ones.
pub(crate) type Routed = (RouterConfig, Vec<Weak<OwnedFd>>);

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is a few assignments; a panic in one leaves nothing half-done.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl NodeNetworks {
    /// Opens the node's networks and takes over every one that an earlier process made: its namespace is found or
    /// made again, its rules are refreshed, and its DNS, DHCP and metadata servers answer when this returns.
    ///
    /// # Errors
    /// When the state directory cannot be used, root is missing, or a program is (`nft`).
    pub async fn open(config: Config, metadata: Arc<dyn MetadataProvider>) -> Result<Self> {
        let names = Names::new(&config.tag)?;
        for own in config.own_addresses() {
            if !config.service_cidr.contains(&own) {
                let reason = format!("{own} is not inside the Services' range {}", config.service_cidr);
                let field = if own == config.cluster_dns { "cluster_dns" } else { "api" };
                return Err(NetworkError::invalid(field, reason));
            }
        }
        let dir = config.state_dir.clone();
        let (state, saved, attachments, addresses) = namespace::blocking(move || {
            let state = StateDir::open(&dir)?;
            let (networks, attachments, addresses) =
                (state.networks()?, state.attachments()?, state.addresses()?);
            Ok((state, networks, attachments, addresses))
        })
        .await?;
        let common = Common {
            config: Arc::new(config),
            book: Arc::new(Shared::new(ServiceBook::default())),
            host_ports: Arc::new(Shared::new(host_ports(&attachments))),
            ends: Arc::new(Shared::new(None)),
            metadata,
        };
        let this = Self(Arc::new(Inner {
            names,
            state,
            common,
            networks: RwLock::default(),
            attachments: Mutex::new(attachments.into_iter().map(|a| (a.port_uid.clone(), a)).collect()),
            ipam: Mutex::new(Ipam::new(addresses)),
            notes: Mutex::default(),
            closed: Mutex::default(),
            without_six: Mutex::default(),
            doors: Arc::default(),
            routed: Mutex::default(),
            structure: tokio::sync::Mutex::new(()),
        }));
        for network in saved {
            this.take_over(network).await?;
        }
        Ok(this)
    }

    /// Brings up a network of an earlier process. A tenant's that can't be as it was is closed, for that is no reason to do without all others.
    async fn take_over(&self, mut saved: SavedNetwork) -> Result<()> {
        saved.config = self.served(saved.config);
        let error = match self.bring_up(saved.clone()).await {
            Err(error @ NetworkError::MissingProgram { .. }) => return Err(error),
            Err(error) if matches!(saved.config.kind, NetworkKind::Tenant) => error,
            result => return result,
        };
        let uid = saved.config.uid.clone();
        let note = format!("network {uid} is closed until it can be programmed: {error}");
        tracing::warn!("{note}");
        lock(&self.0.closed).insert(uid.clone(), note);
        let policy = Policy::closed(&self.attachments_of(&uid));
        if let Err(error) = self.bring_up(SavedNetwork { policy, ..saved }).await {
            tracing::warn!(network = uid, %error, "the network can't be closed either: it stays as it was left");
        }
        Ok(())
    }

    /// Makes the network what `config` says; does nothing if it is.
    ///
    /// # Errors
    /// [`NetworkError::Invalid`] names a field that cannot be; otherwise the kernel's refusal.
    pub async fn ensure(&self, config: NetworkConfig) -> Result<()> {
        let inner = &self.0;
        let config = self.served(check::network(&inner.common.config, config)?);
        let _structure = inner.structure.lock().await;
        let Some(network) = self.find(&config.uid) else {
            // What an earlier process left there hears nothing before its rules are known.
            let policy = Policy::closed(&self.attachments_of(&config.uid));
            let saved = SavedNetwork { config, members: Vec::new(), policy };
            // Saved first: what is made is then always known, also after a kill in between.
            self.save_network(saved.clone()).await?;
            return self.bring_up(saved).await;
        };
        let view = network.view.get();
        if view.config == config {
            return Ok(());
        }
        let policy = network.policy.get().as_ref().clone();
        self.save_network(SavedNetwork { config: config.clone(), members: view.members.clone(), policy })
            .await?;
        network.change(config.clone(), self.attachments_of(&config.uid), &inner.common).await?;
        self.bring_up_uplink(&config, &network).await
    }

    /// The network without what this node's kernel has not, of which there is a note then.
    fn served(&self, mut config: NetworkConfig) -> NetworkConfig {
        let left_out = six::leave_out(&mut config, six::is_here());
        let mut notes = lock(&self.0.without_six);
        if !left_out {
            notes.remove(&config.uid);
        } else if !notes.contains_key(&config.uid) {
            let note =
                format!("the kernel has no IPv6: network {} goes on with IPv4 alone here", config.name);
            tracing::warn!("{note}");
            notes.insert(config.uid.clone(), note);
        }
        drop(notes);
        config
    }

    async fn save_network(&self, network: SavedNetwork) -> Result<()> {
        let state = self.0.state.clone();
        namespace::blocking(move || state.save_network(&network)).await
    }

    async fn bring_up(&self, saved: SavedNetwork) -> Result<()> {
        let inner = &self.0;
        let config = saved.config.clone();
        let name = match config.kind {
            NetworkKind::Cluster { .. } => inner.names.cluster_ns(),
            NetworkKind::Tenant => inner.names.network_ns(&config.uid),
        };
        let clash = self.snapshot().into_iter().find(|n| n.ns.name == name);
        if let Some(other) = clash {
            let other = other.view.get().config.uid.clone();
            return Err(NetworkError::invalid(
                "uid",
                format!("network {other} already has the namespace {name} on this node"),
            ));
        }
        let ports_here = self.attachments_of(&config.uid);
        let network = Network::start(name, saved, ports_here, &inner.common).await?;
        let network = Arc::new(network);
        self.bring_up_uplink(&config, &network).await?;
        inner.networks.write().unwrap_or_else(|e| e.into_inner()).insert(config.uid, network);
        Ok(())
    }

    async fn bring_up_uplink(&self, config: &NetworkConfig, network: &Network) -> Result<()> {
        let NetworkKind::Cluster { node_cidr } = config.kind else { return Ok(()) };
        let inner = &self.0;
        let uplink = Uplink {
            names: inner.names.clone(),
            node_cidr,
            cluster_cidr: inner.common.config.cluster_cidr,
            service_cidr: inner.common.config.service_cidr,
            mtu: config.mtu,
        };
        let (ns, state) = (network.ns.clone(), inner.state.clone());
        let (ends, found) = namespace::blocking(move || uplink::ensure(&uplink, &ns, &state)).await?;
        for note in &found {
            tracing::warn!("{note}");
        }
        *lock(&inner.notes) = found.into_iter().collect();
        inner.common.ends.set(Some(ends));
        if inner.common.book.get().known {
            network.program(&inner.common).await?;
            self.open_doors().await?;
        }
        Ok(())
    }

    /// Tells the host which of its ports lead inside, if that differs from what it was told before.
    async fn open_doors(&self) -> Result<()> {
        let inner = self.0.clone();
        // Taken before the book is read: two callers at once then end with the newer book.
        let mut doors = inner.doors.clone().lock_owned().await;
        let Some(ends) = *inner.common.ends.get() else { return Ok(()) };
        namespace::blocking(move || {
            let host_ports = inner.common.host_ports.get();
            let rendering = doors::render(&inner.names, ends, &inner.common.book.get(), &host_ports);
            let fingerprint = services::fingerprint(&rendering);
            if *doors == Some(fingerprint) {
                return Ok(());
            }
            *doors = None;
            doors::apply(&inner.names, &rendering)?;
            let pods = inner.common.config.cluster_cidr;
            let udp: BTreeSet<_> = host_ports
                .iter()
                .filter(|(port, _)| port.protocol == Protocol::Udp)
                .map(|(port, ip)| (port.port, (*ip, port.target_port)))
                .collect();
            let stale = |flow: conntrack::Flow| {
                let (front, target) = (flow.front.1, flow.target);
                udp.iter().any(|(port, _)| *port == front)
                    && pods.contains(&target.0)
                    && !pods.contains(&flow.front.0)
                    && !udp.contains(&(front, target))
            };
            if !udp.is_empty() {
                conntrack::forget_udp(stale)?;
            }
            *doors = Some(fingerprint);
            Ok(())
        })
        .await
    }

    /// Opens and closes host ports, as the attachments have them now.
    pub(crate) async fn change_host_ports(&self) -> Result<()> {
        let common = &self.0.common;
        common.host_ports.set(host_ports(&self.attachments()));
        // Before the Services are known, the kernel may hold an earlier process's rules, which are better; all is told then.
        if !common.book.get().known {
            return Ok(());
        }
        for network in self.snapshot().into_iter().filter(|network| network.view.get().is_cluster()) {
            network.program(common).await?;
        }
        self.open_doors().await
    }

    /// Removes the network with every port on it; fine if it is gone.
    ///
    /// # Errors
    /// The kernel's refusal; call again.
    pub async fn remove(&self, uid: &str) -> Result<()> {
        let inner = &self.0;
        let _structure = inner.structure.lock().await;
        for attachment in self.attachments_of(uid) {
            self.detach(&attachment.port_uid).await?;
        }
        let was_closed = lock(&inner.closed).remove(uid).is_some();
        lock(&inner.without_six).remove(uid);
        let Some(network) = self.find(uid) else {
            let (name, state, uid) = (inner.names.network_ns(uid), inner.state.clone(), uid.to_owned());
            let clean = move || remove_namespace(&name).and_then(|()| state.forget_network(&uid));
            return if was_closed { namespace::blocking(clean).await } else { Ok(()) };
        };
        network.stop().await;
        let (name, cluster) = (network.ns.name.clone(), network.view.get().is_cluster());
        if cluster {
            inner.common.ends.set(None);
            *inner.doors.lock().await = None;
            // The host's table of routers goes with the uplink's.
            *lock(&inner.routed) = None;
        }
        let (names, state, uid_owned) = (inner.names.clone(), inner.state.clone(), uid.to_owned());
        inner.networks.write().unwrap_or_else(|e| e.into_inner()).remove(uid);
        drop(network);
        namespace::blocking(move || {
            if cluster {
                uplink::remove(&names, &state.host()?)?;
            }
            remove_namespace(&name)?;
            state.forget_network(&uid_owned)
        })
        .await
    }

    /// Tells the network all its Ports, on whatever node: they are what DNS, DHCP and PTR answer from.
    ///
    /// # Errors
    /// [`NetworkError::UnknownNetwork`], or too many members.
    pub async fn set_members(&self, uid: &str, members: Vec<Member>) -> Result<()> {
        if members.len() > check::MAX_MEMBERS {
            let reason = format!(
                "{} are more than the {} that one network may have",
                members.len(),
                check::MAX_MEMBERS
            );
            return Err(NetworkError::invalid("members", reason));
        }
        let _structure = self.0.structure.lock().await;
        let network = self.need(uid)?;
        let view = network.view.get();
        if view.members == members {
            return Ok(());
        }
        let policy = network.policy.get().as_ref().clone();
        let saved = SavedNetwork { config: view.config.clone(), members: members.clone(), policy };
        network.view.set(crate::view::NetworkView::new(view.config.clone(), members));
        self.save_network(saved).await
    }

    /// Tells the network what its ports may say and hear. It holds when this returns, also for ports that are plugged in later.
    ///
    /// # Errors
    /// [`NetworkError::UnknownNetwork`], too many ports, or the kernel's refusal; then what held before still does.
    pub async fn set_policy(&self, uid: &str, policy: Policy) -> Result<()> {
        if policy.guards.len() > check::MAX_MEMBERS {
            let reason = format!("{} ports are more than one network may have", policy.guards.len());
            return Err(NetworkError::invalid("guards", reason));
        }
        let network = self.need(uid)?;
        if *network.policy.get() != policy {
            // Before the kernel has it: who is killed in between goes on with the newer rules, or without the network.
            self.save_policy(uid, &network, policy.clone()).await?;
        }
        let changed = network.guard(policy).await;
        if matches!(changed, Ok(false)) {
            lock(&self.0.closed).remove(uid);
            return Ok(());
        }
        // What the kernel has, also where it refused, and where another wrote the network meanwhile.
        let saved = self.save_policy(uid, &network, network.policy.get().as_ref().clone()).await;
        if saved.is_err() {
            network.unguard().await;
        }
        changed?;
        lock(&self.0.closed).remove(uid);
        saved
    }

    async fn save_policy(&self, uid: &str, network: &Arc<Network>, policy: Policy) -> Result<()> {
        let _structure = self.0.structure.lock().await;
        if self.find(uid).is_none_or(|now| !Arc::ptr_eq(&now, network)) {
            return Err(NetworkError::UnknownNetwork { uid: uid.to_owned() });
        }
        let view = network.view.get();
        let saved = SavedNetwork { config: view.config.clone(), members: view.members.clone(), policy };
        self.save_network(saved).await
    }

    /// Tells the node all Services. Each network's rules are replaced in one transaction, and only where they differ.
    ///
    /// # Errors
    /// The first network's refusal; the others were programmed all the same. DNS answers the new names either way.
    pub async fn set_services(&self, services: Vec<ServiceRule>) -> Result<()> {
        if services.len() > MAX_SERVICES {
            let reason = format!("{} are more than the {MAX_SERVICES} that a node programs", services.len());
            return Err(NetworkError::invalid("services", reason));
        }
        let inner = &self.0;
        inner.common.book.set(ServiceBook::new(services));
        let mut result = Ok(());
        for network in self.snapshot() {
            result = result.and(network.program(&inner.common).await);
        }
        result.and(self.open_doors().await)
    }

    /// A TCP connection made from inside a pod's or a network's namespace: for probes and port-forwarding.
    ///
    /// # Errors
    /// [`NetworkError::UnknownAttachment`], [`NetworkError::UnknownNetwork`], or why the connection failed.
    pub async fn dial(&self, from: DialFrom<'_>, address: SocketAddr) -> Result<TcpStream> {
        let ns = match from {
            DialFrom::Network(uid) => self.need(uid)?.ns.clone(),
            DialFrom::Pod(uid) => {
                check_uid("pod_uid", uid)?;
                let name = self.0.names.pod_ns(uid);
                let found = namespace::blocking(move || Namespace::open(&name)).await?;
                found.ok_or_else(|| NetworkError::UnknownAttachment { id: uid.to_owned() })?
            }
        };
        let fd = namespace::blocking(move || ns.run(|| servers::socket(SocketType::STREAM))).await?;
        let socket = TcpSocket::from_std_stream(fd.into());
        let failed = |e| NetworkError::io(format!("connect to {address} from inside"), e);
        match tokio::time::timeout(DIAL_PATIENCE, socket.connect(address)).await {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// What resolv.conf should say in a pod of `namespace` on this network; `None` = no such network here.
    pub fn dns_config(&self, uid: &str, namespace: &str) -> Option<DnsConfig> {
        let view = self.find(uid)?.view.get();
        let subnet = view.config.subnets.first()?;
        let servers =
            if subnet.dns_servers.is_empty() { vec![subnet.gateway] } else { subnet.dns_servers.clone() };
        let searches = view.searches(namespace, self.0.common.config.domain.trim_end_matches('.'));
        Some(DnsConfig { servers, searches, options: vec!["ndots:5".to_owned()] })
    }

    /// What is attached on this node, also by earlier processes; for the agent to drop what is no longer wanted.
    pub fn attachments(&self) -> Vec<Attachment> {
        lock(&self.0.attachments).values().cloned().collect()
    }

    /// The networks that are up on this node.
    pub fn networks(&self) -> Vec<NetworkConfig> {
        self.snapshot().iter().map(|n| n.view.get().config.clone()).collect()
    }

    /// Sentences for people about what does not work here as it should, such as a range that another cloud routes.
    pub fn notes(&self) -> Vec<String> {
        let closed = lock(&self.0.closed).values().cloned().collect::<Vec<_>>();
        let without = lock(&self.0.without_six).values().cloned().collect::<Vec<_>>();
        lock(&self.0.notes).iter().cloned().chain(closed).chain(without).collect()
    }

    pub(crate) fn find(&self, uid: &str) -> Option<Arc<Network>> {
        self.0.networks.read().unwrap_or_else(|e| e.into_inner()).get(uid).cloned()
    }

    pub(crate) fn need(&self, uid: &str) -> Result<Arc<Network>> {
        self.find(uid).ok_or_else(|| NetworkError::UnknownNetwork { uid: uid.to_owned() })
    }

    pub(crate) fn snapshot(&self) -> Vec<Arc<Network>> {
        self.0.networks.read().unwrap_or_else(|e| e.into_inner()).values().cloned().collect()
    }

    fn attachments_of(&self, uid: &str) -> Vec<Attachment> {
        lock(&self.0.attachments).values().filter(|a| a.network_uid == uid).cloned().collect()
    }
}

/// The host ports of what is attached, in one order.
fn host_ports<'a>(attachments: impl IntoIterator<Item = &'a Attachment>) -> Vec<(HostPort, Ipv4Addr)> {
    let mut all: Vec<_> = attachments
        .into_iter()
        .filter_map(|attachment| Some((attachment.ips.first()?, &attachment.host_ports)))
        .flat_map(|(ip, ports)| ports.iter().map(|port| (port.clone(), *ip)))
        .collect();
    all.sort();
    all
}
