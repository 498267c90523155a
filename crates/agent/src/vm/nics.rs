//! Network interfaces in and out of machines that run.

use kube::ResourceExt;
use serde_json::{Value, json};
use yunfan_client::Severity;
use yunfan_hypervisor::Nic;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::network::workload_port;

use super::{MachineError, Machines, status};

impl Machines {
    /// Brings the interfaces of a machine that runs to what its spec says.
    pub(super) async fn plug_nics(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let uid = machine.uid().unwrap_or_default();
        let later = |error: MachineError| MachineError::Volume(error.to_string());
        let there = self.hypervisor.nics(&uid).await.map_err(|error| later(error.into()))?;
        let namespace = machine.namespace().unwrap_or_default();
        let (mut problem, mut wanted, mut ports, mut addresses) = (None, Vec::new(), Vec::new(), Vec::new());
        for (index, attachment) in machine.spec.networks.iter().enumerate() {
            let name = attachment.port.clone();
            let name = name.unwrap_or_else(|| workload_port("VirtualMachine", &machine.name_any(), index));
            let port = match self.links.port(&namespace, &name, machine.uid()) {
                Ok(port) => port,
                Err(error) => {
                    problem = Some(later(error.into()));
                    continue;
                }
            };
            let mac = port.spec.mac_address.clone().unwrap_or_default();
            addresses.extend(status::addresses_of(&port));
            ports.push(port.uid().unwrap_or_default());
            let plugged = there.iter().any(|own| own.eq_ignore_ascii_case(&mac));
            if !plugged
                && !self.was_started_with(machine, &name)
                && let Err(error) = self.plug_nic(machine, &name, &mac).await
            {
                problem = Some(later(error));
            }
            wanted.push(mac);
        }
        // Where a Port is not there yet, it is not known whose the other cards are.
        if problem.is_none() {
            self.unplug_nics(machine, &there, &wanted, &ports).await.map_err(later)?;
            self.write_addresses(machine, addresses).await?;
        }
        problem.map_or(Ok(()), Err)
    }

    /// Whether the status names a Port as one of the machine's: a card that it was started with and that has no slot of its own
    /// is not told by the hypervisor.
    fn was_started_with(&self, machine: &VirtualMachine, port: &str) -> bool {
        let known = machine.status.iter().flat_map(|status| &status.addresses);
        known.into_iter().any(|address| address.port == port)
    }

    async fn plug_nic(&self, machine: &VirtualMachine, port: &str, mac: &str) -> Result<(), MachineError> {
        let namespace = machine.namespace().unwrap_or_default();
        let link = self.links.attach_machine(&namespace, port, machine.uid()).await?;
        let nic = Nic { mac: mac.to_owned(), tap: link.tap.fd };
        self.hypervisor.attach_nic(&machine.uid().unwrap_or_default(), nic).await?;
        let message = format!("Attached port {port}");
        self.shared.recorder.event(machine, Severity::Normal, "Attached", message);
        Ok(())
    }

    /// Pulls out the cards that are not wanted, and then the plugs of their Ports.
    async fn unplug_nics(
        &self,
        machine: &VirtualMachine,
        there: &[String],
        wanted: &[String],
        ports: &[String],
    ) -> Result<(), MachineError> {
        let uid = machine.uid().unwrap_or_default();
        let is_wanted = |mac: &String| wanted.iter().any(|own| own.eq_ignore_ascii_case(mac));
        for mac in there.iter().filter(|mac| !is_wanted(mac)) {
            self.hypervisor.detach_nic(&uid, mac).await?;
            let message = format!("Detached the interface {mac}");
            self.shared.recorder.event(machine, Severity::Normal, "Detached", message);
        }
        for (network, port) in self.links.held_by(&uid) {
            if !ports.contains(&port) {
                self.links.detach_port(&network, &port).await?;
            }
        }
        Ok(())
    }

    async fn write_addresses(
        &self,
        machine: &VirtualMachine,
        addresses: Vec<Value>,
    ) -> Result<(), MachineError> {
        let known = machine.status.as_ref().map(|status| json!(status.addresses)).unwrap_or_default();
        if known == json!(addresses) {
            return Ok(());
        }
        let (namespace, name) = (machine.namespace(), machine.name_any());
        let patch = json!({"metadata": {"uid": machine.uid()}, "status": {"addresses": addresses}});
        let written =
            self.shared.writer.merge_status::<VirtualMachine>(namespace.as_deref(), &name, &patch).await;
        match written {
            Err(error) if !yunfan_client::is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
