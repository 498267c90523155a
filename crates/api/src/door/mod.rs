//! The kube door: a request's way from its path to its answer.
//!
//! Limits first, then who it is and whether they may ([`crate::chain`]), then by path: resources
//! (`resource.rs`), discovery, schemas, health.

mod backup;
pub(crate) mod body;
mod components;
mod compress;
mod discovery;
mod document;
mod encryption;
mod health;
mod listing;
mod measured;
mod metrics;
mod mutate;
mod negotiate;
mod openapi;
mod options;
pub(crate) mod params;
mod patch;
pub(crate) mod path;
mod proxied;
mod render;
mod resource;
mod respond;
mod review;
mod streams;
mod subresources;
mod token;
mod watch;
mod write;

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody as _};
use futures::{StreamExt, stream};
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use yunfan_identity::{Caller, UserInfo};
use yunfan_objects::subresource::Subresource;
use yunfan_objects::{ApiError, golang};

pub(crate) use discovery::{all_groups, build_labels};
pub(crate) use document::{Documents, fingerprint};
pub(crate) use health::Passed;
pub(crate) use respond::text;

use crate::Api;
use crate::aggregation::{self, Target};
use crate::audit::{self, Kept, Trail};
use crate::fairness::{Flow, Ticket};
use crate::metrics::UnderWay;
use crate::proxy::upgrade_of;
use crate::warnings::Warnings;
use params::Params;
use path::RequestInfo;

/// A request that is no watch and no stream has this long, unless it asks for less.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// A request on its way.
pub(crate) struct Call {
    pub(crate) info: RequestInfo,
    pub(crate) params: Params,
    pub(crate) user: UserInfo,
    /// What the client is told beside the answer.
    pub(crate) warnings: Arc<Warnings>,
}

/// Answers one request; errors become a Status.
pub(crate) async fn handle(api: &Api, mut request: Request<Body>) -> Response<Body> {
    let params = Params::parse(request.uri().query());
    let mut info = RequestInfo::parse(request.method(), request.uri().path(), params.flag("watch"));
    info.select(params.get("fieldSelector"), params.get("labelSelector"));
    let long = is_long(&info);
    let own = request.extensions().get::<Caller>().is_some().then(|| metrics_method(request.method()));
    // Another server answers for it, and decides for itself what to compress.
    let target = api.0.aggregation.find(request.method(), &info.path);
    let packs = !long && target.is_none() && negotiate::accepts_gzip(request.headers());
    let errors = negotiate::error_encoding(request.headers());
    let served = match &target {
        Some(target) => info.is_resource && api.0.aggregation.has(&target.remote, &info.resource),
        None => info.is_resource && (review::find(&info).is_some() || resource::is_served(api, &info)),
    };
    let under_way = Arc::new(api.0.metrics.requests.begin(&info, &params, request.headers(), served, long));
    // Who hands on a connection keeps this until it ends.
    request.extensions_mut().insert(under_way.clone());
    let unknown = !served && !discovery::is_known(api, &info.path);
    let warnings = Arc::new(Warnings::default());
    let id = audit::id_of(request.headers());
    // What another server's objects hold is not known here: none of them is recorded, as with kube-apiserver.
    let bodies = target.is_none();
    let trail = Trail::begin(api, &request, &info, &id, Kept { long, bodies }, &warnings);
    let flow = Arc::new(OnceLock::new());
    let asked = Asked { info, params, warnings: warnings.clone(), trail: trail.clone(), flow: flow.clone() };
    let (mut response, error) = match guarded(api, request, asked, target).await {
        Ok(response) => (response, None),
        Err(error) if unknown && error == ApiError::no_such_path() => (respond::no_page(), Some(error)),
        Err(error) => (respond::error_as(errors, &error), Some(error)),
    };
    if let Some(trail) = trail {
        response = trail.answered(response, error.as_ref()).await;
    }
    audit::tell_id(&mut response, id);
    respond::warn(&mut response, &warnings.take());
    if let Some(flow) = flow.get() {
        tell_flow(&mut response, flow);
    }
    // What one may read another may not, and it may be another thing a moment later.
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Some(method) = own {
        api.0.metrics.desk.answered_own(method, response.status().as_u16());
    }
    under_way.answered(response.status(), response.body().size_hint().exact());
    match (long, packs) {
        (true, _) => {
            response.extensions_mut().insert(yunfan_serve::Lasts);
            response.map(|body| lasting(body, under_way))
        }
        (false, true) => compress::packed(response),
        (false, false) => response,
    }
}

