//! Of which families a Service has endpoints, and which address of a Pod is one.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service};

/// A family of addresses, as Services and slices call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn named(name: &str) -> Self {
        if name == "IPv6" { Self::V6 } else { Self::V4 }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn has(self, ip: IpAddr) -> bool {
        ip.is_ipv6() == (self == Self::V6)
    }
}

/// The families that a Service has endpoints of, its first one first.
pub(crate) fn families_of(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let said = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let mut families: Vec<Family> = said.iter().map(|name| Family::named(name)).collect();
    if families.is_empty() {
        let ip = spec.and_then(|spec| spec.cluster_ip.as_deref()?.parse::<IpAddr>().ok());
        families.push(if ip.is_some_and(|ip| ip.is_ipv6()) { Family::V6 } else { Family::V4 });
    }
    families
}

/// The Pod's address of a family, if an endpoint may have it. The API refuses endpoints of loopback and link-local addresses
/// (a Pod of the host's network may report one), and with them the whole object: one such Pod must not keep
/// the Service's other Pods out.
pub(crate) fn leads_to(pod: &Pod, family: Family) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let further = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let all = status.pod_ip.iter().chain(further).filter_map(|ip| ip.parse::<IpAddr>().ok());
    let address = all.into_iter().find(|ip| family.has(*ip))?;
    let never = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || v6.segments()[0] & 0xff0f == 0xff02 || v6.to_ipv4_mapped().is_some()
        }
    };
    (!never && !address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(ips: &[&str]) -> Pod {
        let all: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        serde_json::from_value(json!({"status": {"podIP": ips.first(), "podIPs": all}})).unwrap()
    }

    #[test]
    fn a_pod_is_reached_by_its_address_of_the_family() {
        let both = pod(&["10.0.0.1", "2001:db8::1"]);
        let shown = |pod: &Pod, family| leads_to(pod, family).map(|ip| ip.to_string());
        assert_eq!(shown(&both, Family::V4).as_deref(), Some("10.0.0.1"));
        assert_eq!(shown(&both, Family::V6).as_deref(), Some("2001:db8::1"));
        assert_eq!(shown(&pod(&["10.0.0.1"]), Family::V6), None);
        for never in ["fe80::1", "::1", "ff02::1", "::"] {
            assert_eq!(shown(&pod(&["10.0.0.1", never]), Family::V6), None, "{never}");
        }
    }

    #[test]
    fn families_are_the_services_own() {
        let of = |spec: Value| families_of(&serde_json::from_value(json!({"spec": spec})).unwrap());
        assert_eq!(of(json!({"ipFamilies": ["IPv6", "IPv4"]})), [Family::V6, Family::V4]);
        assert_eq!(of(json!({"clusterIP": "fd00::1"})), [Family::V6]);
        assert_eq!(of(json!({"clusterIP": "None"})), [Family::V4]);
    }
}
