//! Port forwardings: single ports of a floating IP that lead to ports of several devices. Each is an entry of the floating IP.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{FloatingIp, ForwardedProtocol, PortForwarding, PortRange};

use super::floating::{Near, find};
use super::view::{collection, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    port_forwarding: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    internal_port_id: Option<String>,
    #[serde(default)]
    internal_ip_address: Option<String>,
    #[serde(default)]
    internal_port: Option<Value>,
    #[serde(default)]
    internal_port_range: Option<String>,
    #[serde(default)]
    external_port: Option<Value>,
    #[serde(default)]
    external_port_range: Option<String>,
    #[serde(default)]
    description: Option<String>,
}

/// The port or the ports that a request names, one of both ways.
fn range(field: &str, one: Option<&Value>, several: Option<&str>) -> Result<Option<PortRange>, Fault> {
    let wrong = |given: &str| {
        let text =
            format!("Invalid input for {field}. '{given}' is no port, or range of ports, from 1 to 65535.");
        Fault::bad(text)
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number > 0);
    let of = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        let range = PortRange { first: number(first)?, last: number(last)? };
        (range.first <= range.last).then_some(range)
    };
    let one = match one {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    if let Some(text) = &one
        && number(text).is_none()
    {
        return Err(wrong(text));
    }
    let one = one.and_then(|text| of(&text));
    let several = several.map(|text| of(text).ok_or_else(|| wrong(text))).transpose()?;
    match (one, several) {
        (Some(one), Some(several)) if one != several => {
            Err(Fault::bad(format!("{field} and {field}_range must be the same where both are given.")))
        }
        (one, several) => Ok(several.or(one)),
    }
}

fn required(field: &str) -> Fault {
    Fault::bad(format!("Failed to parse request. Required attribute '{field}' not specified"))
}

fn missing(id: &str) -> Fault {
    let text = format!("Port Forwarding {id} could not be found.");
    Fault::new(StatusCode::NOT_FOUND, text).named("PortForwardingNotFound")
}

/// What the API server refuses is the request's fault, as with Neutron, also where another forwarding is in the way.
fn refused(fault: Fault) -> Fault {
    let about = fault.message.contains("spec.forwardings") && fault.status.is_client_error();
    if about { Fault::bad(fault.message).named("BadRequest") } else { fault }
}

/// A request as what it is checked to be.
struct Wanted {
    /// The Port's name.
    port: Option<String>,
    fixed_ip: Option<String>,
    protocol: Option<ForwardedProtocol>,
    inner: Option<PortRange>,
    outer: Option<PortRange>,
    description: Option<String>,
}

impl Fields {
    fn check(self, ip: &FloatingIp, near: &Near) -> Result<Wanted, Fault> {
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)?;
        let protocol = match self.protocol.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("tcp") => Some(ForwardedProtocol::Tcp),
            Some("udp") => Some(ForwardedProtocol::Udp),
            Some(other) => {
                return Err(Fault::bad(format!(
                    "Invalid input for protocol. '{other}' is not in ['tcp', 'udp']."
                )));
            }
        };
        let port = self.internal_port_id.as_deref().map(|id| reached(ip, near, id)).transpose()?;
        Ok(Wanted {
            port,
            fixed_ip: self.internal_ip_address.filter(|ip| !ip.is_empty()),
            protocol,
            inner: range("internal_port", self.internal_port.as_ref(), self.internal_port_range.as_deref())?,
            outer: range("external_port", self.external_port.as_ref(), self.external_port_range.as_deref())?,
            description: self.description,
        })
    }
}

/// The name of a port that the floating IP's router leads to.
fn reached(ip: &FloatingIp, near: &Near, id: &str) -> Result<String, Fault> {
    let namespace = ids::namespace(ip);
    let port = near.port_with(namespace, id)?;
    let bad = |text: String| Fault::bad(text).named("BadRequest");
    let Some(router) = near.router(port, &ip.spec.network) else {
        return Err(bad(format!(
            "External network is not reachable from port {id}. Cannot set Port forwarding for it with Floating IP {}",
            ip.id()
        )));
    };
    let others = ip.spec.forwardings.iter().filter_map(|it| near.port(namespace, &it.port));
    let elsewhere = others.filter_map(|port| near.router(port, &ip.spec.network));
    if let Some(other) = elsewhere.into_iter().find(|other| other.id() != router.id()) {
        return Err(bad(format!(
            "The Floating IP {} had been set on router {}, the internal Neutron port {id} can not reach it",
            ip.id(),
            other.id()
        )));
    }
    Ok(ids::name(port).to_owned())
}

