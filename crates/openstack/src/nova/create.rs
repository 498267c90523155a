//! `POST /servers`: a Nova request becomes VirtualMachines.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use base64::Engine;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{Flavor, KeyPair, NetworkAttachment, VirtualMachine, VirtualMachineSpec};
use yunfan_resources::image::{Image, ImagePhase};
use yunfan_resources::network::{Network, Port};

use super::microversion::Microversion;
use super::{keypairs, metadata, view};
use crate::auth::Session;
use crate::body::{Json, only};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::json_response;

/// How many servers one request may make.
const MAX_COUNT: u32 = 100;
/// The longest user data, bytes of base64.
const MAX_USER_DATA: usize = 65_535;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    server: Fields,
    #[serde(default, rename = "os:scheduler_hints", alias = "OS-SCH-HNT:scheduler_hints")]
    hints: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default, rename = "imageRef")]
    image: Option<String>,
    #[serde(rename = "flavorRef")]
    flavor: Value,
    #[serde(default)]
    networks: Option<Networks>,
    #[serde(default)]
    key_name: Option<String>,
    #[serde(default)]
    user_data: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    min_count: Option<Count>,
    #[serde(default)]
    max_count: Option<Count>,
    #[serde(default)]
    availability_zone: Option<String>,
    #[serde(default)]
    block_device_mapping_v2: Option<Vec<BlockDevice>>,
    #[serde(default)]
    security_groups: Option<Value>,
    #[serde(default)]
    config_drive: Option<Value>,
    #[serde(default, rename = "OS-DCF:diskConfig")]
    disk_config: Option<Value>,
    #[serde(default, rename = "adminPass")]
    admin_pass: Option<Value>,
    #[serde(default, rename = "accessIPv4")]
    access_v4: Option<Value>,
    #[serde(default, rename = "accessIPv6")]
    access_v6: Option<Value>,
    #[serde(default)]
    personality: Option<Value>,
    #[serde(default)]
    block_device_mapping: Option<Value>,
    #[serde(default)]
    description: Option<Value>,
    #[serde(default)]
    tags: Option<Value>,
    #[serde(default)]
    trusted_image_certificates: Option<Value>,
    #[serde(default)]
    host: Option<Value>,
    #[serde(default)]
    hypervisor_hostname: Option<Value>,
    #[serde(default)]
    return_reservation_id: Option<Value>,
}

/// Nova takes numbers as text as well.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u32),
    Text(String),
}

