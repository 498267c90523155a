//! Machines' screens and serial ports, for browsers: pages, and WebSockets that carry what QEMU and its client say to one another.
//!
//! No header says who comes here: a browser that follows a link sends none. What lets somebody in is the pass in the address, which
//! Nova's API gives out (`nova/consoles.rs`). It is good for some minutes, and for one console; who has it acts as the user who asked
//! for it, as far as that user may still touch the machine. A refusal has no body, since what reads it expects a WebSocket's frames.

mod relay;
mod seats;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use yunfan_identity::token::{Pass, Place, now_ms};
use yunfan_resources::compute::{VirtualMachine, VmPhase};
use yunfan_serve::PeerAddress;

use crate::Ctx;
use crate::auth::Session;
use crate::error::Fault;
use crate::ids;

pub(crate) use seats::Seats;

/// How long one who was refused may take to go.
const LEAVING: Duration = Duration::from_secs(5);
/// What the agents call the change from HTTP to a console's own bytes.
const AGENTS: &str = "yunfan-console";
/// The one subprotocol that there is: bytes as they are.
const BINARY: &str = "binary";
/// What the pass follows in an address.
const PARAMETER: &str = "token=";

/// A kind of console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The screen.
    Vnc,
    /// The serial port.
    Serial,
}

impl Kind {
    /// Its name in passes and in agents' paths.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Vnc => "vnc",
            Self::Serial => "serial",
        }
    }

    /// Where a pass opens it.
    pub(crate) fn address(self, endpoint: &str, pass: &str) -> String {
        match self {
            // As noVNC's page takes it: where the WebSocket is stands in the query, encoded once more.
            Self::Vnc => {
                format!("{endpoint}/console/vnc_auto.html?path=console%2Fwebsockify%3Ftoken%3D{pass}")
            }
            Self::Serial => {
                let endpoint = endpoint.replacen("http", "ws", 1);
                format!("{endpoint}/console/serial?token={pass}")
            }
        }
    }
}

/// Everything below `/console`.
pub(crate) fn router(door: Ctx) -> Router {
    let socket = |kind| {
        get(move |State(door): State<Ctx>, mut request: Request| async move {
            let client = hyper::upgrade::on(&mut request);
            // Whole requests are not shared between threads: their bodies can't be.
            let (parts, _) = request.into_parts();
            match open(&door, kind, &parts).await {
                Ok(opened) => opened.serve(door, client),
                Err(refused) => {
                    tokio::spawn(leave(client));
                    refusal(refused)
                }
            }
        })
    };
    Router::new()
        .route("/console/vnc_auto.html", get(|| async { page("text/html", include_str!("vnc_auto.html")) }))
        .route("/console/screen.js", get(|| async { page("text/javascript", include_str!("screen.js")) }))
        .route("/console/screen.css", get(|| async { page("text/css", include_str!("screen.css")) }))
        .route("/console/websockify", socket(Kind::Vnc))
        .route("/console/serial", socket(Kind::Serial))
        .with_state(door)
}

