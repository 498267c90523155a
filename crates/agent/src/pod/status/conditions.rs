//! A Pod's conditions (Kubernetes' documentation, "Pod Lifecycle").

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Value, json};

use super::super::parts::{Kind, Part};
use super::super::resize::Trouble;
use super::super::rounds::{CONDITION as RESTARTING, STARTED};
use super::seconds;

/// The conditions that this node writes; all others are someone else's and stay as they are.
const OURS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
/// That something else than the Pod itself ends it.
const DISRUPTION: &str = "DisruptionTarget";
/// Those that are there only while there is something to say.
const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// What conditions are made from.
pub(super) struct Facts<'a> {
    pub(super) pod: &'a Pod,
    pub(super) phase: &'a str,
    /// Why this node had to end the Pod.
    pub(super) disrupted: Option<&'a str>,
    pub(super) trouble: Option<&'a Trouble>,
    /// Whether all containers are being restarted; none where that can't be.
    pub(super) restarting: Option<bool>,
    pub(super) parts: &'a [Part],
    /// Of the init containers and the main ones.
    pub(super) statuses: &'a [ContainerStatus],
    pub(super) initialized: bool,
    pub(super) sandbox_ready: bool,
    pub(super) now: Timestamp,
}

/// Whether a condition holds; if not, the reason and a message.
type Verdict = Result<(), (&'static str, Option<String>)>;

impl Facts<'_> {
    pub(super) fn conditions(&self) -> Vec<Value> {
        let containers_ready = self.containers_ready();
        let ready = containers_ready.clone().and_then(|()| self.gates());
        let sandbox = if self.sandbox_ready { Ok(()) } else { Err(("", None)) };
        // Who is here was placed, whoever did it.
        let verdicts = [sandbox, self.initialized(), ready, containers_ready, Ok(())];
        let ours = OURS.iter().zip(verdicts).map(|(kind, verdict)| self.condition(kind, verdict));
        let disrupted = |kind: &str| kind == DISRUPTION && self.disrupted.is_some();
        let foreign = |kind: &str| {
            !OURS.contains(&kind) && !RESIZE.contains(&kind) && kind != RESTARTING && !disrupted(kind)
        };
        let others = self.present().filter(|c| foreign(&c.type_)).map(|c| json!(c));
        let sometimes = self.resize().into_iter().chain(self.restart()).chain(self.disruption());
        ours.chain(sometimes).chain(others).collect()
    }

    fn restart(&self) -> Option<Value> {
        let restarting = self.restarting?;
        let verdict = match self.phase {
            "Succeeded" => Err(("PodCompleted", None)),
            "Failed" => Err(("PodFailed", None)),
            _ if restarting => Ok(()),
            _ => Err(("", None)),
        };
        let holds = verdict.is_ok();
        let mut condition = self.condition(RESTARTING, verdict);
        if holds {
            let (reason, message) = STARTED;
            condition["reason"] = json!(reason);
            condition["message"] = json!(message);
        }
        Some(condition)
    }

    fn present(&self) -> impl Iterator<Item = &k8s_openapi::api::core::v1::PodCondition> {
        self.pod.status.iter().flat_map(|status| status.conditions.iter().flatten())
    }

    fn condition(&self, kind: &str, verdict: Verdict) -> Value {
        let status = if verdict.is_ok() { "True" } else { "False" };
        let since = match self.present().find(|c| c.type_ == kind) {
            Some(old) if old.status == status => old.last_transition_time.clone(),
            _ => Some(seconds(self.now)),
        };
        // An Initialized Pod that has completed says so although the condition holds.
        let completed = kind == "Initialized" && self.phase == "Succeeded";
        let (reason, message) = match verdict {
            Ok(()) => (completed.then_some("PodCompleted"), None),
            Err((reason, message)) => (Some(reason).filter(|reason| !reason.is_empty()), message),
        };
        json!({
            "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
            "observedGeneration": self.pod.metadata.generation,
        })
    }

    fn disruption(&self) -> Option<Value> {
        let message = self.disrupted?;
        let mut condition = self.condition(DISRUPTION, Ok(()));
        condition["reason"] = json!("TerminationByKubelet");
        condition["message"] = json!(message);
        Some(condition)
    }

    fn resize(&self) -> Option<Value> {
        let (kind, reason, message) = match self.trouble? {
            Trouble::Pending(reason, message) => (RESIZE[0], *reason, message),
            Trouble::Failed(message) => (RESIZE[1], "Error", message),
        };
        let mut condition = self.condition(kind, Ok(()));
        condition["reason"] = json!(reason);
        condition["message"] = json!(message);
        Some(condition)
    }

    fn initialized(&self) -> Verdict {
        if self.initialized || self.phase == "Succeeded" {
            return Ok(());
        }
        let incomplete = self.names(|part, status| match part.kind {
            Kind::Init => !status.ready,
            Kind::Sidecar => status.started != Some(true),
            _ => false,
        });
        Err(("ContainersNotInitialized", Some(format!("containers with incomplete status: [{incomplete}]"))))
    }

    fn containers_ready(&self) -> Verdict {
        match self.phase {
            "Succeeded" => return Err(("PodCompleted", None)),
            "Failed" => return Err(("PodFailed", None)),
            _ => {}
        }
        let unready =
            self.names(|part, status| matches!(part.kind, Kind::Main | Kind::Sidecar) && !status.ready);
        if unready.is_empty() && self.initialized {
            return Ok(());
        }
        Err(("ContainersNotReady", Some(format!("containers with unready status: [{unready}]"))))
    }

    /// Names of the containers for which `wanted` holds.
    fn names(&self, wanted: impl Fn(&Part, &ContainerStatus) -> bool) -> String {
        let found = self.parts.iter().filter(|part| {
            let status = self.statuses.iter().find(|status| status.name == part.name());
            status.is_some_and(|status| wanted(part, status))
        });
        found.map(Part::name).collect::<Vec<_>>().join(" ")
    }

    /// What others have to say before the Pod counts as ready.
    fn gates(&self) -> Verdict {
        let gates = self.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let closed: Vec<String> = gates
            .filter_map(|gate| {
                let kind = &gate.condition_type;
                match self.present().find(|c| c.type_ == *kind) {
                    None => Some(format!(
                        "corresponding condition of pod readiness gate {kind:?} does not exist."
                    )),
                    Some(c) if c.status != "True" => Some(format!(
                        "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                        c.status
                    )),
                    Some(_) => None,
                }
            })
            .collect();
        if closed.is_empty() { Ok(()) } else { Err(("ReadinessGatesNotReady", Some(closed.join(", ")))) }
    }
}
