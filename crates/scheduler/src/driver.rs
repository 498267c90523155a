//! The loop around the engine: objects in, placements out.
//!
//! One task owns all state, so there is no lock. Only what goes over the wire (a binding, a status) runs beside it,
//! with a limit.

mod room;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Client, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use yunfan_client::{Change, Changes, Informers, Recorder, Writer};
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::storage::Volume;

use crate::SchedulerConfig;
use crate::bind::{self, Outcome, Room};
use crate::claims::{Needs, Step};
use crate::engine::{Engine, Refusal};
use crate::filters::{
    BY_OTHERS, InterPodAffinity, NodePorts, NodeResourcesFit, PodTopologySpread, VolumeBinding, VolumeNode,
};
use crate::preemption::{Budgets, Nominations, pod_of};
use crate::queue::{ANY_FILTER, Queue};
use crate::report::Reporter;
use crate::snapshot::Snapshot;
use crate::workload::{Object, Standing, Workload};

/// How many changes, and how many placements, are worked on before the loop looks at everything else again.
const BATCH: usize = 256;
/// How long they are placed before it is heard what is new.
const SLICE: Duration = Duration::from_millis(20);
/// For so long after a binding an object that says that it has no node is taken for an old sight of it. Later it is
/// believed: somebody may have put an old state back.
const STALE_FOR: Duration = Duration::from_secs(30);

/// Places workloads; never returns.
pub(crate) async fn run(client: Client, informers: Informers, config: SchedulerConfig) {
    let (nodes, pods, vms) =
        (informers.of::<Node>(), informers.of::<Pod>(), informers.of::<VirtualMachine>());
    let (namespaces, volumes) = (informers.of::<Namespace>(), informers.of::<Volume>());
    let (claims, persistent) = (informers.of::<PersistentVolumeClaim>(), informers.of::<PersistentVolume>());
    let (classes, budgets) = (informers.of::<StorageClass>(), informers.of::<PodDisruptionBudget>());
    // Before all that is placed is known, a node looks emptier than it is.
    tokio::join!(nodes.synced(), pods.synced(), vms.synced(), namespaces.synced(), volumes.synced());
    tokio::join!(claims.synced(), persistent.synced(), classes.synced(), budgets.synced());
    let mut feeds = Feeds {
        claims: claims.subscribe(),
        persistent: persistent.subscribe(),
        classes: classes.subscribe(),
        budgets: budgets.subscribe(),
        nodes: nodes.subscribe(),
        namespaces: namespaces.subscribe(),
        pods: pods.subscribe(),
        vms: vms.subscribe(),
        volumes: volumes.subscribe(),
    };
    let recorder = Recorder::new(client.clone(), "default-scheduler", None);
    let (mut driver, mut outcomes) = Driver::new(Writer::new(client, "yunfan-scheduler"), recorder, config);
    while feeds.drain(&mut driver) {}
    tracing::info!(nodes = driver.snapshot.rows(), "the scheduler is ready");
    loop {
        while let Ok(outcome) = outcomes.try_recv() {
            driver.on_outcome(outcome);
        }
        let more_changes = feeds.drain(&mut driver);
        let more_work = driver.schedule();
        if more_changes || more_work {
            tokio::task::yield_now().await;
            continue;
        }
        let alarm = driver.queue.next_alarm().filter(|_| driver.has_room());
        tokio::select! {
            change = feeds.nodes.next() => driver.on_node(&change),
            change = feeds.namespaces.next() => driver.on_namespace(&change),
            change = feeds.pods.next() => driver.on_pod(&change),
            change = feeds.vms.next() => driver.on_vm(&change),
            change = feeds.volumes.next() => driver.on_volume(&change),
            change = feeds.claims.next() => driver.on_claim(&change),
            change = feeds.persistent.next() => driver.on_persistent(&change),
            change = feeds.classes.next() => driver.on_class(&change),
            change = feeds.budgets.next() => driver.on_budget(&change),
            Some(outcome) = outcomes.recv() => driver.on_outcome(outcome),
            () = sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {}
        }
    }
}

struct Feeds {
    nodes: Changes<Node>,
    namespaces: Changes<Namespace>,
    pods: Changes<Pod>,
    vms: Changes<VirtualMachine>,
    volumes: Changes<Volume>,
    claims: Changes<PersistentVolumeClaim>,
    persistent: Changes<PersistentVolume>,
    classes: Changes<StorageClass>,
    budgets: Changes<PodDisruptionBudget>,
}

