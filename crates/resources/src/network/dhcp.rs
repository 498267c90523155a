//! What DHCP tells single ports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An option that DHCP tells a [`super::Port`]'s machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DhcpOption {
    /// Its name, such as `bootfile-name` or `ntp-server`, or its number. What no option has as its name is told to nobody.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// Its value: text, a number, or addresses with commas between, as the option wants it; others are told to nobody. An empty value takes
    /// away what the Subnet tells (`router`, `classless-static-route`).
    #[serde(default)]
    #[schemars(length(max = 255))]
    pub value: String,
    /// Whether it is of DHCP for IPv4, or of DHCPv6.
    #[serde(default)]
    pub ip_version: IpVersion,
}

/// A version of the Internet Protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpVersion {
    /// IPv4.
    #[default]
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}
