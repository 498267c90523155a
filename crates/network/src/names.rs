//! The names of everything this crate leaves on a host. Each carries the cloud's tag.

use crate::error::{NetworkError, Result};
use std::path::PathBuf;

/// Where `ip netns` looks for namespaces.
pub(crate) const NETNS_DIR: &str = "/run/netns";
/// The bridge inside each network's namespace.
pub(crate) const BRIDGE: &str = "br0";
/// The cluster namespace's end of the uplink.
pub(crate) const UPLINK_INSIDE: &str = "uplink";
/// The interface inside a pod's namespace.
pub(crate) const POD_IFNAME: &str = "eth0";

/// A checked instance tag and what is derived from it.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    tag: String,
}

impl Names {
    pub(crate) fn new(tag: &str) -> Result<Self> {
        if tag.len() != 6 || !tag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(NetworkError::invalid("tag", format!("{tag:?} is not 6 lower-case hex digits")));
        }
        Ok(Self { tag: tag.to_owned() })
    }

    /// The tag as a number below 2^24.
    pub(crate) fn number(&self) -> u32 {
        u32::from_str_radix(&self.tag, 16).unwrap_or(0)
    }

    /// What every namespace of this cloud begins with.
    pub(crate) fn prefix(&self) -> String {
        format!("yf-{}-", self.tag)
    }

    pub(crate) fn cluster_ns(&self) -> String {
        format!("yf-{}-cluster", self.tag)
    }

    pub(crate) fn network_ns(&self, uid: &str) -> String {
        format!("yf-{}-net-{}", self.tag, short(uid))
    }

    /// What every router's namespace begins with.
    pub(crate) fn router_prefix(&self) -> String {
        format!("yf-{}-rtr-", self.tag)
    }

    pub(crate) fn router_ns(&self, uid: &str) -> String {
        format!("{}{}", self.router_prefix(), short(uid))
    }

    /// A router's end of the veth to a network.
    pub(crate) fn router_link(&self, network_uid: &str) -> String {
        format!("n{}", short(network_uid))
    }

    /// The host's end of the veth to a router: as much of the uid as a link's name has room for.
    pub(crate) fn router_uplink(&self, uid: &str) -> String {
        let short: String = short(uid).chars().take(6).collect();
        format!("yf{}r{short}", self.tag)
    }

    /// What nftables calls all of these.
    pub(crate) fn router_uplinks(&self) -> String {
        format!("yf{}r*", self.tag)
    }

    /// The host's nftables table of routers, of family inet.
    pub(crate) fn routers_table(&self) -> String {
        format!("yunfan-{}-routers", self.tag)
    }

    pub(crate) fn pod_ns(&self, pod_uid: &str) -> String {
        format!("yf-{}-pod-{pod_uid}", self.tag)
    }

    /// The host's end of the uplink.
    pub(crate) fn uplink(&self) -> String {
        format!("yf{}u", self.tag)
    }

    /// The host's nftables table of the uplink, of family inet.
    pub(crate) fn host_table(&self) -> String {
        format!("yunfan-{}", self.tag)
    }

    /// The host's nftables table of ports that lead inside, of family inet.
    pub(crate) fn doors_table(&self) -> String {
        format!("yunfan-{}-doors", self.tag)
    }
}

/// The file of a namespace.
pub(crate) fn netns_path(name: &str) -> PathBuf {
    PathBuf::from(NETNS_DIR).join(name)
}

/// The bridge port of a pod, inside the network's namespace.
pub(crate) fn veth(id: &str) -> String {
    format!("v{}", short(id))
}

/// The tap of a VM's port, inside the network's namespace.
pub(crate) fn tap(id: &str) -> String {
    format!("t{}", short(id))
}

/// The first 12 letters of a uid without its dashes.
fn short(uid: &str) -> String {
    uid.chars().filter(|c| *c != '-').take(12).collect()
}

/// Refuses what could not be part of a file name or would be ambiguous as one.
pub(crate) fn check_uid(field: &'static str, uid: &str) -> Result<()> {
    let fine = !uid.is_empty()
        && uid.len() <= 63
        && uid.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !short(uid).is_empty();
    if fine {
        Ok(())
    } else {
        Err(NetworkError::invalid(field, format!("{uid:?} is not a uid: 1 to 63 of a-z, 0-9 and dashes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_tag_and_fit_the_kernel() {
        let names = Names::new("0a1b2c").unwrap();
        let uid = "6f9619ff-8b86-d011-b42d-00c04fc964ff";
        assert_eq!(names.network_ns(uid), "yf-0a1b2c-net-6f9619ff8b86");
        assert_eq!(names.uplink(), "yf0a1b2cu");
        for link in [veth(uid), tap(uid), names.uplink(), names.router_uplink(uid), names.router_link(uid)] {
            assert!(link.len() <= 15, "{link} is longer than IFNAMSIZ allows");
        }
    }

    #[test]
    fn wrong_tags_and_uids_are_refused() {
        for tag in ["", "0A1B2C", "12345", "../..1"] {
            assert!(Names::new(tag).is_err(), "{tag}");
        }
        for uid in ["", "../x", "A", "a b", "---", &"a".repeat(64)] {
            assert!(check_uid("uid", uid).is_err(), "{uid}");
        }
    }
}
