//! `If-Match: revision_number=N`: what has been changed since is not changed or deleted over (`revision-if-match`).

use axum::extract::Request;
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::change;
use crate::error::Fault;

/// What has revisions of its own, by the word before its id.
const KINDS: [&str; 9] = [
    "networks",
    "subnets",
    "subnetpools",
    "ports",
    "routers",
    "floatingips",
    "security-groups",
    "address-groups",
    "policies",
];

/// Has the object that a request changes or deletes looked at, where it says which revision it wants.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let Some(wanted) = request.headers().get(header::IF_MATCH) else { return next.run(request).await };
    let words: Vec<&str> = request.uri().path().rsplit('/').take(2).collect();
    let is_write = [Method::PUT, Method::DELETE].contains(request.method());
    if !is_write || !words.get(1).is_some_and(|kind| KINDS.contains(kind)) {
        return next.run(request).await;
    }
    match wanted.to_str().ok().and_then(revision) {
        Some(revision) => change::only_at(revision, next.run(request)).await,
        None => Fault::bad("Bad format: If-Match is to be revision_number=NUMBER.").into_response(),
    }
}

fn revision(header: &str) -> Option<i64> {
    header.trim().strip_prefix("revision_number=")?.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_is_a_revision() {
        assert_eq!(revision("revision_number=7"), Some(7));
        assert_eq!(revision("revision_number=x"), None);
        assert_eq!(revision("\"etag\""), None);
    }
}
