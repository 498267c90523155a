//! Whether a Pod that comes to this node runs here: [`admit`] and [`fit`] have the rules, and [`preempt`] makes room where there must be
//! some.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use yunfan_client::{ObjectKey, Severity};
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::requests::{MachineCharge, Requests};
use yunfan_resources::storage::Volume;

use super::admit::{self, Rejection};
use super::downward::Allocatable;
use super::fit::{self, Shortage};
use super::plan::End;
use super::shutdown::{self, has_ended};
use super::{Pods, Work, preempt};

/// What becomes of a Pod that came.
pub(super) enum Admission {
    Taken,
    Refused(End),
    /// Others end to make room for it.
    Waits,
}

/// Why a Pod is not taken.
enum Refusal {
    /// Whatever else comes free.
    Never(Rejection),
    Short(Vec<Shortage>),
}

impl Refusal {
    fn rejection(self) -> Rejection {
        match self {
            Self::Never(rejection) => rejection,
            Self::Short(short) => short[0].rejection(),
        }
    }
}

impl Pods {
    /// Looks at a Pod that has not run yet. One that is taken has its place from then on.
    pub(super) async fn admission(&self, pod: &Pod) -> Admission {
        if self.shutdown.is_on() {
            return self.refuse(pod, Rejection::new(shutdown::REFUSED.0, shutdown::REFUSED.1));
        }
        if let Some(rejection) = self.pressed(pod) {
            return self.refuse(pod, rejection);
        }
        if !self.nodes.is_synced() {
            // What the node has is not known yet; these are Pods of its own.
            return Admission::Taken;
        }
        let node = self.nodes.get(None, &self.shared.node).unwrap_or_default();
        let machines = self.known_machines();
        let Err(first) = self.try_admit(pod, &node, &machines) else { return Admission::Taken };
        // The Pod may have come faster than what its node has learnt, such as a label that it asks for, or that a machine is gone.
        let now = tokio::join!(
            self.shared.writer.get::<Node>(None, &self.shared.node),
            self.machines_now(&machines)
        );
        let (node, machines, refusal) = match now {
            (Ok(node), machines) => match self.try_admit(pod, &node, &machines) {
                Ok(()) => return Admission::Taken,
                Err(refusal) => (Arc::new(node), machines, refusal),
            },
            (Err(_), _) => (node, machines, first),
        };
        match refusal {
            Refusal::Short(_) if preempt::is_critical(pod, self.is_static(pod)) => {
                self.make_room(pod, &node, &machines)
            }
            refusal => self.refuse(pod, refusal.rejection()),
        }
    }

    fn refuse(&self, pod: &Pod, rejection: Rejection) -> Admission {
        self.say(pod, Severity::Warning, rejection.reason.clone(), rejection.message.clone());
        Admission::Refused(End::failed(&rejection.reason, format!("Pod was rejected: {}", rejection.message)))
    }

    /// Takes the Pod if nothing is against it; who comes at the same time is looked at before or after.
    fn try_admit(&self, pod: &Pod, node: &Node, machines: &Requests) -> Result<(), Refusal> {
        let mut known = self.lock();
        let others = self.others(pod, |uid| known.get(uid).is_some_and(|local| local.admitted));
        let allocatable = allocatable(node);
        admit::admit(pod, &self.shared.settings, &allocatable, &others).map_err(Refusal::Never)?;
        if let Some(rejection) = fit::misplaced(pod, node, self.is_static(pod)) {
            return Err(Refusal::Never(rejection));
        }
        let short = fit::shortages(&fit::asked(pod), &used(others.iter(), machines), &allocatable);
        if !short.is_empty() {
            return Err(Refusal::Short(short));
        }
        known.entry(pod.uid().unwrap_or_default()).or_default().admitted = true;
        Ok(())
    }

    /// What VirtualMachines and Volumes of this node take of it, as far as is known.
    fn known_machines(&self) -> Requests {
        let (machines, volumes) = (self.machines.list(), self.persistent.backings.list());
        taken(&self.shared.node, machines.iter().map(Arc::as_ref), volumes.iter().map(Arc::as_ref))
    }

    /// The same, as the API server has it now; `known` where it does not say.
    async fn machines_now(&self, known: &Requests) -> Requests {
        if *known == Requests::default() {
            return known.clone();
        }
        let client = self.shared.writer.client();
        let (machines, volumes) =
            (Api::<VirtualMachine>::all(client.clone()), Api::<Volume>::all(client.clone()));
        let here = ListParams::default().fields(&format!("spec.nodeName={}", self.shared.node));
        match tokio::join!(machines.list(&here), volumes.list(&here)) {
            (Ok(machines), Ok(volumes)) => {
                taken(&self.shared.node, machines.items.iter(), volumes.items.iter())
            }
            _ => known.clone(),
        }
    }

