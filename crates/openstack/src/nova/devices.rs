//! The block devices of `POST /servers`: what a server boots from, and the volumes that it begins with.

use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::compute::VolumeAttachment;
use yunfan_resources::image::{Image, reference};
use yunfan_resources::storage::{Volume, VolumeSpec};

use super::request::{Fields, image_id};
use super::{volume_backed, volumes};
use crate::auth::Session;
use crate::error::Fault;
use crate::{ids, volume};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlockDevice {
    #[serde(default)]
    uuid: Option<String>,
    source_type: String,
    #[serde(default)]
    destination_type: Option<String>,
    #[serde(default)]
    boot_index: Option<Value>,
    #[serde(default)]
    delete_on_termination: Option<Value>,
    #[serde(default)]
    volume_size: Option<Value>,
    #[serde(default)]
    device_name: Option<Value>,
    #[serde(default)]
    disk_bus: Option<Value>,
    #[serde(default)]
    device_type: Option<Value>,
    #[serde(default)]
    guest_format: Option<Value>,
    #[serde(default)]
    no_device: Option<Value>,
    #[serde(default)]
    tag: Option<String>,
    #[serde(default)]
    volume_type: Option<String>,
}

/// Where a volume comes from.
#[derive(Debug, PartialEq)]
enum Source {
    /// It is there.
    Volume(String),
    /// It is made as a copy of an image.
    Image(String),
    /// It is made as a copy of a snapshot.
    Snapshot(String),
    /// It is made empty.
    Blank,
}

/// A volume that a server begins with.
#[derive(Debug, PartialEq)]
struct Wish {
    source: Source,
    /// GiB of one that is made.
    size: Option<u32>,
    volume_type: Option<String>,
    boot: bool,
    delete: bool,
    tag: Option<String>,
}

/// What a server boots from and has.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Devices {
    /// The id of the image of its own local disk; none where it boots from a volume.
    pub(super) image: Option<String>,
    /// An image is named beside the volume that it boots from. Nova then reads what it needs of an image of that one, and does not ask whether
    /// the volume is one to boot from.
    named: bool,
    volumes: Vec<Wish>,
}

impl BlockDevice {
    /// Its tag.
    pub(super) fn tag(&self) -> Option<&String> {
        self.tag.as_ref()
    }

    fn is_root(&self) -> bool {
        self.boot_index.as_ref().is_some_and(|index| *index == json!(0) || *index == json!("0"))
    }

    /// Members that choose what there is no choice of.
    fn check(&self) -> Result<(), Fault> {
        for (field, given, allowed) in [
            ("disk_bus", &self.disk_bus, json!("virtio")),
            ("device_type", &self.device_type, json!("disk")),
            ("guest_format", &self.guest_format, Value::Null),
            ("no_device", &self.no_device, json!(false)),
        ] {
            let field = format!("block_device_mapping_v2.{field}");
            crate::body::only(&field, given.as_ref(), &[allowed], "disks are virtio disks")?;
        }
        // Nova takes it for a hint as well.
        match &self.device_name {
            None | Some(Value::Null | Value::String(_)) => Ok(()),
            Some(other) => {
                Err(Fault::bad(format!("Invalid input for field/attribute device_name. {other} is no text.")))
            }
        }
    }

    fn flag(&self) -> Result<bool, Fault> {
        match &self.delete_on_termination {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(other) => Err(Fault::bad(format!(
                "Invalid input for field/attribute delete_on_termination. {other} is no boolean."
            ))),
        }
    }