/// A method as a label: clients may make up any.
fn metrics_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

/// A body that keeps something until it was sent.
pub(crate) fn held<T: Send + 'static>(body: Body, kept: T) -> Body {
    let frames = stream::unfold((body, kept), |(mut body, kept)| async move {
        let frame = body.frame().await?;
        Some((frame, (body, kept)))
    });
    Body::new(StreamBody::new(frames))
}

/// A body that lasts as long as its request may, and that is counted until then.
fn lasting(body: Body, under_way: Arc<UnderWay>) -> Body {
    let end = under_way.end();
    let body = held(body, under_way);
    match end {
        Some(end) => {
            let frames = BodyStream::new(body).take_until(end.cancelled_owned());
            Body::new(StreamBody::new(frames))
        }
        None => body,
    }
}

/// A request of which is not yet known whom it is from.
struct Asked {
    info: RequestInfo,
    params: Params,
    warnings: Arc<Warnings>,
    trail: Option<Arc<Trail>>,
    /// Which flow it is one of, once that is known.
    flow: Arc<OnceLock<Flow>>,
}

/// Says which flow a request was taken for, in the headers that Kubernetes has for that.
fn tell_flow(response: &mut Response<Body>, flow: &Flow) {
    let (schema, level) = flow.uids();
    for (name, uid) in
        [("x-kubernetes-pf-flowschema-uid", schema), ("x-kubernetes-pf-prioritylevel-uid", level)]
    {
        if let Ok(uid) = HeaderValue::from_str(uid) {
            response.headers_mut().insert(HeaderName::from_static(name), uid);
        }
    }
}

/// `target` is who answers, if that is another server.
async fn guarded(
    api: &Api,
    request: Request<Body>,
    asked: Asked,
    target: Option<Target>,
) -> Result<Response<Body>, ApiError> {
    let long = is_long(&asked.info);
    if let Some(target) = target {
        // Not even a watch waits for the headers of its answer for ever.
        let time = if long { REQUEST_TIME } else { request_time(&asked.params)? };
        return timely(time, elsewhere(api, request, asked, &target)).await;
    }
    if long {
        return here(api, request, asked).await;
    }
    timely(request_time(&asked.params)?, here(api, request, asked)).await
}

async fn timely(
    time: Duration,
    answer: impl Future<Output = Result<Response<Body>, ApiError>>,
) -> Result<Response<Body>, ApiError> {
    match tokio::time::timeout(time, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::timeout("request did not complete within the allotted timeout")),
    }
}

/// How long a request has: what its client gives it (`timeout`, as Go writes durations), but no longer than any. Nothing, and less, is no
/// wish.
fn request_time(params: &Params) -> Result<Duration, ApiError> {
    let Some(text) = params.get("timeout") else { return Ok(REQUEST_TIME) };
    let nanos = yunfan_cel::parse_duration(text).ok_or_else(|| {
        let why = golang::duration_error(text);
        ApiError::bad_request(format!("invalid timeout specified in the request URL - {why}"))
    })?;
    let wanted = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos);
    Ok(wanted.map_or(REQUEST_TIME, |wanted| wanted.min(REQUEST_TIME)))
}

/// Watches and streams last as long as they last.
fn is_long(info: &RequestInfo) -> bool {
    info.verb == "watch"
        || Subresource::named(&info.subresource).is_some_and(Subresource::lasts)
        || info.path == backup::PATH
        || info.path == encryption::PATH
}

