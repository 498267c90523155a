//! A Volume as Cinder shows it.

use std::collections::{HashMap, HashSet};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::claims::BACKS_LABEL;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::image::{Image, referred};
use yunfan_resources::storage::{Attachment, Volume, VolumePhase, VolumeType};

use super::{backends, backups, groups, image, marks, outside};
use crate::auth::Session;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::nova::CREATOR;
use crate::zone::{PATIENCE, ZONE};
use crate::{ids, stamp};

/// What Cinder calls the type of volumes that were given none; its clients expect a name.
const DEFAULT_TYPE: &str = "__DEFAULT__";

/// The machines that have volumes, or are to have them, and the volumes that images are being made of.
#[derive(Default)]
pub(crate) struct Machines {
    /// By namespace and the volume's name: the machine's uid.
    wishes: HashMap<(String, String), String>,
    /// Ids by uid.
    ids: HashMap<String, String>,
    /// Uids of those that are shelved and on no node: what they are to have is theirs, though no node says so.
    offloaded: HashSet<String>,
    /// By namespace, and the name of the volume: what is being done with it, in Cinder's word.
    imaged: HashMap<(String, String), &'static str>,
}

impl Machines {
    /// Reads them from the machines and images of one or of all namespaces.
    pub(crate) fn new(machines: &[VirtualMachine], images: &[Image]) -> Self {
        let sources = images.iter().filter_map(|image| {
            let volume = image.spec.source_volume.as_ref().filter(|name| image.is_being_made_of(name))?;
            let word = if backups::is_backup(image) { "backing-up" } else { "uploading" };
            Some(((ids::namespace(image).to_owned(), volume.clone()), word))
        });
        let mut all = Self { imaged: sources.collect(), ..Self::default() };
        for machine in machines {
            let uid = machine.metadata.uid.clone().unwrap_or_default();
            let namespace = ids::namespace(machine);
            all.wishes.extend(
                machine
                    .spec
                    .volumes
                    .iter()
                    .map(|wish| ((namespace.to_owned(), wish.volume.clone()), uid.clone())),
            );
            if machine.is_offloaded() {
                all.offloaded.insert(uid.clone());
            }
            all.ids.insert(uid, machine.id());
        }
        all
    }

    /// Those of the namespace that a volume is in, as the caller sees them.
    ///
    /// # Errors
    /// The API server's.
    pub(crate) async fn beside(session: &Session, namespace: &str) -> Result<Self, Fault> {
        let (machines, images) =
            (session.within::<VirtualMachine>(namespace), session.within::<Image>(namespace));
        let (machines, images) = tokio::try_join!(ids::list(&machines), ids::list(&images))?;
        Ok(Self::new(&machines, &images))
    }

    /// Those of one or of all namespaces, as the caller sees them.
    ///
    /// # Errors
    /// The API server's.
    pub(super) async fn of_those(session: &Session, namespace: Option<&str>) -> Result<Self, Fault> {
        if let Some(namespace) = namespace {
            return Self::beside(session, namespace).await;
        }
        let (machines, images) = (session.everywhere::<VirtualMachine>(), session.everywhere::<Image>());
        let (machines, images) = tokio::try_join!(ids::list(&machines), ids::list(&images))?;
        Ok(Self::new(&machines, &images))
    }

    /// The id of the server with this uid.
    pub(super) fn server(&self, uid: &str) -> Option<&str> {
        self.ids.get(uid).map(String::as_str)
    }

    /// The uid of the machine that has a volume while it is on no node.
    fn keeper(&self, volume: &Volume) -> Option<&str> {
        self.wish(volume).filter(|uid| self.offloaded.contains(*uid))
    }

    /// The uid of the machine that is to have a volume.
    pub(super) fn wish(&self, volume: &Volume) -> Option<&str> {
        self.wishes.get(&place(volume)).map(String::as_str)
    }
}

/// The id of a server's attachment of a volume, which is no object of its own.
pub(crate) fn attachment_id(volume: &str, server: &str) -> String {
    ids::stable_uuid(&format!("attachment {server} {volume}"))
}

/// Namespace and name.
fn place(volume: &Volume) -> (String, String) {
    (ids::namespace(volume).to_owned(), ids::name(volume).to_owned())
}