impl Feeds {
    /// Hands over what waits, nodes first; says whether there may be more.
    fn drain(&mut self, driver: &mut Driver) -> bool {
        let mut left = BATCH;
        while left > 0 {
            if let Some(change) = self.nodes.try_next() {
                driver.on_node(&change);
            } else if let Some(change) = self.namespaces.try_next() {
                driver.on_namespace(&change);
            } else if let Some(change) = self.volumes.try_next() {
                driver.on_volume(&change);
            } else if let Some(change) = self.classes.try_next() {
                driver.on_class(&change);
            } else if let Some(change) = self.persistent.try_next() {
                driver.on_persistent(&change);
            } else if let Some(change) = self.claims.try_next() {
                driver.on_claim(&change);
            } else if let Some(change) = self.budgets.try_next() {
                driver.on_budget(&change);
            } else if let Some(change) = self.pods.try_next() {
                driver.on_pod(&change);
            } else if let Some(change) = self.vms.try_next() {
                driver.on_vm(&change);
            } else {
                return false;
            }
            left -= 1;
        }
        true
    }
}

struct Driver {
    config: SchedulerConfig,
    snapshot: Snapshot,
    engine: Engine,
    queue: Queue,
    nominations: Nominations,
    budgets: Budgets,
    writer: Writer,
    reporter: Reporter,
    binds: JoinSet<()>,
    in_flight: usize,
    /// What was bound, and when, until the objects say so.
    bound: HashMap<String, Instant>,
    outcomes: mpsc::Sender<(Arc<Workload>, String, Outcome)>,
}

impl Driver {
    fn new(
        writer: Writer,
        recorder: Recorder,
        config: SchedulerConfig,
    ) -> (Self, mpsc::Receiver<(Arc<Workload>, String, Outcome)>) {
        let (outcomes, receiver) = mpsc::channel(config.max_in_flight.max(1));
        let driver = Self {
            snapshot: Snapshot::default(),
            engine: Engine::default(),
            queue: Queue::new(&config),
            nominations: Nominations::default(),
            budgets: Budgets::default(),
            reporter: Reporter::new(writer.clone(), recorder),
            writer,
            binds: JoinSet::new(),
            in_flight: 0,
            bound: HashMap::new(),
            outcomes,
            config,
        };
        (driver, receiver)
    }

    fn on_node(&mut self, change: &Change<Node>) {
        match change {
            Change::Applied(node) => {
                if self.snapshot.set_node(node) {
                    self.queue.wake(ANY_FILTER, Instant::now());
                }
            }
            Change::Deleted(node) => {
                self.snapshot.remove_node(&node.name_any());
                // Its loss helps nobody, but who waits for room there need not any more.
                for waiting in self.nominations.on(&node.name_any()) {
                    self.queue.again(&waiting.uid, Instant::now());
                }
            }
        }
    }

    fn on_namespace(&mut self, change: &Change<Namespace>) {
        let (Change::Applied(namespace) | Change::Deleted(namespace)) = change;
        let labels = matches!(change, Change::Applied(_))
            .then(|| namespace.metadata.labels.clone().unwrap_or_default());
        if self.snapshot.set_namespace(&namespace.name_any(), labels) {
            self.queue.wake(self.engine.bit(InterPodAffinity::NAME), Instant::now());
        }
    }

    fn on_pod(&mut self, change: &Change<Pod>) {
        match change {
            Change::Applied(pod) => {
                if !self.is_known(pod) {
                    let mut workload = Workload::from_pod(pod);
                    if workload.standing == Standing::Wanting && !self.config.pods {
                        workload.standing = Standing::Idle;
                    }
                    self.on_workload(workload);
                }
            }
            Change::Deleted(pod) => self.on_gone(pod.metadata.uid.as_deref()),
        }
    }

    fn on_vm(&mut self, change: &Change<VirtualMachine>) {
        match change {
            Change::Applied(vm) => {
                self.snapshot.volumes_mut().set_machine(vm);
                self.on_workload(Workload::from_vm(vm, &self.config));
            }
            Change::Deleted(vm) => {
                self.snapshot.volumes_mut().remove_machine(vm);
                self.on_gone(vm.metadata.uid.as_deref());
            }
        }
        // A Volume may be waited for on another node than that of the machine that had it; and some look at where others are.
        let others = BY_OTHERS.iter().fold(0, |bits, name| bits | self.engine.bit(name));
        self.queue.wake(self.engine.bit(VolumeNode::NAME) | others, Instant::now());
    }

    fn on_volume(&mut self, change: &Change<Volume>) {
        match change {
            Change::Applied(volume) => {
                self.snapshot.volumes_mut().set(volume);
                self.on_workload(Workload::from_volume(volume));
            }
            Change::Deleted(volume) => {
                self.snapshot.volumes_mut().remove(volume);
                self.on_gone(volume.metadata.uid.as_deref());
            }
        }
        // A machine may wait for it to be known.
        self.queue.wake(self.engine.bit(VolumeNode::NAME), Instant::now());
    }