impl Count {
    fn value(&self, field: &str) -> Result<u32, Fault> {
        let value = match self {
            Count::Number(value) => Some(*value),
            Count::Text(text) => text.parse().ok(),
        };
        value.filter(|value| (1..=MAX_COUNT).contains(value)).ok_or_else(|| {
            Fault::bad(format!(
                "Invalid input for field/attribute {field}. It must be between 1 and {MAX_COUNT}."
            ))
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "networks must be \"auto\", \"none\" or a list of {uuid, port, fixed_ip}")]
enum Networks {
    Word(String),
    List(Vec<Requested>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Requested {
    #[serde(default)]
    uuid: Option<String>,
    #[serde(default)]
    port: Option<String>,
    #[serde(default)]
    fixed_ip: Option<String>,
    #[serde(default)]
    tag: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockDevice {
    #[serde(default)]
    uuid: Option<String>,
    source_type: String,
    #[serde(default)]
    destination_type: Option<String>,
    #[serde(default)]
    boot_index: Option<Value>,
    // A local disk always goes with its server, whatever this says.
    #[serde(default, rename = "delete_on_termination")]
    _delete_on_termination: Option<Value>,
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
    tag: Option<Value>,
    #[serde(default)]
    volume_type: Option<Value>,
}

/// `POST /servers`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    refuse_unserved(&body)?;
    let fields = &body.server;
    ids::check_name("name", &fields.name, false)?;
    let (min, max) = counts(fields)?;
    let image = image_ref(fields)?;
    let flavor = flavor(&session, &fields.flavor).await?;
    let image = usable_image(&session, &image, &flavor).await?;
    let key_pair = match &fields.key_name {
        Some(name) => Some(key_pair(&session, name).await?),
        None => None,
    };
    if let Some(data) = &fields.user_data {
        check_user_data(data)?;
    }
    metadata::check(&fields.metadata)?;
    let networks = attachments(&session, version, fields.networks.as_ref()).await?;
    if max > 1 && networks.iter().any(|network| network.port.is_some() || network.fixed_ip.is_some()) {
        return Err(Fault::bad("A port or a fixed IP can be given to one server only; max_count must be 1."));
    }
    let spec = VirtualMachineSpec {
        flavor: ids::name(&flavor).to_owned(),
        image: ids::name(&image).to_owned(),
        networks,
        key_pair,
        user_data: fields.user_data.clone(),
        metadata: fields.metadata.clone(),
        ..VirtualMachineSpec::default()
    };
    let first = make(&session, &fields.name, spec, min, max).await?;
    let endpoint = &session.door.endpoint;
    let server = json!({
        "id": first, "links": view::links(endpoint, "servers", &first), "OS-DCF:diskConfig": "MANUAL", "security_groups": [],
    });
    let mut response = json_response(StatusCode::ACCEPTED, &json!({"server": server}));
    if let Ok(location) = HeaderValue::from_str(&format!("{endpoint}/compute/v2.1/servers/{first}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Makes between `min` and `max` machines and returns the id of the first; where not even `min` can be made, none is left.
async fn make(
    session: &Session,
    name: &str,
    spec: VirtualMachineSpec,
    min: u32,
    max: u32,
) -> Result<String, Fault> {
    let machines = session.own::<VirtualMachine>()?;
    let mut made: Vec<VirtualMachine> = Vec::new();
    for number in 1..=max {
        let name = if max == 1 { name.to_owned() } else { format!("{name}-{number}") };
        let spec = VirtualMachineSpec { display_name: Some(name.clone()), ..spec.clone() };
        let mut vm = VirtualMachine::new("", spec);
        vm.metadata.annotations = Some([(view::CREATOR.to_owned(), session.claims.uid.clone())].into());
        match ids::create(&machines, vm, &name).await {
            Ok(vm) => made.push(vm),
            Err(fault) if u32::try_from(made.len()).is_ok_and(|count| count >= min && count > 0) => {
                tracing::info!(%fault, made = made.len(), max, "fewer servers than the most that were asked for");
                break;
            }
            Err(fault) => {
                for vm in &made {
                    if let Err(error) = machines.delete(ids::name(vm), &DeleteParams::default()).await {
                        tracing::warn!(%error, name = ids::name(vm), "a server of a failed request is left behind");
                    }
                }
                return Err(fault);
            }
        }
    }
    Ok(made.first().map(Identified::id).unwrap_or_default())
}

/// What the cloud does not do yet is refused; it is never accepted and then ignored.
fn refuse_unserved(body: &Body) -> Result<(), Fault> {
    let fields = &body.server;
    let (null, empty, nothing) = (Value::Null, json!([]), json!({}));
    let text = json!("");
    let checks = [
        ("os:scheduler_hints", &body.hints, vec![nothing], "there are no scheduler hints"),
        ("security_groups", &fields.security_groups, vec![empty.clone()], "there are no security groups"),
        (
            "config_drive",
            &fields.config_drive,
            vec![json!(false), json!("false"), text.clone()],
            "guests use the metadata service",
        ),
        (
            "OS-DCF:diskConfig",
            &fields.disk_config,
            vec![json!("MANUAL"), json!("AUTO")],
            "it is MANUAL or AUTO",
        ),
        ("adminPass", &fields.admin_pass, vec![], "no password is set in guests; use a key pair"),
        ("accessIPv4", &fields.access_v4, vec![text.clone()], "it is not kept"),
        ("accessIPv6", &fields.access_v6, vec![text], "it is not kept"),
        ("personality", &fields.personality, vec![empty.clone()], "use user_data"),
        (
            "block_device_mapping",
            &fields.block_device_mapping,
            vec![empty.clone()],
            "use block_device_mapping_v2",
        ),
        ("description", &fields.description, vec![], "servers have no description"),
        ("tags", &fields.tags, vec![empty.clone()], "servers have no tags"),
        (
            "trusted_image_certificates",
            &fields.trusted_image_certificates,
            vec![empty],
            "images are not signed",
        ),
        ("host", &fields.host, vec![], "the scheduler chooses the host"),
        ("hypervisor_hostname", &fields.hypervisor_hostname, vec![], "the scheduler chooses the host"),
        (
            "return_reservation_id",
            &fields.return_reservation_id,
            vec![json!(false), null],
            "reservations are not kept",
        ),
    ];
    for (field, given, allowed, why) in checks {
        only(field, given.as_ref(), &allowed, why)?;
    }
    match fields.availability_zone.as_deref() {
        None | Some("" | view::ZONE) => Ok(()),
        Some(_) => Err(Fault::bad("The requested availability zone is not available")),
    }
}

fn counts(fields: &Fields) -> Result<(u32, u32), Fault> {
    let value =
        |field: &str, count: &Option<Count>| count.as_ref().map(|count| count.value(field)).transpose();
    let min = value("min_count", &fields.min_count)?.unwrap_or(1);
    let max = value("max_count", &fields.max_count)?.unwrap_or(min);
    if min > max {
        return Err(Fault::bad("min_count must be <= max_count"));
    }
    Ok((min, max))
}

/// The image to boot from, of `imageRef` and of the block devices. The one block device that there is here is the local disk made
/// from the image.
fn image_ref(fields: &Fields) -> Result<String, Fault> {
    let given = fields.image.as_deref().filter(|image| !image.is_empty());
    let mut from_device = None;
    for device in fields.block_device_mapping_v2.iter().flatten() {
        let root = device.boot_index.as_ref().is_some_and(|index| *index == json!(0) || *index == json!("0"));
        let local = device.destination_type.as_deref().is_none_or(|kind| kind == "local");
        let plain = [
            &device.volume_size,
            &device.device_name,
            &device.disk_bus,
            &device.device_type,
            &device.guest_format,
            &device.no_device,
            &device.tag,
            &device.volume_type,
        ]
        .iter()
        .all(|member| member.as_ref().is_none_or(Value::is_null));
        if device.source_type != "image" || !local || !root || !plain || from_device.is_some() {
            return Err(Fault::bad(
                "block_device_mapping_v2 is only supported for the local root disk that is made from the image \
                 (source_type image, destination_type local, boot_index 0): there are no volumes yet.",
            ));
        }
        from_device = device.uuid.as_deref();
    }
    match (given, from_device) {
        (Some(image), Some(device)) if image != device => {
            Err(Fault::bad("imageRef and the boot device in block_device_mapping_v2 are different images."))
        }
        (Some(image), _) | (None, Some(image)) => Ok(image_id(image).to_owned()),
        (None, None) => Err(Fault::bad(
            "Invalid input for field/attribute imageRef. A server needs an image to boot from.",
        )),
    }
}

/// Old clients send the image's URL.
fn image_id(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

async fn flavor(session: &Session, reference: &Value) -> Result<Flavor, Fault> {
    let id = match reference {
        Value::String(text) => image_id(text).to_owned(),
        Value::Number(number) => number.to_string(),
        _ => {
            return Err(Fault::bad("Invalid input for field/attribute flavorRef. It must be a flavor's id."));
        }
    };
    ids::find(&session.global::<Flavor>(), &id)
        .await?
        .ok_or_else(|| Fault::bad(format!("Flavor {id} could not be found.")))
}

/// The image, if a machine of this flavor can start from it.
async fn usable_image(session: &Session, id: &str, flavor: &Flavor) -> Result<Image, Fault> {
    let image = ids::find(&session.own::<Image>()?, id).await?;
    let image = image.ok_or_else(|| Fault::bad(format!("Can not find requested image {id}.")))?;
    let status = image.status.clone().unwrap_or_default();
    if status.phase != ImagePhase::Active {
        return Err(Fault::bad(format!("Image {id} is not active.")));
    }
    let size = &flavor.spec;
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
    Ok(image)
}

async fn key_pair(session: &Session, name: &str) -> Result<String, Fault> {
    let pairs = ids::list(&session.own::<KeyPair>()?).await?;
    let found = pairs
        .iter()
        .find(|pair| keypairs::display(pair) == name && keypairs::is_of(pair, &session.claims.sub));
    found.map(|pair| ids::name(pair).to_owned()).ok_or_else(|| Fault::bad("Invalid key_name provided."))
}

fn check_user_data(data: &str) -> Result<(), Fault> {
    if data.len() > MAX_USER_DATA {
        return Err(Fault::bad(format!(
            "User data too large. User data must be no larger than {MAX_USER_DATA} bytes once base64 encoded."
        )));
    }
    match base64::engine::general_purpose::STANDARD.decode(data) {
        Ok(_) => Ok(()),
        Err(_) => Err(Fault::bad("Invalid input for field/attribute user_data. It is not base64.")),
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
        Some(Networks::Word(word)) if since_37 && word == "auto" => the_only_network(session).await,
        Some(Networks::Word(word)) => Err(Fault::bad(format!(
            "Invalid input for field/attribute networks. {word} is not supported: it is a list, or (since 2.37) auto or none."
        ))),
        None if since_37 => {
            Err(Fault::bad("Invalid input for field/attribute server. 'networks' is a required property"))
        }
        None => the_only_network(session).await,
        Some(Networks::List(list)) if list.is_empty() && since_37 => {
            Err(Fault::bad("Invalid input for field/attribute networks. [] is too short"))
        }
        Some(Networks::List(list)) if list.is_empty() => the_only_network(session).await,
        Some(Networks::List(list)) => {
            let (networks, ports) = (session.own::<Network>()?, session.own::<Port>()?);
            let (networks, ports) = tokio::try_join!(ids::list(&networks), ids::list(&ports))?;
            let mut found: Vec<NetworkAttachment> = Vec::with_capacity(list.len());
            for wanted in list {
                let attachment = attachment(wanted, &networks, &ports)?;
                if attachment.port.is_some() && found.iter().any(|other| other.port == attachment.port) {
                    return Err(Fault::bad("A port can be given only once."));
                }
                found.push(attachment);
            }
            Ok(found)
        }
    }
}

fn attachment(wanted: &Requested, networks: &[Network], ports: &[Port]) -> Result<NetworkAttachment, Fault> {
    if wanted.tag.is_some() {
        return Err(Fault::bad("networks.tag is not supported: interfaces have no tags."));
    }
    if let Some(id) = &wanted.port {
        let port = ports.iter().find(|port| port.id() == *id);
        let port = port.ok_or_else(|| Fault::bad(format!("Port id {id} could not be found.")))?;
        if port.spec.holder.is_some() {
            return Err(Fault::conflict(format!("Port {id} is still in use.")));
        }
        return Ok(NetworkAttachment {
            network: port.spec.network.clone(),
            port: Some(ids::name(port).to_owned()),
            fixed_ip: None,
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
        && ip.parse::<std::net::Ipv4Addr>().is_err()
    {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute fixed_ip. {ip} is no IPv4 address."
        )));
    }
    Ok(NetworkAttachment {
        network: ids::name(network).to_owned(),
        port: None,
        fixed_ip: wanted.fixed_ip.clone(),
    })
}

/// What a client gets who names no network: the project's network, if it is clear which one that is.
async fn the_only_network(session: &Session) -> Result<Vec<NetworkAttachment>, Fault> {
    let networks = ids::list(&session.own::<Network>()?).await?;
    match networks.as_slice() {
        [] => Ok(Vec::new()),
        [network] => Ok(vec![NetworkAttachment {
            network: ids::name(network).to_owned(),
            ..NetworkAttachment::default()
        }]),
        _ => Err(Fault::conflict("Multiple possible networks found, use a Network ID to be more specific.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    fn body(extra: &str) -> Result<Body, Fault> {
        parse(format!(r#"{{"server": {{"name": "a", "flavorRef": "1"{extra}}}}}"#).as_bytes())
    }

    #[test]
    fn what_the_openstack_client_sends_is_taken() {
        let body = body(
            r#", "imageRef": "i", "networks": [{"uuid": "n"}], "min_count": 1, "max_count": "1", "key_name": "k",
            "block_device_mapping_v2": [{"uuid": "i", "boot_index": 0, "source_type": "image", "destination_type": "local",
            "delete_on_termination": true}]"#,
        )
        .unwrap();
        refuse_unserved(&body).unwrap();
        assert_eq!(image_ref(&body.server).unwrap(), "i");
        assert_eq!(counts(&body.server).unwrap(), (1, 1));
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let refused = |extra: &str| refuse_unserved(&body(extra).unwrap()).unwrap_err().message;
        assert!(refused(r#", "security_groups": [{"name": "web"}]"#).contains("security_groups"));
        assert!(refused(r#", "config_drive": true"#).contains("config_drive"));
        assert!(refused(r#", "availability_zone": "mars""#).contains("availability zone"));
        assert!(refused(r#", "tags": ["a"]"#).contains("tags"));
        assert!(body(r#", "colour": 1"#).err().unwrap().message.contains("colour"));
        assert!(body(r#", "networks": 7"#).err().unwrap().message.contains("networks"));
    }

    #[test]
    fn volumes_are_refused_and_images_must_agree() {
        let image = |extra: &str| image_ref(&body(extra).unwrap().server);
        assert!(image("").is_err());
        assert!(
            image(
                r#", "block_device_mapping_v2": [{"uuid": "v", "boot_index": 0, "source_type": "volume"}]"#
            )
            .is_err()
        );
        let device =
            r#", "block_device_mapping_v2": [{"uuid": "i", "boot_index": 0, "source_type": "image"}]"#;
        assert_eq!(image(device).unwrap(), "i");
        assert!(image(&format!(r#", "imageRef": "j"{device}"#)).is_err());
    }

    #[test]
    fn counts_and_user_data_are_checked() {
        assert!(counts(&body(r#", "min_count": 3, "max_count": 2"#).unwrap().server).is_err());
        assert!(counts(&body(r#", "min_count": 0"#).unwrap().server).is_err());
        assert_eq!(counts(&body(r#", "min_count": 2"#).unwrap().server).unwrap(), (2, 2));
        assert!(check_user_data("IyEvYmluL3NoCg==").is_ok());
        assert!(check_user_data("#!/bin/sh").is_err());
        assert!(check_user_data(&"A".repeat(MAX_USER_DATA + 1)).is_err());
    }

    #[test]
    fn a_port_in_use_is_refused() {
        let mut port = Port::new("p", Default::default());
        port.spec.id = Some("7".into());
        let wanted = Requested { uuid: None, port: Some("7".into()), fixed_ip: None, tag: None };
        assert_eq!(attachment(&wanted, &[], std::slice::from_ref(&port)).unwrap().port.as_deref(), Some("p"));
        port.spec.holder = Some(Default::default());
        assert_eq!(attachment(&wanted, &[], &[port]).unwrap_err().status, StatusCode::CONFLICT);
    }
}
