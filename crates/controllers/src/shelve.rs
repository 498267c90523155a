//! Images of machines → which of them go: one of a shelved machine that runs again, or is gone, and any that is not made yet of a machine that
//! goes, since nobody can make it any more.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, is_conflict, is_not_found, run_loop};
use yunfan_resources::compute::{RunState, VirtualMachine, VmPhase};
use yunfan_resources::image::{Image, ImagePhase};

use crate::Context;

/// How long an image may be there before its machine names it: it is made first.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait where somebody else was faster.
const AGAIN: Duration = Duration::from_secs(1);

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

/// A kind that is read by name.
trait Read: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned {}
impl Read for Image {}
impl Read for VirtualMachine {}

struct Loop {
    context: Context,
    images: Informer<Image>,
    machines: Informer<VirtualMachine>,
}

/// Whether an image is one that may go with its machine.
fn is_ours(image: &Image) -> bool {
    image.spec.source_machine.is_some() && (image.shelved().is_some() || is_being_made(image))
}

fn is_being_made(image: &Image) -> bool {
    image.spec.source_machine.as_deref().is_some_and(|machine| image.is_being_made_of_machine(machine))
}

fn is_there(image: &Image) -> bool {
    image.status.as_ref().is_some_and(|status| status.phase == ImagePhase::Active)
}

