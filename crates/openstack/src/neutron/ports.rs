//! Ports.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::names::PORT_NETWORK_LABEL;
use yunfan_resources::network::{FixedIp, Port, PortSpec};

use super::networks::{self, check_project};
use super::view::{Context, collection, wants_all, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params, only};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    port: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    network_id: Option<String>,
    #[serde(default)]
    mac_address: Option<String>,
    #[serde(default)]
    fixed_ips: Option<Vec<Address>>,
    #[serde(default)]
    dns_name: Option<String>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
    #[serde(default)]
    device_id: Option<Value>,
    #[serde(default)]
    device_owner: Option<Value>,
    #[serde(default)]
    admin_state_up: Option<Value>,
    #[serde(default)]
    description: Option<Value>,
    #[serde(default)]
    security_groups: Option<Value>,
    #[serde(default)]
    port_security_enabled: Option<Value>,
    #[serde(default)]
    allowed_address_pairs: Option<Value>,
    #[serde(default)]
    extra_dhcp_opts: Option<Value>,
    #[serde(default)]
    qos_policy_id: Option<Value>,
    #[serde(default, rename = "binding:vnic_type")]
    vnic_type: Option<Value>,
    #[serde(default, rename = "binding:host_id")]
    host_id: Option<Value>,
    #[serde(default, rename = "binding:profile")]
    profile: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    #[serde(default)]
    subnet_id: Option<String>,
    #[serde(default)]
    ip_address: Option<String>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("name", self.name.as_deref().unwrap_or_default(), true)?;
        let empty = [json!([]), json!(""), json!({})];
        let servers = "a port is given to a server when the server is made";
        only("device_id", self.device_id.as_ref(), &empty, servers)?;
        only("device_owner", self.device_owner.as_ref(), &empty, servers)?;
        only(
            "admin_state_up",
            self.admin_state_up.as_ref(),
            &[json!(true)],
            "a port cannot be switched off",
        )?;
        only("description", self.description.as_ref(), &empty, "ports have no description")?;
        only("security_groups", self.security_groups.as_ref(), &empty, "there are no security groups")?;
        only(
            "port_security_enabled",
            self.port_security_enabled.as_ref(),
            &[],
            "there are no security groups to switch off",
        )?;
        only(
            "allowed_address_pairs",
            self.allowed_address_pairs.as_ref(),
            &empty,
            "a port has its own addresses only",
        )?;
        only("extra_dhcp_opts", self.extra_dhcp_opts.as_ref(), &empty, "DHCP gives the same options to all")?;
        only("qos_policy_id", self.qos_policy_id.as_ref(), &[], "there are no QoS policies")?;
        only("binding:vnic_type", self.vnic_type.as_ref(), &[json!("normal")], "ports are virtual ones")?;
        only("binding:host_id", self.host_id.as_ref(), &empty, "the scheduler chooses the node")?;
        only("binding:profile", self.profile.as_ref(), &empty, "there is nothing to tell the node")
    }
}

fn fixed_ips(context: &Context, network: &str, wanted: &[Address]) -> Result<Vec<FixedIp>, Fault> {
    let mut fixed = Vec::with_capacity(wanted.len());
    for address in wanted {
        let subnet = match &address.subnet_id {
            None => None,
            Some(id) => {
                let subnet = context.subnet(id)?;
                if subnet.spec.network != network {
                    return Err(Fault::bad(format!(
                        "Invalid input for operation: Failed to create port on network, because fixed_ips included invalid subnet {id}."
                    )));
                }
                Some(ids::name(subnet).to_owned())
            }
        };
        if let Some(ip) = &address.ip_address
            && ip.parse::<std::net::Ipv4Addr>().is_err()
        {
            return Err(Fault::bad(format!(
                "Invalid input for fixed_ips. '{ip}' is not a valid IPv4 address."
            )));
        }
        fixed.push(FixedIp { subnet, ip: address.ip_address.clone() });
    }
    Ok(fixed)
}

async fn find(session: &Session, id: &str) -> Result<(Port, Context), Fault> {
    let missing = || Fault::not_found("Port", id).named("PortNotFound");
    let port: Port = session.find_anywhere(id).await?.ok_or_else(missing)?;
    let elsewhere = ids::namespace(&port) != session.namespace()?;
    Ok((port, Context::load(session, elsewhere).await?))
}

