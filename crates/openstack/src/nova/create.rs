//! `POST /servers`: a Nova request becomes VirtualMachines.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use axum::http::{HeaderValue, StatusCode, header};
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{Flavor, NetworkAttachment, VirtualMachine, VirtualMachineSpec, VmResources};
use yunfan_resources::image::{Image, ImagePhase, reference};
use yunfan_resources::network::{DEFAULT_GROUP, Network, Port, network_reference};
use yunfan_resources::storage::Volume;

use super::placing;
use super::request::{
    Body, Networks, Requested, access, check, check_user_data, config_drive, counts, disk_config, image_id,
    refuse_unserved,
};
use super::{devices, groups, keypairs, metadata, password, personality, record, view, volume_backed};
use crate::auth::Session;
use crate::body::Json;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::json_response;
use crate::{ids, lent};

/// `POST /servers`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    check(version, &body.server)?;
    refuse_unserved(&body)?;
    let fields = &body.server;
    ids::check_name("name", &fields.name, false)?;
    let (min, max) = counts(fields)?;
    let mut wanted = devices::of(fields)?;
    let flavor = flavor(&session, &fields.flavor).await?;
    let mut config_drive = config_drive(fields.config_drive.as_ref())?;
    let mut image = None;
    if let Some(id) = wanted.image.clone() {
        let size = VmResources {
            vcpus: flavor.spec.vcpus,
            memory_mib: flavor.spec.memory_mib,
            disk_gib: flavor.spec.disk_gib,
        };
        let found = visible_image(&session, &id).await?;
        if !is_active(&found) {
            return Err(Fault::bad(format!("Image {id} is not active.")));
        }
        wanted = wanted.defined_by(&found);
        if wanted.image.is_some() {
            check_usable(&found, &size)?;
            image = Some(reference(&found, session.namespace()?));
        }
        config_drive |= found.spec.properties.get("img_config_drive").is_some_and(|word| word == "mandatory");
    }
    let volumes = devices::ready(&session, &wanted, max).await?;
    let key_pair = match &fields.key_name {
        Some(name) => Some(keypairs::at_hand(&session, session.namespace()?, name).await?),
        None => None,
    };
    if let Some(data) = &fields.user_data {
        check_user_data(data)?;
    }
    metadata::check(&fields.metadata)?;
    let mut networks = attachments(&session, version, fields.networks.as_ref()).await?;
    if let Some(wanted) = &fields.security_groups {
        let groups = groups::named(&session, wanted.iter().map(|group| group.name.as_str())).await?;
        refuse_unsecured(&session, &networks).await?;
        // A port that is there already keeps its own.
        for network in networks.iter_mut().filter(|network| network.port.is_none()) {
            network.security_groups = groups.clone();
        }
    }
    if max > 1 && networks.iter().any(|network| network.port.is_some() || network.fixed_ip.is_some()) {
        return Err(Fault::bad("A port or a fixed IP can be given to one server only; max_count must be 1."));
    }
    let hostname = fields.hostname.clone();
    if max > 1 && hostname.is_some() {
        return Err(Fault::bad("A host name can be given to one server only; max_count must be 1."));
    }
    let placement = placing::of(&session, &body).await?;
    let password = fields.admin_pass.clone().unwrap_or_else(password::random);
    let spec = VirtualMachineSpec {
        flavor: ids::name(&flavor).to_owned(),
        description: fields.description.clone(),
        tags: fields.tags.clone().unwrap_or_default(),
        hostname,
        actions: vec![record::action(&session, "create")],
        placement,
        image,
        networks,
        key_pair,
        user_data: fields.user_data.clone(),
        files: personality::files(fields.personality.as_deref().unwrap_or_default())?,
        config_drive,
        metadata: fields.metadata.clone(),
        ..VirtualMachineSpec::default()
    };
    let mut annotations = access(fields.access_v4.as_ref(), fields.access_v6.as_ref())?;
    annotations.retain(|_, value| value.is_some());
    disk_config(fields.disk_config.as_ref(), &mut annotations)?;
    let flavors = json!(view::remembered(None, Some(&flavor)));
    annotations.insert(view::FLAVORS.to_owned(), Some(flavors.to_string()));
    let config = annotations.get(view::DISK_CONFIG).cloned().flatten().unwrap_or_else(|| "MANUAL".to_owned());
    let reservation = format!("r-{}", &ids::plain()[..8]);
    annotations.insert(view::RESERVATION.to_owned(), Some(reservation.clone()));
    let wanted = Wanted { name: &fields.name, spec, annotations, volumes: &volumes };
    let first = make(&session, &wanted, min..=max).await?;
    if fields.return_reservation_id == Some(true) {
        return Ok(json_response(StatusCode::ACCEPTED, &json!({"reservation_id": reservation})));
    }
    let endpoint = &session.door.endpoint;
    let server = json!({
        "id": first, "links": view::links(endpoint, "servers", &first), "OS-DCF:diskConfig": config, "adminPass": password,
        "security_groups": fields.security_groups.as_ref().map_or_else(
            || json!([{"name": DEFAULT_GROUP}]),
            |groups| groups.iter().map(|group| json!({"name": group.name})).collect(),
        ),
    });
    let mut response = json_response(StatusCode::ACCEPTED, &json!({"server": server}));
    if let Ok(location) = HeaderValue::from_str(&format!("{endpoint}/compute/v2.1/servers/{first}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// What each machine of a request is like.
struct Wanted<'a> {
    name: &'a str,
    spec: VirtualMachineSpec,
    annotations: BTreeMap<String, Option<String>>,
    volumes: &'a [devices::Ready],
}

/// Makes so many machines, at most the end of the range, and returns the id of the first; where not even as many as its start can be
/// made, none is left.
async fn make(session: &Session, wanted: &Wanted<'_>, counts: RangeInclusive<u32>) -> Result<String, Fault> {
    let name = wanted.name;
    let (min, max) = counts.into_inner();
    let machines = session.own::<VirtualMachine>()?;
    let mut made: Vec<(VirtualMachine, Vec<Volume>)> = Vec::new();
    for number in 1..=max {
        let name = if max == 1 { name.to_owned() } else { format!("{name}-{number}") };
        let spec = VirtualMachineSpec { display_name: Some(name.clone()), ..wanted.spec.clone() };
        let mut annotations = wanted.annotations.clone();
        annotations.insert(view::LAUNCH_INDEX.to_owned(), Some((number - 1).to_string()));
        match make_one(session, &machines, spec, annotations, wanted.volumes).await {
            Ok(one) => made.push(one),
            Err(fault) if u32::try_from(made.len()).is_ok_and(|count| count >= min && count > 0) => {
                tracing::info!(%fault, made = made.len(), max, "fewer servers than the most that were asked for");
                break;
            }
            Err(fault) => {
                for (vm, volumes) in &made {
                    if let Err(error) = machines.delete(ids::name(vm), &DeleteParams::default()).await {
                        tracing::warn!(%error, name = ids::name(vm), "a server of a failed request is left behind");
                    }
                    devices::take_back(session, volumes).await;
                }
                return Err(fault);
            }
        }
    }
    Ok(made.first().map(|(vm, _)| vm.id()).unwrap_or_default())
}

/// Makes a machine, and the volumes that it begins with, which are returned, too.
async fn make_one(
    session: &Session,
    machines: &Api<VirtualMachine>,
    spec: VirtualMachineSpec,
    annotations: BTreeMap<String, Option<String>>,
    volumes: &[devices::Ready],
) -> Result<(VirtualMachine, Vec<Volume>), Fault> {
    let (attachments, new) = devices::provide(session, volumes).await?;
    let name = spec.display_name.clone().unwrap_or_default();
    let mut vm = VirtualMachine::new("", VirtualMachineSpec { volumes: attachments, ..spec });
    let given = annotations.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let creator = (view::CREATOR.to_owned(), session.claims.uid.clone());
    vm.metadata.annotations = Some(given.chain([creator]).collect());
    match ids::create(machines, vm, &name).await {
        Ok(vm) => Ok((vm, new)),
        Err(fault) => {
            devices::take_back(session, &new).await;
            Err(fault)
        }
    }
}

/// The flavor that a request names.
pub(super) async fn flavor(session: &Session, reference: &Value) -> Result<Flavor, Fault> {
    let id = match reference {
        Value::String(text) => image_id(text).to_owned(),
        Value::Number(number) => number.to_string(),
        _ => {
            return Err(Fault::bad("Invalid input for field/attribute flavorRef. It must be a flavor's id."));
        }
    };
    session
        .find(&session.global::<Flavor>(), &id)
        .await?
        .filter(|flavor| super::flavors::may_see(session, flavor))
        .ok_or_else(|| Fault::bad(format!("Flavor {id} could not be found.")))
}

/// The image that the caller sees, if a machine of this size can start from it. No size at all takes any.
pub(super) async fn usable_image(session: &Session, id: &str, size: &VmResources) -> Result<Image, Fault> {
    let image = visible_image(session, id).await?;
    check_usable(&image, size)?;
    Ok(image)
}

async fn visible_image(session: &Session, id: &str) -> Result<Image, Fault> {
    let seen = crate::glance::find_visible(session, id).await?;
    Ok(seen.ok_or_else(|| Fault::bad(format!("Can not find requested image {id}.")))?.image)
}

/// Whether an image may be used now, be it for its data or for the volumes that it names.
pub(crate) fn is_active(image: &Image) -> bool {
    let phase = image.status.as_ref().map(|status| status.phase).unwrap_or_default();
    phase == ImagePhase::Active && !image.spec.deactivated
}

/// Refuses an image that no machine of this size can start from. No size at all takes any.
pub(super) fn check_usable(image: &Image, size: &VmResources) -> Result<(), Fault> {
    let id = image.id();
    let status = image.status.clone().unwrap_or_default();
    if !is_active(image) || !image.spec.disk_format.is_disk() {
        return Err(Fault::bad(format!("Image {id} is not active.")));
    }
    if !volume_backed::parts(image).is_empty() {
        return Err(Fault::bad(format!(
            "Image {id} is unacceptable: it names volumes, and has no data to boot from."
        )));
    }
    if *size == VmResources::default() {
        return Ok(());
    }
    if size.memory_mib < image.spec.min_ram_mib {
        return Err(Fault::bad("Flavor's memory is too small for requested image."));
    }
    let disk_bytes = u64::from(size.disk_gib) << 30;
    let too_small = size.disk_gib < image.spec.min_disk_gib
        || status.virtual_size_bytes.is_some_and(|need| need > disk_bytes);
    if size.disk_gib != 0 && too_small {
        return Err(Fault::bad(format!(
            "Flavor's disk is too small for requested image. Flavor disk is {disk_bytes} bytes, minimum size is {} bytes.",
            status.virtual_size_bytes.unwrap_or(0).max(u64::from(image.spec.min_disk_gib) << 30),
        )));
    }
    Ok(())
}

/// Refuses groups for a machine on a network without port security, whose ports can have none.
async fn refuse_unsecured(session: &Session, wanted: &[NetworkAttachment]) -> Result<(), Fault> {
    let own = session.namespace()?;
    let networks = usable(session, own).await?;
    let open = |network: &&Network| {
        let named = called(own, network);
        let to = |wanted: &&NetworkAttachment| wanted.port.is_none() && wanted.network == named;
        network.spec.port_security_enabled == Some(false) && wanted.iter().any(|wanted| to(&wanted))
    };
    match networks.iter().find(open) {
        Some(network) => Err(Fault::bad(format!(
            "Network {} requires port_security_enabled in order to apply security groups.",
            network.id()
        ))),
        None => Ok(()),
    }
}

async fn attachments(
    session: &Session,
    version: Microversion,
    wanted: Option<&Networks>,
) -> Result<Vec<NetworkAttachment>, Fault> {
    let since_37 = version >= Microversion(37);
    match wanted {
        Some(Networks::Word(word)) if since_37 && word == "none" => Ok(Vec::new()),
        Some(Networks::Word(word)) if since_37 && word == "auto" => {
            the_only_network(session, session.namespace()?).await
        }
        Some(Networks::Word(word)) => Err(Fault::bad(format!(
            "Invalid input for field/attribute networks. {word} is not supported: it is a list, or (since 2.37) auto or none."
        ))),
        None if since_37 => {
            Err(Fault::bad("Invalid input for field/attribute server. 'networks' is a required property"))
        }
        None => the_only_network(session, session.namespace()?).await,
        Some(Networks::List(list)) if list.is_empty() && since_37 => {
            Err(Fault::bad("Invalid input for field/attribute networks. [] is too short"))
        }
        Some(Networks::List(list)) if list.is_empty() => {
            the_only_network(session, session.namespace()?).await
        }
        Some(Networks::List(list)) => {
            let (own, ports) = (session.namespace()?, session.own::<Port>()?);
            let (networks, ports) = tokio::try_join!(usable(session, own), ids::list(&ports))?;
            let mut found: Vec<NetworkAttachment> = Vec::with_capacity(list.len());
            for wanted in list {
                let attachment = attachment(own, wanted, &networks, &ports)?;
                if attachment.port.is_some() && found.iter().any(|other| other.port == attachment.port) {
                    return Err(Fault::bad("A port can be given only once."));
                }
                found.push(attachment);
            }
            Ok(found)
        }
    }
}

/// The Networks that machines of a namespace may be on: its own, and those that others share with the caller's project.
pub(super) async fn usable(session: &Session, namespace: &str) -> Result<Vec<Network>, Fault> {
    let mut all = ids::list(&session.within::<Network>(namespace)).await?;
    all.extend(lent::networks(session, namespace).await?);
    Ok(all)
}

/// What a machine of a namespace calls a Network.
pub(super) fn called(namespace: &str, network: &Network) -> String {
    network_reference(namespace, ids::namespace(network), ids::name(network))
}

fn attachment(
    namespace: &str,
    wanted: &Requested,
    networks: &[Network],
    ports: &[Port],
) -> Result<NetworkAttachment, Fault> {
    if let Some(id) = &wanted.port {
        let port = ports.iter().find(|port| port.id() == *id);
        let port = port.ok_or_else(|| Fault::bad(format!("Port id {id} could not be found.")))?;
        if port.spec.holder.is_some() {
            return Err(Fault::conflict(format!("Port {id} is still in use.")));
        }
        return Ok(NetworkAttachment {
            network: port.spec.network.clone(),
            port: Some(ids::name(port).to_owned()),
            tag: wanted.tag.clone(),
            ..NetworkAttachment::default()
        });
    }
    let id = wanted.uuid.as_deref().ok_or_else(|| {
        Fault::bad(
            "Invalid input for field/attribute networks. Each entry needs uuid (of a network) or port.",
        )
    })?;
    let network = networks.iter().find(|network| network.id() == id);
    let network = network.ok_or_else(|| Fault::bad(format!("Network {id} could not be found.")))?;
    if let Some(ip) = &wanted.fixed_ip
        && ip.parse::<std::net::IpAddr>().is_err()
    {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute fixed_ip. {ip} is no IP address."
        )));
    }
    Ok(NetworkAttachment {
        network: called(namespace, network),
        fixed_ip: wanted.fixed_ip.clone(),
        tag: wanted.tag.clone(),
        ..NetworkAttachment::default()
    })
}

/// What a client gets who names no network: the project's network, if it is clear which one that is.
pub(super) async fn the_only_network(
    session: &Session,
    namespace: &str,
) -> Result<Vec<NetworkAttachment>, Fault> {
    let networks = usable(session, namespace).await?;
    match networks.as_slice() {
        [] => Ok(Vec::new()),
        [network] => Ok(vec![NetworkAttachment {
            network: called(namespace, network),
            ..NetworkAttachment::default()
        }]),
        _ => Err(Fault::conflict("Multiple possible networks found, use a Network ID to be more specific.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_refused() {
        let mut port = Port::new("p", Default::default());
        port.spec.id = Some("7".into());
        let wanted = Requested { uuid: None, port: Some("7".into()), fixed_ip: None, tag: None };
        assert_eq!(
            attachment("own", &wanted, &[], std::slice::from_ref(&port)).unwrap().port.as_deref(),
            Some("p")
        );
        port.spec.holder = Some(Default::default());
        assert_eq!(attachment("own", &wanted, &[], &[port]).unwrap_err().status, StatusCode::CONFLICT);
    }
}
