//! The way in for components of the same process: no socket, no TLS, but the same door.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use http::{Request, Response};
use kube::Client;
use tower::Service;
use yunfan_identity::{Caller, UserInfo};
use yunfan_serve::PeerAddress;

use crate::{Api, door};

/// Makes clients; a clone is the same.
#[derive(Clone)]
pub struct ApiHandle(Api);

impl ApiHandle {
    pub(crate) fn new(api: Api) -> Self {
        Self(api)
    }

    /// A client that acts as this user. Must be called within a tokio runtime.
    pub fn client_as(&self, user: UserInfo) -> Client {
        self.client_from(user, None)
    }

    /// The same for a user whose own request, which this is part of, comes from `peer`: the audit log says so.
    pub fn client_from(&self, user: UserInfo, peer: Option<PeerAddress>) -> Client {
        Client::new(InProcess { api: self.0.clone(), caller: Caller(user), peer }, "default")
    }
}

/// Hands requests to the door, with the caller in their extensions.
#[derive(Clone)]
struct InProcess {
    api: Api,
    caller: Caller,
    peer: Option<PeerAddress>,
}

impl Service<Request<kube::client::Body>> for InProcess {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.caller.clone());
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        let api = self.api.clone();
        Box::pin(async move { Ok(door::handle(&api, request).await) })
    }
}
