//! The way to the agents on the nodes, which hold image bytes and consoles.

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::error::Fault;

/// The longest answer of an agent that is not a stream of image bytes: a console log.
const MAX_ANSWER: usize = 16 << 20;

/// Why an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// There is no such Node, or it has told no address.
    #[error("Node {0} is not known or has told no address of its agent")]
    Unknown(String),
    /// The agent does not answer.
    #[error("The agent on node {node} does not answer: {why}")]
    Unreachable {
        /// The Node's name.
        node: String,
        /// What went wrong.
        why: String,
    },
}

/// Sends requests to the agents' HTTPS API, as the cloud itself. The door has asked the API server *as the caller* for the
/// object that a request is about before it sends one.
#[async_trait]
pub trait NodeRequests: Send + Sync + 'static {
    /// Sends `request`, whose URI is a path and a query (`/console/UID?length=10`), to the agent on `node`. Bodies are streamed in
    /// both directions; a request for an upgrade is answered with 101, and [`hyper::upgrade::on`] gives the stream of the answer.
    ///
    /// # Errors
    /// [`NodeError`] if there is no answer; an answer that is an error is `Ok`.
    async fn request(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, NodeError>;
}

/// Reads a stream of bytes, or the part of it that an HTTP range names.
pub(crate) async fn read(
    nodes: &dyn NodeRequests,
    node: &str,
    path: &str,
    range: Option<&str>,
) -> Result<Response<Body>, Fault> {
    let mut request = Request::builder().method(Method::GET).uri(path);
    if let Some(range) = range {
        request = request.header(header::RANGE, range);
    }
    send(nodes, node, path, request.body(Body::empty())).await
}

/// Sends a request and passes an error of the agent on: its `{"message"}` and, where it is the client's, its status.
pub(crate) async fn ask(
    nodes: &dyn NodeRequests,
    node: &str,
    method: Method,
    path: &str,
    body: Body,
) -> Result<Response<Body>, Fault> {
    send(nodes, node, path, Request::builder().method(method).uri(path).body(body)).await
}

async fn send(
    nodes: &dyn NodeRequests,
    node: &str,
    path: &str,
    request: Result<Request<Body>, axum::http::Error>,
) -> Result<Response<Body>, Fault> {
    let request =
        request.map_err(|error| Fault::bad(format!("The path {path} cannot be asked for: {error}")))?;
    let response = nodes.request(node, request).await.map_err(|error| {
        tracing::warn!(node, path, %error, "an agent could not be asked");
        Fault::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = text(response).await?;
    let message = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|body| body.get("message").and_then(Value::as_str).map(str::to_owned))
        .unwrap_or(text);
    tracing::info!(node, path, %status, %message, "an agent refused a request");
    Err(match status.as_u16() {
        // As in Glance. A 503 would have clients send once more what they have read to its end.
        507 => Fault::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The storage of node {node} is full: {message}"),
        ),
        // 401 and 403 are about the cloud's own certificate, not about the client.
        401 | 403 | 500.. => Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("The agent on node {node} answered {status}: {message}"),
        ),
        _ => Fault::new(status, message),
    })
}

/// The body of an agent's answer as text, up to 16 MiB.
pub(crate) async fn text(response: Response<Body>) -> Result<String, Fault> {
    let bytes = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| {
        Fault::new(StatusCode::SERVICE_UNAVAILABLE, format!("The agent's answer broke off: {error}"))
    })?;
    Ok(String::from_utf8_lossy(&bytes.to_bytes()).into_owned())
}
