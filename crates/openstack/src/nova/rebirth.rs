//! Actions that start a server anew with another disk or size: rebuild, resize, rescue.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use yunfan_resources::Identified;
use yunfan_resources::compute::{RunState, VirtualMachine, VmResources, VmSize};
use yunfan_resources::image::{Image, referred};
use yunfan_resources::storage::MAX_VOLUMES;

use super::create::{check_usable, flavor, usable_image};
use super::password;
use super::personality::{self, RawFile};
use super::record::{self, unlocked};
use super::request::{check_user_data, image_id};
use super::servers::context;
use super::state::{expect, state_of};
use super::{keypairs, metadata, view};
use crate::auth::Session;
use crate::body::{explicit, only, parse_value};
use crate::change::replacing;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::microversion::Microversion;
use crate::versions::{json_response, ok};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rebuild {
    #[serde(rename = "imageRef")]
    image: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, rename = "adminPass")]
    password: Option<String>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    preserve_ephemeral: Option<Value>,
    #[serde(default, rename = "OS-DCF:diskConfig")]
    disk_config: Option<Value>,
    #[serde(default, rename = "accessIPv4")]
    access_v4: Option<Value>,
    #[serde(default, rename = "accessIPv6")]
    access_v6: Option<Value>,
    #[serde(default)]
    personality: Option<Vec<RawFile>>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "explicit")]
    key_name: Option<Option<String>>,
    #[serde(default, deserialize_with = "explicit")]
    user_data: Option<Option<String>>,
    #[serde(default)]
    trusted_image_certificates: Option<Value>,
    #[serde(default)]
    hostname: Option<String>,
}

impl Rebuild {
    fn check(&self, version: Microversion) -> Result<(), Fault> {
        let later = [
            ("description", 19, self.description.is_some()),
            ("key_name", 54, self.key_name.is_some()),
            ("user_data", 57, self.user_data.is_some()),
            ("trusted_image_certificates", 63, self.trusted_image_certificates.is_some()),
            ("hostname", 90, self.hostname.is_some()),
        ];
        let early = later.iter().find(|(_, since, given)| *given && version < Microversion(*since));
        let gone = ("personality", 0, ());
        let unexpected = early
            .map(|(field, ..)| *field)
            .or((self.personality.is_some() && version >= Microversion(57)).then_some(gone.0));
        if let Some(field) = unexpected {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute rebuild. Additional properties are not allowed ('{field}' was unexpected)"
            )));
        }
        personality::files(self.personality.as_deref().unwrap_or_default())?;
        only(
            "preserve_ephemeral",
            self.preserve_ephemeral.as_ref(),
            &[json!(false)],
            "there are no ephemeral disks",
        )?;
        let none = [json!([])];
        only(
            "trusted_image_certificates",
            self.trusted_image_certificates.as_ref(),
            &none,
            "images are not signed",
        )?;
        if let Some(name) = &self.name {
            ids::check_name("name", name, false)?;
        }
        if let Some(pairs) = &self.metadata {
            metadata::check(pairs)?;
        }
        if let Some(Some(data)) = &self.user_data {
            check_user_data(data)?;
        }
        if let Some(hostname) = &self.hostname {
            super::request::check_hostname(version, hostname)?;
        }
        Ok(())
    }
}

