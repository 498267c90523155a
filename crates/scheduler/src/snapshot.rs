//! The nodes as a placement sees them: one row a node, one column a property.
//!
//! It is kept up to date by changes and never built anew: a node or workload that changes costs its own
//! row. Workloads for which a node was chosen but whose objects do not say so yet are in it as well
//! (*assumed*), so that the next placement does not give the same room away again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::claims::Claims;
use crate::volumes::Volumes;
use crate::workload::{Object, Requests, Workload, milli, units};
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::constraint::Labels;

/// How many resources beside CPU, memory and pods nodes may offer; more are not looked at.
const MAX_OTHERS: usize = 64;

/// What there is of a resource, and what is taken, by row.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// What workloads may take.
    pub allocatable: Vec<i64>,
    /// What they have taken.
    pub used: Vec<i64>,
}

impl Column {
    /// Whether `amount` more is there. Nothing is there for free: also on a node that promised too much already.
    pub fn fits(&self, row: usize, amount: i64) -> bool {
        amount == 0 || amount <= self.allocatable[row].saturating_sub(self.used[row])
    }

    fn push(&mut self) {
        self.allocatable.push(0);
        self.used.push(0);
    }

    fn swap_remove(&mut self, row: usize) {
        self.allocatable.swap_remove(row);
        self.used.swap_remove(row);
    }

    fn take(&mut self, row: usize, amount: i64) {
        self.used[row] = self.used[row].saturating_add(amount);
    }
}

/// The nodes and what they hold.
#[derive(Debug, Default)]
pub struct Snapshot {
    rows: HashMap<String, usize>,
    /// Names.
    pub names: Vec<String>,
    /// Whether the Node exists: a row without one is kept while workloads are placed there.
    pub present: Vec<bool>,
    /// Whether the node says that it is ready.
    pub ready: Vec<bool>,
    /// Whether it is cordoned.
    pub unschedulable: Vec<bool>,
    /// Taints.
    pub taints: Vec<Vec<Taint>>,
    /// Labels.
    pub labels: Vec<Labels>,
    /// The node's own address.
    pub addresses: Vec<Option<IpAddr>>,
    /// CPU, thousandths.
    pub cpu: Column,
    /// Memory, bytes.
    pub memory: Column,
    /// Pods.
    pub pods: Column,
    /// CPU that is taken to be used, thousandths: see [`Requests::counted_cpu`].
    pub counted_cpu: Vec<i64>,
    /// Memory that is taken to be used, bytes.
    pub counted_memory: Vec<i64>,
    /// Resources beside those, by name.
    pub others: Vec<(String, Column)>,
    /// How many workloads each row holds.
    held: Vec<u32>,
    placed: HashMap<String, Placed>,
    /// How many Pods of each priority are placed or assumed.
    priorities: BTreeMap<i32, usize>,
    /// Uids of Pods that are counted for one placement alone: they are to come to their nodes and are not there.
    expected: HashSet<String>,
    /// Uids of those placed that want certain Pods not to be near them.
    repelling: HashSet<String>,
    /// Uids of the Pods that have ports of their host.
    with_host_ports: HashSet<String>,
    /// Labels of namespaces.
    namespaces: HashMap<String, Labels>,
    /// Which Volumes there are, and which machines have them.
    volumes: Volumes,
    /// Persistent volume claims, and what they are bound to.
    claims: Claims,
}

/// A workload on a node.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    node: String,
    workload: Arc<Workload>,
    assumed: bool,
}

impl Snapshot {
    /// How many rows there are; not every one is a node that exists (see [`Snapshot::present`]).
    pub fn rows(&self) -> usize {
        self.names.len()
    }

    /// The column of a resource that is neither CPU, memory nor pods.
    pub fn other(&self, name: &str) -> Option<&Column> {
        self.others.iter().find(|(own, _)| own == name).map(|(_, column)| column)
    }