/// Where a volume stands, in Cinder's words.
pub(crate) fn status_of(machines: &Machines, volume: &Volume, now: Timestamp) -> &'static str {
    match marks::volume(volume) {
        Some(word) if volume.metadata.deletion_timestamp.is_none() => word,
        _ => standing(machines, volume, now),
    }
}

/// Where a volume stands by what its objects say, whatever somebody marked it as.
pub(super) fn standing(machines: &Machines, volume: &Volume, now: Timestamp) -> &'static str {
    let status = volume.status.clone().unwrap_or_default();
    let extends = status.size_gib.is_some_and(|size| size < volume.spec.size_gib);
    let (wish, busy) = (machines.wish(volume), machines.imaged.get(&place(volume)).copied());
    let has = status.attachments.iter().any(|one| Some(one.uid.as_str()) == wish);
    match status.phase {
        _ if volume.metadata.deletion_timestamp.is_some() => "deleting",
        VolumePhase::Error if extends => "error_extending",
        VolumePhase::Error => "error",
        VolumePhase::Creating if is_refused(volume, now) => "error",
        VolumePhase::Creating => "creating",
        _ if extends => "extending",
        // Whether a server has it or not: as in Cinder, one thing is done with a volume at a time.
        _ if busy.is_some() => busy.unwrap_or_default(),
        _ if has || machines.keeper(volume).is_some() => "in-use",
        _ if !status.attachments.is_empty() => "detaching",
        _ if wish.is_some() => "attaching",
        // Pods have it, or may have it at any time.
        _ if volume.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(BACKS_LABEL)) => {
            "in-use"
        }
        _ => "available",
    }
}

/// Whether the scheduler says that no node has room, and has said so for long enough.
fn is_refused(volume: &Volume, now: Timestamp) -> bool {
    let conditions = volume.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| {
        let since = stamp::created(volume).max(condition.last_transition_time.0);
        condition.type_ == "Scheduled" && condition.status == "False" && now.duration_since(since) > PATIENCE
    })
}

/// What views need beside the volumes.
#[derive(Default)]
pub(super) struct Context {
    pub(super) endpoint: String,
    pub(super) admin: bool,
    pub(super) version: u32,
    pub(super) machines: Machines,
    /// By namespace and name.
    pub(super) images: HashMap<(String, String), Image>,
    /// By name.
    pub(super) types: HashMap<String, VolumeType>,
    /// Project ids by namespace.
    pub(super) projects: HashMap<String, String>,
}

impl Context {
    /// Whether what a volume was made from is a backup.
    fn is_backup(&self, namespace: &str, reference: &str) -> bool {
        let (namespace, name) = referred(namespace, reference);
        self.images.get(&(namespace.to_owned(), name.to_owned())).is_some_and(backups::is_backup)
    }

    fn since(&self, minor: u32) -> bool {
        Microversion(self.version) >= Microversion(minor)
    }
}

fn links(context: &Context, volume: &Volume) -> Value {
    let (endpoint, id) = (&context.endpoint, volume.id());
    json!([
        {"rel": "self", "href": format!("{endpoint}/volume/v3/volumes/{id}")},
        {"rel": "bookmark", "href": format!("{endpoint}/volume/volumes/{id}")},
    ])
}

/// The short form, of `GET /volumes`.
pub(super) fn brief(context: &Context, volume: &Volume) -> Value {
    json!({"id": volume.id(), "name": name(volume), "links": links(context, volume)})
}

/// A volume may have no name.
fn name(volume: &Volume) -> &str {
    volume.spec.display_name.as_deref().unwrap_or_default()
}