    /// Ends Pods that are less important than one which must run here.
    fn make_room(&self, pod: &Pod, node: &Node, machines: &Requests) -> Admission {
        let others = {
            let known = self.lock();
            let of = |uid: &str| known.get(uid);
            let others = self.others(pod, |uid| of(uid).is_some_and(|local| local.admitted));
            // Those that have been told to end come free anyway.
            others
                .into_iter()
                .filter(|other| {
                    let uid = other.uid().unwrap_or_default();
                    of(&uid).is_none_or(|local| local.told.is_none())
                })
                .collect::<Vec<_>>()
        };
        let short = fit::shortages(&fit::asked(pod), &used(others.iter(), machines), &allocatable(node));
        if short.is_empty() {
            return Admission::Waits;
        }
        let Some(victims) = preempt::victims(pod, &others, &short, |pod| self.is_static(pod)) else {
            let missing =
                short.iter().map(|short| format!("(res: {}, q: {}), ", short.resource, short.missing()));
            let message = format!(
                "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [{}]",
                missing.collect::<String>()
            );
            return self.refuse(pod, Rejection::new("UnexpectedAdmissionError", message));
        };
        for victim in victims {
            self.say(&victim, Severity::Warning, preempt::REASON, preempt::MESSAGE);
            self.tell_to_end(&victim, preempt::end(), None);
        }
        Admission::Waits
    }

    /// Has a Pod end, with so much time at most.
    pub(super) fn tell_to_end(&self, pod: &Pod, end: End, grace: Option<std::time::Duration>) {
        self.remember(&pod.uid().unwrap_or_default(), |local| local.told = Some((end, grace)));
        self.queue.add(Work::Pod(ObjectKey::of(pod)));
    }

    /// The other Pods that have a place on this node, where `admitted` says which ones have been given one.
    fn others(&self, pod: &Pod, admitted: impl Fn(&str) -> bool) -> Vec<Arc<Pod>> {
        let mut all = self.all();
        all.retain(|other| {
            let uid = other.uid().unwrap_or_default();
            let began = other.status.as_ref().is_some_and(|status| status.start_time.is_some());
            pod.uid().is_none_or(|own| own != uid) && !has_ended(other) && (began || admitted(&uid))
        });
        all
    }
}

fn allocatable(node: &Node) -> Allocatable {
    node.status.as_ref().and_then(|status| status.allocatable.clone()).unwrap_or_default()
}

fn used<'a>(pods: impl Iterator<Item = &'a Arc<Pod>>, machines: &Requests) -> Requests {
    pods.fold(machines.clone(), |mut sum, pod| {
        sum.add(&fit::given(pod));
        sum
    })
}

/// What is taken of a node by the VirtualMachines and Volumes that are placed there, as the scheduler counts them.
fn taken<'a>(
    node: &str,
    machines: impl Iterator<Item = &'a VirtualMachine>,
    volumes: impl Iterator<Item = &'a Volume>,
) -> Requests {
    let here = |name: &Option<String>| name.as_deref() == Some(node);
    let machines = machines.filter(|machine| here(&machine.spec.node_name));
    let volumes = volumes.filter(|volume| here(&volume.spec.node_name));
    let charge = MachineCharge::default();
    let each = machines
        .map(|machine| Requests::of_machine(machine, &charge))
        .chain(volumes.map(|volume| Requests::of_disk(volume.spec.size_gib)));
    each.fold(Requests::default(), |mut sum, one| {
        sum.add(&one);
        sum
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn machines_and_volumes_leave_less_for_pods() {
        let machine = |node: &str| -> VirtualMachine {
            let resources = json!({"vcpus": 16, "memoryMib": 1024, "diskGib": 2});
            let spec = json!({"flavor": "f", "nodeName": node, "resources": resources});
            from_value(json!({"apiVersion": "compute.yunfan.io/v1", "kind": "VirtualMachine", "metadata": {"name": "m"},
                "spec": spec}))
            .unwrap()
        };
        let volume: Volume = from_value(json!({"apiVersion": "storage.yunfan.io/v1", "kind": "Volume",
            "metadata": {"name": "v"}, "spec": {"sizeGib": 3, "nodeName": "here"}}))
        .unwrap();
        let machines = [machine("here"), machine("there")];
        let machines = taken("here", machines.iter(), [&volume].into_iter());
        assert_eq!((machines.cpu, machines.memory, machines.pods), (1000, 1088 << 20, 0));
        assert_eq!(machines.amount("ephemeral-storage"), 5 << 30);
        let pod = |requests: Value| -> Pod {
            let containers = json!([{"name": "c", "resources": {"requests": requests}}]);
            from_value(json!({"spec": {"containers": containers}})).unwrap()
        };
        let node: Allocatable =
            [("cpu".to_owned(), Quantity("2".to_owned())), ("pods".to_owned(), Quantity("9".to_owned()))]
                .into();
        let short = |requests: Value| {
            let used = used([Arc::new(pod(json!({"cpu": "500m"})))].iter(), &machines);
            fit::shortages(&fit::asked(&pod(requests)), &used, &node)
        };
        assert_eq!(short(json!({"cpu": "500m"})), []);
        assert_eq!(short(json!({"cpu": "501m"}))[0].rejection().reason, "OutOfcpu");
    }
}