    /// Whether a workload is placed or assumed, and where.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(|placed| placed.node.as_str())
    }

    /// The workload as it is known here, if its object says that it is placed.
    pub fn confirmed(&self, uid: &str) -> Option<&Workload> {
        self.placed.get(uid).filter(|placed| !placed.assumed).map(|placed| &*placed.workload)
    }

    /// The Pods that are placed or assumed, with their rows. A pass over all: only for Pods that look at their peers.
    pub fn pods(&self) -> impl Iterator<Item = (usize, &Workload)> {
        self.placed.values().filter_map(|placed| self.pod(placed))
    }

    /// As [`Snapshot::pods`], only those that want certain Pods not to be near them.
    pub fn repelling_pods(&self) -> impl Iterator<Item = (usize, &Workload)> {
        self.repelling.iter().filter_map(|uid| self.pod(self.placed.get(uid)?))
    }

    /// As [`Snapshot::pods`], only those that have ports of their host.
    pub fn pods_with_host_ports(&self) -> impl Iterator<Item = (usize, &Workload)> {
        self.with_host_ports.iter().filter_map(|uid| self.pod(self.placed.get(uid)?))
    }

    /// The lowest priority of a Pod that is placed or assumed.
    pub(crate) fn lowest_priority(&self) -> Option<i32> {
        self.priorities.first_key_value().map(|(priority, _)| *priority)
    }

    /// The Pods of a priority below this one, by row. A pass over all, unless there are none. VirtualMachines and Volumes have
    /// no priority and are never among them: what they hold would be lost with them.
    pub(crate) fn pods_below(&self, priority: i32) -> HashMap<usize, Vec<Arc<Workload>>> {
        let mut found: HashMap<usize, Vec<Arc<Workload>>> = HashMap::new();
        if self.lowest_priority().is_some_and(|lowest| lowest < priority) {
            for placed in self.placed.values().filter(|placed| placed.workload.priority < priority) {
                if let Some((row, _)) = self.pod(placed) {
                    found.entry(row).or_default().push(placed.workload.clone());
                }
            }
        }
        found
    }

    /// The row of a node that exists.
    pub(crate) fn row_of(&self, node: &str) -> Option<usize> {
        self.rows.get(node).copied().filter(|row| self.present[*row])
    }

    /// Counts a Pod on the node in `row`, where it is to come, until [`Snapshot::dismiss`].
    pub(crate) fn expect(&mut self, workload: Arc<Workload>, row: usize) {
        self.expected.insert(workload.uid.clone());
        self.assume(workload, row);
    }

    /// Counts a Pod that was expected no more.
    pub(crate) fn dismiss(&mut self, uid: &str) {
        if self.expected.remove(uid) {
            self.remove(uid);
        }
    }

    /// Whether a Pod is counted and not there.
    pub(crate) fn is_expected(&self, uid: &str) -> bool {
        self.expected.contains(uid)
    }

    /// The machines that have a node, and the row of each.
    pub(crate) fn machines(&self) -> impl Iterator<Item = (usize, &VirtualMachine)> {
        self.placed.values().filter_map(|placed| match &placed.workload.object {
            Object::VirtualMachine(vm) => Some((self.rows[&placed.node], vm.as_ref())),
            _ => None,
        })
    }

    fn pod<'a>(&self, placed: &'a Placed) -> Option<(usize, &'a Workload)> {
        matches!(placed.workload.object, Object::Pod(_)).then(|| (self.rows[&placed.node], &*placed.workload))
    }

    /// The labels of a namespace, if it is known.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Takes in a namespace's labels, or with none that it is gone. Says whether anything changed.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> bool {
        let before = match labels.clone() {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        before != labels
    }

    /// The node of a Volume, placed or assumed; outer `None` for one that is not known.
    pub fn volume_node(&self, namespace: &str, name: &str) -> Option<Option<&str>> {
        self.volumes.uid(namespace, name).map(|uid| self.node_of(uid))
    }

    /// The node of the machine that has a Volume, or is to have it, once there is one. While there is none, that of its
    /// other Volumes: the machine can go nowhere else.
    pub fn holder_node(&self, namespace: &str, volume: &str) -> Option<&str> {
        let holder = self.volumes.holder(namespace, volume)?;
        let others = || self.volumes.named_by(holder).find_map(|uid| self.node_of(uid));
        self.node_of(holder).or_else(others)
    }

    /// Which Volumes there are, and which machines have them.
    pub fn volumes_mut(&mut self) -> &mut Volumes {
        &mut self.volumes
    }

    /// Persistent volume claims, and what they are bound to.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// As [`Snapshot::claims`].
    pub fn claims_mut(&mut self) -> &mut Claims {
        &mut self.claims
    }

    /// Takes in a node, new or changed. Says whether anything changed that a placement looks at.
    pub fn set_node(&mut self, node: &Node) -> bool {
        let row = self.row(node.metadata.name.as_deref().unwrap_or_default());
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let ready = status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let mut changed = replace(&mut self.present[row], true);
        changed |= replace(&mut self.ready[row], ready);
        changed |= replace(
            &mut self.unschedulable[row],
            spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
        );
        let taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        changed |= replace(&mut self.taints[row], taints);
        changed |= replace(&mut self.labels[row], node.metadata.labels.clone().unwrap_or_default());
        let addresses = status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
        let mut internal = addresses.filter(|address| address.type_ == "InternalIP");
        let address = internal.find_map(|address| address.address.parse().ok());
        changed |= replace(&mut self.addresses[row], address);
        let empty = BTreeMap::new();
        let allocatable = status.and_then(|status| status.allocatable.as_ref()).unwrap_or(&empty);
        let of = |name: &str, read: fn(&_) -> i64| allocatable.get(name).map_or(0, read);
        changed |= replace(&mut self.cpu.allocatable[row], of("cpu", milli));
        changed |= replace(&mut self.memory.allocatable[row], of("memory", units));
        changed |= replace(&mut self.pods.allocatable[row], of("pods", units));
        for name in allocatable.keys() {
            self.add_other(name);
        }
        for (name, column) in &mut self.others {
            changed |= replace(&mut column.allocatable[row], of(name, units));
        }
        changed
    }

    /// Forgets a node. What is placed there stays known until it goes.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(&row) = self.rows.get(name) {
            self.present[row] = false;
            self.drop_if_empty(row);
        }
    }

    /// Takes in a workload whose object says that it is placed.
    pub fn place(&mut self, workload: Arc<Workload>) {
        if let Some(node) = workload.node.clone() {
            self.put(workload, node, false);
        }
    }

    /// Takes in a workload for which the node in `row` was chosen just now.
    pub fn assume(&mut self, workload: Arc<Workload>, row: usize) {
        let node = self.names[row].clone();
        self.put(workload, node, true);
    }

    /// Forgets a workload, placed or assumed. Says whether it was there: whether room came free.
    pub fn remove(&mut self, uid: &str) -> bool {
        self.lift(uid).is_some()
    }

    /// Takes a workload out; [`Snapshot::restore`] puts it back as it was.
    pub(crate) fn lift(&mut self, uid: &str) -> Option<Placed> {
        let gone = self.placed.remove(uid)?;
        let row = self.rows[&gone.node];
        if matches!(gone.workload.object, Object::Pod(_))
            && let Some(count) = self.priorities.get_mut(&gone.workload.priority)
        {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&gone.workload.priority);
            }
        }
        self.charge(row, &gone.workload.requests, -1);
        self.held[row] -= 1;
        self.repelling.remove(uid);
        self.with_host_ports.remove(uid);
        self.drop_if_empty(row);
        Some(gone)
    }

    /// Puts back what was taken out.
    pub(crate) fn restore(&mut self, lifted: Placed) {
        self.put(lifted.workload, lifted.node, lifted.assumed);
    }

    /// Forgets a workload that is only assumed. Says whether room came free.
    pub fn forget_assumed(&mut self, uid: &str) -> bool {
        self.is_assumed(uid) && self.remove(uid)
    }

    /// Whether a node was chosen for a workload whose object does not say so yet.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placed| placed.assumed)
    }

    fn put(&mut self, workload: Arc<Workload>, node: String, assumed: bool) {
        self.remove(&workload.uid);
        let row = self.row(&node);
        self.charge(row, &workload.requests, 1);
        self.held[row] += 1;
        if matches!(workload.object, Object::Pod(_)) {
            *self.priorities.entry(workload.priority).or_default() += 1;
        }
        if workload.peers.as_ref().is_some_and(|peers| !peers.apart.is_empty()) {
            self.repelling.insert(workload.uid.clone());
        }
        if !workload.host_ports.is_empty() {
            self.with_host_ports.insert(workload.uid.clone());
        }
        self.placed.insert(workload.uid.clone(), Placed { node, workload, assumed });
    }

    fn charge(&mut self, row: usize, requests: &Requests, sign: i64) {
        self.cpu.take(row, sign * requests.cpu);
        self.memory.take(row, sign * requests.memory);
        self.pods.take(row, sign * requests.pods);
        self.counted_cpu[row] = self.counted_cpu[row].saturating_add(sign * requests.counted_cpu());
        self.counted_memory[row] = self.counted_memory[row].saturating_add(sign * requests.counted_memory());
        for (name, amount) in &requests.others {
            if let Some((_, column)) = self.others.iter_mut().find(|(own, _)| own == name) {
                column.take(row, sign * amount);
            }
        }
    }

    /// The row of a node, made if need be.
    fn row(&mut self, name: &str) -> usize {
        if let Some(&row) = self.rows.get(name) {
            return row;
        }
        let row = self.names.len();
        self.rows.insert(name.to_owned(), row);
        self.names.push(name.to_owned());
        self.present.push(false);
        self.ready.push(false);
        self.unschedulable.push(false);
        self.taints.push(Vec::new());
        self.labels.push(Labels::new());
        self.addresses.push(None);
        self.cpu.push();
        self.memory.push();
        self.pods.push();
        self.counted_cpu.push(0);
        self.counted_memory.push(0);
        self.others.iter_mut().for_each(|(_, column)| column.push());
        self.held.push(0);
        row
    }

    fn drop_if_empty(&mut self, row: usize) {
        if self.present[row] || self.held[row] > 0 {
            return;
        }
        self.rows.remove(&self.names[row]);
        self.names.swap_remove(row);
        self.present.swap_remove(row);
        self.ready.swap_remove(row);
        self.unschedulable.swap_remove(row);
        self.taints.swap_remove(row);
        self.labels.swap_remove(row);
        self.addresses.swap_remove(row);
        self.cpu.swap_remove(row);
        self.memory.swap_remove(row);
        self.pods.swap_remove(row);
        self.counted_cpu.swap_remove(row);
        self.counted_memory.swap_remove(row);
        self.others.iter_mut().for_each(|(_, column)| column.swap_remove(row));
        self.held.swap_remove(row);
        if let Some(moved) = self.names.get(row) {
            self.rows.insert(moved.clone(), row);
        }
    }

    /// Adds a column for a resource that a node offers for the first time, with what is placed already.
    fn add_other(&mut self, name: &str) {
        let known = matches!(name, "cpu" | "memory" | "pods");
        if known || self.others.len() >= MAX_OTHERS || self.other(name).is_some() {
            return;
        }
        let mut column = Column::default();
        (0..self.rows()).for_each(|_| column.push());
        for placed in self.placed.values() {
            if let Some(amount) = placed.workload.requests.others.get(name) {
                column.take(self.rows[&placed.node], *amount);
            }
        }
        self.others.push((name.to_owned(), column));
    }
}

