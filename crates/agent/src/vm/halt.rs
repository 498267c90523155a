//! Machines that run otherwise than they should: halted, let go on, ended to be started anew.

use yunfan_client::Severity;
use yunfan_hypervisor::{VmInfo, VmState};
use yunfan_resources::compute::{VirtualMachine, VmPhase};

use super::{MachineError, Machines, SHUTDOWN};

impl Machines {
    /// Halts the processors of a machine, or lets them run, as its spec says.
    pub(super) async fn halt_or_go_on(
        &self,
        machine: &VirtualMachine,
        mut info: VmInfo,
    ) -> Result<VmInfo, MachineError> {
        let uid = machine.metadata.uid.clone().unwrap_or_default();
        // A guest that has powered itself off is halted for a moment, too: only what we halted goes on.
        let halted = machine.status.as_ref().is_some_and(|status| status.phase == VmPhase::Paused);
        if machine.wants_halt() && info.state == VmState::Running {
            self.hypervisor.pause(&uid).await?;
            info.state = VmState::Paused;
            self.shared.recorder.event(machine, Severity::Normal, "Paused", "Halted the virtual machine");
        } else if !machine.wants_halt() && info.state == VmState::Paused && halted {
            self.hypervisor.resume(&uid).await?;
            info.state = VmState::Running;
            self.shared.recorder.event(machine, Severity::Normal, "Resumed", "Let the virtual machine go on");
        }
        Ok(info)
    }

    /// Ends the process of a machine that is to be started with another size, disk or image to boot.
    pub(super) async fn end_outdated(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let uid = machine.metadata.uid.clone().unwrap_or_default();
        if machine.is_rebuilding() {
            // What the guest would still write is thrown away with its disk.
            self.hypervisor.stop(&uid).await?;
        } else {
            self.hypervisor.shutdown(&uid, SHUTDOWN).await?;
        }
        Ok(())
    }
}
