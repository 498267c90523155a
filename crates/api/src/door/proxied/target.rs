//! Where a proxied request goes.

use serde_json::Value;
use yunfan_objects::ApiError;

use super::super::Call;
use crate::Api;
use crate::endpoints::{self, Place};
use crate::kinds::Kind;

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Id<'a> {
    /// `http`, `https`, or empty.
    pub(super) scheme: &'a str,
    name: &'a str,
    /// A number, a name, or empty.
    port: &'a str,
}

impl<'a> Id<'a> {
    /// Reads the name in a path.
    pub(super) fn parse(kind: &Kind, id: &'a str) -> Result<Self, ApiError> {
        let what = kind.descriptor.kind.to_ascii_lowercase();
        Self::read(id).ok_or_else(|| ApiError::bad_request(format!("invalid {what} request {id:?}")))
    }

    fn read(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some(Self { scheme, name, port })
    }
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The API of a node's agent.
    Node { name: String },
    /// A port of a Pod, which is named by namespace and name.
    Pod { node: String, place: String, address: String, port: u16 },
}

/// Finds what an id names.
pub(super) async fn find(api: &Api, call: &Call, kind: &Kind, id: &Id<'_>) -> Result<Target, ApiError> {
    let namespace = call.info.object_namespace();
    let object = api.0.registry.get(kind, namespace, id.name, None).await?.decode_stored();
    if kind.is("", "nodes") {
        return node(api, id);
    }
    if kind.is("", "services") {
        return service(api, namespace, &object, id);
    }
    let port = match id.port {
        "" => first_port(&object).unwrap_or(if id.scheme == "https" { 443 } else { 80 }),
        text => pod_port(&object, text)?,
    };
    pod(namespace, &object, port)
}

/// The port that clients write who know kubelets: it means the agent's, whichever that is.
const KUBELET_PORT: &str = "10250";

/// Other ports of a node are nobody's business here: the front desk may be on the same host.
fn node(api: &Api, id: &Id<'_>) -> Result<Target, ApiError> {
    let usual = id.port.is_empty() || id.port == KUBELET_PORT;
    if !usual && !api.0.dialer.is_agents_port(id.name, id.port)? {
        let why =
            format!("port {} of node {}: only the port of the node's agent is proxied", id.port, id.name);
        return Err(ApiError::bad_request(why));
    }
    Ok(Target::Node { name: id.name.to_owned() })
}

fn pod(namespace: &str, pod: &Value, port: u16) -> Result<Target, ApiError> {
    let place = endpoints::pod(namespace, pod, port);
    place.and_then(target).ok_or_else(|| ApiError::bad_request("address not allowed"))
}

/// Only what is a Pod is proxied: an endpoint made by hand could name any address.
fn target(place: Place) -> Option<Target> {
    match place {
        Place::Pod { node, place, address, port } => Some(Target::Pod { node, place, address, port }),
        Place::Host { .. } => None,
    }
}

fn ports_of(pod: &Value) -> impl Iterator<Item = &Value> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.flat_map(|container| container["ports"].as_array().into_iter().flatten())
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok())
}

fn first_port(pod: &Value) -> Option<u16> {
    ports_of(pod).next().and_then(|port| number(&port["containerPort"]))
}

fn pod_port(pod: &Value, text: &str) -> Result<u16, ApiError> {
    let named =
        || ports_of(pod).find(|port| port["name"] == text).and_then(|port| number(&port["containerPort"]));
    text.parse().ok().filter(|port| *port > 0).or_else(named).ok_or_else(|| {
        let why = format!("error trying to reach service: dial tcp: lookup tcp/{text}: unknown port");
        ApiError::service_unavailable(why, 0)
    })
}

/// A ready Pod of the Service that has the port, any of them.
fn service(api: &Api, namespace: &str, service: &Value, id: &Id<'_>) -> Result<Target, ApiError> {
    let port = port_name(service, id)?;
    let none = || {
        let why = format!("no endpoints available for service {:?}", call_name(id));
        ApiError::service_unavailable(why, 0)
    };
    let ready = endpoints::ready(&api.0.registry.cache, namespace, id.name, &port);
    ready.into_iter().find_map(target).ok_or_else(none)
}

/// As in the path, for people.
fn call_name(id: &Id<'_>) -> String {
    match (id.scheme, id.port) {
        ("", "") => id.name.to_owned(),
        ("", port) => format!("{}:{port}", id.name),
        (scheme, port) => format!("{scheme}:{}:{port}", id.name),
    }
}

/// The name of the Service's port that is meant; it may be empty.
fn port_name(service: &Value, id: &Id<'_>) -> Result<String, ApiError> {
    let Ok(number) = id.port.parse::<u64>() else { return Ok(id.port.to_owned()) };
    endpoints::port_name(service, number).ok_or_else(|| {
        let why = format!("no service port {number} found for service {:?}", id.name);
        ApiError::service_unavailable(why, 0)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_have_one_to_three_parts() {
        let id = |scheme, name, port| Some(Id { scheme, name, port });
        assert_eq!(Id::read("web"), id("", "web", ""));
        assert_eq!(Id::read("web:80"), id("", "web", "80"));
        assert_eq!(Id::read("https:web:main"), id("https", "web", "main"));
        assert_eq!(Id::read("https:web:"), id("https", "web", ""));
        for wrong in ["", ":80", "ftp:web:21", "http::80", "a:b:c:d"] {
            assert_eq!(Id::read(wrong), None);
        }
    }

    #[test]
    fn ports_go_by_number_name_or_order() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"ports": [
            {"containerPort": 8080, "name": "web"}, {"containerPort": 9}]}]}});
        assert_eq!(first_port(&pod), Some(8080));
        assert_eq!(pod_port(&pod, "web").unwrap(), 8080);
        assert_eq!(pod_port(&pod, "81").unwrap(), 81);
        assert!(pod_port(&pod, "none").unwrap_err().message().contains("lookup tcp/none: unknown port"));
        let service = json!({"spec": {"ports": [{"port": 80, "name": "web"}, {"port": 81}]}});
        let name = |port| port_name(&service, &Id { scheme: "", name: "s", port });
        assert_eq!(name("80").unwrap(), "web");
        assert_eq!(name("81").unwrap(), "");
        assert_eq!(name("web").unwrap(), "web");
        assert_eq!(name("82").unwrap_err().message(), "no service port 82 found for service \"s\"");
    }

    #[test]
    fn what_is_no_pod_is_no_target() {
        assert_eq!(target(Place::Host { host: "127.0.0.1".to_owned(), port: 80 }), None);
        let text = str::to_owned;
        let pod = Place::Pod { node: text("n"), place: text("d/p"), address: text("10.0.0.7"), port: 80 };
        assert!(target(pod).is_some());
    }
}
