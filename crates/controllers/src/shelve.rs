//! Images of machines → which of them go: one of a shelved machine that runs again, or is gone, and any that is not made yet of a machine that
//! goes, since nobody can make it any more.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, is_conflict, is_not_found, run_loop};
use yunfan_resources::compute::{RunState, VirtualMachine, VmPhase};
use yunfan_resources::image::Image;

use crate::Context;

/// How long an image may be there before its machine names it: it is made first.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the loop.
pub async fn run(context: Context) {
    let work = Arc::new(Loop {
        images: context.informers.of::<Image>(),
        machines: context.informers.of::<VirtualMachine>(),
        context,
    });
    tokio::join!(work.images.synced(), work.machines.synced());
    let queue = Queue::new();
    queue.feed(&work.images, |image| is_ours(image).then(|| ObjectKey::of(image)));
    let images = work.images.clone();
    queue.feed(&work.machines, move |machine| {
        let (namespace, machine_name) = (machine.namespace().unwrap_or_default(), machine.name_any());
        let all = images.in_namespace(&namespace);
        let own = all
            .iter()
            .filter(|image| is_ours(image) && image.spec.source_machine.as_ref() == Some(&machine_name));
        let named =
            machine.spec.shelved_image.as_ref().map(|name| ObjectKey::new(namespace.clone(), name.clone()));
        own.map(|image| ObjectKey::of(image.as_ref())).chain(named).collect::<Vec<_>>()
    });
    run_loop("shelve", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    images: Informer<Image>,
    machines: Informer<VirtualMachine>,
}

/// Whether an image is one that may go with its machine.
fn is_ours(image: &Image) -> bool {
    let machine = image.spec.source_machine.as_deref();
    image.shelved().is_some() || machine.is_some_and(|machine| image.is_being_made_of_machine(machine))
}

/// Whether a machine runs with a root disk of its own, and has no need of what was kept of it.
fn runs(machine: &VirtualMachine) -> bool {
    let phase = machine.status.as_ref().map(|status| status.phase);
    machine.spec.run_state != RunState::Shelved && matches!(phase, Some(VmPhase::Active | VmPhase::Paused))
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(image) = self.images.get_key(key) else {
            self.forget(key).await?;
            return Ok(None);
        };
        if !is_ours(&image) || image.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let wait = self.wait(&image, Timestamp::now()).await?;
        if wait.is_some_and(|wait| !wait.is_zero()) || wait.is_none() {
            return Ok(wait);
        }
        match self.context.writer.delete::<Image>(key.namespace(), &key.name, image.uid().as_deref()).await {
            // Protected: it stays until somebody lets it go.
            Err(kube::Error::Api(told)) if matches!(told.code, 403 | 409 | 422) => {
                tracing::info!(
                    image = key.name,
                    message = told.message,
                    "the image of a shelved machine stays"
                );
            }
            Err(error) if !is_not_found(&error) => return Err(error),
            _ => {}
        }
        self.forget(key).await?;
        Ok(None)
    }

    /// How long an image is still to be kept: not at all, until it is looked at again, or as long as its machine is as it is.
    async fn wait(&self, image: &Image, now: Timestamp) -> kube::Result<Option<Duration>> {
        let name = image.spec.source_machine.clone().unwrap_or_default();
        // Our own look may be an old one, and what goes does not come back.
        let machine =
            match self.context.writer.get::<VirtualMachine>(image.namespace().as_deref(), &name).await {
                Err(error) if is_not_found(&error) => return Ok(Some(Duration::ZERO)),
                other => other?,
            };
        Ok(verdict(image, &machine, now))
    }

    /// Takes an image that is gone from the machine that runs again.
    async fn forget(&self, key: &ObjectKey) -> kube::Result<()> {
        for machine in self.machines.in_namespace(&key.namespace) {
            if machine.spec.shelved_image.as_ref() != Some(&key.name) || !runs(&machine) {
                continue;
            }
            let patch = json!({
                "metadata": {"uid": machine.uid(), "resourceVersion": machine.resource_version()},
                "spec": {"shelvedImage": null},
            });
            let writer = &self.context.writer;
            match writer.merge::<VirtualMachine>(key.namespace(), &machine.name_any(), &patch).await {
                // What changed wakes us.
                Err(error) if !is_not_found(&error) && !is_conflict(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// See [`Loop::wait`].
fn verdict(image: &Image, machine: &VirtualMachine, now: Timestamp) -> Option<Duration> {
    if image.shelved().is_none() {
        return machine.metadata.deletion_timestamp.is_some().then_some(Duration::ZERO);
    }
    if image.shelved() != machine.metadata.uid.as_deref() {
        return Some(Duration::ZERO);
    }
    if machine.spec.shelved_image == image.metadata.name {
        return runs(machine).then_some(Duration::ZERO);
    }
    let made = image.metadata.creation_timestamp.as_ref().map_or(now, |at| at.0);
    let age = Duration::try_from(now.duration_since(made)).unwrap_or_default();
    Some(PATIENCE.saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use yunfan_resources::compute::VirtualMachineStatus;

    use super::*;

    #[test]
    fn an_image_is_kept_until_its_machine_runs_again() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let mut image = Image::new("vm-shelved", Default::default());
        image.mark_shelved("u");
        image.metadata.creation_timestamp = Some(Time(now));
        let mut vm = VirtualMachine::new("vm", Default::default());
        vm.metadata.uid = Some("u".into());
        assert_eq!(verdict(&image, &vm, now), Some(PATIENCE), "it may be named in a moment");
        let later = Timestamp::from_second(1_700_000_100).unwrap();
        assert_eq!(verdict(&image, &vm, later), Some(Duration::ZERO), "nobody wants it");
        vm.spec.shelved_image = Some("vm-shelved".into());
        vm.spec.run_state = RunState::Shelved;
        assert_eq!(verdict(&image, &vm, later), None);
        vm.spec.run_state = RunState::Running;
        assert_eq!(verdict(&image, &vm, later), None, "its disk is not made yet");
        vm.status = Some(VirtualMachineStatus { phase: VmPhase::Active, ..VirtualMachineStatus::default() });
        assert_eq!(verdict(&image, &vm, later), Some(Duration::ZERO));
        vm.metadata.uid = Some("another".into());
        vm.status = None;
        assert_eq!(verdict(&image, &vm, now), Some(Duration::ZERO), "its machine is gone");
    }

    #[test]
    fn an_image_that_is_still_to_be_made_goes_with_its_machine() {
        let mut image = Image::new("kept", Default::default());
        image.spec.source_machine = Some("vm".into());
        assert!(is_ours(&image));
        let (now, mut vm) = (Timestamp::UNIX_EPOCH, VirtualMachine::new("vm", Default::default()));
        assert_eq!(verdict(&image, &vm, now), None);
        vm.metadata.deletion_timestamp = Some(Time(now));
        assert_eq!(verdict(&image, &vm, now), Some(Duration::ZERO));
        image.status = serde_json::from_value(json!({"phase": "Active"})).unwrap();
        assert!(!is_ours(&image), "it is there, and needs no machine");
    }
}
