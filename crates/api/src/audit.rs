//! A request's way through the audit log: what is recorded of it, stage by stage.
//!
//! Where there is no audit log a request pays for its id alone. Where there is, bodies are kept only for those whose rule says so: what is
//! sent as it streams by, what is answered before it goes out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_audit::{Asked, Audit, Judged, Level, Stage};
use yunfan_identity::UserInfo;
use yunfan_objects::{ApiError, Schema, codec};
use yunfan_serve::PeerAddress;

use crate::Api;
use crate::door::body::{LIMIT, unpack};
use crate::door::path::RequestInfo;
use crate::impersonate::Acting;
use crate::warnings::Warnings;

/// Names a request in the audit log; a client may choose it.
const ID: HeaderName = HeaderName::from_static("audit-id");
/// Characters of an id that a client chose.
const MAX_ID: usize = 64;
/// Characters of a client's own name for itself.
const MAX_AGENT: usize = 1024;
/// Bytes of an answer that are recorded, at most.
const MAX_ANSWER: usize = 4 << 20;
/// Annotations with what a mutating webhook changed begin with this (kube-apiserver's name).
pub(crate) const PATCH_NOTE: &str = "patch.webhook.admission.k8s.io/";
/// Says that a payload is left out, and why.
const LEFT_OUT: &str = "audit.yunfan.io/left-out";

/// The id of a request: the client's, or a new one.
pub(crate) fn id_of(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(ID).filter(|id| !id.is_empty() && id.len() <= MAX_ID);
    let given = given.filter(|id| id.as_bytes().iter().all(|byte| byte.is_ascii_graphic()));
    // A UUID is a header's value.
    given.cloned().unwrap_or_else(|| {
        // Random enough, without a call of the system for each request.
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
        HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("-"))
    })
}

/// Tells the client the id.
pub(crate) fn tell_id(response: &mut Response<Body>, id: HeaderValue) {
    response.headers_mut().entry(ID).or_insert(id);
}

/// What a request is like, for its record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// It lasts: what goes to and fro is no object.
    pub(crate) long: bool,
    /// Bodies may be recorded where the policy says so.
    pub(crate) bodies: bool,
}

/// What is recorded of one request.
pub(crate) struct Trail {
    audit: Audit,
    schema: Option<Arc<yunfan_objects::Descriptor>>,
    info: RequestInfo,
    kept: Kept,
    notes: Arc<Warnings>,
    state: Mutex<State>,
}

struct State {
    event: Value,
    judged: Option<Judged>,
    /// What was sent.
    sent: Option<Sent>,
    over: bool,
}

/// A body that streams by.
#[derive(Clone)]
struct Sent {
    media_type: String,
    packed: bool,
    pieces: Arc<Mutex<(Vec<Bytes>, usize)>>,
}

