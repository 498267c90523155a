//! Nova's older words for what is Neutron's: security groups, floating IPs and networks, which Nova gave up with microversion 2.36,
//! and the actions on addresses of servers, with 2.44. Each is a call of Neutron's, made by the same token; only words are others.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::routing::{get, post};
use serde_json::Value;
use tower::ServiceExt;
use yunfan_serve::PeerAddress;

use super::{old_addresses, old_groups, old_networks};
use crate::Ctx;
use crate::auth::Session;
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::ruled::Whole;

/// The microversion that ended the paths.
const ENDED: Microversion = Microversion(36);
/// The most bytes of an answer of Neutron's.
const MOST: usize = 16 << 20;
const TOKEN: &str = "x-auth-token";

/// What answers for networks, kept in each request's extensions.
#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<Router>);

/// The paths.
pub(super) fn router() -> Router<Ctx> {
    Router::new()
        .route("/os-security-groups", get(old_groups::list).post(old_groups::create))
        .route(
            "/os-security-groups/{id}",
            get(old_groups::show).put(old_groups::update).delete(old_groups::delete),
        )
        .route("/os-security-group-rules", post(old_groups::create_rule))
        .route("/os-security-group-rules/{id}", axum::routing::delete(old_groups::delete_rule))
        .route("/os-floating-ips", get(old_addresses::list).post(old_addresses::create))
        .route("/os-floating-ips/{id}", get(old_addresses::show).delete(old_addresses::delete))
        .route("/os-floating-ip-pools", get(old_addresses::pools))
        .route("/os-networks", get(old_networks::list))
        .route("/os-networks/{id}", get(old_networks::show))
        .route("/os-tenant-networks", get(old_networks::list_own))
        .route("/os-tenant-networks/{id}", get(old_networks::show_own))
}

/// The way to Neutron, with the request's own token.
pub(super) struct Neutron {
    service: Arc<Router>,
    token: HeaderValue,
    peer: Option<PeerAddress>,
    /// The path that was asked for, by which a token's access rules judge.
    whole: Option<Whole>,
}

impl Neutron {
    async fn of(parts: &mut Parts, door: &Ctx) -> Result<Self, Fault> {
        // Nobody without a token is told which paths there are.
        Session::from_request_parts(parts, door).await?;
        let gone = || Fault::new(StatusCode::NOT_FOUND, "The resource could not be found.");
        Ok(Self {
            service: parts.extensions.get::<Service>().ok_or_else(gone)?.0.clone(),
            token: parts.headers.get(TOKEN).cloned().ok_or_else(Fault::unauthorized)?,
            peer: parts.extensions.get::<PeerAddress>().copied(),
            whole: parts.extensions.get::<Whole>().cloned(),
        })
    }
}

/// For an action that ended later than the paths; whoever asks for it looks at the version.
impl FromRequestParts<Ctx> for Neutron {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, door: &Ctx) -> Result<Self, Fault> {
        Self::of(parts, door).await
    }
}

/// [`Neutron`] for one of the paths.
pub(super) struct Old(pub(super) Neutron);

impl FromRequestParts<Ctx> for Old {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, door: &Ctx) -> Result<Self, Fault> {
        let neutron = Neutron::of(parts, door).await?;
        let version = parts.extensions.get::<Microversion>().copied().unwrap_or(Microversion(0));
        if version >= ENDED {
            return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
        }
        Ok(Self(neutron))
    }
}

impl Neutron {
    /// Neutron's answer; null where it has none.
    ///
    /// # Errors
    /// What Neutron says, with its status.
    pub(super) async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value, Fault> {
        let unreadable = |why: String| Fault::bad(format!("Neutron cannot be asked for {path}: {why}"));
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v2.0{path}"))
            .header(TOKEN, self.token.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(text))
            .map_err(|error| unreadable(error.to_string()))?;
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        if let Some(whole) = &self.whole {
            request.extensions_mut().insert(whole.clone());
        }
        let response = match Router::clone(&self.service).oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), MOST).await;
        let bytes = bytes.map_err(|error| unreadable(error.to_string()))?;
        let told: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if status.is_success() {
            return Ok(told);
        }
        let message = told["NeutronError"]["message"].as_str().or(told["error"]["message"].as_str());
        Err(Fault::new(status, message.unwrap_or("The request was refused by Neutron.")))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Fault> {
        self.ask(Method::GET, path, &Value::Null).await
    }
}

/// The entries of a list of Neutron's.
pub(super) fn entries<'a>(told: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    told[name].as_array().into_iter().flatten()
}

/// Refuses an id in a path that would lead elsewhere.
pub(super) fn plain<'a>(what: &str, id: &'a str) -> Result<&'a str, Fault> {
    let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if is_plain { Ok(id) } else { Err(Fault::not_found(what, id)) }
}

/// What is a conflict to Neutron is a bad request in Nova's older words.
pub(super) fn bad_conflict(fault: Fault) -> Fault {
    if fault.status == StatusCode::CONFLICT { Fault::bad(fault.message) } else { fault }
}