    fn wish(&self) -> Result<Wish, Fault> {
        let uuid = || {
            let uuid = self.uuid.clone().filter(|uuid| !uuid.is_empty());
            uuid.ok_or_else(|| {
                Fault::bad(
                    "Block Device Mapping is Invalid: uuid is needed for a volume, an image or a snapshot.",
                )
            })
        };
        let source = match self.source_type.as_str() {
            "volume" => Source::Volume(uuid()?),
            "image" => Source::Image(uuid()?),
            "snapshot" => Source::Snapshot(uuid()?),
            "blank" => Source::Blank,
            other => {
                return Err(Fault::bad(format!(
                    "Block Device Mapping is Invalid: source_type {other} is not supported: it is volume, image, snapshot or blank."
                )));
            }
        };
        if self.destination_type.as_deref().is_some_and(|kind| kind != "volume") {
            return Err(Fault::bad(
                "Block Device Mapping is Invalid: the one local disk of a server is its root disk, made from an image.",
            ));
        }
        let size = self.volume_size.as_ref().filter(|size| !size.is_null());
        let size = size.map(|size| volume::size("volume_size", size)).transpose()?;
        if size.is_none() && !matches!(source, Source::Volume(_) | Source::Snapshot(_)) {
            return Err(Fault::bad(
                "Block Device Mapping is Invalid: You specified a volume to be made without its volume_size.",
            ));
        }
        Ok(Wish {
            source,
            size,
            volume_type: self.volume_type.clone(),
            boot: self.is_root(),
            delete: self.flag()?,
            tag: self.tag.clone(),
        })
    }
}

impl Devices {
    /// The same, where the image that was named holds no data but names snapshots of volumes: those of a server that is made from it.
    pub(super) fn defined_by(mut self, image: &Image) -> Self {
        let parts = volume_backed::parts(image);
        if parts.is_empty() || self.image.is_none() {
            return self;
        }
        self.image = None;
        let named = parts.into_iter().map(|part| Wish {
            boot: part.boots(),
            source: Source::Snapshot(part.snapshot_id),
            size: part.volume_size,
            volume_type: None,
            delete: part.delete_on_termination,
            tag: None,
        });
        self.volumes = named.chain(self.volumes).collect();
        self
    }
}

/// Reads the image and the block devices of a request together.
pub(super) fn of(fields: &Fields) -> Result<Devices, Fault> {
    let given =
        fields.image.as_deref().filter(|image| !image.is_empty()).map(|image| image_id(image).to_owned());
    let mut local: Option<String> = None;
    let mut volumes = Vec::new();
    for device in fields.block_device_mapping_v2.iter().flatten() {
        device.check()?;
        let is_local = device.destination_type.as_deref().is_none_or(|kind| kind == "local");
        if device.source_type == "image" && is_local && device.is_root() {
            if local.is_some() || device.volume_size.as_ref().is_some_and(|size| !size.is_null()) {
                return Err(Fault::bad(
                    "Block Device Mapping is Invalid: a server has one local root disk, of its flavor's size.",
                ));
            }
            local = device.uuid.clone();
        } else {
            volumes.push(device.wish()?);
        }
    }
    let booting = volumes.iter().filter(|wish| wish.boot).count() + usize::from(local.is_some());
    if booting > 1 {
        return Err(Fault::bad(
            "Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is not \
             valid.",
        ));
    }
    let boots_from_volume = volumes.iter().any(|wish| wish.boot);
    let mut named = false;
    let image = match (given, local) {
        (Some(image), Some(device)) if image != device => {
            return Err(Fault::bad(
                "imageRef and the boot device in block_device_mapping_v2 are different images.",
            ));
        }
        // Clients name the image that the volume is made from here, too.
        (given, None) if boots_from_volume => {
            named = given.is_some();
            None
        }
        (given, local) => Some(local.or(given).ok_or_else(|| {
            Fault::bad("Invalid imageRef provided. A server needs an image or a volume to boot from.")
        })?),
    };
    Ok(Devices { image, named, volumes })
}

/// A volume that a server begins with, checked: what its machine says, and what is made first.
pub(super) struct Ready {
    attachment: VolumeAttachment,
    new: Option<VolumeSpec>,
}

