//! Streams between clients and what runs here: exec, attach and port-forward, over WebSocket, over SPDY/3.1, and over SPDY/3.1
//! in a WebSocket.
//!
//! All of them are *lanes*: bytes both ways, each way with an end of its own ([`lane`]). A transport makes lanes of what comes over
//! a connection ([`websocket`], [`spdy`]; [`tunnel`] makes a connection for SPDY of a WebSocket); a service works with lanes
//! and knows of no transport ([`remote`], [`forward`]). [`Wire::run`] brings both together in one task: when it ends,
//! for whatever reason, nothing is left of either.

pub(super) mod forward;
mod lane;
pub(super) mod remote;
mod spdy;
mod tunnel;
pub(super) mod websocket;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::{Refusal, refuse};
use lane::{Activity, Link};

/// A connection without any bytes on its lanes ends after this time, or twice of it; the kubelet has the same limit.
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a client may take to go when it was told that all is over.
const LEAVING: Duration = Duration::from_secs(10);
/// How often a client is asked for a sign of life, so that the network tells us when it is gone.
const PING: Duration = Duration::from_secs(30);
/// Frames or messages that wait to be sent.
const WAITING: usize = 16;
/// Bytes that are read from a process or a socket and passed on at once.
const CHUNK: usize = 32 * 1024;
/// Before the protocol of the lanes, when SPDY goes through a WebSocket.
const TUNNEL: &str = "SPDY/3.1+";
/// Repeated, or a list: what the client speaks; in the answer: what is agreed on.
const VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// In a refusal: what the server speaks.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Spdy(#[from] yunfan_spdy::Error),
    #[error("protocol error: {0}")]
    Malformed(&'static str),
    #[error("the client did not open all streams that its query announces within {} s", .0.as_secs())]
    Late(Duration),
}

/// What a service can be spoken to in.
pub(super) struct Protocols {
    /// Subprotocols of WebSocket, the best first. Those that begin with [`TUNNEL`] carry SPDY.
    pub(super) websocket: &'static [&'static str],
    /// Protocols over SPDY.
    pub(super) spdy: &'static [&'static str],
}

/// How a client wants to carry its lanes, and the protocol that was agreed on.
#[derive(Debug)]
pub(super) enum Transport {
    WebSocket(websocket::Agreed),
    Spdy(&'static str),
}

impl Transport {
    /// Agrees with a client that asks for an upgrade.
    ///
    /// # Errors
    /// The answer for a client that asks for none, or has nothing in common with us.
    pub(super) fn agree(headers: &HeaderMap, protocols: &Protocols) -> Result<Self, Refusal> {
        let refusal = |message: String| Refusal::from(refuse(StatusCode::BAD_REQUEST, message));
        let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if upgrade.eq_ignore_ascii_case("websocket") {
            websocket::Agreed::with(headers, protocols.websocket).map(Self::WebSocket).map_err(refusal)
        } else if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
            agree_on_spdy(headers, protocols.spdy).map(Self::Spdy)
        } else {
            Err(refusal("Upgrade request required".to_owned()))
        }
    }