/// The whole of it.
pub(super) fn full(context: &Context, volume: &Volume) -> Value {
    let (namespace, spec) = (ids::namespace(volume), &volume.spec);
    let kind = spec.volume_type.as_ref();
    let known = kind.and_then(|name| context.types.get(name));
    let annotations = volume.metadata.annotations.as_ref();
    let created = stamp::micros_bare(stamp::created(volume));
    // What it was in another project is no source that is told.
    let source = spec.source_volume.as_ref().filter(|name| !name.contains('/'));
    let mut view = json!({
        "id": volume.id(), "name": name(volume), "description": spec.description, "size": spec.size_gib,
        "status": status_of(&context.machines, volume, Timestamp::now()),
        "attachments": attachments(context, volume),
        "availability_zone": ZONE, "bootable": volume.is_bootable().to_string(),
        "created_at": created, "updated_at": created, "metadata": spec.metadata,
        "volume_type": known.map(Identified::display_name).or(kind.cloned()).unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
        "user_id": annotations.and_then(|all| all.get(CREATOR)).cloned().unwrap_or_default(),
        "links": links(context, volume),
        "encrypted": false, "multiattach": false, "replication_status": null,
        "snapshot_id": spec.source_id.as_ref().filter(|_| spec.snapshot.is_some()),
        "source_volid": spec.source_id.as_ref().filter(|_| source.is_some()), "consistencygroup_id": null,
        "os-vol-tenant-attr:tenant_id": context.projects.get(namespace).cloned().unwrap_or_default(),
    });
    if let Some(flag) = spec.read_only {
        // Cinder's own pair among the user's.
        view["metadata"]["readonly"] = json!(if flag { "True" } else { "False" });
    }
    if let Some(changed) = image::changed(volume) {
        view["volume_image_metadata"] = changed;
    } else if let Some(image) = spec.image.as_ref()
        && !context.is_backup(namespace, image)
    {
        view["volume_image_metadata"] = image_metadata(context, namespace, image);
    }
    let mut since = |minor: u32, member: &str, value: Value| {
        if context.since(minor) {
            view[member] = value;
        }
    };
    since(13, "group_id", json!(groups::of(volume)));
    since(48, "shared_targets", json!(false));
    since(48, "service_uuid", Value::Null);
    since(63, "volume_type_id", json!(known.map(Identified::id)));
    since(65, "consumes_quota", json!(true));
    if context.admin {
        since(21, "provider_id", Value::Null);
        since(61, "cluster_name", Value::Null);
        view["os-vol-host-attr:host"] =
            json!(spec.node_name.as_ref().map(|node| format!("{}#local", backends::host(node))));
        view["migration_status"] = Value::Null;
        view["os-vol-mig-status-attr:migstat"] = Value::Null;
        view["os-vol-mig-status-attr:name_id"] = Value::Null;
    }
    view
}

fn attachments(context: &Context, volume: &Volume) -> Vec<Value> {
    let id = volume.id();
    let kept = context.machines.keeper(volume);
    let kept = kept.map(|uid| Attachment { uid: uid.to_owned(), ..Attachment::default() });
    let all = volume.status.iter().flat_map(|status| status.attachments.clone());
    let all = all.filter(|one| kept.as_ref().is_none_or(|kept| kept.uid != one.uid));
    all.chain(kept.clone())
        .map(|one| {
            let host = volume.spec.node_name.as_ref().filter(|_| context.admin);
            let server = context.machines.server(&one.uid);
            json!({
                "id": id, "attachment_id": attachment_id(&id, server.unwrap_or(&one.uid)), "volume_id": id,
                "server_id": server, "host_name": host, "device": one.device,
                "attached_at": one.attached_at.as_ref().map(|at| stamp::micros_bare(at.0)),
            })
        })
        .chain(outside::view(volume))
        .collect()
}

