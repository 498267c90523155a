//! One network of this node while it is up: its namespace, its view, its servers, its programmed Services.

use crate::advert::Routed;
use crate::bridge::{self, Facts};
use crate::conntrack::Flow;
use crate::doors::Ends;
use crate::error::{NetworkError, Result};
use crate::namespace::Namespace;
use crate::servers;
use crate::services::{self, Entrance, Place, UdpTargets};
use crate::state::SavedNetwork;
use crate::types::{Attachment, Config, HostPort, NetworkConfig, NetworkKind, Policy};
use crate::view::{NetworkView, ServiceBook, Shared};
use crate::{conntrack, dns, firewall, namespace, nft, qos, router6, uplink};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

/// What is shared by all networks of a node.
pub(crate) struct Common {
    pub(crate) config: Arc<Config>,
    pub(crate) book: Arc<Shared<ServiceBook>>,
    /// Host ports, and the pods that they lead to.
    pub(crate) host_ports: Arc<Shared<Vec<(HostPort, Ipv4Addr)>>>,
    /// The uplink's ends, once it is there.
    pub(crate) ends: Arc<Shared<Option<Ends>>>,
    pub(crate) metadata: Arc<dyn crate::MetadataProvider>,
}

/// A network that is up.
pub(crate) struct Network {
    pub(crate) ns: Namespace,
    pub(crate) view: Arc<Shared<NetworkView>>,
    facts: Facts,
    /// Whether a router joins the network with IPv6.
    pub(crate) routed: Arc<Routed>,
    /// The servers, and the addresses on which they listen.
    servers: Mutex<(JoinSet<()>, Vec<SocketAddr>)>,
    /// What is in the kernel; held while it is being replaced.
    programmed: Arc<tokio::sync::Mutex<Option<Programmed>>>,
    /// What ports may say and hear, as the kernel last took it.
    pub(crate) policy: Arc<Shared<Policy>>,
    /// The policy in the kernel, if it is known; held while it is being replaced.
    guarded: Arc<tokio::sync::Mutex<Option<Arc<Policy>>>>,
}

/// The Services' rules in the kernel.
struct Programmed {
    fingerprint: u64,
    udp: UdpTargets,
}

impl Network {
    /// Makes the network, or takes over what is there.
    pub(crate) async fn start(
        name: String,
        saved: SavedNetwork,
        ports_here: Vec<Attachment>,
        common: &Common,
    ) -> Result<Self> {
        let view = NetworkView::new(saved.config, saved.members);
        let policy = Arc::new(Shared::new(saved.policy));
        let told = policy.get();
        let config = common.config.clone();
        let (view, ns, facts, sockets, routed) = namespace::blocking(move || {
            let (ns, facts) =
                bridge::ensure(&name, &view, &config, (&ports_here, &told), bridge::Limits::New)?;
            let sockets = servers::open(&ns, &view, &config)?;
            let routed = !view.config.subnets6.is_empty() && router6::leads(&ns)?;
            Ok((view, ns, facts, sockets, routed))
        })
        .await?;
        let listening = dns::listen_addresses(&view, &common.config);
        let view = Arc::new(Shared::new(view));
        let routed = Arc::new(Routed::new(routed));
        let tasks = servers::start(sockets, sources(&view, &routed, common))?;
        let network = Self {
            ns,
            view,
            facts,
            routed,
            servers: Mutex::new((tasks, listening)),
            programmed: Arc::new(tokio::sync::Mutex::new(None)),
            policy,
            guarded: Arc::default(),
        };
        // Before anything is known about Services the kernel may hold an earlier process's rules, which are better.
        if common.book.get().known {
            network.program(common).await?;
        }
        Ok(network)
    }

    /// Changes a network that is up: addresses, MTU, names. Its ports stay as they are.
    pub(crate) async fn change(
        &self,
        config: NetworkConfig,
        ports_here: Vec<Attachment>,
        common: &Common,
    ) -> Result<()> {
        let view = NetworkView::new(config.clone(), self.view.get().members.clone());
        let (name, node) = (self.ns.name.clone(), common.config.clone());
        let guarded = self.guarded.clone().lock_owned().await;
        let policy = self.policy.get();
        let view = namespace::blocking(move || {
            let _guarded = guarded;
            bridge::ensure(&name, &view, &node, (&ports_here, &policy), bridge::Limits::AsTheyAre)
                .map(|_| view)
        })
        .await?;
        let listening = dns::listen_addresses(&view, &common.config);
        self.view.set(view);
        self.routed.tell();
        if self.lock_servers().1 != listening {
            self.restart_servers(listening, common).await?;
        }
        if common.book.get().known {
            self.program(common).await?;
        }
        Ok(())
    }

    async fn restart_servers(&self, listening: Vec<SocketAddr>, common: &Common) -> Result<()> {
        let mut old = std::mem::take(&mut self.lock_servers().0);
        // The old sockets must be closed before the same addresses can be bound again.
        old.shutdown().await;
        let (ns, view, config) = (self.ns.clone(), self.view.get(), common.config.clone());
        let sockets = namespace::blocking(move || servers::open(&ns, &view, &config)).await?;
        *self.lock_servers() =
            (servers::start(sockets, sources(&self.view, &self.routed, common))?, listening);
        Ok(())
    }

