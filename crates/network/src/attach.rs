//! The part of [`NodeNetworks`] that plugs workloads in and out, and hands out the cluster network's addresses.

use crate::check;
use crate::error::{NetworkError, Result};
use crate::names::{self, POD_IFNAME, check_uid};
use crate::namespace;
use crate::node::{NodeNetworks, lock};
use crate::ports::{self, PodSide};
use crate::six;
use crate::types::{Attachment, Mac, NetworkKind, PodAttach, PodNet, Tap, TapAttach};
use crate::view::NetworkView;
use std::net::{Ipv4Addr, Ipv6Addr};

impl NodeNetworks {
    /// Puts a pod on a network: its namespace, `eth0`, addresses, default route, and the rules that keep it honest.
    ///
    /// # Errors
    /// [`NetworkError::UnknownNetwork`], [`NetworkError::Invalid`], or the kernel's refusal; then nothing is left.
    pub async fn attach_pod(&self, uid: &str, pod: PodAttach) -> Result<PodNet> {
        check_uid("pod_uid", &pod.pod_uid)?;
        let port_uid = pod.port_uid.unwrap_or_else(|| pod.pod_uid.clone());
        check_uid("port_uid", &port_uid)?;
        let network = self.need(uid)?;
        let view = network.view.get();
        let (mac, addresses, gateway) = check::port(&view, pod.mac, &pod.ips)?;
        if !view.is_cluster() && !pod.host_ports.is_empty() {
            let reason = "a pod on a tenant's network can have none: the host has no way there";
            return Err(NetworkError::invalid("host_ports", reason));
        }
        let netns = self.0.names.pod_ns(&pod.pod_uid);
        let attachment = Attachment {
            ifname: names::veth(&port_uid),
            port_uid,
            pod_uid: Some(pod.pod_uid),
            network_uid: uid.to_owned(),
            mac,
            ips: pod.ips,
            // Pods have IPv4 alone.
            ips6: Vec::new(),
            host_ports: pod.host_ports,
        };
        let old = self.claim(&attachment).await?;
        let routes =
            attachment.ips.first().and_then(|ip| view.subnet_of(*ip)).map(|subnet| subnet.routes.clone());
        let routes = routes.unwrap_or_default();
        let side = PodSide { netns: netns.clone(), addresses, gateway, routes, mtu: view.config.mtu };
        let (ns, port) = (network.ns.clone(), attachment.clone());
        let opens =
            !attachment.host_ports.is_empty() || old.as_ref().is_some_and(|old| !old.host_ports.is_empty());
        self.keep(&attachment, namespace::blocking(move || ports::attach_pod(&ns, port, old, side)).await)
            .await?;
        if opens {
            self.change_host_ports().await?;
        }
        Ok(PodNet { netns: names::netns_path(&netns), ifname: POD_IFNAME.to_owned() })
    }

    /// Makes the tap of a VM's port on a network and opens it.
    ///
    /// # Errors
    /// [`NetworkError::TapBusy`] while a running QEMU holds it; else as for [`Self::attach_pod`].
    pub async fn attach_tap(&self, uid: &str, tap: TapAttach) -> Result<Tap> {
        check_uid("port_uid", &tap.port_uid)?;
        let network = self.need(uid)?;
        let view = network.view.get();
        let ips6 = six::usable(tap.ips6);
        if tap.ips.is_empty() && ips6.is_empty() {
            return Err(NetworkError::invalid(
                "ips",
                "a port needs at least one address that this node can serve",
            ));
        }
        check_tap(&view, tap.mac, &tap.ips, &ips6)?;
        let ifname = names::tap(&tap.port_uid);
        let attachment = Attachment {
            port_uid: tap.port_uid,
            pod_uid: None,
            network_uid: uid.to_owned(),
            ifname: ifname.clone(),
            mac: tap.mac,
            ips: tap.ips,
            ips6,
            host_ports: Vec::new(),
        };
        let old = self.claim(&attachment).await?;
        let (ns, port, mtu) = (network.ns.clone(), attachment.clone(), view.config.mtu);
        let before = old.clone();
        let made = namespace::blocking(move || ports::attach_tap(&ns, port, before, mtu)).await;
        if let (Err(NetworkError::TapBusy { .. }), Some(old)) = (&made, old) {
            // It is attached, just not by this call: what was remembered about it stays true.
            lock(&self.0.attachments).insert(old.port_uid.clone(), old.clone());
            self.save_attachment(&old).await?;
            return made.map(|fd| Tap { fd, ifname });
        }
        let fd = self.keep(&attachment, made).await?;
        Ok(Tap { fd, ifname })
    }