    /// What was agreed on, without what says how it is carried.
    pub(super) fn protocol(&self) -> &'static str {
        match self {
            Self::WebSocket(agreed) => agreed.protocol.trim_start_matches(TUNNEL),
            Self::Spdy(protocol) => protocol,
        }
    }

    /// How bytes become messages, where they do.
    pub(super) fn coding(&self) -> websocket::Coding {
        match self {
            Self::WebSocket(agreed) => agreed.coding(),
            Self::Spdy(_) => websocket::Coding::Binary,
        }
    }

    /// Whether the client's query says which ports it wants: the channel protocol has no other place for it.
    pub(super) fn names_ports(&self) -> bool {
        matches!(self, Self::WebSocket(agreed) if !agreed.protocol.starts_with(TUNNEL))
    }

    /// Answers with the switch of protocols, and serves the connection behind it.
    pub(super) fn switch<F>(
        self,
        request: Request,
        serve: impl FnOnce(TokioIo<Upgraded>, Self) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = Result<(), StreamError>> + Send,
    {
        let headers = match &self {
            Self::WebSocket(agreed) => agreed.headers(),
            Self::Spdy(protocol) => {
                [(header::UPGRADE, "SPDY/3.1".to_owned()), (VERSION, (*protocol).to_owned())].into()
            }
        };
        tokio::spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(upgraded) => {
                    if let Err(error) = serve(TokioIo::new(upgraded), self).await {
                        tracing::debug!(%error, "a stream ended");
                    }
                }
                Err(error) => tracing::debug!(%error, "a stream was not taken up"),
            }
        });
        let mut response =
            (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "Upgrade")], Body::empty())
                .into_response();
        for (name, value) in headers {
            // All of these were made from names of ours or of visible ASCII.
            if let Ok(value) = value.try_into() {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

/// Picks what the client likes best of what both know. The answers to those with nothing in common are Kubernetes'.
fn agree_on_spdy(headers: &HeaderMap, known: &[&'static str]) -> Result<&'static str, Refusal> {
    let values = headers.get_all(VERSION).into_iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = values.flat_map(|list| list.split(',')).map(str::trim).collect();
    if offered.is_empty() {
        let message = "unable to upgrade: header X-Stream-Protocol-Version does not exist in request";
        return Err(refuse(StatusCode::BAD_REQUEST, message.to_owned()).into());
    }
    let find = |name: &&str| known.iter().copied().find(|protocol| protocol == name);
    offered.iter().find_map(find).ok_or_else(|| {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            known.join(" ")
        );
        let refusal = refuse(StatusCode::FORBIDDEN, message);
        ([(ACCEPTED, known.join(", "))], refusal).into_response().into()
    })
}

/// A client's connection.
struct Wire {
    link: Arc<dyn Link>,
    activity: Arc<Activity>,
    /// Sends and receives until the client is gone. An error says that it did not keep to the protocol.
    driver: Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send>>,
}

impl Wire {
    /// Runs a service until it is done, the client is gone, or nothing happened for too long.
    async fn run(self, service: impl Future<Output = Result<(), StreamError>>) -> Result<(), StreamError> {
        let Self { link, activity, mut driver } = self;
        let outcome = tokio::select! {
            // A client that leaves right behind the last byte has got it all.
            biased;
            outcome = service => outcome,
            outcome = &mut driver => return outcome,
            () = activity.idle(IDLE) => Ok(()),
        };
        let farewell = async {
            // While the last words wait for their turn, the client may have to say something. And what it still sends must be
            // read, or the kernel would throw away what is on its way to it.
            let _ = tokio::join!(link.leave(outcome.is_ok()), &mut driver);
        };
        let _ = tokio::time::timeout(LEAVING, farewell).await;
        outcome
    }
}

/// Receives and sends at once. Ends when the client has left, or takes nothing any more.
async fn both(
    receiving: impl Future<Output = Result<(), StreamError>>,
    sending: impl Future<Output = Result<(), StreamError>>,
) -> Result<(), StreamError> {
    tokio::pin!(receiving);
    tokio::select! {
        outcome = &mut receiving => outcome,
        sent = sending => match sent {
            // The last word was said; it is the client's turn to go.
            Ok(()) => receiving.await,
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["v4.channel.k8s.io", "channel.k8s.io"];

    #[test]
    fn the_client_chooses_among_what_both_speak() {
        let mut headers = HeaderMap::new();
        assert_eq!(agree_on_spdy(&headers, KNOWN).unwrap_err().0.status(), StatusCode::BAD_REQUEST);
        for name in ["v9.channel.k8s.io", "v3.channel.k8s.io, v4.channel.k8s.io", "channel.k8s.io"] {
            headers.append(VERSION, name.parse().unwrap());
        }
        assert_eq!(agree_on_spdy(&headers, KNOWN).unwrap(), "v4.channel.k8s.io");
        let mut headers = HeaderMap::new();
        headers.append(VERSION, "v9.channel.k8s.io".parse().unwrap());
        let Refusal(refusal) = agree_on_spdy(&headers, KNOWN).unwrap_err();
        assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
        assert!(refusal.headers()[ACCEPTED].to_str().unwrap().contains("v4.channel.k8s.io"));
    }

    #[test]
    fn without_an_upgrade_there_is_no_stream() {
        let protocols = Protocols { websocket: KNOWN, spdy: KNOWN };
        let Refusal(refusal) = Transport::agree(&HeaderMap::new(), &protocols).unwrap_err();
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
    }
}
