//! What a machine's status says.

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};
use yunfan_client::{is_conflict, is_not_found};
use yunfan_hypervisor::{Accelerator, VmInfo, VmState};
use yunfan_resources::compute::{VirtualMachine, VmPhase};
use yunfan_resources::network::Port;

use super::{MachineError, Machines};

/// Tries of one write while others write the same status.
const TRIES: usize = 5;

impl Machines {
    /// Writes that the machine runs. `addresses` are given when it was started just now.
    pub(super) async fn write_running(
        &self,
        machine: &VirtualMachine,
        info: &VmInfo,
        addresses: Option<Vec<Value>>,
        reboot_generation: Option<i64>,
    ) -> Result<(), MachineError> {
        let status = machine.status.clone().unwrap_or_default();
        let phase = if machine.wants_halt() && info.state == VmState::Paused {
            VmPhase::Paused
        } else {
            VmPhase::Active
        };
        // Missing where it was started by an agent that did not write it, or that ended before it could: with the size of its spec,
        // unless that has changed since.
        let size = machine.spec.resources.as_ref();
        let size = size.filter(|_| status.resources.is_none() && machine.spec.resized_from.is_none());
        let unchanged =
            status.phase == phase && addresses.is_none() && reboot_generation.is_none() && size.is_none();
        if unchanged {
            return Ok(());
        }
        let (accelerator, message) = match &info.accelerator {
            Accelerator::Kvm => ("kvm", None),
            Accelerator::Tcg { why } => ("tcg", Some(format!("KVM is not used: {why}"))),
        };
        let mut status = json!({
            "phase": phase,
            "accelerator": accelerator,
            "hostname": machine.hostname(),
            "message": null,
        });
        if let Some(size) = size {
            status["resources"] = json!(size);
        }
        if let Some(addresses) = addresses {
            status["addresses"] = json!(addresses);
            status["startedAt"] = json!(now());
            as_asked(machine, &mut status);
        }
        if let Some(generation) = reboot_generation {
            status["rebootGeneration"] = json!(generation);
        }
        self.merge_status(machine, true, message, status).await
    }

    /// Writes where a machine stands that does not run, and why.
    pub(super) async fn write_phase(
        &self,
        machine: &VirtualMachine,
        phase: VmPhase,
        message: Option<String>,
    ) -> Result<(), MachineError> {
        let status = machine.status.clone().unwrap_or_default();
        if status.phase == phase && status.message == message {
            return Ok(());
        }
        let status = json!({"phase": phase, "message": message});
        self.merge_status(machine, false, message, status).await
    }

    /// Writes that a machine that does not run has the size and the disk that its spec says.
    pub(super) async fn write_stopped_as_asked(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let mut status = json!({"phase": VmPhase::Stopped, "message": null});
        as_asked(machine, &mut status);
        self.merge_status(machine, false, None, status).await
    }

    /// Writes what became of the actions that were asked for: done, or failed for this reason. Those that have a result keep it.
    pub(super) async fn record_results(
        &self,
        machine: &VirtualMachine,
        error: Option<&str>,
    ) -> Result<(), MachineError> {
        let known = machine.status.as_ref().map(|status| status.results.as_slice()).unwrap_or_default();
        let of = |request: &str| known.iter().find(|result| result.request == request);
        if machine.spec.actions.iter().all(|action| of(&action.request).is_some()) {
            return Ok(());
        }
        let results: Vec<Value> = machine
            .spec
            .actions
            .iter()
            .map(|action| match of(&action.request) {
                Some(known) => json!(known),
                None => json!({"request": action.request, "at": now(), "error": error}),
            })
            .collect();
        let (namespace, name) = (machine.namespace(), machine.name_any());
        // The actions are those that this machine as we saw it was brought to; the next look has the others.
        let patch = json!({"metadata": {"uid": machine.uid()}, "status": {"results": results}});
        match self.shared.writer.merge_status::<VirtualMachine>(namespace.as_deref(), &name, &patch).await {
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Merges a status with the condition Ready. The list of conditions is written whole and has entries of others' in it (the
    /// scheduler's), so the write goes through only where nobody wrote in between.
    async fn merge_status(
        &self,
        machine: &VirtualMachine,
        ready: bool,
        message: Option<String>,
        mut status: Value,
    ) -> Result<(), MachineError> {
        let (namespace, name) = (machine.namespace(), machine.name_any());
        let writer = &self.shared.writer;
        let mut seen = machine.clone();
        for _ in 0..TRIES {
            status["conditions"] = conditions(&seen, ready, message.as_deref());
            let patch = json!({
                "metadata": {"uid": machine.uid(), "resourceVersion": seen.resource_version()},
                "status": status,
            });
            match writer.merge_status::<VirtualMachine>(namespace.as_deref(), &name, &patch).await {
                Ok(_) => return Ok(()),
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
            seen = match writer.get::<VirtualMachine>(namespace.as_deref(), &name).await {
                // Another machine of this name: this one is gone, and with it its status.
                Ok(there) if there.uid() != machine.uid() => return Ok(()),
                Ok(there) => there,
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
        }
        Err(MachineError::Waits(format!("the status of {name} is written by others all the time")))
    }
}

/// What of the spec is carried out with each start.
fn as_asked(machine: &VirtualMachine, status: &mut Value) {
    status["resources"] = json!(machine.spec.resources);
    status["rescued"] = json!(machine.spec.rescue_image.is_some());
    status["rebuildGeneration"] = json!(machine.spec.rebuild_generation);
}

/// The addresses of a Port as the status lists them.
pub(super) fn addresses_of(port: &Port) -> Vec<Value> {
    port.spec
        .fixed_ips
        .iter()
        .filter_map(|fixed| fixed.ip.as_ref())
        .map(|ip| {
            json!({"network": port.spec.network, "port": port.name_any(), "ip": ip,
                   "mac": port.spec.mac_address.clone().unwrap_or_default()})
        })
        .collect()
}

/// The machine's conditions with Ready as it is now; its time changes only with it.
fn conditions(machine: &VirtualMachine, ready: bool, message: Option<&str>) -> Value {
    let present = machine.status.clone().unwrap_or_default().conditions;
    let value = if ready { "True" } else { "False" };
    let since = match present.iter().find(|c| c.type_ == "Ready") {
        Some(old) if old.status == value => json!(old.last_transition_time),
        _ => json!(now()),
    };
    let mut all: Vec<Value> = present.iter().filter(|c| c.type_ != "Ready").map(|c| json!(c)).collect();
    all.push(json!({
        "type": "Ready", "status": value, "lastTransitionTime": since,
        "reason": if ready { "Running" } else { "NotRunning" },
        "message": message.unwrap_or_default(),
    }));
    json!(all)
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
