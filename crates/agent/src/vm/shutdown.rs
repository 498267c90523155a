//! The end of machines because their node shuts down: guests are asked to power off, and started again with the node.

use std::time::Duration;

use kube::ResourceExt;
use yunfan_client::Severity;
use yunfan_hypervisor::VmState;
use yunfan_resources::compute::{VirtualMachine, VmPhase};

use super::next::was_active;
use super::{MachineError, Machines};
use crate::shutdown::MESSAGE;

/// What of the time is for stopping those by force that don't power off.
const BY_FORCE: Duration = Duration::from_secs(3);

impl Machines {
    /// Presses the power button of all machines that run on this node, and stops those by force that run on, all within `time`.
    pub(crate) async fn shut_down(&self, time: Duration) {
        let grace = time.saturating_sub(BY_FORCE.min(time / 2));
        let running = match self.hypervisor.list().await {
            Ok(all) => all.into_iter().filter(|info| !matches!(info.state, VmState::Stopped(_))),
            Err(error) => {
                tracing::warn!(%error, "the virtual machines of this node are not told that it shuts down");
                return;
            }
        };
        let ends = running.map(|info| async move {
            if let Err(error) = self.hypervisor.shutdown(&info.uid, grace).await {
                tracing::warn!(%error, uid = info.uid, "a virtual machine did not end before its node shuts down");
                return;
            }
            let all = self.machines.list();
            let Some(machine) = all.iter().find(|machine| machine.uid().as_ref() == Some(&info.uid)) else { return };
            let message = "Stopped the virtual machine: its node is shutting down";
            self.shared.recorder.event(machine.as_ref(), Severity::Normal, "Stopped", message);
            if let Err(error) = self.hold(machine).await {
                tracing::warn!(%error, machine = machine.name_any(), "the end of a virtual machine could not be written");
            }
        });
        futures::future::join_all(ends).await;
    }

    /// A machine that is to run, but not before its node is there again.
    pub(super) async fn hold(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        if machine.wants_halt() && was_active(machine) {
            return self.stay_off(machine, "The node shut down, and the halted guest's memory is lost").await;
        }
        self.write_phase(machine, VmPhase::Stopped, Some(MESSAGE.to_owned())).await
    }
}
