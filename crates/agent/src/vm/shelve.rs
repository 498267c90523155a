//! Shelved machines leave the node, where their root disk is kept elsewhere: in a Volume, or in an image that was made of it.
//!
//! First the status says that the machine goes, which is taken back by nobody; then the node removes what it has of it, and lets it go
//! together with its finalizer. A restart in between goes on where it was.

use std::time::Duration;

use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Severity, is_conflict, is_not_found};
use yunfan_resources::compute::{RunState, VirtualMachine, VmPhase};
use yunfan_resources::image::ImagePhase;
use yunfan_resources::names::VM_FINALIZER;

use super::{AGAIN, MachineError, Machines};

/// Whether the node is just letting a machine go.
pub(super) fn goes(machine: &VirtualMachine) -> bool {
    let said = machine.status.as_ref().is_some_and(|status| status.phase == VmPhase::Offloaded);
    // Without it, the machine was placed here anew and has not been begun with.
    said && machine.finalizers().iter().any(|finalizer| finalizer == VM_FINALIZER)
}

/// Whether the API server says that the machine is none of this node's.
fn is_elsewhere(error: &kube::Error) -> bool {
    is_not_found(error) || matches!(error, kube::Error::Api(told) if told.code == 403)
}

impl Machines {
    /// Lets a shelved machine go that is off, once its root disk is kept elsewhere.
    pub(super) async fn leave_shelved(
        &self,
        machine: &VirtualMachine,
    ) -> Result<Option<Duration>, MachineError> {
        if machine.spec.run_state != RunState::Shelved || !self.is_kept_elsewhere(machine) {
            return Ok(None);
        }
        let Some(now) = self.as_it_is(machine).await? else { return Ok(None) };
        let same = now.spec.run_state == RunState::Shelved
            && now.spec.shelved_image == machine.spec.shelved_image
            && now.status.as_ref().is_some_and(|status| status.phase == VmPhase::Stopped);
        if !same {
            // What it is now wakes us.
            return Ok(None);
        }
        // Only where nobody let it run in between.
        let patch = json!({
            "metadata": {"uid": now.uid(), "resourceVersion": now.resource_version()},
            "status": {"phase": VmPhase::Offloaded, "message": null},
        });
        let (namespace, name) = (now.namespace(), now.name_any());
        let written = self.shared.writer.merge_status::<VirtualMachine>(namespace.as_deref(), &name, &patch);
        match written.await {
            Err(error) if is_conflict(&error) => Ok(Some(AGAIN)),
            Err(error) if is_elsewhere(&error) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(_) => self.let_go(&now).await,
        }
    }

    /// Removes what the node has of a machine that goes, and lets it go.
    pub(super) async fn let_go(&self, machine: &VirtualMachine) -> Result<Option<Duration>, MachineError> {
        let Some(now) = self.as_it_is(machine).await?.filter(goes) else { return Ok(None) };
        if now.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let uid = now.uid().unwrap_or_default();
        let Some(_still) = self.volumes.still.hold(&uid) else { return Ok(Some(AGAIN)) };
        self.clear(&uid, &self.ports_of(&now)).await?;
        let finalizers: Vec<&String> = now.finalizers().iter().filter(|one| *one != VM_FINALIZER).collect();
        let patch = json!({
            "metadata": {"uid": uid, "resourceVersion": now.resource_version(), "finalizers": finalizers},
            "spec": {"nodeName": null},
        });
        let (namespace, name) = (now.namespace(), now.name_any());
        match self.shared.writer.merge::<VirtualMachine>(namespace.as_deref(), &name, &patch).await {
            Err(error) if is_conflict(&error) => return Ok(Some(AGAIN)),
            Err(error) if is_elsewhere(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        self.shared.recorder.event(
            machine,
            Severity::Normal,
            "Offloaded",
            "The shelved machine left its node",
        );
        Ok(None)
    }

    /// The machine as the API server has it, if it is still this node's.
    async fn as_it_is(&self, machine: &VirtualMachine) -> Result<Option<VirtualMachine>, MachineError> {
        let (namespace, name) = (machine.namespace(), machine.name_any());
        match self.shared.writer.get::<VirtualMachine>(namespace.as_deref(), &name).await {
            Err(error) if is_elsewhere(&error) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(now) => {
                let ours =
                    now.uid() == machine.uid() && now.spec.node_name.as_ref() == Some(&self.shared.node);
                Ok(Some(now).filter(|_| ours))
            }
        }
    }

    /// Whether nothing is lost with the disks that the node has of a machine.
    fn is_kept_elsewhere(&self, machine: &VirtualMachine) -> bool {
        let namespace = machine.namespace().unwrap_or_default();
        let name = machine.name_any();
        if self.images.is_any_being_made_of(&namespace, &name) {
            return false;
        }
        if machine.boot_volume().is_some() {
            return true;
        }
        let image = machine.spec.shelved_image.as_deref().and_then(|image| self.images.of(&namespace, image));
        image.is_some_and(|image| {
            image.shelved() == machine.metadata.uid.as_deref()
                && image.spec.source_machine.as_ref() == Some(&name)
                && image.metadata.deletion_timestamp.is_none()
                && image.status.as_ref().is_some_and(|status| status.phase == ImagePhase::Active)
        })
    }
}

#[cfg(test)]
mod tests {
    use yunfan_resources::compute::VirtualMachineStatus;

    use super::*;

    #[test]
    fn one_that_comes_back_is_not_let_go_again() {
        let mut vm = VirtualMachine::new("vm", Default::default());
        let status = |phase| Some(VirtualMachineStatus { phase, ..VirtualMachineStatus::default() });
        vm.metadata.finalizers = Some(vec![VM_FINALIZER.to_owned()]);
        vm.status = status(VmPhase::Stopped);
        assert!(!goes(&vm), "its disk may not be kept yet");
        vm.status = status(VmPhase::Offloaded);
        assert!(goes(&vm));
        vm.metadata.finalizers = None;
        assert!(!goes(&vm), "it is placed here anew");
    }
}
