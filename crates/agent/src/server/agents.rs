//! Asking other nodes' agents.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http_body_util::{BodyExt, BodyStream, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Node;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A client of other nodes' agents, which shows this node's certificate.
pub(crate) struct Agents {
    connector: TlsConnector,
}

impl Agents {
    pub(crate) fn new(tls: Arc<rustls::ClientConfig>) -> Arc<Self> {
        Arc::new(Self { connector: TlsConnector::from(tls) })
    }

    /// GETs a path of a node's agent; the answer's bytes. Anything but 200 is an error with what the agent said.
    pub(crate) async fn get(
        &self,
        node: &Node,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, hyper::Error>> + Send + use<>, String> {
        let (host, port) = endpoint(node).ok_or("its status names no address and port")?;
        let text = |error: &dyn std::error::Error| error.to_string();
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| text(&e))?;
        let name = ServerName::try_from(host.clone()).map_err(|e| text(&e))?;
        let stream = self.connector.connect(name, stream).await.map_err(|e| text(&e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
        tokio::spawn(connection);
        let request = http::Request::get(path)
            .header(http::header::HOST, host)
            .body(Empty::<Bytes>::new())
            .map_err(|e| text(&e))?;
        let answer = sender.send_request(request).await.map_err(|e| text(&e))?;
        if answer.status() != http::StatusCode::OK {
            let status = answer.status();
            let said = http_body_util::Limited::new(answer.into_body(), 4096).collect().await;
            let said =
                said.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
            return Err(format!("{status}: {said}"));
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
