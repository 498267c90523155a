//! What is asked before a port is made or changed.

use yunfan_resources::Identified;
use yunfan_resources::network::Port;

use crate::auth::Session;
use crate::error::Fault;

/// Refuses what needs port security on a port that has none.
pub(super) fn check_unsecured(groups: bool, pairs: bool) -> Result<(), Fault> {
    if groups {
        let text = "Port Security must be enabled in order to have security groups on a port.";
        return Err(Fault::conflict(text).named("PortSecurityPortHasSecurityGroup"));
    }
    if pairs {
        let text = "Port Security must be enabled in order to have allowed address pairs on a port.";
        return Err(Fault::conflict(text).named("AddressPairAndPortSecurityRequired"));
    }
    Ok(())
}

/// The MAC address that a port is to have in place of its own; that is for admins, as in Neutron, while no machine has the port.
pub(super) fn new_mac(session: &Session, port: &Port, wanted: Option<&str>) -> Result<Option<String>, Fault> {
    let wanted =
        wanted.map(str::to_ascii_lowercase).filter(|mac| port.spec.mac_address.as_ref() != Some(mac));
    if wanted.is_some() && !session.is_admin() {
        let text = "rule:update_port and (rule:update_port:mac_address) is disallowed by policy";
        return Err(Fault::forbidden(text).named("PolicyNotAuthorized"));
    }
    if wanted.is_some() && (port.spec.holder.is_some() || port.spec.device_id.is_some()) {
        let text = format!("Unable to complete operation on port {}, it is bound to a host.", port.id());
        return Err(Fault::conflict(text).named("PortBound"));
    }
    Ok(wanted)
}