/// A part of the page. It loads nothing from elsewhere, is in no frame, and tells nobody its address, in which the pass is.
fn page(kind: &str, text: &'static str) -> Response {
    let rules = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, format!("{kind}; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, rules.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::X_FRAME_OPTIONS, "DENY".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    (headers, text).into_response()
}

/// Whether a machine has a process that there is something to see of.
pub(crate) fn runs(vm: &VirtualMachine) -> bool {
    let phase = vm.status.as_ref().map(|status| status.phase);
    vm.spec.node_name.is_some() && matches!(phase, Some(VmPhase::Active | VmPhase::Paused))
}

/// Whether a user may change a machine: whoever sits at a console can.
pub(crate) async fn may(client: &kube::Client, vm: &VirtualMachine) -> Result<bool, Fault> {
    let attributes = ResourceAttributes {
        group: Some("compute.yunfan.io".to_owned()),
        resource: Some("virtualmachines".to_owned()),
        verb: Some("patch".to_owned()),
        namespace: vm.metadata.namespace.clone(),
        name: vm.metadata.name.clone(),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// An address by which who has it is let in to a machine's console as the caller.
pub(crate) fn grant(session: &Session, vm: &VirtualMachine, kind: Kind) -> Result<String, Fault> {
    let place = Place {
        namespace: ids::namespace(vm).to_owned(),
        name: ids::name(vm).to_owned(),
        uid: vm.metadata.uid.clone().unwrap_or_default(),
        kind: kind.word().to_owned(),
    };
    let pass = session.door.tokens.issue_pass(&Pass::new(session.claims.clone(), place));
    let pass = pass.map_err(|error| Fault::bad(error.to_string()))?;
    Ok(kind.address(&session.door.endpoint, &pass))
}

/// Why somebody is not let in.
struct Refused(StatusCode, String);

/// 403, whatever is wrong with the pass or with who has it.
fn forbidden(why: &str) -> Refused {
    Refused(StatusCode::FORBIDDEN, why.to_owned())
}

/// The answer. The connection ends with it: who expects frames would take for one whatever came next.
fn refusal(Refused(status, _): Refused) -> Response {
    (status, [(header::CONNECTION, "close")], Body::empty()).into_response()
}

/// Closes the connection of somebody who was refused as connections are closed: hyper gives up one that was asked to become another,
/// and the client would hear of a fault of the network.
async fn leave(client: OnUpgrade) {
    let Ok(client) = client.await else { return };
    let mut client = TokioIo::new(client);
    let _ = timeout(LEAVING, async {
        client.shutdown().await?;
        tokio::io::copy(&mut client, &mut tokio::io::sink()).await
    })
    .await;
}

/// A console that somebody was let in to.
struct Opened {
    response: Response,
    console: OnUpgrade,
    pass: Pass,
    seat: seats::Seat,
}

impl Opened {
    /// Carries bytes from now on.
    fn serve(self, door: Ctx, client: OnUpgrade) -> Response {
        let Self { response, console, pass, seat } = self;
        tokio::spawn(async move {
            let _seat = seat;
            if let (Ok(client), Ok(console)) = tokio::join!(client, console) {
                let claims = &pass.claims;
                // A pass acts as a token, and no longer than it.
                let goes_on =
                    || claims.exp > now_ms() / 1000 && !door.tokens.revocations().is_revoked(claims);
                relay::carry(TokioIo::new(client), TokioIo::new(console), goes_on).await;
            }
        });
        response
    }
}

/// Lets in who has a pass. Anybody can ask without one: only what a pass was refused is worth a line of the log.
async fn open(door: &Ctx, kind: Kind, request: &Parts) -> Result<Opened, Refused> {
    let (accept, pass) = passed(door, kind, request).inspect_err(|Refused(status, why)| {
        tracing::debug!(%status, why, "a console stays closed");
    })?;
    let opened = open_with(door, kind, request, accept, pass).await;
    opened.inspect_err(|Refused(status, why)| tracing::info!(%status, why, "a console stays closed"))
}

/// The answer to a handshake, and the good pass that came with it.
fn passed(door: &Ctx, kind: Kind, request: &Parts) -> Result<(HeaderValue, Pass), Refused> {
    let accept = handshake(&request.headers, &door.endpoint)?;
    let token = token(&request.uri).ok_or_else(|| forbidden("there is no pass in its address"))?;
    let invalid = |_| forbidden("its pass is not good, or not any more");
    let pass = door.tokens.verify_pass(token).map_err(invalid)?;
    if pass.place.kind != kind.word() {
        return Err(forbidden("its pass is for another console"));
    }
    Ok((accept, pass))
}

async fn open_with(
    door: &Ctx,
    kind: Kind,
    request: &Parts,
    accept: HeaderValue,
    pass: Pass,
) -> Result<Opened, Refused> {
    let binary = offers_binary(&request.headers);
    let peer = request.extensions.get::<PeerAddress>().copied();
    let node = machines_node(door, &pass, peer).await?;
    let full = |why: String| Refused(StatusCode::SERVICE_UNAVAILABLE, why);
    let seat = door.consoles.take(&pass.place.namespace).map_err(full)?;
    let path = format!("/console/{}/{}", pass.place.uid, kind.word());
    let asked = Request::get(&path)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, AGENTS)
        .body(Body::empty())
        .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let unavailable = |why: String| Refused(StatusCode::SERVICE_UNAVAILABLE, why);
    let answer = door.nodes.request(&node, asked).await.map_err(|error| unavailable(error.to_string()))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        let why = crate::nodes::text(answer).await.unwrap_or_default();
        return Err(match status.as_u16() {
            404 | 409 | 429 => Refused(status, why),
            _ => unavailable(format!("node {node} answered {status}: {why}")),
        });
    }
    let console = hyper::upgrade::on(answer);
    let mut response = (
        StatusCode::SWITCHING_PROTOCOLS,
        [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "websocket")],
        Body::empty(),
    )
        .into_response();
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if binary {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BINARY));
    }
    Ok(Opened { response, console, pass, seat })
}

