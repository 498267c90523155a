//! The part of [`NodeNetworks`] that keeps routers.

use crate::error::Result;
use crate::names::check_uid;
use crate::namespace::{self, Namespace};
use crate::node::{NodeNetworks, Routed, lock};
use crate::teardown::remove_namespace;
use crate::types::{RouterConfig, RouterInterface};
use crate::{nft, router, router6, six, uplink};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

impl NodeNetworks {
    /// Makes the node's routers these and no others. An interface of a network that is not here is left out, and a router without any.
    ///
    /// # Errors
    /// The first router's refusal; the others were made all the same.
    pub async fn set_routers(&self, routers: Vec<RouterConfig>) -> Result<()> {
        let _structure = self.0.structure.lock().await;
        let mut work: Vec<(RouterConfig, Vec<Namespace>)> = Vec::new();
        for mut config in routers {
            check_uid("uid", &config.uid)?;
            config.interfaces.retain(|interface| self.find(&interface.network_uid).is_some());
            for interface in config.interfaces.iter_mut().filter(|_| !six::is_here()) {
                interface.subnets6.clear();
                interface.addresses6.clear();
            }
            let networks: Vec<Namespace> = config
                .interfaces
                .iter()
                .filter_map(|interface| Some(self.find(&interface.network_uid)?.ns.clone()))
                .collect();
            if !networks.is_empty() {
                work.push((config, networks));
            }
        }
        for network in self.snapshot() {
            let uid = network.view.get().config.uid.clone();
            let joins6 =
                |interface: &RouterInterface| interface.network_uid == uid && !interface.subnets6.is_empty();
            network.routed.set(work.iter().any(|(config, _)| config.interfaces.iter().any(joins6)));
        }
        let now: Vec<Routed> = work
            .iter()
            .map(|(config, networks)| (config.clone(), networks.iter().map(Namespace::identity).collect()))
            .collect();
        let same = |a: &Routed, b: &Routed| {
            let mut pairs = a.1.iter().zip(&b.1);
            a.0 == b.0 && a.1.len() == b.1.len() && pairs.all(|(a, b)| a.ptr_eq(b))
        };
        let known = lock(&self.0.routed).take();
        let is_known = |now: &Routed| known.iter().flatten().any(|known| same(known, now));
        if known.as_ref().is_some_and(|known| known.len() == now.len()) && now.iter().all(is_known) {
            *lock(&self.0.routed) = Some(now);
            return Ok(());
        }
        // What a router led to by way of a network's members goes with the router. (What was before us is not known.)
        let was = |uid: &str| known.as_ref().is_none_or(|known| known.iter().any(|(old, _)| joins(old, uid)));
        let left: Vec<Namespace> = self
            .snapshot()
            .iter()
            .filter(|network| {
                let view = network.view.get();
                let uid = &view.config.uid;
                !view.is_cluster() && was(uid) && !now.iter().any(|(config, _)| joins(config, uid))
            })
            .map(|network| network.ns.clone())
            .collect();
        let as_they_were: Vec<bool> = now.iter().map(is_known).collect();
        let inner = self.0.clone();
        namespace::blocking(move || {
            let names = &inner.names;
            let wanted: BTreeSet<String> =
                work.iter().map(|(config, _)| names.router_ns(&config.uid)).collect();
            for name in namespace::list(&names.router_prefix())? {
                if !wanted.contains(&name) {
                    remove_namespace(&name)?;
                }
            }
            if work.iter().all(|(config, _)| config.external.is_none()) {
                nft::delete_table("the host", &format!("inet {}", names.routers_table()))?;
            } else {
                let mut saved = inner.state.host()?;
                uplink::enable_forwarding(&mut saved)?;
                inner.state.save_host(&saved)?;
                nft::apply("the host", &router::host_table(names)?)?;
            }
            let mut result = Ok(());
            let changed = || work.iter().zip(&as_they_were).filter(|(_, as_it_was)| !**as_it_was);
            for ((config, _), _) in changed() {
                result = result.and(router::give_up(names, config));
            }
            for network in &left {
                result = result.and(router6::leave(network));
                result = result.and(router::lead_behind(network, &[], (Ipv4Addr::UNSPECIFIED, &[])));
            }
            for ((config, networks), _) in changed() {
                result = result.and(router::ensure(names, config, networks));
            }
            result
        })
        .await?;
        *lock(&self.0.routed) = Some(now);
        Ok(())
    }
}

fn joins(router: &RouterConfig, network_uid: &str) -> bool {
    router.interfaces.iter().any(|interface| interface.network_uid == network_uid)
}