/// What is known of the image that a volume was made from; of one that is gone only its name.
fn image_metadata(context: &Context, namespace: &str, reference: &str) -> Value {
    let (namespace, name) = referred(namespace, reference);
    let Some(image) = context.images.get(&(namespace.to_owned(), name.to_owned())) else {
        return json!({"image_name": name});
    };
    let status = image.status.clone().unwrap_or_default();
    let mut metadata = json!({
        "image_id": image.id(), "image_name": image.display_name(),
        "container_format": image.spec.container_format, "disk_format": image.spec.disk_format, "min_disk": image.spec.min_disk_gib.to_string(),
        "min_ram": image.spec.min_ram_mib.to_string(), "size": status.size_bytes.unwrap_or(0).to_string(),
    });
    if let Some(md5) = status.md5 {
        metadata["checksum"] = json!(md5);
    }
    for (key, value) in &image.spec.properties {
        metadata[key] = json!(value);
    }
    metadata
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use yunfan_resources::compute::{VirtualMachineSpec, VolumeAttachment};
    use yunfan_resources::storage::{Attachment, VolumeSpec, VolumeStatus};

    use super::*;

    fn volume(phase: VolumePhase, attached_to: Option<&str>) -> Volume {
        let spec = VolumeSpec {
            id: Some("v-id".into()),
            size_gib: 2,
            image: Some("os".into()),
            ..VolumeSpec::default()
        };
        let mut volume = Volume::new("v", spec);
        volume.metadata.namespace = Some("demo".into());
        let attachments = attached_to.map(|uid| Attachment {
            uid: uid.into(),
            machine: uid.into(),
            ..Attachment::default()
        });
        volume.status = Some(VolumeStatus {
            phase,
            size_gib: Some(2),
            attachments: attachments.into_iter().collect(),
            ..VolumeStatus::default()
        });
        volume
    }

    fn machines(wish: Option<&str>) -> Machines {
        let wish = wish.map(|name| VolumeAttachment { volume: name.into(), ..VolumeAttachment::default() });
        let spec = VirtualMachineSpec {
            id: Some("vm-id".into()),
            volumes: wish.into_iter().collect(),
            ..VirtualMachineSpec::default()
        };
        let mut machine = VirtualMachine::new("vm", spec);
        machine.metadata.namespace = Some("demo".into());
        machine.metadata.uid = Some("u".into());
        Machines::new(&[machine], &[])
    }

    #[test]
    fn a_volume_that_an_image_is_made_of_is_busy_until_that_is_there() {
        use yunfan_resources::image::{ImagePhase, ImageSpec, ImageStatus};
        let spec = ImageSpec { source_volume: Some("v".into()), ..ImageSpec::default() };
        let mut image = Image::new("i", spec);
        image.metadata.namespace = Some("demo".into());
        let (volume, now) = (volume(VolumePhase::Available, None), Timestamp::now());
        let status =
            |image: &Image| status_of(&Machines::new(&[], std::slice::from_ref(image)), &volume, now);
        assert_eq!(status(&image), "uploading");
        for (phase, word) in [
            (ImagePhase::Saving, "uploading"),
            (ImagePhase::Active, "available"),
            (ImagePhase::Failed, "available"),
        ] {
            image.status = Some(ImageStatus { phase, ..ImageStatus::default() });
            assert_eq!(status(&image), word);
        }
        image.metadata.namespace = Some("other".into());
        image.status = None;
        assert_eq!(status(&image), "available", "it is of a volume of the same name elsewhere");
    }

    #[test]
    fn what_is_under_way_is_the_difference_of_wish_and_status() {
        let now = Timestamp::now();
        let status = |wish, phase, attached| status_of(&machines(wish), &volume(phase, attached), now);
        assert_eq!(status(None, VolumePhase::Creating, None), "creating");
        assert_eq!(status(None, VolumePhase::Available, None), "available");
        assert_eq!(status(Some("v"), VolumePhase::Available, None), "attaching");
        assert_eq!(status(Some("v"), VolumePhase::InUse, Some("u")), "in-use");
        assert_eq!(status(None, VolumePhase::InUse, Some("u")), "detaching");
        let mut shelved = machines(Some("v"));
        shelved.offloaded.insert("u".into());
        assert_eq!(status_of(&shelved, &volume(VolumePhase::Available, None), now), "in-use");
        assert_eq!(status(None, VolumePhase::Error, None), "error");
        let mut growing = volume(VolumePhase::Available, None);
        growing.spec.size_gib = 3;
        assert_eq!(status_of(&machines(None), &growing, now), "extending");
        growing.status.as_mut().unwrap().phase = VolumePhase::Error;
        assert_eq!(status_of(&machines(None), &growing, now), "error_extending");
        growing.metadata.deletion_timestamp = Some(Time(now));
        assert_eq!(status_of(&machines(None), &growing, now), "deleting");
    }

    #[test]
    fn the_view_follows_the_microversion() {
        let context =
            |version, admin| Context { version, admin, machines: machines(Some("v")), ..Context::default() };
        let volume = volume(VolumePhase::InUse, Some("u"));
        let old = full(&context(0, false), &volume);
        assert_eq!(
            (&old["bootable"], &old["attachments"][0]["server_id"]),
            (&json!("true"), &json!("vm-id"))
        );
        assert!(old.get("volume_type_id").is_none() && old.get("os-vol-host-attr:host").is_none());
        let new = full(&context(67, true), &volume);
        assert!(new.get("volume_type_id").is_some() && new.get("os-vol-host-attr:host").is_some());
    }
}
