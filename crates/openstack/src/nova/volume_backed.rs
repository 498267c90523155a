//! Images of servers that boot from volumes: as in Nova they hold no data, but name a snapshot of each volume, of which the volumes of
//! a server are made that is made from such an image.

use kube::api::{Api, DeleteParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::image::{Image, ImageSpec};
use yunfan_resources::storage::{Volume, VolumeSnapshot, VolumeSnapshotSpec};

use super::CREATOR;
use crate::auth::Session;
use crate::error::Fault;
use crate::ids;

/// The properties that say so.
const MAPPING: &str = "block_device_mapping";
const SECOND: &str = "bdm_v2";

/// One volume of such an image.
#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Part {
    /// The snapshot's id.
    pub(crate) snapshot_id: String,
    /// GiB.
    #[serde(default)]
    pub(crate) volume_size: Option<u32>,
    #[serde(default)]
    boot_index: Option<i64>,
    #[serde(default)]
    pub(crate) delete_on_termination: bool,
}

impl Part {
    /// Whether it is the one to boot from.
    pub(crate) fn boots(&self) -> bool {
        self.boot_index == Some(0)
    }
}

/// The volumes that an image names in place of data of its own; none for one that has some.
pub(crate) fn parts(image: &Image) -> Vec<Part> {
    let properties = &image.spec.properties;
    let has_data = image.status.as_ref().and_then(|status| status.size_bytes).is_some_and(|size| size > 0);
    if has_data || properties.get(SECOND).is_none_or(|word| !word.eq_ignore_ascii_case("true")) {
        return Vec::new();
    }
    properties.get(MAPPING).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Deletes the snapshots of an image that could not be made.
async fn take_back(snapshots: &Api<VolumeSnapshot>, made: &[VolumeSnapshot]) {
    for snapshot in made {
        if let Err(error) = snapshots.delete(ids::name(snapshot), &DeleteParams::default()).await {
            tracing::warn!(%error, name = ids::name(snapshot), "a snapshot of a failed request is left behind");
        }
    }
}

/// Makes a snapshot of each volume of a machine, and an image that names them. Returns the image's id.
pub(super) async fn image(
    session: &Session,
    vm: &VirtualMachine,
    name: &str,
    mut spec: ImageSpec,
) -> Result<String, Fault> {
    let namespace = ids::namespace(vm);
    let (volumes, snapshots) =
        (session.within::<Volume>(namespace), session.within::<VolumeSnapshot>(namespace));
    let (mut mapping, mut made) = (Vec::new(), Vec::new());
    for wish in &vm.spec.volumes {
        let taken = async {
            let volume = volumes.get(&wish.volume).await?;
            let mut snapshot = VolumeSnapshot::new(
                "",
                VolumeSnapshotSpec {
                    display_name: Some(format!("snapshot for {name}")),
                    volume: wish.volume.clone(),
                    ..VolumeSnapshotSpec::default()
                },
            );
            snapshot.metadata.annotations = Some([(CREATOR.to_owned(), session.claims.uid.clone())].into());
            let snapshot = ids::create(&snapshots, snapshot, "snapshot").await?;
            Ok::<_, Fault>((volume, snapshot))
        };
        let (volume, snapshot) = match taken.await {
            Ok(taken) => taken,
            Err(fault) => {
                take_back(&snapshots, &made).await;
                return Err(fault);
            }
        };
        mapping.push(json!({
            "source_type": "snapshot", "destination_type": "volume", "snapshot_id": snapshot.id(), "device_type": "disk",
            "volume_size": volume.spec.size_gib, "boot_index": if wish.boot { json!(0) } else { Value::Null },
            "delete_on_termination": wish.delete_on_termination, "device_name": wish.device, "disk_bus": "virtio",
            "image_id": null, "volume_id": null, "no_device": null, "guest_format": null,
        }));
        made.push(snapshot);
    }
    for (key, value) in [
        (MAPPING, json!(mapping).to_string()),
        (SECOND, "True".to_owned()),
        ("root_device_name", "/dev/vda".to_owned()),
    ] {
        spec.properties.insert(key.to_owned(), value);
    }
    // It names no machine: nothing of that one is copied for it.
    spec.source_machine = None;
    spec.min_disk_gib = 0;
    let images = session.within::<Image>(namespace);
    match ids::create(&images, Image::new("", spec), name).await {
        Ok(image) => match crate::glance::empty(session, &image).await {
            Ok(()) => Ok(image.id()),
            Err(fault) => {
                let _ = images.delete(ids::name(&image), &DeleteParams::default()).await;
                take_back(&snapshots, &made).await;
                Err(fault)
            }
        },
        Err(fault) => {
            take_back(&snapshots, &made).await;
            Err(fault)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_data_names_its_volumes() {
        let mut image = Image::new("i", ImageSpec::default());
        assert!(parts(&image).is_empty());
        let mapping = json!([
            {"snapshot_id": "s", "volume_size": 2, "boot_index": 0, "delete_on_termination": true, "source_type": "snapshot"},
            {"snapshot_id": "t", "boot_index": null, "volume_id": null},
        ]);
        image.spec.properties =
            [(MAPPING.to_owned(), mapping.to_string()), (SECOND.to_owned(), "True".to_owned())].into();
        let found = parts(&image);
        assert_eq!((found.len(), found[0].boots(), found[1].boots()), (2, true, false));
        assert_eq!((found[0].snapshot_id.as_str(), found[0].volume_size), ("s", Some(2)));
        // What somebody wrote to an image of their own with data is no word of ours.
        let status = yunfan_resources::image::ImageStatus { size_bytes: Some(1), ..Default::default() };
        image.status = Some(status);
        assert!(parts(&image).is_empty());
    }
}