/// Whether a machine runs with a root disk of its own, and has no need of what was kept of it.
fn runs(machine: &VirtualMachine) -> bool {
    let phase = machine.status.as_ref().map(|status| status.phase);
    machine.spec.run_state != RunState::Shelved && matches!(phase, Some(VmPhase::Active | VmPhase::Paused))
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(seen) = self.images.get_key(key) else {
            self.forget(key).await?;
            return Ok(None);
        };
        if !is_ours(&seen) || seen.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        // Our own look may be an old one, and what goes does not come back. The image is read after the machine: one that was made
        // before that went is not taken for one that nobody makes any more.
        let name = seen.spec.source_machine.clone().unwrap_or_default();
        let machine = self.read::<VirtualMachine>(&key.namespace, &name).await?;
        let Some(image) = self.read::<Image>(&key.namespace, &key.name).await? else { return Ok(None) };
        let same = image.uid() == seen.uid() && image.spec.source_machine == seen.spec.source_machine;
        if !same || !is_ours(&image) || image.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        match self.wait(&image, machine.as_ref(), Timestamp::now()).await? {
            Some(Duration::ZERO) => {}
            wait => return Ok(wait),
        }
        // Where it is not made, no disk comes of it: the name goes first, or else it would keep the image.
        if let Some(machine) = machine.filter(|machine| machine.spec.shelved_image == image.metadata.name)
            && !is_there(&image)
            && !self.unname(&machine).await?
        {
            return Ok(Some(AGAIN));
        }
        self.remove(key, &image).await
    }

    async fn remove(&self, key: &ObjectKey, image: &Image) -> kube::Result<Option<Duration>> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: image.uid(),
                resource_version: image.resource_version(),
            }),
            ..DeleteParams::default()
        };
        match self.context.writer.delete_with::<Image>(key.namespace(), &key.name, &params).await {
            // Protected: it stays until somebody lets it go.
            Err(kube::Error::Api(told)) if matches!(told.code, 403 | 422) => {
                tracing::info!(
                    image = key.name,
                    message = told.message,
                    "the image of a shelved machine stays"
                );
                self.forget(key).await?;
                Ok(None)
            }
            Err(error) => Err(error),
            // It may have changed meanwhile, or something else may be made from it: then we look again.
            Ok(()) => {
                self.forget(key).await?;
                Ok(Some(PATIENCE))
            }
        }
    }

    /// An object as the API server has it.
    async fn read<K: Read>(&self, namespace: &str, name: &str) -> kube::Result<Option<K>> {
        match self.context.writer.get::<K>(Some(namespace), name).await {
            Err(error) if is_not_found(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    /// How long an image is still to be kept: not at all, until it is looked at again, or as long as its machine is as it is.
    async fn wait(
        &self,
        image: &Image,
        machine: Option<&VirtualMachine>,
        now: Timestamp,
    ) -> kube::Result<Option<Duration>> {
        let Some(machine) = machine else { return Ok(Some(Duration::ZERO)) };
        let named = match machine.spec.shelved_image.as_deref() {
            Some(name) if Some(name) != image.metadata.name.as_deref() => {
                self.read::<Image>(&image.namespace().unwrap_or_default(), name).await?
            }
            _ => None,
        };
        Ok(verdict(image, machine, named.as_ref(), now))
    }

    /// Takes an image that is gone from the machine that runs again.
    async fn forget(&self, key: &ObjectKey) -> kube::Result<()> {
        for machine in self.machines.in_namespace(&key.namespace) {
            if machine.spec.shelved_image.as_ref() != Some(&key.name) || !runs(&machine) {
                continue;
            }
            // What changed wakes us.
            self.unname(&machine).await?;
        }
        Ok(())
    }

    /// Takes the image's name from a machine; whether that is so, and the machine did not change meanwhile.
    async fn unname(&self, machine: &VirtualMachine) -> kube::Result<bool> {
        let patch = json!({
            "metadata": {"uid": machine.uid(), "resourceVersion": machine.resource_version()},
            "spec": {"shelvedImage": null},
        });
        let (namespace, name) = (machine.namespace(), machine.name_any());
        match self.context.writer.merge::<VirtualMachine>(namespace.as_deref(), &name, &patch).await {
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(false),
            other => other.map(|_| true),
        }
    }
}

/// See [`Loop::wait`]. `named` is the other image that the machine names now.
fn verdict(
    image: &Image,
    machine: &VirtualMachine,
    named: Option<&Image>,
    now: Timestamp,
) -> Option<Duration> {
    if image.shelved().is_none() {
        return machine.metadata.deletion_timestamp.is_some().then_some(Duration::ZERO);
    }
    if image.shelved() != machine.metadata.uid.as_deref() {
        return Some(Duration::ZERO);
    }
    if machine.spec.shelved_image == image.metadata.name {
        // One that is still to be made of a machine that is to go on was taken back.
        let taken_back = machine.spec.run_state != RunState::Shelved && is_being_made(image);
        return (runs(machine) || taken_back).then_some(Duration::ZERO);
    }
    // It may be the only copy of the disk, as long as there is no newer one.
    let newer = named.is_some_and(|named| named.shelved() == image.shelved() && is_there(named));
    if is_there(image) && !runs(machine) && !newer {
        return None;
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
        image.spec.source_machine = Some("vm".into());
        image.mark_shelved("u");
        image.status = serde_json::from_value(json!({"phase": "Queued"})).unwrap();
        image.metadata.creation_timestamp = Some(Time(now));
        let mut vm = VirtualMachine::new("vm", Default::default());
        vm.metadata.uid = Some("u".into());
        assert_eq!(verdict(&image, &vm, None, now), Some(PATIENCE), "it may be named in a moment");
        let later = Timestamp::from_second(1_700_000_100).unwrap();
        assert_eq!(verdict(&image, &vm, None, later), Some(Duration::ZERO), "nobody wants it");
        vm.spec.shelved_image = Some("vm-shelved".into());
        vm.spec.run_state = RunState::Shelved;
        assert_eq!(verdict(&image, &vm, None, later), None);
        vm.spec.run_state = RunState::Running;
        assert_eq!(verdict(&image, &vm, None, later), Some(Duration::ZERO), "the shelving was taken back");
        image.status = serde_json::from_value(json!({"phase": "Active"})).unwrap();
        assert_eq!(verdict(&image, &vm, None, later), None, "its disk is not made yet");
        vm.status = Some(VirtualMachineStatus { phase: VmPhase::Active, ..VirtualMachineStatus::default() });
        assert_eq!(verdict(&image, &vm, None, later), Some(Duration::ZERO));
        vm.metadata.uid = Some("another".into());
        vm.status = None;
        assert_eq!(verdict(&image, &vm, None, now), Some(Duration::ZERO), "its machine is gone");
    }

    #[test]
    fn the_only_copy_of_a_disk_stays_though_another_is_named() {
        let later = Timestamp::from_second(1_700_000_100).unwrap();
        let image = |name: &str, phase: &str| {
            let mut image = Image::new(name, Default::default());
            image.spec.source_machine = Some("vm".into());
            image.mark_shelved("u");
            image.metadata.creation_timestamp = Some(Time(Timestamp::from_second(1_700_000_000).unwrap()));
            image.status = serde_json::from_value(json!({"phase": phase})).unwrap();
            image
        };
        let mut vm = VirtualMachine::new("vm", Default::default());
        vm.metadata.uid = Some("u".into());
        vm.spec.run_state = RunState::Shelved;
        vm.spec.shelved_image = Some("second".into());
        let first = image("first", "Active");
        assert_eq!(verdict(&first, &vm, None, later), None);
        assert_eq!(verdict(&first, &vm, Some(&image("second", "Failed")), later), None);
        let other = Some(Duration::ZERO);
        assert_eq!(verdict(&first, &vm, Some(&image("second", "Active")), later), other);
        assert_eq!(verdict(&image("first", "Failed"), &vm, None, later), other, "nothing is in it");
        vm.spec.run_state = RunState::Running;
        vm.status = Some(VirtualMachineStatus { phase: VmPhase::Active, ..VirtualMachineStatus::default() });
        assert_eq!(verdict(&first, &vm, None, later), other, "it has a disk of its own");
    }

    #[test]
    fn an_image_that_is_still_to_be_made_goes_with_its_machine() {
        let mut image = Image::new("kept", Default::default());
        image.spec.source_machine = Some("vm".into());
        assert!(is_ours(&image));
        let (now, mut vm) = (Timestamp::UNIX_EPOCH, VirtualMachine::new("vm", Default::default()));
        assert_eq!(verdict(&image, &vm, None, now), None);
        vm.metadata.deletion_timestamp = Some(Time(now));
        assert_eq!(verdict(&image, &vm, None, now), Some(Duration::ZERO));
        image.status = serde_json::from_value(json!({"phase": "Active"})).unwrap();
        assert!(!is_ours(&image), "it is there, and needs no machine");
    }
}
