//! Machines that run otherwise than they should: halted, let go on, ended to be started anew.

use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Severity, is_not_found};
use yunfan_hypervisor::{VmInfo, VmState};
use yunfan_resources::compute::VirtualMachine;

use super::{MachineError, Machines, SHUTDOWN};

impl Machines {
    /// Halts the processors of a machine, or lets them run, as its spec says.
    pub(super) async fn halt_or_go_on(
        &self,
        machine: &VirtualMachine,
        mut info: VmInfo,
    ) -> Result<VmInfo, MachineError> {
        let uid = machine.metadata.uid.clone().unwrap_or_default();
        if machine.wants_halt() && info.state == VmState::Running {
            self.hypervisor.pause(&uid).await?;
            info.state = VmState::Paused;
            self.shared.recorder.event(machine, Severity::Normal, "Paused", "Halted the virtual machine");
        } else if !machine.wants_halt()
            && info.state == VmState::Paused
            && self.hypervisor.resume(&uid).await?
        {
            info.state = VmState::Running;
            self.shared.recorder.event(machine, Severity::Normal, "Resumed", "Let the virtual machine go on");
        }
        Ok(info)
    }

    /// Starts a machine anew that is to have another size, disk or image to boot.
    pub(super) async fn renew(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let (namespace, name) = (machine.namespace(), machine.name_any());
        // What we know of it may be older than what we wrote: a guest is not ended for what is done already. Nor is it while nobody
        // could be told that it was.
        let now = match self.shared.writer.get::<VirtualMachine>(namespace.as_deref(), &name).await {
            Err(error) if is_not_found(&error) => None,
            other => Some(other?),
        };
        let stale = || MachineError::Volume("it has changed meanwhile".to_owned());
        let now =
            now.filter(|now| now.uid() == machine.uid() && now.spec.run_state == machine.spec.run_state);
        let now = now.filter(|now| now.metadata.deletion_timestamp.is_none() && now.is_outdated());
        let now = now.ok_or_else(stale)?;
        self.prepare(&now).await?;
        let uid = now.uid().unwrap_or_default();
        if self.has_new_root_to_make(&now).await? {
            // What the guest would still write is thrown away with its disk.
            self.hypervisor.stop(&uid).await?;
        } else {
            self.hypervisor.shutdown(&uid, SHUTDOWN).await?;
        }
        self.start(&now).await
    }

    /// Writes that a machine is to be off, as it is already.
    pub(super) async fn stay_off(&self, machine: &VirtualMachine, why: &str) -> Result<(), MachineError> {
        self.shared.recorder.event(machine, Severity::Normal, "Stopped", why);
        let patch = json!({
            "metadata": {"resourceVersion": machine.resource_version()},
            "spec": {"runState": "Stopped"},
        });
        self.merge(machine, &patch).await
    }
}