/// Checks the volumes of a request as far as it can be done before anything is made.
pub(super) async fn ready(session: &Session, devices: &Devices, servers: u32) -> Result<Vec<Ready>, Fault> {
    let mut all: Vec<Ready> = Vec::with_capacity(devices.volumes.len());
    for wish in &devices.volumes {
        let mut attachment = VolumeAttachment {
            boot: wish.boot,
            delete_on_termination: wish.delete,
            tag: wish.tag.clone(),
            ..VolumeAttachment::default()
        };
        attachment.device = Some(if wish.boot {
            volumes::ROOT.to_owned()
        } else {
            let taken = all.iter().filter_map(|one| one.attachment.device.as_deref());
            volumes::free_device(taken)?
        });
        let new = match &wish.source {
            Source::Volume(id) => {
                if servers > 1 {
                    return Err(Fault::bad("A volume can be given to one server only; max_count must be 1."));
                }
                let found = volumes::available(session, session.namespace()?, id).await;
                let found = found.map_err(|fault| Fault::bad(fault.message))?;
                if wish.boot && !devices.named && !found.is_bootable() {
                    return Err(Fault::bad(format!("Block Device {id} is not bootable.")));
                }
                attachment.volume = ids::name(&found).to_owned();
                None
            }
            source => Some(new_volume(session, wish, source).await?),
        };
        all.push(Ready { attachment, new });
    }
    Ok(all)
}

async fn new_volume(session: &Session, wish: &Wish, source: &Source) -> Result<VolumeSpec, Fault> {
    if let Source::Snapshot(id) = source {
        return of_snapshot(session, wish, id).await;
    }
    let size = wish.size.unwrap_or_default();
    let image = match source {
        Source::Image(id) => {
            Some(reference(&volume::check_image(session, id, size).await?, session.namespace()?))
        }
        _ => None,
    };
    let volume_type = match &wish.volume_type {
        Some(name) => Some(ids::name(&volume::find_type(session, name).await?).to_owned()),
        None => None,
    };
    Ok(VolumeSpec { size_gib: size, image, volume_type, ..VolumeSpec::default() })
}

/// A volume that is made from a snapshot, as large as that where nothing is said.
async fn of_snapshot(session: &Session, wish: &Wish, id: &str) -> Result<VolumeSpec, Fault> {
    let snapshot = volume::usable_snapshot(session, id).await.map_err(|fault| Fault::bad(fault.message))?;
    let least = snapshot.spec.size_gib.unwrap_or(1);
    let size = wish.size.unwrap_or(least);
    if size < least {
        return Err(Fault::bad(format!(
            "Block Device Mapping is Invalid: volume_size {size} is smaller than the snapshot, which has {least} GiB."
        )));
    }
    if wish.boot && !snapshot.spec.bootable.unwrap_or(snapshot.spec.image.is_some()) {
        return Err(Fault::bad(format!("Block Device {id} is not bootable.")));
    }
    let volume_type = match &wish.volume_type {
        Some(name) => Some(ids::name(&volume::find_type(session, name).await?).to_owned()),
        None => snapshot.spec.volume_type.clone(),
    };
    let name = ids::name(&snapshot).to_owned();
    Ok(VolumeSpec { size_gib: size, snapshot: Some(name), volume_type, ..VolumeSpec::default() })
}

/// Makes the volumes that a server begins with and that are not there yet; returns what its machine says of all, and those that
/// were made.
pub(super) async fn provide(
    session: &Session,
    ready: &[Ready],
) -> Result<(Vec<VolumeAttachment>, Vec<Volume>), Fault> {
    let (mut attachments, mut made) = (Vec::with_capacity(ready.len()), Vec::new());
    for one in ready {
        let mut attachment = one.attachment.clone();
        if let Some(spec) = &one.new {
            match volume::make(session, spec.clone()).await {
                Ok(volume) => {
                    attachment.volume = ids::name(&volume).to_owned();
                    made.push(volume);
                }
                Err(fault) => {
                    take_back(session, &made).await;
                    return Err(fault);
                }
            }
        }
        attachments.push(attachment);
    }
    Ok((attachments, made))
}