impl Near {
    /// A port forwarding as Neutron shows it.
    pub(super) fn forwarding_view(&self, ip: &FloatingIp, it: &PortForwarding) -> Value {
        let port = self.port(ids::namespace(ip), &it.port).map(Identified::id);
        let range = |range: PortRange| format!("{}:{}", range.first, range.last);
        let mut view = json!({
            "id": it.id, "protocol": it.protocol.as_str(), "internal_port_id": port, "internal_ip_address": it.fixed_ip,
            "internal_port_range": range(it.inner), "external_port_range": range(it.outer),
            "description": it.description.as_deref().unwrap_or_default(),
        });
        for (field, range) in [("internal_port", it.inner), ("external_port", it.outer)] {
            if range.first == range.last {
                view[field] = json!(range.first);
            }
        }
        view
    }
}

impl Near {
    /// A port forwarding as its floating IP shows it: without what only its own answer has.
    pub(super) fn brief_forwarding(&self, ip: &FloatingIp, it: &PortForwarding) -> Value {
        let mut view = self.forwarding_view(ip, it);
        if let Some(members) = view.as_object_mut() {
            members.remove("description");
            for field in ["internal_port", "external_port"] {
                // A range is there where there is no single port.
                if members.contains_key(field) {
                    members.remove(&format!("{field}_range"));
                }
            }
        }
        view
    }
}

fn one<'a>(ip: &'a FloatingIp, id: &str) -> Result<&'a PortForwarding, Fault> {
    ip.spec.forwardings.iter().find(|it| it.id.as_deref() == Some(id)).ok_or_else(|| missing(id))
}

/// Changes a floating IP's forwardings as they are now, however many do that at once.
async fn edit(
    session: &Session,
    ip: FloatingIp,
    edit: impl Fn(&mut Vec<PortForwarding>) -> Result<(), Fault>,
) -> Result<FloatingIp, Fault> {
    let ips = session.within::<FloatingIp>(ids::namespace(&ip));
    let changed = change::edit(&ips, ip, |ip| {
        let mut all = ip.spec.forwardings.clone();
        edit(&mut all)?;
        Ok(Changes::default().set("forwardings", Some(json!(all))))
    });
    changed.await.map_err(refused)
}

/// `GET /floatingips/{id}/port_forwardings`
pub(super) async fn list(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let (ip, near) = find(&session, &id).await?;
    let views = ip.spec.forwardings.iter().map(|it| near.forwarding_view(&ip, it)).collect();
    collection(&session, &params, "port_forwardings", views)
}

/// `GET /floatingips/{id}/port_forwardings/{id}`
pub(super) async fn show(
    session: Session,
    params: Params,
    Path((id, forwarding)): Path<(String, String)>,
) -> Answer {
    let (ip, near) = find(&session, &id).await?;
    let view = near.forwarding_view(&ip, one(&ip, &forwarding)?);
    Ok(ok(&json!({"port_forwarding": with_fields(&params, view)})))
}