/// A request that was let in.
struct Admitted {
    user: UserInfo,
    request: Request<Body>,
    /// Held until the answer's headers are made; a body that is sent slowly holds nothing but memory.
    _ticket: Option<Ticket>,
}

/// Whom a request is from, whose turn it is, and who may ask for this.
async fn admitted(api: &Api, request: Request<Body>, asked: &Asked) -> Result<Admitted, ApiError> {
    let info = &asked.info;
    let (mut parts, body) = request.into_parts();
    let desk = &api.0.metrics.desk;
    let begun = Instant::now();
    let user = api.0.gate.sender(&parts).await.inspect_err(|_| desk.stayed_out(begun.elapsed()))?;
    desk.came(&user.name, begun.elapsed());
    if let Some(left) = api.0.gate.senders.certificate_left(&parts) {
        desk.certified(left);
    }
    // What an extension server makes of an upgrade is not known here: it may last.
    let lasts = is_long(info) || upgrade_of(&parts.headers).is_some();
    let proof = lasts.then(|| api.0.gate.senders.proof(&parts)).flatten();
    api.0.gate.senders.configured.forget_proxied(&mut parts.headers);
    let mut request = Request::from_parts(parts, body);
    if let Some(trail) = &asked.trail {
        request = trail.received(&user, request).await?;
    }
    let acting = api.0.gate.acting(&user, info, request.headers()).await?;
    if let (Some(trail), Some(acting)) = (&asked.trail, &acting) {
        trail.acting_as(acting);
    }
    let user = acting.map_or(user, |acting| acting.user);
    let under_way: Option<Arc<UnderWay>> = request.extensions().get().cloned();
    if let (Some(proof), Some(under_way)) = (proof, &under_way) {
        under_way.belong(api.0.sessions.open(proof));
    }
    let begun = Instant::now();
    let ticket = turn(api, &user, under_way.clone(), asked).await?;
    if let Some(under_way) = under_way {
        under_way.waited(begun.elapsed());
    }
    let begun = Instant::now();
    let judged = api.0.gate.authorize_noted(&user, info, &asked.warnings).await;
    desk.judged(judged.is_ok(), begun.elapsed());
    judged?;
    Ok(Admitted { user, request, _ticket: ticket })
}

/// Waits until it is the request's turn.
async fn turn(
    api: &Api,
    user: &UserInfo,
    under_way: Option<Arc<UnderWay>>,
    asked: &Asked,
) -> Result<Option<Ticket>, ApiError> {
    let (info, fairness) = (&asked.info, &api.0.fairness);
    let Some(flow) = fairness.flow(user, info) else { return Ok(None) };
    let _ = asked.flow.set(flow.clone());
    let long = is_long(info);
    if long && !flow.is_exempt() {
        let place = fairness.lasting.enter(user)?;
        if let Some(under_way) = under_way {
            under_way.keep(place);
        }
    }
    // Of what lasts, a watch alone has something to look for first.
    if long && info.verb != "watch" {
        return Ok(None);
    }
    fairness.enter(&flow, user, info, objects(api, info, &asked.params)).await.map(Some)
}

/// How many objects a list may be of; none for any other request.
fn objects(api: &Api, info: &RequestInfo, params: &Params) -> usize {
    if info.verb != "list" {
        return 0;
    }
    let limit = params.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let table = api.0.registry.kinds.table();
    let kind = table.get(&info.group, &info.version, &info.resource);
    kind.map_or(0, |kind| kind.resource.cache.len()).min(limit.unwrap_or(usize::MAX))
}

