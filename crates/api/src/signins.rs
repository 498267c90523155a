//! What the audit log has of a door that knows users by itself: who signed in there, and who was let in by nothing. What such a door does for
//! those whom it knows are requests of theirs, which are recorded as such.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware::{self, Next};
use http::{Method, Request, Response, StatusCode};
use yunfan_identity::Caller;

use crate::Api;
use crate::audit::{self, Kept, Trail};
use crate::door::path::RequestInfo;
use crate::warnings::Warnings;

/// Where people sign in: the end of the path.
const SIGN_IN: &str = "/auth/tokens";

/// The door, whose sign-ins and refusals are recorded where there is an audit log. It says who signed in by a [`Caller`] among the extensions
/// of its answer.
pub(crate) fn recorded(api: &Api, door: Router) -> Router {
    if api.0.registry.config.audit.is_none() {
        return door;
    }
    let api = api.clone();
    door.route_layer(middleware::from_fn(move |request: Request<Body>, next: Next| {
        let api = api.clone();
        async move { through(&api, request, next).await }
    }))
}

async fn through(api: &Api, request: Request<Body>, next: Next) -> Response<Body> {
    let info = RequestInfo::parse(request.method(), request.uri().path(), false);
    let signs_in =
        request.method() == Method::POST && request.uri().path().trim_end_matches('/').ends_with(SIGN_IN);
    let id = audit::id_of(request.headers());
    // A password, or what stands for one, is in the body.
    let kept = Kept { long: false, bodies: false };
    let trail = Trail::begin(api, &request, &info, &id, kept, &Arc::new(Warnings::default()));
    let mut response = next.run(request).await;
    let Some(trail) = trail else { return response };
    match response.extensions_mut().remove::<Caller>() {
        Some(Caller(user)) => {
            trail.sent_by(&user);
        }
        None if signs_in || response.status() == StatusCode::UNAUTHORIZED => {}
        None => return response,
    }
    let mut response = trail.answered(response, None).await;
    audit::tell_id(&mut response, id);
    response
}