impl Trail {
    /// Begins one, where there is an audit log.
    pub(crate) fn begin(
        api: &Api,
        request: &Request<Body>,
        info: &RequestInfo,
        id: &HeaderValue,
        kept: Kept,
        notes: &Arc<Warnings>,
    ) -> Option<Arc<Self>> {
        let audit = api.0.registry.config.audit.clone()?;
        let now = Timestamp::now();
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "auditID": id.to_str().unwrap_or_default(),
            "requestURI": without_pass(request.uri().path_and_query().map_or("", |uri| uri.as_str())),
            "verb": info.verb,
            "user": {},
            "sourceIPs": sources(request),
            "requestReceivedTimestamp": micros(now),
        });
        if let Some(agent) = request.headers().get(USER_AGENT) {
            let text: String = String::from_utf8_lossy(agent.as_bytes()).chars().take(MAX_AGENT).collect();
            event["userAgent"] = json!(text);
        }
        if info.is_resource {
            event["objectRef"] = reference(info);
        }
        let kind = info
            .is_resource
            .then(|| api.0.registry.kinds.table().get(&info.group, &info.version, &info.resource));
        let schema =
            kind.flatten().filter(|kind| kind.descriptor.builtin).map(|kind| kind.descriptor.clone());
        notes.keep_notes();
        let state = State { event, judged: None, sent: None, over: false };
        Some(Arc::new(Self {
            audit,
            schema,
            info: info.clone(),
            kept,
            notes: notes.clone(),
            state: Mutex::new(state),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked<'a>(&'a self, user: &'a UserInfo) -> Asked<'a> {
        let info = &self.info;
        Asked {
            user,
            verb: &info.verb,
            is_resource: info.is_resource,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
        }
    }

    /// It is known who asks, and so how much is recorded.
    pub(crate) fn sent_by(&self, user: &UserInfo) -> Judged {
        let judged = self.audit.judge(&self.asked(user));
        let mut state = self.state();
        state.judged = Some(judged);
        state.event["user"] = json!(user);
        state.event["level"] = json!(judged.level.word());
        judged
    }

    /// It is known who asks. What they send is kept from now on where that is wanted.
    ///
    /// # Errors
    /// 500 where the request must be recorded and could not be.
    pub(crate) async fn received(
        &self,
        user: &UserInfo,
        request: Request<Body>,
    ) -> Result<Request<Body>, ApiError> {
        let judged = self.sent_by(user);
        let request = self.keep(judged.level, request);
        self.record(Stage::RequestReceived).await.map_err(|_| {
            ApiError::internal("the request could not be recorded in the audit log, and is refused for that")
        })?;
        Ok(request)
    }

    /// They act as somebody else.
    pub(crate) fn acting_as(&self, acting: &Acting) {
        let mut state = self.state();
        state.event["impersonatedUser"] = json!(acting.user);
        if let Some(constraint) = acting.constraint {
            state.event["authenticationMetadata"] = json!({"impersonationConstraint": constraint});
        }
    }

    fn keep(&self, level: Level, request: Request<Body>) -> Request<Body> {
        // Names of new objects stand in their bodies alone.
        let names = level >= Level::Metadata && self.info.verb == "create" && self.info.name.is_empty();
        if self.kept.long
            || !self.kept.bodies
            || !self.info.is_resource
            || !(level >= Level::Request || names)
        {
            return request;
        }
        let text = |name: HeaderName| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let sent = Sent {
            media_type: text(CONTENT_TYPE),
            packed: text(CONTENT_ENCODING) == "gzip",
            pieces: Arc::default(),
        };
        let pieces = sent.pieces.clone();
        self.state().sent = Some(sent);
        request.map(|body| {
            Body::new(body.map_frame(move |frame| {
                if let Some(data) = frame.data_ref() {
                    let mut kept = pieces.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.1 += data.len();
                    if kept.1 <= LIMIT {
                        kept.0.push(data.clone());
                    }
                }
                frame
            }))
        })
    }

    /// There is an answer; `error` is what it says where it is a refusal.
    pub(crate) async fn answered(
        self: &Arc<Self>,
        response: Response<Body>,
        error: Option<&ApiError>,
    ) -> Response<Body> {
        let Some(judged) = self.judged() else {
            return self.unknown(response, error).await;
        };
        if judged.level == Level::None {
            self.state().over = true;
            return response;
        }
        self.status(response.status().as_u16(), error);
        if self.kept.long {
            let _ = self.record(Stage::ResponseStarted).await;
            return response.map(|body| crate::door::held(body, Ending(self.clone())));
        }
        self.note_request(judged);
        let recorded = judged.level == Level::RequestResponse && self.info.is_resource && self.kept.bodies;
        let response = if recorded { self.note_answer(judged, response).await } else { response };
        let _ = self.record(Stage::ResponseComplete).await;
        self.state().over = true;
        response
    }

    fn judged(&self) -> Option<Judged> {
        self.state().judged
    }

    /// Who asks is not known: they had no valid proof of it.
    async fn unknown(&self, response: Response<Body>, error: Option<&ApiError>) -> Response<Body> {
        let nobody = UserInfo::default();
        let judged = self.audit.judge(&self.asked(&nobody));
        {
            let mut state = self.state();
            state.over = true;
            if judged.level == Level::None {
                return response;
            }
            state.event["level"] = json!(judged.level.word());
            state.judged = Some(judged);
        }
        self.status(response.status().as_u16(), error);
        let _ = self.record(Stage::ResponseStarted).await;
        response
    }

    fn status(&self, code: u16, error: Option<&ApiError>) {
        let mut status = json!({"metadata": {}, "code": code});
        if let Some(error) = error {
            let said = error.to_status();
            // An error's words may show all of the object that it is about, as after a patch that does not fit.
            let keys: &[&str] = match self.is_cut() {
                true => &["status", "reason"],
                false => &["status", "message", "reason", "details"],
            };
            for key in keys {
                if let Some(value) = said.get(*key) {
                    status[*key] = value.clone();
                }
            }
        }
        self.state().event["responseStatus"] = status;
    }

    /// Adds what was sent, and what it says of the object.
    fn note_request(&self, judged: Judged) {
        let Some(sent) = self.state().sent.take() else { return };
        let Some(object) = sent.object(self.schema.as_deref()) else { return };
        let Some(object) = object.map_err(|why| self.leave_out(&why)).ok() else { return };
        let mut state = self.state();
        if let Some(place) = state.event.get_mut("objectRef") {
            for (key, field) in [
                ("name", "name"),
                ("namespace", "namespace"),
                ("uid", "uid"),
                ("resourceVersion", "resourceVersion"),
            ] {
                let value = object["metadata"][field].as_str().filter(|text| !text.is_empty());
                if let Some(value) = value.filter(|_| place.get(key).is_none()) {
                    place[key] = json!(value);
                }
            }
        }
        drop(state);
        if judged.level >= Level::Request
            && let Some(object) = self.shown(judged, object)
        {
            self.state().event["requestObject"] = object;
        }
    }

    async fn note_answer(&self, judged: Judged, response: Response<Body>) -> Response<Body> {
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let (parts, body) = response.into_parts();
        let (kept, body) = gathered(body).await;
        match kept.map(|bytes| read(&media_type, &bytes, self.schema.as_deref())) {
            Some(Ok(object)) => {
                if let Some(object) = self.shown(judged, object) {
                    self.state().event["responseObject"] = object;
                }
            }
            Some(Err(why)) => self.leave_out(&why),
            None => self.leave_out("the answer is larger than what is recorded"),
        }
        Response::from_parts(parts, body)
    }

    /// What may be recorded of an object.
    fn shown(&self, judged: Judged, mut object: Value) -> Option<Value> {
        if judged.omits_managed_fields {
            yunfan_audit::without_managed_fields(&mut object);
        }
        if self.is_of_machines() {
            self.leave_out("no record holds the data for users of virtual machines");
            return yunfan_audit::cut_machine(object);
        }
        if !self.is_cut() {
            return yunfan_audit::cut_strays(object);
        }
        self.leave_out("no record holds the data of Secrets, or tokens");
        yunfan_audit::cut(object)
    }

    /// Whether what it is about holds what no record does.
    fn is_cut(&self) -> bool {
        let info = &self.info;
        info.is_resource && yunfan_audit::is_cut(&info.group, &info.resource, &info.subresource)
    }

    fn is_of_machines(&self) -> bool {
        let info = &self.info;
        info.is_resource && yunfan_audit::is_of_machines(&info.group, &info.resource)
    }

    fn leave_out(&self, why: &str) {
        self.notes.note(LEFT_OUT, || why.to_owned());
    }

    /// The record of a stage; none where that is left out.
    fn event(&self, stage: Stage) -> Option<Value> {
        let state = self.state();
        let judged = state.judged?;
        if judged.level == Level::None || judged.omitted.has(stage) {
            return None;
        }
        let mut event = state.event.clone();
        drop(state);
        event["stage"] = json!(stage.word());
        event["stageTimestamp"] = json!(micros(Timestamp::now()));
        let mut notes = self.notes.notes();
        if judged.level < Level::Request {
            // They are parts of what would be the body.
            notes.retain(|key, _| !key.starts_with(PATCH_NOTE));
        }
        if self.is_cut() || self.is_of_machines() {
            notes.retain(|key, _| yunfan_audit::is_plain_note(key));
        }
        if !notes.is_empty() {
            event["annotations"] = json!(notes);
        }
        Some(event)
    }

    async fn record(&self, stage: Stage) -> Result<(), yunfan_audit::Unwritten> {
        match self.event(stage) {
            Some(event) => self.audit.record(stage, &event).await,
            None => Ok(()),
        }
    }
}

/// The end of a long answer.
struct Ending(Arc<Trail>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.state().over = true;
        if let Some(event) = self.0.event(Stage::ResponseComplete) {
            self.0.audit.record_now(&event);
        }
    }
}

impl Drop for Trail {
    /// Nobody has answered: the client went away, or the server failed.
    fn drop(&mut self) {
        if self.state().over {
            return;
        }
        let panics = std::thread::panicking();
        if panics {
            self.status(500, Some(&ApiError::internal("the server panicked while it answered")));
        }
        if let Some(event) = self.event(if panics { Stage::Panic } else { Stage::ResponseComplete }) {
            self.audit.record_now(&event);
        }
    }
}

impl Sent {
    /// What was sent, decoded; none where nothing was.
    fn object(&self, descriptor: Option<&yunfan_objects::Descriptor>) -> Option<Result<Value, String>> {
        let kept = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.1 == 0 {
            return None;
        }
        if kept.1 > LIMIT {
            return Some(Err("what was sent is larger than what is taken".to_owned()));
        }
        let bytes = joined(&kept.0);
        drop(kept);
        let bytes = match self.packed {
            true => unpack(&bytes).map_err(|error| error.message().to_owned()),
            false => Ok(bytes),
        };
        Some(bytes.and_then(|bytes| read(&self.media_type, &bytes, descriptor)))
    }
}

/// An object of these bytes.
fn read(
    media_type: &str,
    bytes: &[u8],
    descriptor: Option<&yunfan_objects::Descriptor>,
) -> Result<Value, String> {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.ends_with("json") || essence.is_empty() {
        return serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON: {error}"));
    }
    let schema: Option<&Schema> = descriptor.map(|descriptor| &*descriptor.schema);
    let media_type = if essence.ends_with("yaml") { "application/yaml" } else { media_type };
    let decoded = codec::decode_for(schema, media_type, bytes);
    decoded.map(|decoded| decoded.value).map_err(|_| format!("it could not be read as {essence}"))
}

fn joined(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        all => all
            .iter()
            .fold(BytesMut::new(), |mut out, piece| {
                out.extend_from_slice(piece);
                out
            })
            .freeze(),
    }
}

