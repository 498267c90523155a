//! What DHCP tells single ports: their `extra_dhcp_opts`.

use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::network::{DhcpOption, IpVersion, PortSpec};

use crate::error::Fault;

/// Most options of a port.
const MOST: usize = 64;
/// The longest names and values.
const NAME: usize = 64;
const VALUE: usize = 255;
/// What may be told with nothing in it: the option is then left out.
const BLANK: [&str; 2] = ["router", "classless-static-route"];

/// An option as a request has it; without a value it is to go.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    opt_name: String,
    opt_value: Option<String>,
    #[serde(default)]
    ip_version: Option<Value>,
}

impl Wanted {
    fn version(&self) -> Option<IpVersion> {
        match &self.ip_version {
            None => Some(IpVersion::V4),
            Some(version) if *version == json!(4) || *version == json!("4") => Some(IpVersion::V4),
            Some(version) if *version == json!(6) || *version == json!("6") => Some(IpVersion::V6),
            Some(_) => None,
        }
    }
}

/// Refuses what is no option, in Neutron's words.
pub(super) fn check(all: &[Wanted]) -> Result<(), Fault> {
    let wrong = |why: String| Err(Fault::bad(format!("Invalid input for extra_dhcp_opts. Reason: {why}")));
    if all.len() > MOST {
        return wrong(format!("A port has {MOST} options at most."));
    }
    for (at, option) in all.iter().enumerate() {
        let (name, value) = (&option.opt_name, option.opt_value.as_deref());
        let blank = |text: &str| text.trim().is_empty() || text.contains(['\n', '\r']);
        if name.chars().count() > NAME || value.is_some_and(|value| value.chars().count() > VALUE) {
            return wrong(format!("'{name}': names have {NAME} characters at most, values {VALUE}."));
        }
        let Some(version) = option.version() else {
            return wrong(format!("'{name}': ip_version is not in [4, 6]."));
        };
        if blank(name) || (value.is_some_and(blank) && !BLANK.contains(&name.as_str())) {
            return wrong(format!("'{name}': names and values are one line, and not blank."));
        }
        let same = |other: &Wanted| other.opt_name == *name && other.version() == Some(version);
        if all[..at].iter().any(same) {
            return wrong(format!("'{name}' is there twice."));
        }
    }
    Ok(())
}

/// What a port has then: options that a request does not name stay as they are.
pub(super) fn changed(before: &[DhcpOption], wanted: &[Wanted]) -> Vec<DhcpOption> {
    let mut all = before.to_vec();
    for option in wanted {
        let ip_version = option.version().unwrap_or_default();
        let at = all.iter().position(|own| own.name == option.opt_name && own.ip_version == ip_version);
        match (at, &option.opt_value) {
            (Some(at), Some(value)) => all[at].value.clone_from(value),
            (Some(at), None) => drop(all.remove(at)),
            (None, Some(value)) => {
                all.push(DhcpOption { name: option.opt_name.clone(), value: value.clone(), ip_version });
            }
            (None, None) => {}
        }
    }
    all
}

/// A port's options as Neutron shows them.
pub(super) fn view(port: &PortSpec) -> Vec<Value> {
    let number = |version: IpVersion| if version == IpVersion::V6 { 6 } else { 4 };
    let all = port.dhcp_options.iter();
    all.map(|own| json!({"opt_name": own.name, "opt_value": own.value, "ip_version": number(own.ip_version)}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(value: Value) -> Vec<Wanted> {
        serde_json::from_value(value).expect("options")
    }

    #[test]
    fn options_are_checked_as_neutron_does() {
        let checked = |value: Value| check(&wanted(json!([value]))).is_ok();
        assert!(checked(json!({"opt_name": "router", "opt_value": ""})));
        assert!(checked(json!({"opt_name": "mtu", "opt_value": null, "ip_version": "6"})));
        assert!(!checked(json!({"opt_name": "mtu", "opt_value": ""})));
        assert!(!checked(json!({"opt_name": " ", "opt_value": "1"})));
        assert!(!checked(json!({"opt_name": "mtu", "opt_value": "1\n2"})));
        assert!(!checked(json!({"opt_name": "mtu", "opt_value": "x".repeat(256)})));
        assert!(!checked(json!({"opt_name": "mtu", "opt_value": "1", "ip_version": 5})));
        let twice = json!([{"opt_name": "mtu", "opt_value": "1"}, {"opt_name": "mtu", "opt_value": "2"}]);
        assert!(check(&wanted(twice)).is_err());
    }

    #[test]
    fn what_a_change_does_not_name_stays() {
        let first = changed(
            &[],
            &wanted(
                json!([{"opt_name": "mtu", "opt_value": "1400"}, {"opt_name": "router", "opt_value": ""}, {"opt_name": "x", "opt_value": null}]),
            ),
        );
        assert_eq!(first.len(), 2);
        let change = json!([{"opt_name": "mtu", "opt_value": "1300"}, {"opt_name": "router", "opt_value": null}, {"opt_name": "mtu", "opt_value": "1", "ip_version": 6}]);
        let port = PortSpec { dhcp_options: changed(&first, &wanted(change)), ..PortSpec::default() };
        let told = json!([{"opt_name": "mtu", "opt_value": "1300", "ip_version": 4}, {"opt_name": "mtu", "opt_value": "1", "ip_version": 6}]);
        assert_eq!(json!(view(&port)), told);
    }
}