/// `POST /floatingips/{id}/port_forwardings`: not where the address stands for a port as a whole.
pub(super) async fn create(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let (ip, near) = find(&session, &id).await?;
    if ip.spec.port.is_some() {
        let text = format!("Floating IP {id} is associated with a port, and has no port forwardings.");
        return Err(Fault::conflict(text).named("FloatingIPPortAlreadyAssociated"));
    }
    let wanted = body.port_forwarding.check(&ip, &near)?;
    let others = ids::list(&session.within::<FloatingIp>(ids::namespace(&ip))).await?;
    let stands = |other: &FloatingIp| {
        let address = wanted.fixed_ip.is_none() || other.spec.fixed_ip == wanted.fixed_ip;
        other.spec.port.is_some() && other.spec.port == wanted.port && address
    };
    if let Some(other) = others.iter().find(|other| stands(other)) {
        let outer = other.spec.ip.as_deref().unwrap_or_default();
        let text =
            format!("Port Forwarding cannot be made: floating IP {outer} stands for the port already.");
        return Err(Fault::conflict(text).named("PortHasBindingFloatingIP"));
    }
    let made = PortForwarding {
        id: Some(uuid::Uuid::new_v4().to_string()),
        description: wanted.description.filter(|text| !text.is_empty()),
        port: wanted.port.ok_or_else(|| required("internal_port_id"))?,
        fixed_ip: wanted.fixed_ip,
        protocol: wanted.protocol.ok_or_else(|| required("protocol"))?,
        outer: wanted.outer.ok_or_else(|| required("external_port"))?,
        inner: wanted.inner.ok_or_else(|| required("internal_port"))?,
    };
    made.check().map_err(|why| Fault::bad(format!("Invalid ranges of ports: {why}.")))?;
    let ip = edit(&session, ip, |all| {
        all.push(made.clone());
        Ok(())
    })
    .await?;
    let view = near.forwarding_view(&ip, one(&ip, made.id.as_deref().unwrap_or_default())?);
    Ok(json_response(StatusCode::CREATED, &json!({"port_forwarding": view})))
}

/// `PUT /floatingips/{id}/port_forwardings/{id}`
pub(super) async fn update(
    session: Session,
    Path((id, forwarding)): Path<(String, String)>,
    Json(body): Json<Body>,
) -> Answer {
    let (ip, near) = find(&session, &id).await?;
    one(&ip, &forwarding)?;
    let wanted = body.port_forwarding.check(&ip, &near)?;
    let ip = edit(&session, ip, |all| {
        let it = all.iter_mut().find(|it| it.id.as_deref() == Some(&forwarding));
        let it = it.ok_or_else(|| missing(&forwarding))?;
        if let Some(port) = wanted.port.clone().filter(|port| *port != it.port) {
            it.port = port;
            // Another port has other addresses: its first, where none is named.
            it.fixed_ip = None;
        }
        it.fixed_ip = wanted.fixed_ip.clone().or(it.fixed_ip.take());
        it.protocol = wanted.protocol.unwrap_or(it.protocol);
        it.inner = wanted.inner.unwrap_or(it.inner);
        it.outer = wanted.outer.unwrap_or(it.outer);
        if let Some(text) = &wanted.description {
            it.description = Some(text.clone()).filter(|text| !text.is_empty());
        }
        it.check().map_err(|why| Fault::bad(format!("Invalid ranges of ports: {why}.")))
    })
    .await?;
    Ok(ok(&json!({"port_forwarding": near.forwarding_view(&ip, one(&ip, &forwarding)?)})))
}

/// `DELETE /floatingips/{id}/port_forwardings/{id}`
pub(super) async fn delete(session: Session, Path((id, forwarding)): Path<(String, String)>) -> Answer {
    let (ip, _) = find(&session, &id).await?;
    one(&ip, &forwarding)?;
    edit(&session, ip, |all| {
        all.retain(|it| it.id.as_deref() != Some(&forwarding));
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_as_numbers_text_or_ranges() {
        let range = |one: Value, several: Option<&str>| {
            range("internal_port", Some(&one), several).map(|it| it.map(|it| (it.first, it.last)))
        };
        assert_eq!(range(json!(22), None).ok(), Some(Some((22, 22))));
        assert_eq!(range(json!("22"), Some("22:22")).ok(), Some(Some((22, 22))));
        assert_eq!(range(Value::Null, Some("22:30")).ok(), Some(Some((22, 30))));
        assert_eq!(range(Value::Null, None).ok(), Some(None));
        for (one, several) in [
            (json!(0), None),
            (json!(65536), None),
            (json!("22:23"), None),
            (json!(22), Some("23:23")),
            (Value::Null, Some("30:22")),
            (Value::Null, Some("x")),
        ] {
            assert!(range(one.clone(), several).is_err(), "{one} {several:?}");
        }
    }
}