    fn on_claim(&mut self, change: &Change<PersistentVolumeClaim>) {
        let there = matches!(change, Change::Applied(_));
        self.snapshot.claims_mut().set_claim(change.object(), there);
        self.queue.wake(self.engine.bit(VolumeBinding::NAME), Instant::now());
    }

    fn on_persistent(&mut self, change: &Change<PersistentVolume>) {
        let there = matches!(change, Change::Applied(_));
        self.snapshot.claims_mut().set_volume(change.object(), there);
        self.queue.wake(self.engine.bit(VolumeBinding::NAME), Instant::now());
    }

    fn on_class(&mut self, change: &Change<StorageClass>) {
        let there = matches!(change, Change::Applied(_));
        self.snapshot.claims_mut().set_class(change.object(), there);
        self.queue.wake(self.engine.bit(VolumeBinding::NAME), Instant::now());
    }

    /// What is to be written before a Pod goes to a node; none where its claims are bound.
    fn open_steps(&self, workload: &Workload, row: usize) -> Option<Vec<Step>> {
        let Object::Pod(pod) = &workload.object else { return None };
        let needs = Needs::of(&self.snapshot, pod).ok().flatten().filter(Needs::is_open)?;
        needs.fit(&self.snapshot, row).ok()
    }

    /// Has a Pod's claims get their volumes on a node; the Pod waits for that.
    fn prepare(&mut self, workload: Arc<Workload>, node: String, steps: Vec<Step>) {
        if steps.is_empty() {
            return self.wait_for_volumes(&workload);
        }
        self.in_flight += 1;
        let (writer, outcomes) = (self.writer.clone(), self.outcomes.clone());
        self.binds.spawn(async move {
            let outcome = bind::prepare(&writer, steps, &node).await;
            let _ = outcomes.send((workload, node, outcome)).await;
        });
    }

    /// Leaves a Pod until its claims change.
    fn wait_for_volumes(&mut self, workload: &Workload) {
        let (now, bit) = (Instant::now(), self.engine.bit(VolumeBinding::NAME));
        let open = match &workload.object {
            Object::Pod(pod) => {
                Needs::of(&self.snapshot, pod).ok().flatten().is_some_and(|needs| needs.is_open())
            }
            _ => false,
        };
        if open {
            self.queue.block(&workload.uid, bit, "", now);
        } else {
            // They changed while that was written.
            self.queue.back_off(&workload.uid, now);
        }
    }

    /// Whether a Pod is placed, and known so, with this very spec: most changes are of the status of such.
    fn is_known(&self, pod: &Pod) -> bool {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
            && pod.metadata.generation.is_some()
            && pod.metadata.uid.as_deref().and_then(|uid| self.snapshot.confirmed(uid)).is_some_and(|known| {
                let (meta, start) = (known.object.metadata(), pod_of(known).map(|known| started(known)));
                meta.generation == pod.metadata.generation
                    && meta.labels == pod.metadata.labels
                    && start == Some(started(pod))
            })
    }

    fn on_workload(&mut self, workload: Workload) {
        let workload = Arc::new(workload);
        match workload.standing {
            Standing::Wanting => {
                if self.bound.get(&workload.uid).is_none_or(|at| at.elapsed() > STALE_FOR) {
                    let let_go = self.nominations.observe(&workload);
                    if self.snapshot.confirmed(&workload.uid).is_some_and(|known| known.node.is_some()) {
                        // A shelved machine left its node and is to run again.
                        self.snapshot.remove(&workload.uid);
                        self.room_came_free();
                    }
                    self.queue.put(workload);
                    if let_go {
                        self.room_came_free();
                    }
                }
            }
            Standing::Placed => {
                self.bound.remove(&workload.uid);
                self.queue.remove(&workload.uid);
                let kept = self.nominations.remove(&workload.uid);
                let elsewhere = kept.is_some() && kept != workload.node;
                let before = self.snapshot.node_of(&workload.uid);
                let stays = before.is_some() && before == workload.node.as_deref();
                let known = self.snapshot.confirmed(&workload.uid);
                let changed = known.is_some_and(|known| {
                    known.requests != workload.requests || known.labels() != workload.labels()
                });
                self.snapshot.place(workload);
                if changed || !stays || elsewhere {
                    self.room_came_free();
                }
            }
            Standing::Idle => self.on_gone(Some(&workload.uid)),
        }
    }

