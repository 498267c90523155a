//! Ranges of addresses as they are given on the command line: one of IPv4, and one of IPv6 beside it where the cloud is to have both.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use anyhow::ensure;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use yunfan_controllers::SecondFamily;

/// Most bits by which the slices of nodes may be smaller than their range, as in Kubernetes: it bounds how many there are.
const MOST_SLICES: u8 = 16;

/// A range of IPv4, and the one of IPv6 beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    pub(crate) four: Ipv4Net,
    pub(crate) six: Option<Ipv6Net>,
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |text: &str| text.trim().parse::<IpNet>().map_err(|_| format!("{text:?} is no range"));
        let all = text.split(',').map(parse).collect::<Result<Vec<IpNet>, String>>()?;
        match all.as_slice() {
            [IpNet::V4(four)] => Ok(Self { four: *four, six: None }),
            [IpNet::V4(four), IpNet::V6(six)] => Ok(Self { four: *four, six: Some(*six) }),
            _ => {
                Err("a range of IPv4 is needed, and one of IPv6 may follow it, such as 10.0.0.0/16,fd00::/56"
                    .to_owned())
            }
        }
    }
}

impl Display for Ranges {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.four)?;
        self.six.map_or(Ok(()), |six| write!(f, ",{six}"))
    }
}

/// The second family of a cloud, whose nodes get slices of `node_prefix` bits. The ranges of Pods and of Services are of use together.
pub(crate) fn second_family(
    cluster: Ranges,
    services: Ranges,
    node_prefix: u8,
) -> anyhow::Result<Option<SecondFamily>> {
    let (cluster_cidr, service_cidr) = match (cluster.six, services.six) {
        (None, None) => return Ok(None),
        (Some(cluster), Some(services)) => (cluster.trunc(), services.trunc()),
        _ => anyhow::bail!(
            "--cluster-cidr and --service-cidr have to have a range of IPv6 both, or none of them: \
             {cluster} and {services} do not go together"
        ),
    };
    ensure!(
        !cluster_cidr.contains(&service_cidr) && !service_cidr.contains(&cluster_cidr),
        "--cluster-cidr {cluster_cidr} and --service-cidr {service_cidr} overlap"
    );
    ensure!(
        (64..=120).contains(&service_cidr.prefix_len()),
        "--service-cidr {service_cidr}: a range of IPv6 for Services is a /64 to /120, such as fd00:96::/112"
    );
    let bits = cluster_cidr.prefix_len();
    ensure!(
        bits <= node_prefix && node_prefix - bits <= MOST_SLICES,
        "--cluster-cidr {cluster_cidr} can't be cut into slices of /{node_prefix}: take a range of /{} to /{node_prefix}, \
         or another --node-cidr-mask-size-ipv6",
        node_prefix.saturating_sub(MOST_SLICES)
    );
    Ok(Some(SecondFamily { cluster_cidr, service_cidr, node_prefix }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ipv6_may_follow_that_of_ipv4() {
        for good in ["10.96.0.0/16", "10.96.0.0/16,fd00:96::/112"] {
            assert_eq!(good.parse::<Ranges>().unwrap().to_string(), good);
        }
        for bad in ["", "x", "fd00::/64", "fd00::/64,10.0.0.0/8", "10.0.0.0/8,10.1.0.0/16", "10.0.0.0/8,"] {
            assert!(bad.parse::<Ranges>().is_err(), "{bad}");
        }
    }

    #[test]
    fn both_ranges_have_two_families_or_none_has() {
        let second = |pods: &str, services: &str, bits| {
            second_family(pods.parse().unwrap(), services.parse().unwrap(), bits)
        };
        assert!(second("10.1.0.0/16", "10.2.0.0/16", 64).unwrap().is_none());
        let both = second("10.1.0.0/16,fd00:1::/56", "10.2.0.0/16,fd00:2::/112", 64).unwrap().unwrap();
        assert_eq!(both.cluster_cidr.to_string(), "fd00:1::/56");
        for (pods, services, bits, why) in [
            ("10.1.0.0/16,fd00:1::/56", "10.2.0.0/16", 64, "both, or none"),
            ("10.1.0.0/16", "10.2.0.0/16,fd00:2::/112", 64, "both, or none"),
            ("10.1.0.0/16,fd00::/56", "10.2.0.0/16,fd00::/112", 64, "overlap"),
            ("10.1.0.0/16,fd00:1::/56", "10.2.0.0/16,fd00:2::/48", 64, "/64 to /120"),
            ("10.1.0.0/16,fd00:1::/40", "10.2.0.0/16,fd00:2::/112", 64, "can't be cut"),
            ("10.1.0.0/16,fd00:1::/72", "10.2.0.0/16,fd00:2::/112", 64, "can't be cut"),
        ] {
            let error = second(pods, services, bits).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
