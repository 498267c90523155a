//! `pods/NAME/proxy`, `services/NAME/proxy` and `nodes/NAME/proxy`: a request goes on to what listens there, and its answer comes back.
//!
//! The front desk speaks HTTP or TLS with the Pod itself, over a connection that the Pod's node makes inside its network namespace.
//! As upstream, whatever certificate a Pod shows is taken, and links of the answer that lead to the Pod, in a `Location` or in
//! HTML, are led through the proxy.

mod exchange;
mod links;
mod page;
mod target;

use axum::body::Body;
use http::header::LOCATION;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use yunfan_objects::ApiError;

use super::Call;
use super::path::percent_decode;
use super::streams::no_dry_run;
use crate::Api;
use crate::admission::dynamic::{Action, Question};
use crate::kinds::Kind;
use crate::proxy::{self, authority, upgrade_of};
use links::Links;
use target::{Id, Target};

/// Methods that are passed on.
const METHODS: [Method; 7] =
    [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];

/// Answers a request on a `proxy` subresource.
pub(super) async fn handle(
    api: &Api,
    call: &Call,
    kind: &Kind,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if !METHODS.contains(request.method()) {
        let verb = request.method().as_str().to_ascii_lowercase();
        return Err(ApiError::method_not_allowed(&kind.descriptor.group_resource(), &verb));
    }
    no_dry_run(call)?;
    let (prefix, rest) = split(request.uri().path(), if kind.descriptor.namespaced { 7 } else { 5 });
    let (prefix, rest) = (prefix.to_owned(), rest.to_owned());
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let upgrades = upgrade_of(request.headers()).is_some();
    let id = Id::parse(kind, &call.info.name)?;
    ask(api, call, kind, &rest).await?;
    let target = target::find(api, call, kind, &id).await?;
    if rest.is_empty() && !upgrades && matches!(*request.method(), Method::GET | Method::HEAD) {
        // Links in the answer would be taken from the wrong place otherwise.
        let mut moved = Response::new(Body::empty());
        *moved.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let location = format!("{prefix}/{query}");
        let location = location.try_into().map_err(|_| ApiError::bad_request("the path is not ASCII"))?;
        moved.headers_mut().insert(LOCATION, location);
        return Ok(moved);
    }
    let path = if rest.is_empty() { "/" } else { &rest };
    match target {
        Target::Node { name } => {
            if upgrades {
                // The node runs commands for who asks so: as with `exec`, who may only read may not.
                let mut create = call.info.clone();
                create.verb = "create".to_owned();
                api.0.gate.authorize(&call.user, &create).await?;
            }
            let links =
                Links { prefix, server: api.0.dialer.authority(&name)?, host: exchange::host(&request) };
            let answer = proxy::forward(&api.0.dialer, &name, &format!("{path}{query}"), request).await?;
            exchange::passed(answer, links)
        }
        Target::Pod { node, place, address, port } => {
            let stream = api.0.dialer.dial(&node, &place, port).await?;
            let way = exchange::Way { prefix: &prefix, path, query: &query };
            let server = authority(&address, port);
            if id.scheme == "https" {
                exchange::run(exchange::secure(stream).await?, &way, server, request).await
            } else {
                exchange::run(stream, &way, server, request).await
            }
        }
    }
}

/// Has webhooks and policies look at the path that is asked for. They may refuse it, and not change it: the request goes where
/// its path says.
async fn ask(api: &Api, call: &Call, kind: &Kind, path: &str) -> Result<(), ApiError> {
    let info = &call.info;
    let Some(below) = kind.descriptor.subresource(&info.subresource) else { return Ok(()) };
    let spoken = below.spoken(&kind.descriptor);
    let mut options = json!({"kind": spoken.kind, "apiVersion": spoken.api_version()});
    let path = shown(path);
    if !path.is_empty() {
        options["path"] = json!(path);
    }
    let (place, none) = ((info.object_namespace(), info.name.as_str()), Value::Null);
    let question =
        Question::about(kind, Action::Connect, &info.subresource, place, &call.user, &none, &call.warnings);
    match api.0.registry.ask(&question, options.clone()).await? {
        same if same == options => Ok(()),
        _ => Err(ApiError::internal("the path of a proxied request may not be changed by admission")),
    }
}

/// A path as hooks are told it: decoded, as who answers the request reads it, without a slash too many before it or behind it.
fn shown(path: &str) -> String {
    let path = percent_decode(path);
    let ends = if path.ends_with('/') { "/" } else { "" };
    let words = path.trim_end_matches('/');
    let words = words.strip_prefix('/').unwrap_or(words);
    let begins = if words.is_empty() || words.starts_with('/') { "" } else { "/" };
    format!("{begins}{words}{ends}")
}

/// Parts a path behind its first `count` words; the second part begins with a slash, or is empty.
fn split(path: &str, count: usize) -> (&str, &str) {
    let mut words = 0;
    let mut inside = false;
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            b'/' if words == count => return path.split_at(at),
            b'/' => inside = false,
            _ if !inside => {
                inside = true;
                words += 1;
            }
            _ => {}
        }
    }
    (path, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_told_what_is_asked_for() {
        for (path, told) in [
            ("", ""),
            ("/", "/"),
            ("///", "/"),
            ("/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("//admin//", "/admin/"),
            ("/a//b%2Fc", "/a//b/c"),
        ] {
            assert_eq!(shown(path), told, "{path}");
        }
    }

    #[test]
    fn what_follows_the_subresource_stays_as_it_is() {
        let path = "/api/v1/namespaces/default/pods/http:web:80/proxy";
        assert_eq!(split(path, 7), (path, ""));
        assert_eq!(split(&format!("{path}/"), 7), (path, "/"));
        assert_eq!(split(&format!("{path}//a%2Fb/"), 7), (path, "//a%2Fb/"));
        assert_eq!(split("/api/v1/nodes/n/proxy/x", 5), ("/api/v1/nodes/n/proxy", "/x"));
    }
}
