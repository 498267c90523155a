//! The OpenStack door: Keystone v3, Nova v2.1, Glance v2, Neutron v2.0, Cinder v3 and placement on the cloud's own objects.
//!
//! **Owns**: the translation of OpenStack's REST APIs into objects and back, and nothing else. What
//! `openstack server create` makes, `kubectl get virtualmachines` shows, and the other way round.
//!
//! **Must never know**: how an object is stored, placed or run. It holds no state and decides nothing about what
//! a user may do: it acts *as* the user of the token ([`DoorContext::client_as`]), so that roles,
//! quota and admission are enforced in one place. The one exception is signing in
//! ([`DoorContext::system`]): a password must be looked up before it is known who asks.
//!
//! Start reading at [`router`], then `auth` (token to [`kube::Client`]), then one service, e.g. `nova::servers`.
//!
//! How a request goes: `router` trims the path and picks the service; the service's handler takes a
//! `Session` (401 without a valid token), reads its body strictly (`body`), and answers JSON or a
//! `Fault`; the service's outermost layer renders the `Fault` in the shape that its clients read.
#![forbid(unsafe_code)]

mod auth;
mod body;
mod change;
mod console;
mod directory;
mod error;
mod glance;
mod ids;
mod keystone;
mod lean;
mod lent;
mod microversion;
mod neutron;
mod nodes;
mod nova;
mod page;
mod placement;
mod places;
mod quota;
mod revocation;
mod ruled;
mod stamp;
mod versions;
mod volume;
mod zone;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use tower::ServiceExt;
use yunfan_identity::UserInfo;
use yunfan_identity::throttle::Throttle;
use yunfan_identity::token::TokenKey;
use yunfan_serve::PeerAddress;

pub use nodes::{NodeError, NodeRequests};

/// Makes a client that acts as a user; the audit log is told where the user's own request comes from.
pub type ClientAs = Arc<dyn Fn(UserInfo, Option<PeerAddress>) -> kube::Client + Send + Sync>;

/// What the door needs from the process that it is part of.
#[derive(Clone)]
pub struct DoorContext {
    /// Makes the client that acts as a user, whose request comes from an address. Called once per request.
    pub client_as: ClientAs,
    /// A client that may read everything. Used to sign users in, and for what they may always know about themselves.
    pub system: kube::Client,
    /// Issues and verifies tokens.
    pub tokens: TokenKey,
    /// The public base URL without a path, e.g. `https://127.0.0.1:6443`; links and catalog begin with it.
    pub endpoint: String,
    /// The way to the agents: image bytes and consoles.
    pub nodes: Arc<dyn NodeRequests>,
}

/// The context as handlers share it.
type Ctx = Arc<Door>;

/// [`DoorContext`] and what the door derives from it.
struct Door {
    context: DoorContext,
    directory: directory::Directory,
    /// Wrong passwords.
    guesses: Throttle,
    /// Places for those who look at consoles.
    consoles: console::Seats,
    /// Keeps [`revocation::follow`] running as long as the router lives.
    _follower: Option<revocation::Follower>,
}

impl std::ops::Deref for Door {
    type Target = DoorContext;

    fn deref(&self) -> &DoorContext {
        &self.context
    }
}

/// The door: everything below `/identity`, `/compute`, `/image`, `/network`, `/volume`, `/placement` and `/console`. The router answers no other path and has no
/// fallback, so it can be merged with others.
///
/// Where it is called inside a tokio runtime it also starts the task that feeds revoked tokens and disabled users
/// to [`DoorContext::tokens`]; the task ends with the router.
pub fn router(context: DoorContext) -> Router {
    let mut context = context;
    while context.endpoint.ends_with('/') {
        context.endpoint.pop();
    }
    let follower = tokio::runtime::Handle::try_current()
        .ok()
        .map(|_| revocation::Follower::start(context.system.clone(), context.tokens.clone()));
    let door: Ctx = Arc::new(Door {
        directory: directory::Directory::new(context.system.clone()),
        context,
        guesses: Throttle::default(),
        consoles: console::Seats::default(),
        _follower: follower,
    });
    let services = services(&door);
    let mut router = Router::new();
    for service in ["/identity", "/compute", "/image", "/network", "/volume", "/placement"] {
        let handler = any({
            let services = services.clone();
            move |request: Request| enter(services.clone(), request)
        });
        router = router
            .route(service, handler.clone())
            .route(&format!("{service}/"), handler.clone())
            .route(&format!("{service}/{{*rest}}"), handler);
    }
    router.merge(console::router(door))
}

fn services(door: &Ctx) -> Router {
    Router::new()
        .nest("/identity", keystone::router(door.clone()))
        .nest("/compute", nova::router(door.clone()))
        .nest("/image", glance::router(door.clone()))
        .nest("/network", neutron::router(door.clone()))
        .nest("/volume", volume::router(door.clone()))
        .nest("/placement", placement::router(door.clone()))
}

/// The patterns of all paths that the door answers, for tests that walk them: `/compute/v2.1/servers/{id}`.
pub fn paths(context: DoorContext) -> Vec<String> {
    let directory = directory::Directory::new(context.system.clone());
    let services = services(&Arc::new(Door {
        directory,
        context,
        guesses: Throttle::default(),
        consoles: console::Seats::default(),
        _follower: None,
    }));
    // axum tells its table in no other way.
    let shown = format!("{services:?}");
    let table = shown.split_once("paths: {").map_or("", |(_, table)| table);
    let quoted = table.split('"').skip(1).step_by(2).map(str::to_owned);
    quoted.take_while(|path| path.starts_with('/')).collect()
}

/// Whether a path ends where an id should be, and its service takes that for the empty id and not for the list.
fn lacks_id(path: &str) -> bool {
    let cinders = |path: &str| path.ends_with("/volumes/") || path.ends_with("/snapshots/");
    let novas = ["images", "os-volumes", "os-security-groups", "os-simple-tenant-usage"];
    let within = |path: &str| path.strip_suffix('/').is_some_and(|word| novas.contains(&word));
    path == "/image/v2/images/"
        || path.strip_prefix("/compute/v2.1/").is_some_and(within)
        || path.strip_prefix("/volume/v3").is_some_and(cinders)
}

/// Clients write a path with and without a slash at its end, and with doubled slashes: to the services all are one.
async fn enter(services: Router, mut request: Request) -> Response {
    let path = request.uri().path();
    // But where an id is left out: that is nobody's, and must not be the list.
    if !lacks_id(path) && (path.ends_with('/') || path.contains("//")) {
        let mut clean = String::with_capacity(path.len());
        for part in path.split('/').filter(|part| !part.is_empty()) {
            clean.push('/');
            clean.push_str(part);
        }
        if let Some(query) = request.uri().query() {
            clean.push('?');
            clean.push_str(query);
        }
        // What is left of a valid URI without some of its slashes is a valid URI.
        if let Ok(uri) = clean.parse() {
            *request.uri_mut() = uri;
        }
    }
    // What the outer router found in the path would be taken for the services' own path arguments; and whoever a TLS
    // certificate or another part of the process says that this is, the door goes by the token alone.
    let from = request.extensions().get::<PeerAddress>().copied();
    request.extensions_mut().clear();
    if let Some(from) = from {
        request.extensions_mut().insert(from);
    }
    let whole = ruled::Whole(request.uri().clone());
    request.extensions_mut().insert(whole);
    match services.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}
