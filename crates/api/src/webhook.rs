//! Calls of webhooks: one HTTPS POST of JSON to a URL, or to a Service of the cloud, as a `clientConfig` says.
//! Knows nothing of what is asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio_rustls::TlsConnector;
use yunfan_identity::pki;

use crate::endpoints::Place;
use crate::reach::{self, Reach};

/// Largest answer, bytes.
const MAX_ANSWER: usize = 32 << 20;
/// Bundles of authorities whose trust is kept ready; more are forgotten all at once.
const MAX_TRUSTS: usize = 256;

/// Where a hook listens, and whom it is trusted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientTarget {
    at: At,
    /// PEM; empty for the system's own.
    bundle: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Url(String),
    Service { namespace: String, name: String, port: u16, path: String },
}

impl ClientTarget {
    /// Reads a `clientConfig`.
    ///
    /// # Errors
    /// A word on what is missing or cannot be read.
    pub(crate) fn read(config: &Value) -> Result<Self, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bundle = STANDARD.decode(text(&config["caBundle"])).map_err(|e| format!("caBundle: {e}"))?;
        let service = &config["service"];
        let at = match (&config["url"], service.is_object()) {
            (Value::String(url), false) => At::Url(url.clone()),
            (Value::Null, true) => At::Service {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                port: service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
                path: text(&service["path"]),
            },
            _ => return Err("exactly one of url or service is required".to_owned()),
        };
        let bundle = if bundle.trim_ascii().is_empty() { Vec::new() } else { bundle };
        Ok(Self { at, bundle })
    }
}

/// The way to hooks.
pub(crate) struct Webhooks {
    reach: Reach,
    trusts: Mutex<HashMap<Vec<u8>, TlsConnector>>,
}

/// What a place means on the wire.
struct Route {
    /// What to dial, in the order of trying.
    dial: Vec<Place>,
    /// The name that the certificate must be for, and the Host header.
    name: String,
    authority: String,
    path: String,
}

impl Webhooks {
    /// Those that are Services are reached in this way.
    pub(crate) fn new(reach: Reach) -> Self {
        Self { reach, trusts: Mutex::default() }
    }

    /// Posts JSON and gives the JSON answer. A connection serves one call.
    ///
    /// # Errors
    /// A word on why there is no answer: no connection, no trust, a code above 206, no JSON, too late.
    pub(crate) async fn post(
        &self,
        target: &ClientTarget,
        body: &Value,
        limit: Duration,
    ) -> Result<Value, String> {
        let route = self.route(&target.at)?;
        let shown =
            format!("Post \"https://{}{}?timeout={}s\"", route.authority, route.path, limit.as_secs());
        let call = self.exchange(&route, self.trust(&target.bundle)?, body, limit);
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|why| format!("{shown}: {why}")),
            Err(_) => Err(format!("{shown}: context deadline exceeded")),
        }
    }

    async fn exchange(
        &self,
        route: &Route,
        tls: TlsConnector,
        body: &Value,
        limit: Duration,
    ) -> Result<Value, String> {
        let (_, stream) = self.reach.dial(&route.dial).await?;
        let name = ServerName::try_from(route.name.clone()).map_err(|e| e.to_string())?;
        let stream = tls.connect(name, stream).await.map_err(|e| format!("tls: {e}"))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let request = Request::post(format!("{}?timeout={}s", route.path, limit.as_secs()))
            .header(HOST, &route.authority)
            .header(CONTENT_TYPE, "application/json")
            .header("accept", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status();
        let bytes = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string());
        driver.abort();
        let bytes = bytes?.to_bytes();
        // As Kubernetes' own client has it; frameworks answer a POST with 201.
        if !(200..=206).contains(&code.as_u16()) {
            return Err(format!("the server answered {code}"));
        }
        serde_json::from_slice(&bytes).map_err(|e| format!("the answer is no JSON: {e}"))
    }

    fn trust(&self, bundle: &[u8]) -> Result<TlsConnector, String> {
        let mut trusts = self.trusts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trust) = trusts.get(bundle) {
            return Ok(trust.clone());
        }
        let config = pki::trusting(Some(reach::trust(bundle)?), None).map_err(|error| error.to_string())?;
        let trust = TlsConnector::from(Arc::new(config));
        if trusts.len() >= MAX_TRUSTS {
            trusts.clear();
        }
        trusts.insert(bundle.to_vec(), trust.clone());
        Ok(trust)
    }

    fn route(&self, at: &At) -> Result<Route, String> {
        match at {
            At::Url(url) => {
                let uri: Uri = url.parse().map_err(|e| format!("url: {e}"))?;
                let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
                let host = host.ok_or("url: must be https with a host")?;
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Route {
                    dial: vec![Place::Host { host: bare.clone(), port: uri.port_u16().unwrap_or(443) }],
                    name: bare,
                    authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
                    path: uri.path().to_owned(),
                })
            }
            At::Service { namespace, name, port, path } => {
                let host = format!("{name}.{namespace}.svc");
                Ok(Route {
                    dial: self.reach.service(namespace, name, *port)?,
                    authority: format!("{host}:{port}"),
                    name: host,
                    path: if path.starts_with('/') { path.clone() } else { format!("/{path}") },
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_client_config_is_read() {
        let url = ClientTarget::read(&json!({"url": "https://a.example/x", "caBundle": "Cg=="}));
        let url = url.expect("is one");
        assert_eq!(url.at, At::Url("https://a.example/x".to_owned()));
        assert!(url.bundle.is_empty(), "blank is none");
        let service = ClientTarget::read(&json!({"service": {"namespace": "n", "name": "s", "path": "/c"}}));
        assert_eq!(
            service.expect("is one").at,
            At::Service { namespace: "n".into(), name: "s".into(), port: 443, path: "/c".into() }
        );
        assert!(ClientTarget::read(&json!({})).is_err());
        assert!(ClientTarget::read(&json!({"url": "https://a", "service": {}})).is_err());
        assert!(ClientTarget::read(&json!({"url": "https://a", "caBundle": "%"})).is_err());
    }
}