/// The node of the machine that a pass is for, if whoever it was given to may still be at it.
async fn machines_node(door: &Ctx, pass: &Pass, peer: Option<PeerAddress>) -> Result<String, Refused> {
    let client = (door.client_as)(pass.claims.user(), peer);
    let machines = Api::<VirtualMachine>::namespaced(client.clone(), &pass.place.namespace);
    let told = |fault: Fault| match fault.status {
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => forbidden("its user may not see the machine"),
        status => Refused(status, fault.message),
    };
    let vm = machines.get_opt(&pass.place.name).await.map_err(|error| told(error.into()))?;
    let same = |vm: &VirtualMachine| {
        vm.metadata.uid.as_ref() == Some(&pass.place.uid) && vm.metadata.deletion_timestamp.is_none()
    };
    let vm = vm.filter(same).ok_or_else(|| forbidden("its machine is gone"))?;
    if !may(&client, &vm).await.map_err(told)? {
        return Err(forbidden("its user may not change the machine"));
    }
    match &vm.spec.node_name {
        Some(node) if runs(&vm) => Ok(node.clone()),
        _ => Err(Refused(StatusCode::CONFLICT, "its machine does not run".to_owned())),
    }
}

/// Checks a client's side of the handshake (RFC 6455, section 4.2.1); the answer to its key.
fn handshake(headers: &HeaderMap, endpoint: &str) -> Result<HeaderValue, Refused> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !text(header::UPGRADE).eq_ignore_ascii_case("websocket") {
        return Err(Refused(StatusCode::UPGRADE_REQUIRED, "no WebSocket was asked for".to_owned()));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.filter(|_| text(header::SEC_WEBSOCKET_VERSION) == "13");
    let bad = || Refused(StatusCode::BAD_REQUEST, "the WebSocket's handshake is not RFC 6455's".to_owned());
    let key = key.ok_or_else(bad)?;
    if let Some(origin) = headers.get(header::ORIGIN)
        && !is_own(origin, text(header::HOST), endpoint)
    {
        return Err(forbidden("a page of another host asked for it"));
    }
    derive_accept_key(key.as_bytes()).try_into().map_err(|_| bad())
}

/// Whether a page is from the host that it asks, or from where users find this cloud: a proxy before it may ask by another name.
fn is_own(origin: &HeaderValue, host: &str, endpoint: &str) -> bool {
    let authority = |text: &str| text.parse::<Uri>().ok().and_then(|uri| uri.authority().cloned());
    let Some(own) = origin.to_str().ok().and_then(authority) else { return false };
    own.as_str().eq_ignore_ascii_case(host) || authority(endpoint).is_some_and(|public| public == own)
}

/// Whether a client names the subprotocol that we speak. One that names only others hears none, and decides.
fn offers_binary(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let mut words = offered.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    words.any(|word| word.trim() == BINARY)
}

/// The pass in an address.
fn token(uri: &Uri) -> Option<&str> {
    // Passes are of letters that no address encodes.
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix(PARAMETER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(more: &[(HeaderName, &str)]) -> HeaderMap {
        let usual = [
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (header::HOST, "cloud:6443"),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in usual.iter().chain(more) {
            headers.insert(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_handshake_is_answered_but_not_from_pages_of_others() {
        let status = |headers: &HeaderMap| {
            handshake(headers, "https://public.example/os").err().map(|refused| refused.0.as_u16())
        };
        // The example of RFC 6455, section 1.3.
        assert_eq!(handshake(&headers(&[]), "").ok().unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for origin in ["https://cloud:6443", "https://public.example"] {
            assert_eq!(status(&headers(&[(header::ORIGIN, origin)])), None, "{origin}");
        }
        for origin in ["https://cloud", "https://evil:6443", "null", "https://cloud:6443.evil"] {
            assert_eq!(status(&headers(&[(header::ORIGIN, origin)])), Some(403), "{origin}");
        }
        assert_eq!(status(&headers(&[(header::SEC_WEBSOCKET_VERSION, "8")])), Some(400));
        assert_eq!(status(&HeaderMap::new()), Some(426));
    }

    #[test]
    fn addresses_are_such_as_clients_take_apart() {
        let vnc = Kind::Vnc.address("https://c:1", "a.b-c_d");
        assert_eq!(vnc, "https://c:1/console/vnc_auto.html?path=console%2Fwebsockify%3Ftoken%3Da.b-c_d");
        let serial = Kind::Serial.address("https://c:1", "a.b");
        assert_eq!(serial, "wss://c:1/console/serial?token=a.b");
        assert_eq!(token(&serial.parse().unwrap()), Some("a.b"));
        assert_eq!(token(&"/console/serial?a=b&token=c".parse().unwrap()), Some("c"));
        assert_eq!(token(&"/console/serial?nottoken=c".parse().unwrap()), None);
    }

    #[test]
    fn bytes_are_the_one_subprotocol() {
        assert!(offers_binary(&headers(&[(header::SEC_WEBSOCKET_PROTOCOL, "base64, binary")])));
        assert!(!offers_binary(&headers(&[(header::SEC_WEBSOCKET_PROTOCOL, "base64")])));
        assert!(!offers_binary(&headers(&[])));
    }
}
