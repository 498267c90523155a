//! The way to servers that the cloud asks of its own accord or passes requests on to: where a Service's endpoints listen, a
//! connection to one of them, and whose certificates are trusted there.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use yunfan_identity::pki::Trust;

use crate::cache::Cache;
use crate::endpoints::{self, Place};
use crate::keys;
use crate::proxy::NodeDialer;

/// A server that does not take the connection within this time is not there.
const CONNECT: Duration = Duration::from_secs(5);
/// Where distributions keep the authorities that everybody trusts: for servers without a bundle of their own.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A connection, whichever way it goes.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Dials; a clone is the same.
#[derive(Clone)]
pub(crate) struct Reach {
    cache: Arc<Cache>,
    /// The way to Pods.
    nodes: NodeDialer,
}

impl Reach {
    /// Services are looked up in this cache, and their Pods reached by way of their nodes.
    pub(crate) fn new(cache: Arc<Cache>, nodes: NodeDialer) -> Self {
        Self { cache, nodes }
    }

    /// Where a Service's ready targets listen.
    ///
    /// # Errors
    /// A word on why there are none.
    pub(crate) fn service(&self, namespace: &str, name: &str, port: u16) -> Result<Vec<Place>, String> {
        let prefix = keys::kind_prefix("", "services");
        let service = self.cache.kind(&prefix).get(&keys::object_key(&prefix, namespace, name));
        let service = service.ok_or_else(|| format!("service {name:?} not found"))?.decode_stored();
        if service["spec"]["type"] == "ExternalName" {
            let host = service["spec"]["externalName"].as_str().unwrap_or_default().to_owned();
            return Ok(vec![Place::Host { host, port }]);
        }
        let wanted = endpoints::port_name(&service, port.into())
            .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
        let found = endpoints::ready(&self.cache, namespace, name, &wanted);
        if found.is_empty() {
            return Err(format!("no endpoints available for service {name:?}"));
        }
        Ok(found)
    }

    /// A connection to the first of these places that takes one.
    ///
    /// # Errors
    /// A word on why the last of them takes none.
    pub(crate) async fn dial<'a>(&self, places: &'a [Place]) -> Result<(&'a Place, Box<dyn Stream>), String> {
        let mut last = "no address".to_owned();
        for place in places {
            match self.dial_one(place).await {
                Ok(stream) => return Ok((place, stream)),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    async fn dial_one(&self, place: &Place) -> Result<Box<dyn Stream>, String> {
        match place {
            Place::Pod { node, place, port, .. } => {
                let stream = self.nodes.dial(node, place, *port).await;
                stream.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(|e| e.message().to_owned())
            }
            Place::Host { host, port } => {
                let connect = TcpStream::connect((host.as_str(), *port));
                match tokio::time::timeout(CONNECT, connect).await {
                    Ok(Ok(stream)) => Ok(Box::new(stream)),
                    Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: {error}")),
                    Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
                }
            }
        }
    }
}

/// Whom a bundle (PEM) trusts: its authorities, and its certificates themselves. The system's own authorities for an empty one.
///
/// # Errors
/// A word on why there are none.
pub(crate) fn trust(bundle: &[u8]) -> Result<Trust, String> {
    let mut trust = Trust { authorities: RootCertStore::empty(), pinned: Vec::new() };
    let pem = if bundle.is_empty() { system_bundle()? } else { bundle.to_vec() };
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| format!("unable to load root certificates: {e}"))?;
        if !bundle.is_empty() {
            trust.pinned.push(certificate.clone());
        }
        // A system's bundle has a few that are too odd for us: those are trusted by nobody.
        if trust.authorities.add(certificate).is_err() && !bundle.is_empty() {
            return Err("unable to load root certificates: not a valid authority".to_owned());
        }
    }
    if trust.authorities.is_empty() {
        return Err("unable to load root certificates: no certificate in the bundle".to_owned());
    }
    Ok(trust)
}

fn system_bundle() -> Result<Vec<u8>, String> {
    SYSTEM_BUNDLES
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .ok_or_else(|| "unable to load root certificates: this system has none, give a caBundle".to_owned())
}
