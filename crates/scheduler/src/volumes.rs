//! Which Volumes there are, and which machines have them, or are to have them: a machine and its Volumes are on one node.

use std::collections::HashMap;

use kube::ResourceExt as _;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::storage::Volume;

/// A Volume's namespace and name.
type Key = (String, String);

/// Volumes by name, and the machines' wishes for them.
#[derive(Debug, Default)]
pub struct Volumes {
    uids: HashMap<Key, String>,
    /// The uid of the machine that names a Volume. There is one at most: admission sees to it.
    holders: HashMap<Key, String>,
    /// What each machine names, by its uid.
    wishes: HashMap<String, Vec<Key>>,
}

impl Volumes {
    /// Takes in a Volume.
    pub fn set(&mut self, volume: &Volume) {
        self.uids.insert(key(volume.namespace(), &volume.name_any()), volume.uid().unwrap_or_default());
    }

    /// Forgets a Volume.
    pub fn remove(&mut self, volume: &Volume) {
        let key = key(volume.namespace(), &volume.name_any());
        // Another of this name may be there already.
        if self.uids.get(&key) == volume.uid().as_ref() {
            self.uids.remove(&key);
        }
    }

    /// Takes in what a machine names.
    pub fn set_machine(&mut self, machine: &VirtualMachine) {
        self.remove_machine(machine);
        let uid = machine.uid().unwrap_or_default();
        let wishes: Vec<Key> =
            machine.spec.volumes.iter().map(|wish| key(machine.namespace(), &wish.volume)).collect();
        self.holders.extend(wishes.iter().map(|key| (key.clone(), uid.clone())));
        if !wishes.is_empty() {
            self.wishes.insert(uid, wishes);
        }
    }

    /// Forgets what a machine named.
    pub fn remove_machine(&mut self, machine: &VirtualMachine) {
        let uid = machine.uid().unwrap_or_default();
        for key in self.wishes.remove(&uid).unwrap_or_default() {
            if self.holders.get(&key) == Some(&uid) {
                self.holders.remove(&key);
            }
        }
    }

    pub(crate) fn uid(&self, namespace: &str, name: &str) -> Option<&str> {
        self.uids.get(&(namespace.to_owned(), name.to_owned())).map(String::as_str)
    }

    /// The uids of the Volumes that a machine names.
    pub(crate) fn named_by(&self, machine: &str) -> impl Iterator<Item = &str> {
        let wishes = self.wishes.get(machine).into_iter().flatten();
        wishes.filter_map(|key| self.uids.get(key)).map(String::as_str)
    }

    pub(crate) fn holder(&self, namespace: &str, name: &str) -> Option<&str> {
        self.holders.get(&(namespace.to_owned(), name.to_owned())).map(String::as_str)
    }
}

fn key(namespace: Option<String>, name: &str) -> Key {
    (namespace.unwrap_or_default(), name.to_owned())
}