/// Whether the value was another.
fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let changed = *place != value;
    *place = value;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{node, pod};

    fn used(snapshot: &Snapshot, name: &str) -> (i64, i64) {
        let row = snapshot.rows[name];
        (snapshot.cpu.used[row], snapshot.pods.used[row])
    }

    #[test]
    fn assumed_and_confirmed_is_charged_once() {
        let mut snapshot = Snapshot::default();
        assert!(snapshot.set_node(&node("n1", "4", "8Gi")));
        assert!(!snapshot.set_node(&node("n1", "4", "8Gi")), "nothing changed");
        let wanting = pod("p", "500m");
        snapshot.assume(wanting.clone(), 0);
        assert_eq!(used(&snapshot, "n1"), (500, 1));
        assert!(snapshot.confirmed("p").is_none());
        let mut placed = (*wanting).clone();
        placed.node = Some("n1".into());
        snapshot.place(Arc::new(placed.clone()));
        snapshot.place(Arc::new(placed.clone()));
        assert_eq!(used(&snapshot, "n1"), (500, 1));
        assert!(!snapshot.forget_assumed("p"), "it is confirmed");
        // Somebody else placed it elsewhere.
        placed.node = Some("n2".into());
        snapshot.place(Arc::new(placed));
        assert_eq!(used(&snapshot, "n1"), (0, 0));
        assert_eq!(used(&snapshot, "n2"), (500, 1));
        assert!(snapshot.remove("p") && !snapshot.remove("p"));
    }

    #[test]
    fn a_node_that_comes_back_has_what_is_placed_on_it() {
        let mut snapshot = Snapshot::default();
        for name in ["n1", "n2", "n3"] {
            snapshot.set_node(&node(name, "4", "8Gi"));
        }
        snapshot.assume(pod("p", "1"), snapshot.rows["n1"]);
        snapshot.assume(pod("q", "2"), snapshot.rows["n3"]);
        snapshot.remove_node("n1");
        snapshot.remove_node("n2");
        assert_eq!(snapshot.rows(), 2);
        assert_eq!(used(&snapshot, "n3"), (2000, 1));
        snapshot.set_node(&node("n1", "4", "8Gi"));
        assert_eq!(used(&snapshot, "n1"), (1000, 1));
        snapshot.remove_node("n1");
        snapshot.remove("p");
        assert_eq!(snapshot.names, ["n3"]);
        assert_eq!(used(&snapshot, "n3"), (2000, 1));
    }

    #[test]
    fn a_resource_offered_later_counts_what_was_placed_before() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("n1", "4", "8Gi"));
        let mut workload = (*pod("p", "1")).clone();
        workload.requests.others.insert("example.com/gpu".into(), 1);
        snapshot.assume(Arc::new(workload), 0);
        let mut offering = node("n1", "4", "8Gi");
        let allocatable = offering.status.as_mut().unwrap().allocatable.as_mut().unwrap();
        allocatable.insert(
            "example.com/gpu".into(),
            k8s_openapi::apimachinery::pkg::api::resource::Quantity("2".into()),
        );
        assert!(snapshot.set_node(&offering));
        let column = snapshot.other("example.com/gpu").unwrap();
        assert!(column.fits(0, 1) && !column.fits(0, 2));
        assert!(snapshot.set_node(&node("n1", "4", "8Gi")), "no longer offered");
        assert!(!snapshot.other("example.com/gpu").unwrap().fits(0, 1));
    }
}