/// The answer of another server.
async fn elsewhere(
    api: &Api,
    request: Request<Body>,
    asked: Asked,
    target: &Target,
) -> Result<Response<Body>, ApiError> {
    let Admitted { user, request, _ticket } = admitted(api, request, &asked).await?;
    // Taken last: who waits for its turn, or is not let in, keeps no other from that server.
    let place = target.remote.enter(is_long(&asked.info))?;
    if target.document {
        let found = aggregation::document(&api.0.aggregation, &target.remote, request, place).await?;
        // As of ours: clients get no word of explanation.
        return Ok(found.unwrap_or_else(|| respond::nothing(404)));
    }
    if !path::is_clear(&asked.info.path) {
        let why =
            "the path must have neither dots nor escapes that another server may take for something else";
        return Err(ApiError::bad_request(why));
    }
    aggregation::handle(&api.0.aggregation, &target.remote, &user, request, place).await
}

/// Our own answer.
async fn here(api: &Api, request: Request<Body>, asked: Asked) -> Result<Response<Body>, ApiError> {
    let Admitted { user, request, _ticket } = admitted(api, request, &asked).await?;
    let Asked { info, params, warnings, .. } = asked;
    let call = Call { info, params, user, warnings };
    if call.info.is_resource {
        return resource::handle(api, call, request).await;
    }
    plain(api, &call, request).await
}

/// Paths that are no resources.
async fn plain(api: &Api, call: &Call, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let path = call.info.path.as_str();
    if path == backup::PATH {
        return backup::handle(api, request).await;
    }
    if path == encryption::PATH {
        return encryption::handle(api, request.method()).await;
    }
    if !path::is_plain(path) {
        // Clients get no word of explanation there.
        let documents = path.starts_with("/openapi/v3/");
        return if documents { Ok(respond::nothing(404)) } else { Err(ApiError::no_such_path()) };
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if call.info.verb != "get" {
        match parts.as_slice() {
            // Who watches over servers may ask with any method, and what has a handler of its own there is the same with each.
            ["healthz" | "livez" | "readyz", ..] | ["openapi", "v2" | "v3"] | [] | ["apis"] | ["apis", _] => {
            }
            ["metrics"] | ["metrics", "slis"] if call.info.verb == "delete" => {
                return metrics::reset(api, parts.len() > 1);
            }
            ["metrics", ..] => {}
            ["version" | "api"] | [".well-known", "openid-configuration"] | ["openid", "v1", "jwks"] => {
                return Err(ApiError::no_such_method());
            }
            ["api", version] if discovery::serves(api, "", version) => return Err(ApiError::no_such_method()),
            ["apis", group, version] if discovery::serves(api, group, version) => {
                return Err(ApiError::no_such_method());
            }
            _ => return Err(ApiError::no_such_path()),
        }
    }
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => health::handle(api, &parts, &call.params).await,
        ["metrics"] => metrics::handle(api, request.headers(), false),
        ["metrics", "slis"] => metrics::handle(api, request.headers(), true),
        [".well-known", "openid-configuration"] => token::configuration(&request),
        ["openid", "v1", "jwks"] => Ok(token::keys(api)),
        ["version"] => Ok(discovery::version()),
        ["openapi", rest @ ..] => openapi::handle(api, rest, request.headers(), &call.params).await,
        [] | ["api" | "apis", ..] => discovery::handle(api, &parts, request.headers(), &call.params).await,
        _ => Err(ApiError::no_such_path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_give_its_request_less_time_and_not_more() {
        let time = |query: &str| request_time(&Params::parse(Some(query))).map_err(|error| error.to_string());
        for (query, wanted) in [
            ("", REQUEST_TIME),
            ("timeout=", REQUEST_TIME),
            ("timeout=1m30s", REQUEST_TIME),
            ("timeout=0", REQUEST_TIME),
            ("timeout=-5s", REQUEST_TIME),
            ("timeout=1.5s", Duration::from_millis(1500)),
            ("timeout=20us", Duration::from_micros(20)),
        ] {
            assert_eq!(time(query), Ok(wanted), "{query}");
        }
        let refused = time("timeout=5").expect_err("has no unit");
        assert_eq!(
            refused,
            "invalid timeout specified in the request URL - time: missing unit in duration \"5\""
        );
    }
}
