//! The HTTP requests of probes and hooks, made from inside the Pod's network.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use yunfan_network::{DialFrom, NetworkError, NodeNetworks};

/// Most bytes of an answer that are read.
const MAX_ANSWER: usize = 10 * 1024;

/// Where a Pod is reached.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) uid: String,
    pub(crate) ip: IpAddr,
    /// It uses the host's network.
    pub(crate) on_host: bool,
    pub(crate) networks: NodeNetworks,
}

impl Reach {
    /// Connects to a port of the Pod, or of `host`.
    pub(crate) async fn dial(&self, host: Option<&str>, port: u16) -> Result<TcpStream, String> {
        let ip = match host.filter(|host| !host.is_empty()) {
            Some("localhost") => IpAddr::from([127, 0, 0, 1]),
            Some(host) => host.parse().map_err(|_| format!("host {host} is no IP address"))?,
            None => self.ip,
        };
        let address = SocketAddr::new(ip, port);
        if self.on_host {
            return TcpStream::connect(address).await.map_err(|error| refused(address, &error));
        }
        let stream = self.networks.dial(DialFrom::Pod(&self.uid), address).await;
        stream.map_err(|error| match error {
            NetworkError::Io { source, .. } => refused(address, &source),
            other => other.to_string(),
        })
    }
}

/// Why there is no connection, in the words that people know from kubelets.
fn refused(address: SocketAddr, error: &std::io::Error) -> String {
    let why = match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused",
        ErrorKind::ConnectionReset => "connect: connection reset by peer",
        ErrorKind::HostUnreachable => "connect: no route to host",
        ErrorKind::NetworkUnreachable => "connect: network is unreachable",
        ErrorKind::TimedOut => "i/o timeout",
        _ => return format!("dial tcp {address}: {error}"),
    };
    format!("dial tcp {address}: {why}")
}

/// A port by its number, or by the name that the container gives it.
pub(crate) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| format!("port {port:?} is unknown"))
}

/// What is of interest of an answer.
pub(crate) struct Answer {
    pub(crate) status: http::StatusCode,
    /// Where it sends the client.
    pub(crate) location: Option<String>,
    /// Its body, or the beginning of it.
    pub(crate) said: String,
}

/// Where a request goes, with its port.
pub(crate) fn place(ip: IpAddr, container: &Container, action: &HTTPGetAction) -> Result<String, String> {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let authority = authority(ip, action, port(container, &action.port)?);
    Ok(format!("{scheme}://{authority}{}", path(action)))
}

fn authority(ip: IpAddr, action: &HTTPGetAction, port: u16) -> String {
    let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_string());
    format!("{host}:{port}")
}

fn path(action: &HTTPGetAction) -> String {
    let path = action.path.as_deref().unwrap_or_default();
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Makes the request. Certificates are not checked: they are the Pod's own.
pub(crate) async fn get(
    reach: &Reach,
    container: &Container,
    action: &HTTPGetAction,
    agent: &str,
) -> Result<Answer, String> {
    let number = port(container, &action.port)?;
    let stream = reach.dial(action.host.as_deref(), number).await?;
    let request = request(action, &authority(reach.ip, action, number), agent)?;
    if action.scheme.as_deref() != Some("HTTPS") {
        return send(stream, request).await;
    }
    let name = ServerName::from(reach.ip);
    let stream = tls()?.connect(name, stream).await.map_err(|error| error.to_string())?;
    send(stream, request).await
}

fn request(
    action: &HTTPGetAction,
    host: &str,
    agent: &str,
) -> Result<http::Request<Empty<bytes::Bytes>>, String> {
    let mut headers = HeaderMap::new();
    for header in action.http_headers.iter().flatten() {
        let name: http::HeaderName =
            header.name.parse().map_err(|_| format!("{:?} is no header's name", header.name))?;
        let value = header.value.parse().map_err(|_| format!("header {name} has a bad value"))?;
        headers.append(name, value);
    }
    // A header that is there and empty takes the standard one away.
    for (name, value) in [(http::header::USER_AGENT, agent), (http::header::ACCEPT, "*/*")] {
        match headers.get(&name).map(|value| value.is_empty()) {
            Some(true) => drop(headers.remove(name)),
            Some(false) => {}
            None => drop(value.parse().map(|value| headers.insert(name, value))),
        }
    }
    if !headers.contains_key(http::header::HOST) {
        headers.insert(http::header::HOST, host.parse().map_err(|_| format!("{host} is no host"))?);
    }
    let mut request = http::Request::get(path(action))
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| error.to_string())?;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Empty<bytes::Bytes>>,
) -> Result<Answer, String> {
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(text)?;
    let status = answer.status();
    let location = answer.headers().get(http::header::LOCATION);
    let location = location.and_then(|place| Some(place.to_str().ok()?.to_owned()));
    // Read, so that the other side does not see a request broken off.
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let said = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    driver.abort();
    Ok(Answer { status, location, said })
}

/// A probe asks whether there is an answer, not whose it is (Kubernetes' documentation, "HTTP probes").
fn tls() -> Result<tokio_rustls::TlsConnector, String> {
    let config = yunfan_identity::pki::unchecked_client_config().map_err(|error| error.to_string())?;
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_have_the_headers_that_are_asked_for() {
        let of = |headers: serde_json::Value| {
            let action = json!({"port": 80, "path": "healthz?x=1", "httpHeaders": headers});
            request(&serde_json::from_value(action).unwrap(), "10.0.0.7:80", "kube-probe/1.36")
        };
        let plain = of(json!([])).unwrap();
        assert_eq!(
            (plain.uri(), plain.headers()["host"].as_bytes()),
            (&"/healthz?x=1".parse().unwrap(), &b"10.0.0.7:80"[..])
        );
        assert_eq!(
            (plain.headers()["user-agent"].as_bytes(), plain.headers()["accept"].as_bytes()),
            (&b"kube-probe/1.36"[..], &b"*/*"[..])
        );
        let own = of(
            json!([{"name": "Host", "value": "web"}, {"name": "X-A", "value": "1"}, {"name": "Accept", "value": ""}]),
        );
        let own = own.unwrap();
        assert_eq!(
            (own.headers()["host"].as_bytes(), own.headers()["x-a"].as_bytes()),
            (&b"web"[..], &b"1"[..])
        );
        assert!(!own.headers().contains_key("accept"));
        assert!(of(json!([{"name": "bad name", "value": "1"}])).is_err());
    }

    #[test]
    fn what_does_not_answer_is_told_as_by_kubelets() {
        let address = "10.0.0.7:80".parse().unwrap();
        let said = |kind: ErrorKind| refused(address, &kind.into());
        assert_eq!(said(ErrorKind::ConnectionRefused), "dial tcp 10.0.0.7:80: connect: connection refused");
        assert_eq!(said(ErrorKind::TimedOut), "dial tcp 10.0.0.7:80: i/o timeout");
        assert!(said(ErrorKind::PermissionDenied).starts_with("dial tcp 10.0.0.7:80: permission denied"));
    }

    #[test]
    fn ports_have_numbers_or_names() {
        let ports = json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
        let container: Container = serde_json::from_value(ports).unwrap();
        assert_eq!(port(&container, &IntOrString::String("web".to_owned())), Ok(8080));
        assert_eq!(port(&container, &IntOrString::String("81".to_owned())), Ok(81));
        assert!(port(&container, &IntOrString::String("none".to_owned())).is_err());
        assert!(port(&container, &IntOrString::Int(70_000)).is_err());
    }
}
