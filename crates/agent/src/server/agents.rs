//! Asking nodes' agents.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Most bytes of an agent's refusal that are read.
const MAX_REFUSAL: usize = 4096;

/// A client of nodes' agents, which shows a certificate of this cloud.
pub struct Client {
    connector: TlsConnector,
}

impl Client {
    /// A client that shows the certificate in `tls`; agents let in components, nodes and admins.
    pub fn new(tls: Arc<rustls::ClientConfig>) -> Self {
        Self { connector: TlsConnector::from(tls) }
    }

    /// Sends a request to a node's agent; the answer whatever its status is.
    ///
    /// # Errors
    /// Why the agent could not be asked, for people.
    pub async fn request(
        &self,
        node: &Node,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Response<Incoming>, String> {
        let (host, port) = endpoint(node).ok_or("its status names no address and port")?;
        let text = |error: &dyn std::error::Error| error.to_string();
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| text(&e))?;
        let name = ServerName::try_from(host.clone()).map_err(|e| text(&e))?;
        let stream = self.connector.connect(name, stream).await.map_err(|e| text(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, host)
            .body(body)
            .map_err(|e| text(&e))?;
        sender.send_request(request).await.map_err(|e| text(&e))
    }

    /// GETs a path of a node's agent; the answer's bytes. Anything but 200 is an error with what the agent said.
    pub(crate) async fn get(
        &self,
        node: &Node,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, hyper::Error>> + Send + use<>, String> {
        let answer = self.request(node, Method::GET, path, Body::empty()).await?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            let said = Limited::new(answer.into_body(), MAX_REFUSAL).collect().await;
            let said = said.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
            return Err(format!("{status}: {}", said.unwrap_or_default()));
        }
        let frames = BodyStream::new(answer.into_body());
        Ok(frames.try_filter_map(|frame| async { Ok(frame.into_data().ok()) }))
    }
}

/// Where a node's agent is reached, from the node's status.
fn endpoint(node: &Node) -> Option<(String, u16)> {
    let status = node.status.as_ref()?;
    let address = status.addresses.iter().flatten().find(|address| address.type_ == "InternalIP")?;
    let port = status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port;
    Some((address.address.clone(), u16::try_from(port).ok()?))
}