/// A body's bytes, unless they are too many, and the body as it was.
async fn gathered(mut body: Body) -> (Option<Bytes>, Body) {
    let (mut pieces, mut length) = (Vec::new(), 0);
    while length <= MAX_ANSWER {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    length += data.len();
                    pieces.push(data);
                }
            }
            // It breaks off for the client as well.
            Some(Err(error)) => {
                let begun = stream::iter(pieces.into_iter().map(Ok));
                return (None, Body::from_stream(begun.chain(stream::once(async { Err(error) }))));
            }
            None => {
                let bytes = joined(&pieces);
                return (Some(bytes.clone()), Body::from(bytes));
            }
        }
    }
    let begun = stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
    let rest = stream::unfold(body, |mut body| async move { Some((body.frame().await?, body)) });
    (None, Body::new(StreamBody::new(begun.chain(rest))))
}

fn reference(info: &RequestInfo) -> Value {
    let mut place = json!({"resource": info.resource, "apiVersion": info.version});
    for (key, text) in [
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.group),
        ("subresource", &info.subresource),
    ] {
        if !text.is_empty() {
            place[key] = json!(text);
        }
    }
    place
}

/// Whom the request came through, as Kubernetes lists them: what proxies say, then who has connected.
fn sources(request: &Request<Body>) -> Vec<String> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut all: Vec<String> = Vec::new();
    let mut add = |address: &str| {
        if let Ok(ip) = address.trim().parse::<std::net::IpAddr>() {
            let ip = ip.to_string();
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
    };
    text("x-forwarded-for").into_iter().flat_map(|list| list.split(',').take(16)).for_each(&mut add);
    text("x-real-ip").into_iter().for_each(&mut add);
    match request.extensions().get::<PeerAddress>() {
        Some(peer) => add(&peer.0.ip().to_string()),
        // A part of this process.
        None => add("127.0.0.1"),
    }
    all
}

/// An address without the pass to a console at its end, which lets in whoever has it.
fn without_pass(uri: &str) -> String {
    let path = "/os-console-auth-tokens/";
    uri.find(path).map_or_else(|| uri.to_owned(), |at| format!("{}***", &uri[..at + path.len()]))
}

fn micros(time: Timestamp) -> String {
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_to_consoles_are_in_no_record() {
        let cut = without_pass("/compute/v2.1/os-console-auth-tokens/ey.a.b?x=y");
        assert_eq!(cut, "/compute/v2.1/os-console-auth-tokens/***");
        assert_eq!(without_pass("/compute/v2.1/servers?a=b"), "/compute/v2.1/servers?a=b");
    }
}