/// `GET /ports`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let all = wants_all(&session, &params);
    let ports = if all { session.everywhere::<Port>() } else { session.own()? };
    let (ports, context) = tokio::try_join!(ids::list(&ports), Context::load(&session, all))?;
    let views = ports.iter().map(|port| context.port_view(port, session.is_admin())).collect();
    collection(&session, &params, "ports", views)
}

/// `GET /ports/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let (port, context) = find(&session, &id).await?;
    Ok(ok(&json!({"port": with_fields(&params, context.port_view(&port, session.is_admin()))})))
}

/// `POST /ports`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.port;
    fields.check()?;
    let network_id = fields.network_id.as_deref().ok_or_else(|| {
        Fault::bad("Failed to parse request. Required attribute 'network_id' not specified")
    })?;
    let (network, context) = networks::find(&session, network_id).await?;
    check_project(&context, &network, [fields.project_id.as_deref(), fields.tenant_id.as_deref()])?;
    let (namespace, network) = (ids::namespace(&network).to_owned(), ids::name(&network).to_owned());
    let name = fields.name.filter(|name| !name.is_empty());
    let spec = PortSpec {
        display_name: name.clone(),
        fixed_ips: fixed_ips(&context, &network, fields.fixed_ips.as_deref().unwrap_or_default())?,
        mac_address: fields.mac_address.map(|mac| mac.to_ascii_lowercase()),
        hostname: fields.dns_name.filter(|name| !name.is_empty()),
        network: network.clone(),
        ..PortSpec::default()
    };
    let mut port = Port::new("", spec);
    port.metadata.labels = Some([(PORT_NETWORK_LABEL.to_owned(), network)].into());
    let display = name.unwrap_or_else(|| "port".to_owned());
    let port = ids::create(&session.within::<Port>(&namespace), port, &display).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"port": context.port_view(&port, session.is_admin())})))
}

/// `PUT /ports/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.port;
    fields.check()?;
    if fields.network_id.is_some() || fields.mac_address.is_some() {
        return Err(Fault::bad("Attributes network_id and mac_address cannot be updated."));
    }
    let (port, context) = find(&session, &id).await?;
    let addresses = match fields.fixed_ips {
        None => None,
        Some(_) if port.spec.holder.is_some() => {
            return Err(Fault::conflict(format!("Port {id} is in use; its addresses cannot be changed."))
                .named("PortInUse"));
        }
        Some(wanted) => Some(json!(fixed_ips(&context, &port.spec.network, &wanted)?)),
    };
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("hostname", fields.dns_name)
        .set("fixedIps", addresses);
    let ports = session.within::<Port>(ids::namespace(&port));
    let port = changes.apply(&ports, &port).await?;
    Ok(ok(&json!({"port": context.port_view(&port, session.is_admin())})))
}

/// `DELETE /ports/{id}`: not while a workload holds it.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let (port, _) = find(&session, &id).await?;
    if let Some(holder) = &port.spec.holder {
        return Err(Fault::conflict(format!(
            "Port {id} cannot be deleted directly via the port API: {} {} holds it.",
            holder.kind, holder.name
        ))
        .named("PortInUse"));
    }
    let ports = session.within::<Port>(ids::namespace(&port));
    ports.delete(ids::name(&port), &DeleteParams::default()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    #[test]
    fn what_is_not_programmed_is_refused() {
        let check = |text: &str| {
            parse::<Body>(format!(r#"{{"port": {text}}}"#).as_bytes()).and_then(|body| body.port.check())
        };
        assert!(check(r#"{"network_id": "n", "admin_state_up": true, "security_groups": [], "fixed_ips": [{"subnet_id": "s"}]}"#).is_ok());
        for text in [
            r#"{"security_groups": ["default"]}"#,
            r#"{"allowed_address_pairs": [{"ip_address": "10.0.0.9"}]}"#,
            r#"{"device_id": "x"}"#,
            r#"{"fixed_ips": [{"ip": "10.0.0.9"}]}"#,
            r#"{"binding:vnic_type": "direct"}"#,
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
