//! What a Nova client may ask for in `POST /servers`, and what is refused before anything is looked up.

use std::collections::BTreeMap;

use base64::Engine;
use serde::Deserialize;
use serde_json::{Value, json};

use super::devices::BlockDevice;
use super::personality::RawFile;
use super::view::ACCESS;
use crate::body::only;
use crate::error::Fault;
use crate::microversion::Microversion;

/// How many servers one request may make.
const MAX_COUNT: u32 = 100;
/// The longest user data, bytes of base64.
const MAX_USER_DATA: usize = 65_535;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    pub(super) server: Fields,
    #[serde(default, rename = "os:scheduler_hints", alias = "OS-SCH-HNT:scheduler_hints")]
    pub(super) hints: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    pub(super) name: String,
    #[serde(default, rename = "imageRef")]
    pub(super) image: Option<String>,
    #[serde(rename = "flavorRef")]
    pub(super) flavor: Value,
    #[serde(default)]
    pub(super) networks: Option<Networks>,
    #[serde(default)]
    pub(super) key_name: Option<String>,
    #[serde(default)]
    pub(super) user_data: Option<String>,
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) min_count: Option<Count>,
    #[serde(default)]
    pub(super) max_count: Option<Count>,
    #[serde(default)]
    pub(super) availability_zone: Option<String>,
    #[serde(default)]
    pub(super) block_device_mapping_v2: Option<Vec<BlockDevice>>,
    #[serde(default)]
    pub(super) security_groups: Option<Vec<GroupName>>,
    #[serde(default)]
    pub(super) config_drive: Option<Value>,
    #[serde(default, rename = "OS-DCF:diskConfig")]
    pub(super) disk_config: Option<Value>,
    #[serde(default, rename = "adminPass")]
    pub(super) admin_pass: Option<String>,
    #[serde(default, rename = "accessIPv4")]
    pub(super) access_v4: Option<Value>,
    #[serde(default, rename = "accessIPv6")]
    pub(super) access_v6: Option<Value>,
    #[serde(default)]
    pub(super) personality: Option<Vec<RawFile>>,
    #[serde(default)]
    pub(super) block_device_mapping: Option<Value>,
    #[serde(default)]
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) hostname: Option<String>,
    #[serde(default)]
    pub(super) trusted_image_certificates: Option<Value>,
    #[serde(default)]
    pub(super) host: Option<String>,
    #[serde(default)]
    pub(super) hypervisor_hostname: Option<String>,
    #[serde(default)]
    pub(super) return_reservation_id: Option<bool>,
}

/// A security group, by its name or its id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupName {
    pub(super) name: String,
}

/// Nova takes numbers as text as well.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Count {
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
pub(super) enum Networks {
    Word(String),
    List(Vec<Requested>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Requested {
    #[serde(default)]
    pub(super) uuid: Option<String>,
    #[serde(default)]
    pub(super) port: Option<String>,
    #[serde(default)]
    pub(super) fixed_ip: Option<String>,
    #[serde(default)]
    pub(super) tag: Option<String>,
}

/// What the cloud does not do yet is refused; it is never accepted and then ignored.
pub(super) fn refuse_unserved(body: &Body) -> Result<(), Fault> {
    let fields = &body.server;
    let empty = json!([]);
    let checks = [
        (
            "block_device_mapping",
            &fields.block_device_mapping,
            vec![empty.clone()],
            "use block_device_mapping_v2",
        ),
        (
            "trusted_image_certificates",
            &fields.trusted_image_certificates,
            vec![empty],
            "images are not signed",
        ),
    ];
    for (field, given, allowed, why) in checks {
        only(field, given.as_ref(), &allowed, why)?;
    }
    Ok(())
}

/// Whether a config drive is asked for. Nova takes a flag, or one of the words for it.
pub(super) fn config_drive(given: Option<&Value>) -> Result<bool, Fault> {
    let word = match given {
        None | Some(Value::Null) => return Ok(false),
        Some(Value::Bool(flag)) => return Ok(*flag),
        Some(Value::String(text)) => text.to_ascii_lowercase(),
        Some(other) => other.to_string(),
    };
    match word.as_str() {
        "true" | "1" | "on" | "yes" | "y" | "t" => Ok(true),
        "false" | "0" | "off" | "no" | "n" | "f" | "" => Ok(false),
        _ => Err(Fault::bad(format!(
            "Invalid input for field/attribute config_drive. Value: {word}. It is true or false."
        ))),
    }
}

/// Refuses members that this microversion does not know, and values that Nova would not take.
pub(super) fn check(version: Microversion, fields: &Fields) -> Result<(), Fault> {
    let later = [
        ("description", 19, fields.description.is_some()),
        ("tags", 52, fields.tags.is_some()),
        ("trusted_image_certificates", 63, fields.trusted_image_certificates.is_some()),
        ("host", 74, fields.host.is_some()),
        ("hypervisor_hostname", 74, fields.hypervisor_hostname.is_some()),
        ("hostname", 90, fields.hostname.is_some()),
    ];
    let early = later.iter().find(|(_, since, given)| *given && version < Microversion(*since));
    let over = (fields.personality.is_some() && version >= Microversion(57)).then_some("personality");
    if let Some(field) = early.map(|(field, ..)| *field).or(over) {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute server. Additional properties are not allowed ('{field}' was unexpected)"
        )));
    }
    if fields.description.as_ref().is_some_and(|text| text.chars().count() > 255) {
        return Err(Fault::bad(
            "Invalid input for field/attribute description. It is too long: 255 characters at most.",
        ));
    }
    if let Some(tags) = &fields.tags {
        super::tags::check(tags)?;
    }
    if let Some(Networks::List(networks)) = &fields.networks {
        for network in networks {
            super::tags::check_device(version, "networks", 36, network.tag.as_ref())?;
        }
    }
    for tag in fields.block_device_mapping_v2.iter().flatten().map(BlockDevice::tag) {
        super::tags::check_device(version, "block_device_mapping_v2", 32, tag)?;
    }
    fields.hostname.as_deref().map_or(Ok(()), |name| check_hostname(version, name))
}