    fn on_gone(&mut self, uid: Option<&str>) {
        let uid = uid.unwrap_or_default();
        self.bound.remove(uid);
        self.queue.remove(uid);
        let kept = self.nominations.remove(uid);
        self.nominations.left(uid);
        // Another Pod may wait for a claim that one Pod alone can have.
        let had_claims = self
            .snapshot
            .confirmed(uid)
            .is_some_and(|known| known.claims(known.namespace()).next().is_some());
        if self.snapshot.remove(uid) || kept.is_some() {
            self.room_came_free();
        }
        if had_claims {
            self.queue.wake(self.engine.bit(VolumeBinding::NAME), Instant::now());
        }
    }

    /// A workload went, came where it was not expected, or changed.
    fn room_came_free(&mut self) {
        let bit = self.engine.bit(NodeResourcesFit::NAME) | self.engine.bit(NodePorts::NAME);
        self.queue.wake(bit | self.peer_bits(), Instant::now());
    }

    fn peer_bits(&self) -> u32 {
        self.engine.bit(InterPodAffinity::NAME) | self.engine.bit(PodTopologySpread::NAME)
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.config.max_in_flight.max(1)
    }

    /// Places what is active, as far as the limits go; says whether there is more to do at once.
    fn schedule(&mut self) -> bool {
        let began = Instant::now();
        for _ in 0..BATCH {
            if !self.has_room() {
                return false;
            }
            // Who makes room is long sought: meanwhile nothing is heard.
            if began.elapsed() > SLICE {
                break;
            }
            let Some(workload) = self.queue.pop(Instant::now()) else { return false };
            self.place(workload);
        }
        self.queue.has_active()
    }

    fn place(&mut self, workload: Arc<Workload>) {
        // What an earlier, unclear try assumed is not true unless its object says so, and then it would not be here.
        self.snapshot.forget_assumed(&workload.uid);
        match self.find(&workload) {
            Ok(row) => {
                let node = self.snapshot.names[row].clone();
                while self.binds.try_join_next().is_some() {}
                if let Some(steps) = self.open_steps(&workload, row) {
                    return self.prepare(workload, node, steps);
                }
                self.snapshot.assume(workload.clone(), row);
                // Some wait for a Pod to be near.
                self.queue.wake(self.peer_bits(), Instant::now());
                self.in_flight += 1;
                let (writer, outcomes) = (self.writer.clone(), self.outcomes.clone());
                self.binds.spawn(async move {
                    let outcome = bind::bind(&writer, &workload, &node).await;
                    if matches!(outcome, Outcome::Bound) {
                        bind::say_scheduled(&writer, &workload, &node).await;
                    }
                    // The loop takes outcomes as long as it runs.
                    let _ = outcomes.send((workload, node, outcome)).await;
                });
            }
            Err((refusal, Some(candidate))) => self.make_room(workload, refusal, candidate),
            Err((refusal, None)) => {
                let now = Instant::now();
                tracing::debug!(
                    kind = workload.kind(),
                    namespace = workload.namespace(),
                    name = workload.name(),
                    message = refusal.message,
                    "no node"
                );
                if self.queue.block(&workload.uid, refusal.filters, &refusal.message, now) {
                    self.reporter.unschedulable(workload, refusal.message);
                }
            }
        }
    }

    fn on_outcome(&mut self, (workload, node, outcome): (Arc<Workload>, String, Outcome)) {
        self.in_flight -= 1;
        let uid = &workload.uid;
        match outcome {
            Outcome::Bound => {
                self.queue.remove(uid);
                if self.nominations.remove(uid).is_some_and(|kept| kept != node) {
                    self.room_came_free();
                }
                // Unless its object came first.
                if self.snapshot.is_assumed(uid) {
                    self.bound.insert(uid.clone(), Instant::now());
                }
                self.reporter.scheduled(&workload, &node);
            }
            Outcome::Prepared => self.wait_for_volumes(&workload),
            Outcome::Cleared(room) => self.wait_for_room(&workload, room),
            Outcome::Gone => {
                self.queue.remove(uid);
                if self.snapshot.forget_assumed(uid) {
                    self.room_came_free();
                }
            }
            Outcome::Unclear(why) => {
                tracing::debug!(uid, node, why, "a placement is tried again");
                self.queue.back_off(uid, Instant::now());
            }
            Outcome::Refused(why) => {
                tracing::warn!(
                    kind = workload.kind(),
                    namespace = workload.namespace(),
                    name = workload.name(),
                    node,
                    why,
                    "a placement was refused"
                );
                if self.snapshot.forget_assumed(uid) {
                    self.room_came_free();
                }
                self.queue.back_off(uid, Instant::now());
                self.reporter.unschedulable(workload, format!("binding rejected: {why}"));
            }
        }
    }
}

/// When a Pod began to run: who is to leave for a more important one is chosen by that too.
fn started(pod: &Pod) -> Option<&Time> {
    pod.status.as_ref()?.start_time.as_ref()
}

#[cfg(test)]
mod tests;
