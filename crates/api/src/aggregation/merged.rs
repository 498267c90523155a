//! All group versions that clients can ask for here, of this server and of others, in the order in which clients should
//! prefer them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::Known;
use super::priorities::{self, Priority};
use super::services::Services;
use crate::door;
use crate::kinds::Table;

/// A group, with its versions.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// The preferred one first.
    pub(crate) versions: Vec<Version>,
}

/// A version of a group.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) name: String,
    priority: Priority,
    /// What another server tells of it, if it answers for it.
    pub(crate) remote: Option<Arc<Known>>,
}

/// All of them, at one moment.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) groups: Vec<Group>,
    /// What it was made of: the kinds, the APIServices, and what the servers told.
    pub(super) stamps: [u64; 3],
    /// The same as one number.
    pub(crate) stamp: u64,
}

impl Merged {
    pub(super) fn new(
        table: &Table,
        services: &Services,
        known: &BTreeMap<String, Arc<Known>>,
        stamps: [u64; 3],
    ) -> Self {
        let defined: HashSet<&str> = table
            .resources()
            .iter()
            .filter(|resource| resource.definition.is_some())
            .map(|resource| resource.storage.group.as_str())
            .collect();
        let mut groups: BTreeMap<String, Vec<Version>> = BTreeMap::new();
        for (group, versions) in door::all_groups(table) {
            for version in versions {
                let key = (group.clone(), version);
                if services.remotes.contains_key(&key) {
                    continue;
                }
                let own = priorities::local(&key.0, &key.1, defined.contains(key.0.as_str()));
                let priority = services.priorities.get(&key).copied().unwrap_or(own);
                groups.entry(group.clone()).or_default().push(Version {
                    name: key.1,
                    priority,
                    remote: None,
                });
            }
        }
        let untold = Arc::new(Known { stale: true, ..Known::default() });
        for (key, remote) in &services.remotes {
            let told = known.get(&remote.name).unwrap_or(&untold).clone();
            let priority = services.priorities.get(key).copied().unwrap_or(priorities::DEFINED);
            let version = Version { name: key.1.clone(), priority, remote: Some(told) };
            groups.entry(key.0.clone()).or_default().push(version);
        }
        let mut groups: Vec<Group> = groups
            .into_iter()
            .map(|(name, mut versions)| {
                versions.sort_by(|one, other| {
                    priorities::versions(
                        (one.name.as_str(), one.priority),
                        (other.name.as_str(), other.priority),
                    )
                });
                Group { name, versions }
            })
            .collect();
        // They are sorted by name already, which decides between those of one priority.
        groups
            .sort_by_key(|group| Reverse(group.versions.iter().map(|version| version.priority.group).max()));
        let bytes: Vec<u8> = stamps.iter().flat_map(|stamp| stamp.to_be_bytes()).collect();
        Self { groups, stamps, stamp: door::fingerprint(&bytes) }
    }
}