/// Deletes volumes that were made for a server that could not be.
pub(super) async fn take_back(session: &Session, made: &[Volume]) {
    for volume in made {
        let volumes = session.within::<Volume>(ids::namespace(volume));
        match volumes.delete(ids::name(volume), &kube::api::DeleteParams::default()).await {
            Ok(_) => {}
            // It went with its server.
            Err(error) if yunfan_client::is_not_found(&error) => {}
            Err(error) => {
                tracing::warn!(%error, name = ids::name(volume), "a volume of a failed request is left behind")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;
    use crate::nova::request::Body;

    fn devices(extra: &str) -> Result<Devices, Fault> {
        let text = format!(r#"{{"server": {{"name": "s", "flavorRef": "1"{extra}}}}}"#);
        of(&parse::<Body>(text.as_bytes())?.server)
    }

    fn mapping(devices: &str) -> String {
        format!(r#", "block_device_mapping_v2": [{devices}]"#)
    }

    #[test]
    fn images_of_local_disks_must_agree() {
        assert!(devices("").is_err());
        let local = mapping(r#"{"uuid": "i", "boot_index": 0, "source_type": "image"}"#);
        assert_eq!(devices(&local).unwrap().image.as_deref(), Some("i"));
        assert!(devices(&format!(r#", "imageRef": "j"{local}"#)).is_err());
        assert_eq!(devices(r#", "imageRef": "https://h/images/i""#).unwrap().image.as_deref(), Some("i"));
    }

    #[test]
    fn a_server_boots_from_a_volume_or_makes_one() {
        let boot =
            r#"{"uuid": "v", "boot_index": "0", "source_type": "volume", "destination_type": "volume"}"#;
        let found = devices(&format!(r#", "imageRef": ""{}"#, mapping(boot))).unwrap();
        assert_eq!((found.image, found.volumes.len()), (None, 1));
        assert_eq!((&found.volumes[0].source, found.volumes[0].boot), (&Source::Volume("v".into()), true));
        let made = r#"{"uuid": "i", "boot_index": 0, "source_type": "image", "destination_type": "volume",
                      "volume_size": "2", "delete_on_termination": true}"#;
        let found = devices(&format!(r#", "imageRef": "i"{}"#, mapping(made))).unwrap();
        assert_eq!((found.image, found.volumes[0].size, found.volumes[0].delete), (None, Some(2), true));
        let data =
            r#"{"source_type": "blank", "destination_type": "volume", "volume_size": 1, "boot_index": -1}"#;
        let found = devices(&format!(r#", "imageRef": "i"{}"#, mapping(data))).unwrap();
        assert_eq!((found.image.as_deref(), found.volumes[0].boot), (Some("i"), false));
    }

    #[test]
    fn an_image_of_volumes_makes_a_server_that_boots_from_one() {
        let mut image = Image::new("i", Default::default());
        let wanted = || devices(r#", "imageRef": "i""#).unwrap();
        assert_eq!(wanted().defined_by(&image), wanted());
        let mapping =
            json!([{"snapshot_id": "s", "boot_index": 0, "delete_on_termination": true}]).to_string();
        image.spec.properties =
            [("block_device_mapping".to_owned(), mapping), ("bdm_v2".to_owned(), "True".to_owned())].into();
        let found = wanted().defined_by(&image);
        assert_eq!((found.image, &found.volumes[0].source), (None, &Source::Snapshot("s".into())));
        assert!(found.volumes[0].boot && found.volumes[0].delete);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused =
            |devices_text: &str| devices(&format!(r#", "imageRef": "i"{}"#, mapping(devices_text))).is_err();
        assert!(refused(r#"{"source_type": "blank", "destination_type": "volume"}"#), "no size");
        assert!(refused(r#"{"source_type": "blank", "destination_type": "local", "volume_size": 1}"#));
        assert!(refused(r#"{"source_type": "snapshot", "destination_type": "volume"}"#), "no uuid");
        assert!(!refused(r#"{"source_type": "snapshot", "uuid": "s", "destination_type": "volume"}"#));
        assert!(refused(r#"{"source_type": "volume", "destination_type": "volume"}"#), "no uuid");
        assert!(refused(r#"{"source_type": "volume", "uuid": "v", "disk_bus": "ide"}"#));
        let two = r#"{"uuid": "v", "boot_index": 0, "source_type": "volume"}, {"uuid": "w", "boot_index": 0, "source_type": "volume"}"#;
        assert!(refused(two));
    }
}