/// Since when a host name may be a fully qualified one.
const QUALIFIED: Microversion = Microversion(94);

/// Refuses what is no host name: as Nova's schema has it a single label (RFC 1123), and since 2.94 several with dots between them.
pub(super) fn check_hostname(version: Microversion, name: &str) -> Result<(), Fault> {
    let qualified = version >= QUALIFIED;
    let most = if qualified { 255 } else { 63 };
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || (qualified && c == '.'));
    if (2..=most).contains(&name.len())
        && letters
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
    {
        return Ok(());
    }
    let dots = if qualified { ", dots" } else { "" };
    Err(Fault::bad(format!(
        "Invalid input for field/attribute hostname. {name:?} has other than 2 to {most} letters, digits{dots} and dashes, or no letter \
         or digit at an end."
    )))
}

/// Adds the annotation that keeps who is to grow a disk's file system, where a request says it. It is shown, and nothing more: as with
/// Nova's driver of QEMU, guests that grow theirs do so by themselves.
pub(super) fn disk_config(
    given: Option<&Value>,
    annotations: &mut BTreeMap<String, Option<String>>,
) -> Result<(), Fault> {
    only("OS-DCF:diskConfig", given, &[json!("MANUAL"), json!("AUTO")], "it is MANUAL or AUTO")?;
    if let Some(Value::String(word)) = given {
        annotations.insert(super::view::DISK_CONFIG.to_owned(), Some(word.clone()));
    }
    Ok(())
}

/// The annotations that keep the addresses at which a server's owner says that it is reached.
pub(super) fn access(
    v4: Option<&Value>,
    v6: Option<&Value>,
) -> Result<BTreeMap<String, Option<String>>, Fault> {
    let mut annotations = BTreeMap::new();
    for ((field, key), value) in ACCESS.into_iter().zip([v4, v6]) {
        match value {
            None => {}
            Some(Value::Null) => drop(annotations.insert(key.to_owned(), None)),
            Some(Value::String(text)) if text.is_empty() => drop(annotations.insert(key.to_owned(), None)),
            Some(Value::String(text)) => {
                let address = text.parse::<std::net::IpAddr>().ok();
                let address = address.filter(|address| address.is_ipv4() == (field == "accessIPv4"));
                let address = address.ok_or_else(|| {
                    Fault::bad(format!(
                        "Invalid input for field/attribute {field}. {text} is no such address."
                    ))
                })?;
                annotations.insert(key.to_owned(), Some(address.to_string()));
            }
            Some(_) => {
                return Err(Fault::bad(format!("Invalid input for field/attribute {field}. It is text.")));
            }
        }
    }
    Ok(annotations)
}

pub(super) fn counts(fields: &Fields) -> Result<(u32, u32), Fault> {
    let value =
        |field: &str, count: &Option<Count>| count.as_ref().map(|count| count.value(field)).transpose();
    let min = value("min_count", &fields.min_count)?.unwrap_or(1);
    let max = value("max_count", &fields.max_count)?.unwrap_or(min);
    if min > max {
        return Err(Fault::bad("min_count must be <= max_count"));
    }
    Ok((min, max))
}

/// Old clients send the image's URL.
pub(super) fn image_id(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

pub(super) fn check_user_data(data: &str) -> Result<(), Fault> {
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
        assert_eq!(super::super::devices::of(&body.server).unwrap().image.as_deref(), Some("i"));
        assert_eq!(counts(&body.server).unwrap(), (1, 1));
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let refused = |extra: &str| refuse_unserved(&body(extra).unwrap()).unwrap_err().message;
        assert!(refused(r#", "block_device_mapping": [{}]"#).contains("block_device_mapping"));
        let drive = |value: Value| config_drive(Some(&value));
        assert!(drive(json!(true)).unwrap() && drive(json!("True")).unwrap() && drive(json!("1")).unwrap());
        assert!(!drive(json!("")).unwrap() && !drive(json!("no")).unwrap() && !config_drive(None).unwrap());
        assert!(drive(json!("perhaps")).unwrap_err().message.contains("config_drive"));
        let early =
            |extra: &str, version| check(Microversion(version), &body(extra).unwrap().server).is_err();
        assert!(early(r#", "tags": ["a"]"#, 51) && !early(r#", "tags": ["a"]"#, 52));
        assert!(early(r#", "personality": []"#, 57) && early(r#", "hostname": "-a""#, 90));
        assert!(body(r#", "colour": 1"#).err().unwrap().message.contains("colour"));
        assert!(body(r#", "networks": 7"#).err().unwrap().message.contains("networks"));
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
}
