//! Whether a Pod that comes to this node runs here: [`admit`] and [`fit`] have the rules, and [`preempt`] makes room where there must be
//! some.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use yunfan_client::{ObjectKey, Severity};
use yunfan_resources::requests::Requests;

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
        let Err(first) = self.try_admit(pod, &node) else { return Admission::Taken };
        // The Pod may have come faster than what its node has learnt, such as a label that it asks for.
        let (node, refusal) = match self.shared.writer.get::<Node>(None, &self.shared.node).await {
            Ok(node) => match self.try_admit(pod, &node) {
                Ok(()) => return Admission::Taken,
                Err(refusal) => (Arc::new(node), refusal),
            },
            Err(_) => (node, first),
        };
        match refusal {
            Refusal::Short(_) if preempt::is_critical(pod, self.is_static(pod)) => self.make_room(pod, &node),
            refusal => self.refuse(pod, refusal.rejection()),
        }
    }

    fn refuse(&self, pod: &Pod, rejection: Rejection) -> Admission {
        self.say(pod, Severity::Warning, rejection.reason.clone(), rejection.message.clone());
        Admission::Refused(End::failed(&rejection.reason, format!("Pod was rejected: {}", rejection.message)))
    }

    /// Takes the Pod if nothing is against it; who comes at the same time is looked at before or after.
    fn try_admit(&self, pod: &Pod, node: &Node) -> Result<(), Refusal> {
        let mut known = self.lock();
        let others = self.others(pod, |uid| known.get(uid).is_some_and(|local| local.admitted));
        let allocatable = allocatable(node);
        admit::admit(pod, &allocatable, &others).map_err(Refusal::Never)?;
        if let Some(rejection) = fit::misplaced(pod, node, self.is_static(pod)) {
            return Err(Refusal::Never(rejection));
        }
        let short = fit::shortages(&fit::asked(pod), &used(others.iter()), &allocatable);
        if !short.is_empty() {
            return Err(Refusal::Short(short));
        }
        known.entry(pod.uid().unwrap_or_default()).or_default().admitted = true;
        Ok(())
    }

    /// Ends Pods that are less important than one which must run here.
    fn make_room(&self, pod: &Pod, node: &Node) -> Admission {
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
        let short = fit::shortages(&fit::asked(pod), &used(others.iter()), &allocatable(node));
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

fn used<'a>(pods: impl Iterator<Item = &'a Arc<Pod>>) -> Requests {
    pods.fold(Requests::default(), |mut sum, pod| {
        sum.add(&fit::given(pod));
        sum
    })
}