    /// Gives a VM's port other addresses while it is plugged in; what it may say follows, and flows of addresses that it has no more end.
    /// Nothing happens where it has them, or is not plugged in; it may be left without any. Pods have their addresses as long as they are.
    ///
    /// # Errors
    /// As for [`Self::attach_pod`]; then the port has what it had.
    pub async fn set_addresses(&self, port_uid: &str, ips: Vec<Ipv4Addr>, ips6: Vec<Ipv6Addr>) -> Result<()> {
        let known = lock(&self.0.attachments).get(port_uid).cloned();
        let ips6 = six::usable(ips6);
        let changed = |known: &Attachment| known.ips != ips || known.ips6 != ips6;
        let Some(old) = known.filter(|known| known.pod_uid.is_none() && changed(known)) else {
            return Ok(());
        };
        let network = self.need(&old.network_uid)?;
        check_tap(&network.view.get(), old.mac, &ips, &ips6)?;
        let new = Attachment { ips, ips6, ..old.clone() };
        self.claim(&new).await?;
        let (ns, before, after) = (network.ns.clone(), old.clone(), new);
        let made = namespace::blocking(move || ports::readdress(&ns, &before, &after)).await;
        if made.is_err() {
            lock(&self.0.attachments).insert(old.port_uid.clone(), old.clone());
            self.save_attachment(&old).await?;
        }
        made
    }

    /// Remembers a port that is about to be made, and says what it was before. A port that moved from another
    /// network leaves that one first.
    async fn claim(&self, new: &Attachment) -> Result<Option<Attachment>> {
        let inner = &self.0;
        let known = lock(&inner.attachments).get(&new.port_uid).cloned();
        let moved =
            known.as_ref().is_some_and(|old| old.network_uid != new.network_uid || old.ifname != new.ifname);
        if moved {
            self.take_down(&new.port_uid).await?;
        }
        let known = {
            let mut all = lock(&inner.attachments);
            if let Some(other) = all.values().find(|other| collide(other, new)) {
                let reason = format!(
                    "port {} on the same network already uses this MAC, address or name",
                    other.port_uid
                );
                return Err(NetworkError::invalid("ips", reason));
            }
            all.insert(new.port_uid.clone(), new.clone())
        };
        if known.as_ref() != Some(new) {
            self.save_attachment(new).await?;
        }
        Ok(known)
    }

    async fn save_attachment(&self, attachment: &Attachment) -> Result<()> {
        let (state, saved) = (self.0.state.clone(), attachment.clone());
        namespace::blocking(move || state.save_attachment(&saved)).await
    }

    /// Forgets a port again whose making failed.
    async fn keep<T>(&self, attachment: &Attachment, made: Result<T>) -> Result<T> {
        if made.is_err() {
            lock(&self.0.attachments).remove(&attachment.port_uid);
            let (state, port_uid) = (self.0.state.clone(), attachment.port_uid.clone());
            let _ = namespace::blocking(move || state.forget_attachment(&port_uid)).await;
        }
        made
    }

    /// Takes a port away, by the port's or the pod's uid, with the pod's namespace and its cluster address. Fine if
    /// it is not attached.
    ///
    /// # Errors
    /// The kernel's refusal; call again.
    pub async fn detach(&self, id: &str) -> Result<()> {
        let inner = &self.0;
        check_uid("id", id)?;
        let port_uids: Vec<String> = lock(&inner.attachments)
            .values()
            .filter(|a| a.port_uid == id || a.pod_uid.as_deref() == Some(id))
            .map(|a| a.port_uid.clone())
            .collect();
        for port_uid in port_uids {
            self.take_down(&port_uid).await?;
        }
        self.release(id).await?;
        // A pod whose attaching was cut short has a namespace and nothing else.
        let leftover = inner.names.pod_ns(id);
        namespace::blocking(move || namespace::remove(&leftover)).await
    }

