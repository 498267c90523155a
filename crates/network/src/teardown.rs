//! Removing everything of one cloud from the host, without that cloud's help.

use crate::error::Result;
use crate::names::Names;
use crate::namespace::{self, Namespace};
use crate::netlink::Netlink;
use crate::state::{SavedHost, StateDir};
use crate::{nft, uplink};
use std::path::Path;

/// Removes every namespace, link, table and route of the cloud with this tag, and the files of `state_dir`.
///
/// It works whether or not the cloud runs (stop it first), and as often as one likes. Processes that are still
/// inside a pod's namespace keep it alive without a name; kill them first. Blocks; needs root.
///
/// # Errors
/// The first thing that could not be removed; everything else was removed all the same.
pub fn teardown(tag: &str, state_dir: &Path) -> Result<()> {
    let names = Names::new(tag)?;
    let state = state_dir.exists().then(|| StateDir::open(state_dir)).transpose()?;
    let saved = match &state {
        Some(state) => state.host().unwrap_or_default(),
        None => SavedHost::default(),
    };
    let mut result = uplink::remove(&names, &saved);
    for name in namespace::list(&names.prefix())? {
        result = result.and(remove_namespace(&name));
    }
    if let Some(state) = state {
        result = result.and(state.clear());
    }
    result
}

/// Removes one namespace, cutting its veths first: a process inside may outlive the name.
pub(crate) fn remove_namespace(name: &str) -> Result<()> {
    let links = match Namespace::open(name) {
        Ok(Some(ns)) => ns.run(cut_links),
        Ok(None) => Ok(()),
        Err(e) => Err(e),
    };
    namespace::remove(name).and(links)
}

fn cut_links() -> Result<()> {
    let mut netlink = Netlink::connect()?;
    let mut result = Ok(());
    for link in netlink.link_names()? {
        if link != "lo" && !is_fixture(&link) {
            result = result.and(netlink.delete_link(&link));
        }
    }
    result
}

/// Devices that some kernels put into every namespace and that cannot be removed.
fn is_fixture(link: &str) -> bool {
    ["tunl", "gre", "gretap", "erspan", "ip_vti", "ip6_vti", "sit", "ip6tnl", "ip6gre", "ifb", "teql"]
        .iter()
        .any(|kind| link.strip_prefix(kind).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit())))
}

/// What of the cloud with this tag is still on the host, as short descriptions; empty = nothing. Blocks; needs root.
///
/// # Errors
/// When the host cannot be looked at.
pub fn what_remains(tag: &str) -> Result<Vec<String>> {
    let names = Names::new(tag)?;
    let mut left: Vec<String> =
        namespace::list(&names.prefix())?.iter().map(|n| format!("namespace {n}")).collect();
    let uplink = names.uplink();
    if Netlink::connect()?.link_index(&uplink)?.is_some() {
        left.push(format!("link {uplink}"));
    }
    let tables =
        [names.host_table(), names.doors_table(), names.routers_table()].map(|table| format!("inet {table}"));
    let there = nft::tables("the host")?.into_iter().filter(|there| tables.contains(there));
    left.extend(there.map(|table| format!("table {table}")));
    Ok(left)
}