    fn lock_servers(&self) -> std::sync::MutexGuard<'_, (JoinSet<()>, Vec<SocketAddr>)> {
        self.servers.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Programs the Services as they are now, if that differs from what was programmed before.
    pub(crate) async fn program(&self, common: &Common) -> Result<()> {
        // Taken before the book is read: two callers at once then end with the newer book.
        let mut programmed = self.programmed.clone().lock_owned().await;
        let view = self.view.get();
        let place = Place {
            service_cidr: common.config.service_cidr,
            own: common.config.own_addresses(),
            gateway: view.config.subnets.first().map_or(Ipv4Addr::UNSPECIFIED, |s| s.gateway),
            bridged_tracking: self.facts.bridged_tracking,
            entrance: self.entrance(&view, common).await?,
        };
        let rendering = services::render(&view, &common.book.get(), &place);
        let fingerprint = rendering.fingerprint();
        if programmed.as_ref().is_some_and(|programmed| programmed.fingerprint == fingerprint) {
            return Ok(());
        }
        let ns = self.ns.clone();
        // The lock goes along: if our caller gives up, the next one still waits for this transaction.
        namespace::blocking(move || {
            let scope = ns.name.clone();
            let old = programmed.take();
            let udp = rendering.udp.clone();
            ns.run(move || {
                nft::apply(&scope, &rendering.transaction(&nft::listing(&scope)?))?;
                let udp = rendering.udp;
                if old.is_none_or(|old| old.udp != udp) && !udp.is_empty() {
                    conntrack::forget_udp(|flow| {
                        udp.get(&flow.front).is_some_and(|all| !all.contains(&flow.target))
                    })?;
                }
                Ok(())
            })?;
            *programmed = Some(Programmed { fingerprint, udp });
            Ok(())
        })
        .await
    }

    /// Programs what ports may say and hear, if that differs from what was programmed before. Says whether it did.
    pub(crate) async fn guard(&self, policy: Policy) -> Result<bool> {
        let mut guarded = self.guarded.clone().lock_owned().await;
        if guarded.as_ref().is_some_and(|known| **known == policy) {
            return Ok(false);
        }
        let filters = policy.guards.iter().any(|guard| guard.secured && guard.groups.is_some());
        if filters && !self.facts.bridged_tracking {
            let reason = "this kernel has no br_netfilter, without which bridged packets can't be filtered";
            return Err(NetworkError::invalid("security_groups", reason));
        }
        let (ns, told) = (self.ns.clone(), self.policy.clone());
        // The lock goes along: if our caller gives up, the next one still waits for this transaction.
        namespace::blocking(move || {
            // What is in the kernel, if that is known: the limits of ports that keep theirs go on counting.
            let limits = match guarded.take() {
                Some(known) => qos::change(&known, &policy),
                None => qos::render(&policy),
            };
            let scope = ns.name.clone();
            let script =
                format!("{}{}{limits}", firewall::render_bridge(&policy), firewall::render_filters(&policy));
            let policy = Arc::new(policy);
            let judged = policy.clone();
            ns.run(move || {
                nft::apply(&scope, &script)?;
                let judge = firewall::Judge::new(&judged);
                // The rules hold by now, for all but the answers to what had begun.
                let forget = || {
                    conntrack::forget(|flow: Flow| judge.ends(&flow.any()))?;
                    conntrack::forget(|flow: Flow<Ipv6Addr>| judge.ends(&flow.any()))
                };
                if filters && let Err(error) = forget() {
                    tracing::warn!(network = scope, %error, "flows that rules do not let begin any more may still be answered");
                }
                Ok(())
            })?;
            told.set(policy.as_ref().clone());
            *guarded = Some(policy);
            Ok(true)
        })
        .await
    }

    /// Forgets what was programmed, so that it is done again.
    pub(crate) async fn unguard(&self) {
        *self.guarded.lock().await = None;
    }

    /// The way in from the host, where there is one.
    async fn entrance(&self, view: &NetworkView, common: &Common) -> Result<Option<Entrance>> {
        let NetworkKind::Cluster { node_cidr } = view.config.kind else { return Ok(None) };
        let Some(ends) = *common.ends.get() else { return Ok(None) };
        Ok(Some(Entrance {
            uplink: ends.cluster,
            nodes: namespace::blocking(uplink::host_addresses).await?,
            cluster_cidr: common.config.cluster_cidr,
            node_cidr,
            host_ports: common.host_ports.get().to_vec(),
        }))
    }

    /// Stops the servers.
    pub(crate) async fn stop(&self) {
        let mut old = std::mem::take(&mut self.lock_servers().0);
        old.shutdown().await;
    }
}

fn sources(view: &Arc<Shared<NetworkView>>, routed: &Arc<Routed>, common: &Common) -> servers::Sources {
    servers::Sources {
        view: view.clone(),
        book: common.book.clone(),
        config: common.config.clone(),
        metadata: common.metadata.clone(),
        routed: routed.clone(),
    }
}