pub(super) async fn rebuild(
    session: &Session,
    version: Microversion,
    vm: VirtualMachine,
    wanted: Rebuild,
) -> Answer {
    wanted.check(version)?;
    unlocked(session, &vm)?;
    let id = vm.id();
    let namespace = ids::namespace(&vm).to_owned();
    let state = |vm: &VirtualMachine| {
        expect("rebuild", &id, state_of(vm, Timestamp::now()), &["active", "stopped", "error"])
    };
    state(&vm)?;
    if vm.boot_volume().is_some() {
        return Err(Fault::bad("Unable to rebuild with a different image for a volume-backed server."));
    }
    let size = vm.spec.resources.clone().unwrap_or_default();
    let image = usable_image(session, image_id(&wanted.image), &size).await?;
    let image = yunfan_resources::image::reference(&image, &namespace);
    let key_pair = match &wanted.key_name {
        Some(Some(name)) => Some(json!(keypairs::at_hand(session, &namespace, name).await?)),
        Some(None) => Some(Value::Null),
        None => None,
    };
    let files = wanted.personality.as_deref().map(personality::files).transpose()?;
    let password = wanted.password.clone().unwrap_or_else(password::random);
    let mut annotations = super::request::access(wanted.access_v4.as_ref(), wanted.access_v6.as_ref())?;
    super::request::disk_config(wanted.disk_config.as_ref(), &mut annotations)?;
    let vm = super::servers::annotate(session, vm, annotations).await?;
    let vm = record::change(session, vm, "rebuild", |vm| {
        state(vm)?;
        let mut spec = json!({
            "image": image, "rebuildGeneration": vm.spec.rebuild_generation.saturating_add(1),
            "markedError": false,
        });
        let set = [
            ("displayName", wanted.name.as_ref().map(|name| json!(name))),
            ("description", wanted.description.as_ref().map(|text| json!(text))),
            ("userData", wanted.user_data.as_ref().map(|data| json!(data))),
            ("hostname", wanted.hostname.as_ref().map(|name| json!(name))),
            ("metadata", wanted.metadata.as_ref().map(|pairs| replacing(&vm.spec.metadata, pairs))),
            ("keyPair", key_pair.clone()),
            ("files", files.as_ref().map(|files| json!(files))),
        ];
        for (member, value) in set {
            if let Some(value) = value {
                spec[member] = value;
            }
        }
        Ok(spec)
    })
    .await?;
    let context = context(session, version, Some(&namespace)).await?;
    let mut server = view::updated_view(&context, &vm, true);
    server["adminPass"] = json!(password);
    Ok(json_response(StatusCode::ACCEPTED, &json!({"server": server})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resize {
    #[serde(rename = "flavorRef")]
    flavor: Value,
    #[serde(default, rename = "OS-DCF:diskConfig")]
    disk_config: Option<Value>,
}

/// Gives a server another size on the node where it is: it is shut down, its disk grows, and it is started again.
pub(super) async fn resize(session: &Session, vm: VirtualMachine, wanted: Resize) -> Answer {
    let mut annotations = BTreeMap::new();
    super::request::disk_config(wanted.disk_config.as_ref(), &mut annotations)?;
    unlocked(session, &vm)?;
    let id = vm.id();
    let state =
        |vm: &VirtualMachine| expect("resize", &id, state_of(vm, Timestamp::now()), &["active", "stopped"]);
    state(&vm)?;
    let flavor = flavor(session, &wanted.flavor).await?;
    let had = vm.spec.resources.clone().unwrap_or_default();
    let size = VmResources {
        vcpus: flavor.spec.vcpus,
        memory_mib: flavor.spec.memory_mib,
        disk_gib: flavor.spec.disk_gib,
    };
    if vm.spec.flavor == ids::name(&flavor) {
        return Err(Fault::bad("When resizing, instances must change flavor!"));
    }
    if size.disk_gib < had.disk_gib && vm.boot_volume().is_none() {
        return Err(Fault::bad(format!(
            "Resize to a smaller disk is not possible: the server has {} GiB, the flavor {}.",
            had.disk_gib, size.disk_gib
        )));
    }
    let mut wished = vm.clone();
    wished.spec.resources = Some(size.clone());
    if let Some(class) = crate::placement::lacking(session, &wished).await? {
        return Err(Fault::bad(format!(
            "No valid host was found. The host of the server has too little {class} left, and it can't leave it."
        )));
    }
    let flavors = json!(view::remembered(Some(&vm), Some(&flavor)));
    annotations.insert(view::FLAVORS.to_owned(), Some(flavors.to_string()));
    let vm = super::servers::annotate(session, vm, annotations).await?;
    record::change(session, vm, "resize", |vm| {
        state(vm)?;
        let from = VmSize {
            flavor: vm.spec.flavor.clone(),
            resources: vm.spec.resources.clone().unwrap_or_default(),
        };
        Ok(json!({"flavor": ids::name(&flavor), "resources": size, "resizedFrom": from}))
    })
    .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) async fn confirm(session: &Session, vm: VirtualMachine) -> Answer {
    unlocked(session, &vm)?;
    let id = vm.id();
    record::change(session, vm, "confirmResize", |vm| {
        expect("confirmResize", &id, state_of(vm, Timestamp::now()), &["resized"])?;
        Ok(json!({"resizedFrom": null}))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn revert(session: &Session, vm: VirtualMachine) -> Answer {
    unlocked(session, &vm)?;
    let id = vm.id();
    record::change(session, vm, "revertResize", |vm| {
        let state = state_of(vm, Timestamp::now());
        // One that could not be started with its new size goes back to the old one, too.
        let from = vm.spec.resized_from.clone().filter(|_| state.vm == "error");
        let from = match from {
            Some(from) => {
                expect("revertResize", &id, state, &["error"])?;
                from
            }
            None => {
                expect("revertResize", &id, state, &["resized"])?;
                vm.spec.resized_from.clone().unwrap_or_default()
            }
        };
        Ok(reverted(vm, from))
    })
    .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// What a machine's spec becomes that goes back to the size that it had. Its own disk stays as large as it has grown, since the
/// guest may use that already, and it is counted so.
fn reverted(vm: &VirtualMachine, mut from: VmSize) -> Value {
    if vm.boot_volume().is_none() {
        let grown = vm.spec.resources.as_ref().map_or(0, |size| size.disk_gib);
        from.resources.disk_gib = from.resources.disk_gib.max(grown);
    }
    json!({"flavor": from.flavor, "resources": from.resources, "resizedFrom": null, "markedError": false})
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rescue {
    #[serde(default, rename = "adminPass")]
    password: Option<String>,
    #[serde(default)]
    rescue_image_ref: Option<String>,
}

/// Boots a server from another disk, with its own beside it.
pub(super) async fn rescue(session: &Session, vm: VirtualMachine, argument: Value) -> Answer {
    let wanted = if argument.is_null() { Rescue::default() } else { parse_value::<Rescue>(argument)? };
    unlocked(session, &vm)?;
    let id = vm.id();
    let state = |vm: &VirtualMachine| {
        expect("rescue", &id, state_of(vm, Timestamp::now()), &["active", "stopped", "error"])
    };
    state(&vm)?;
    // Whoever copies or extends the volume that a machine boots from takes it for the disk that it runs from.
    let Some(own) = vm.spec.image.clone().filter(|_| vm.boot_volume().is_none()) else {
        return Err(Fault::bad(format!("Cannot rescue a volume-backed instance {id}")));
    };
    let image = match &wanted.rescue_image_ref {
        Some(wanted) => {
            let image = usable_image(session, image_id(wanted), &VmResources::default()).await?;
            yunfan_resources::image::reference(&image, ids::namespace(&vm))
        }
        None => own_image(session, &vm, own).await?,
    };
    let password = wanted.password.unwrap_or_else(password::random);
    record::change(session, vm, "rescue", |vm| {
        state(vm)?;
        if vm.spec.volumes.len() >= MAX_VOLUMES {
            return Err(Fault::bad(format!(
                "Instance {id} cannot be rescued: it has {MAX_VOLUMES} volumes, which leaves no place for its root disk beside them"
            )));
        }
        Ok(json!({"rescueImage": image, "runState": RunState::Running, "markedError": false}))
    })
    .await?;
    Ok(ok(&json!({"adminPass": password})))
}

/// The image that a machine was made from, where it can be booted still. The caller need not see it any more, so it is looked at in
/// the cloud's own name.
async fn own_image(session: &Session, vm: &VirtualMachine, own: String) -> Result<String, Fault> {
    let (namespace, name) = referred(ids::namespace(vm), &own);
    let images = Api::<Image>::namespaced(session.door.system.clone(), namespace);
    let image = images.get_opt(name).await?.ok_or_else(|| {
        Fault::bad(format!(
            "Instance {} cannot be rescued: its image is gone. Name another as rescue_image_ref.",
            vm.id()
        ))
    })?;
    check_usable(&image, &VmResources::default())?;
    Ok(own)
}

pub(super) async fn unrescue(session: &Session, vm: VirtualMachine) -> Answer {
    unlocked(session, &vm)?;
    let id = vm.id();
    record::change(session, vm, "unrescue", |vm| {
        let mut state = state_of(vm, Timestamp::now());
        // A rescue that is under way or has failed can be given up, and one whose guest has powered itself off can end.
        if vm.spec.rescue_image.is_some() && state.task != Some("deleting") {
            (state.vm, state.task) = ("rescued", None);
        }
        expect("unrescue", &id, state, &["rescued"])?;
        Ok(json!({"rescueImage": null, "runState": RunState::Running, "markedError": false}))
    })
    .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[cfg(test)]
mod tests {
    use yunfan_resources::compute::VolumeAttachment;

    use super::*;

    fn rebuilt(extra: &str) -> Rebuild {
        parse_value(serde_json::from_str(&format!(r#"{{"imageRef": "i"{extra}}}"#)).unwrap()).unwrap()
    }

    #[test]
    fn a_disk_that_has_grown_is_counted_after_a_revert() {
        let size = |disk_gib| VmResources { vcpus: 1, memory_mib: 64, disk_gib };
        let from = || VmSize { flavor: "small".into(), resources: size(10) };
        let mut vm = VirtualMachine::new("vm", Default::default());
        vm.spec.resources = Some(size(500));
        assert_eq!(reverted(&vm, from())["resources"]["diskGib"], 500);
        // That of a volume is counted with the volume.
        vm.spec.volumes = vec![VolumeAttachment { boot: true, ..VolumeAttachment::default() }];
        assert_eq!(reverted(&vm, from())["resources"]["diskGib"], 10);
    }

    #[test]
    fn what_came_later_is_not_known_before() {
        let described = rebuilt(r#", "description": null"#);
        assert!(described.check(Microversion(18)).is_err());
        assert!(described.check(Microversion(19)).is_ok());
        assert!(rebuilt(r#", "personality": []"#).check(Microversion(57)).is_err());
        assert!(rebuilt(r#", "personality": []"#).check(Microversion(56)).is_ok());
        assert!(rebuilt(r#", "hostname": "a b""#).check(Microversion(90)).is_err());
    }
}
