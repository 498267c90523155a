//! One extension server: connections to its Service, made and kept.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::header::UPGRADE;
use http::{Method, Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use yunfan_identity::pki::{self, Shown};

use super::places::Places;
use crate::endpoints::Place;
use crate::reach::{self, Reach};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most bytes of an answer's headers.
const MAX_HEADERS: usize = 64 * 1024;
/// Connections of one server that are kept for the next request, at most, and how long.
const MAX_IDLE: usize = 16;
const IDLE_TIME: Duration = Duration::from_secs(60);

/// Where a server is, and whom it is trusted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: u16,
    /// PEM; empty for the system's own.
    pub(super) bundle: Vec<u8>,
    /// Whatever certificate it shows is taken.
    pub(super) insecure: bool,
}

impl Address {
    /// The name that its certificate must be for.
    fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }

    /// Host and port, as in a URL.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }
}

/// An extension server.
pub(crate) struct Server {
    pub(super) address: Address,
    /// What it is trusted by and shown, or why there is nothing.
    tls: Result<TlsConnector, String>,
    idle: Mutex<Vec<Idle>>,
    pub(super) places: Places,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Server").field(&self.address.authority()).finish()
    }
}

/// A connection that waits for its next request.
struct Idle {
    place: Place,
    sender: SendRequest<Body>,
    since: Instant,
}

impl Server {
    /// One at this address, which is shown this certificate, and asked so much at one time.
    pub(super) fn new(address: Address, shown: &Arc<Shown>, most: usize) -> Self {
        let tls = || {
            let trust = if address.insecure { None } else { Some(reach::trust(&address.bundle)?) };
            let config = pki::trusting(trust, Some(shown.clone())).map_err(|error| error.to_string())?;
            Ok(TlsConnector::from(Arc::new(config)))
        };
        let tls = tls();
        Self { address, tls, idle: Mutex::default(), places: Places::new(most) }
    }

    /// Sends a request, whose URI has no host, and gives the answer as soon as its headers are there. An upgrade gets a
    /// connection of its own.
    ///
    /// # Errors
    /// A word on why there is no answer.
    pub(super) async fn send(
        self: &Arc<Self>,
        reach: &Reach,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, String> {
        let places = reach.service(&self.address.namespace, &self.address.name, self.address.port)?;
        let upgrades = request.headers().contains_key(UPGRADE);
        while let Some(mut kept) = self.kept(&places).filter(|_| !upgrades) {
            let again = repeatable(&request);
            match kept.sender.try_send_request(request).await {
                Ok(answer) => {
                    self.keep(kept.place, kept.sender);
                    return Ok(answer);
                }
                // The server closed it a moment ago.
                Err(mut error) => match error.take_message().or(again) {
                    Some(back) => request = back,
                    None => return Err(error.into_error().to_string()),
                },
            }
        }
        let (place, mut sender) = self.connect(reach, &places).await?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if !upgrades {
            self.keep(place.clone(), sender);
        }
        Ok(answer)
    }

    async fn connect<'a>(
        &self,
        reach: &Reach,
        places: &'a [Place],
    ) -> Result<(&'a Place, SendRequest<Body>), String> {
        let tls = self.tls.as_ref().map_err(Clone::clone)?;
        let name = ServerName::try_from(self.address.host()).map_err(|error| error.to_string())?;
        let (place, stream) = reach.dial(places).await?;
        let stream = match tokio::time::timeout(HANDSHAKE, tls.connect(name, stream)).await {
            Ok(stream) => stream.map_err(|error| format!("tls: {error}"))?,
            Err(_) => return Err("net/http: TLS handshake timeout".to_owned()),
        };
        let mut settings = http1::Builder::new();
        settings.max_buf_size(MAX_HEADERS);
        let made = settings.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to an extension server ended");
            }
        });
        Ok((place, sender))
    }

    /// A connection that is ready, to one of these places: an endpoint that is gone may not say so.
    fn kept(&self, places: &[Place]) -> Option<Idle> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|one| {
            one.sender.is_ready() && one.since.elapsed() < IDLE_TIME && places.contains(&one.place)
        });
        idle.pop()
    }

    /// Keeps a connection, once its answer has been read to its end.
    fn keep(self: &Arc<Self>, place: Place, mut sender: SendRequest<Body>) {
        let server = Arc::downgrade(self);
        tokio::spawn(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let Some(server) = server.upgrade() else { return };
            let mut idle = server.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < MAX_IDLE {
                idle.push(Idle { place, sender, since: Instant::now() });
            }
        });
    }
}

/// The same request once more, where it may be sent twice: it only reads, and has no body.
fn repeatable(request: &Request<Body>) -> Option<Request<Body>> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}