    async fn take_down(&self, port_uid: &str) -> Result<()> {
        let inner = &self.0;
        let Some(attachment) = lock(&inner.attachments).get(port_uid).cloned() else { return Ok(()) };
        let network = self.find(&attachment.network_uid);
        let pod_ns = attachment.pod_uid.as_deref().map(|uid| inner.names.pod_ns(uid));
        let (state, port) = (inner.state.clone(), attachment.clone());
        namespace::blocking(move || {
            if let Some(network) = network {
                ports::detach(&network.ns, &port)?;
                let tenants = !network.view.get().is_cluster();
                let gone = (port.ips.clone(), port.all6());
                if tenants && let Err(error) = ports::forget_flows(&network.ns, gone) {
                    tracing::warn!(port = port.port_uid, %error, "flows of addresses that are free now may go on");
                }
            }
            if let Some(name) = pod_ns {
                namespace::remove(&name)?;
            }
            state.forget_attachment(&port.port_uid)
        })
        .await?;
        lock(&inner.attachments).remove(port_uid);
        if !attachment.host_ports.is_empty()
            && let Err(error) = self.change_host_ports().await
        {
            // So that the next attempt closes them: they would lead to whoever gets the address.
            lock(&inner.attachments).insert(port_uid.to_owned(), attachment);
            return Err(error);
        }
        if let Some(pod_uid) = &attachment.pod_uid {
            self.release(pod_uid).await?;
        }
        Ok(())
    }

    /// The pod's address on the cluster network: the one it has, else a free one of this node's slice. It is the
    /// pod's until [`Self::detach`].
    ///
    /// # Errors
    /// [`NetworkError::Exhausted`]; [`NetworkError::UnknownNetwork`] before the cluster network is there.
    pub async fn allocate_cluster_ip(&self, pod_uid: &str) -> Result<Ipv4Addr> {
        check_uid("pod_uid", pod_uid)?;
        let slice = self.snapshot().iter().find_map(|n| match n.view.get().config.kind {
            NetworkKind::Cluster { node_cidr } => Some(node_cidr),
            NetworkKind::Tenant => None,
        });
        let slice = slice.ok_or_else(|| NetworkError::UnknownNetwork { uid: "cluster".into() })?;
        let ip = lock(&self.0.ipam).allocate(slice, pod_uid)?;
        self.save_addresses().await?;
        Ok(ip)
    }

    async fn release(&self, pod_uid: &str) -> Result<()> {
        let had = lock(&self.0.ipam).release(pod_uid);
        if had { self.save_addresses().await } else { Ok(()) }
    }

    async fn save_addresses(&self) -> Result<()> {
        let inner = self.0.clone();
        // The lock is held while writing, so that files are written in the order of the changes.
        namespace::blocking(move || {
            let ipam = lock(&inner.ipam);
            inner.state.save_addresses(ipam.saved())
        })
        .await
    }
}

/// Whether two ports of one network could be mistaken for each other.
fn collide(a: &Attachment, b: &Attachment) -> bool {
    a.network_uid == b.network_uid
        && a.port_uid != b.port_uid
        && (a.ifname == b.ifname
            || a.mac == b.mac
            || a.ips.iter().any(|ip| b.ips.contains(ip))
            || a.ips6.iter().any(|ip| b.ips6.contains(ip)))
}

/// What a machine's port has: addresses of either kind, of which one that is plugged in may have lost the last.
fn check_tap(view: &NetworkView, mac: Mac, ips: &[Ipv4Addr], ips6: &[Ipv6Addr]) -> Result<()> {
    check::mac(view, mac)?;
    check::port6(view, ips6)?;
    if ips.is_empty() { Ok(()) } else { check::port(view, Some(mac), ips).map(drop) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge;
    use crate::view::sample6;

    #[test]
    fn no_port_has_the_gateways_mac_whatever_addresses_it_has() {
        let view = sample6();
        let mac: Mac = "fa:16:3e:00:00:01".parse().unwrap();
        let own = [Ipv6Addr::from_bits(view.config.subnets6[0].cidr.network().to_bits() + 0x77)];
        assert!(check_tap(&view, mac, &[], &own).is_ok() && check_tap(&view, mac, &[], &[]).is_ok());
        for wrong in [bridge::gateway_mac(&view.config.uid), Mac([1, 0, 0, 0, 0, 1]), Mac([0; 6])] {
            assert!(check_tap(&view, wrong, &[], &own).is_err(), "{wrong}");
        }
    }
}
