//! What went wrong, and how each service says so.
//!
//! Handlers return a [`Fault`]. It travels to the service's outermost layer in the response's
//! extensions, and is rendered there, in [`render`], in the shape that the service's clients read.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::microversion::PLACEMENT;

/// The result of a handler.
pub(crate) type Answer = Result<Response, Fault>;

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{status}: {message}")]
pub(crate) struct Fault {
    /// HTTP status code.
    pub(crate) status: StatusCode,
    /// What happened and what to do, for people.
    pub(crate) message: String,
    /// Neutron's exception name or placement's error code, where their clients look at it.
    pub(crate) name: Option<&'static str>,
    /// Seconds after which it makes sense to ask again.
    pub(crate) again: Option<u64>,
}

impl Fault {
    /// A fault with this status.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), name: None, again: None }
    }

    /// 429: there was too much of this; it may be asked for again after so many seconds.
    pub(crate) fn too_many(message: impl Into<String>, seconds: u64) -> Self {
        Self { again: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
    }

    /// 400: the request cannot be understood or makes no sense.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 401: who asks is not known.
    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "The request you have made requires authentication.")
    }

    /// 403: who asks may not.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404: there is no such thing, or none that the caller may see.
    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} {id} could not be found."))
    }

    /// 409: the thing is not in a state that allows it.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 501: known to the API, and not served by this cloud.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// The same fault with Neutron's name for it.
    pub(crate) fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }
}

/// Name of the fault that a quota refused something.
pub(crate) const OVER_QUOTA: &str = "OverQuota";

/// Fields that no two objects of a kind may have the same in. Who was a moment later than another learns it of the store.
const UNIQUE: [&str; 4] = ["spec.id", "spec.displayName", "metadata.annotations", "metadata.labels"];

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            tracing::error!(%error, "the API server could not be asked");
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The cloud's API server does not answer; try again.",
            );
        };
        let message = status.message.clone();
        match status.code {
            422 if message.contains("it is already used by")
                && UNIQUE.iter().any(|field| message.contains(field)) =>
            {
                Self::conflict(format!(
                    "Conflict occurred attempting to store it - Duplicate entry: {message}"
                ))
            }
            400 | 422 => Self::bad(message),
            403 if message.contains("exceeded quota") => {
                Self::forbidden(quota_message(&message)).named(OVER_QUOTA)
            }
            code @ (401 | 403 | 404 | 409 | 413 | 429 | 503 | 504) => {
                Self::new(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), message)
            }
            code => {
                tracing::error!(code, %message, "unexpected answer of the API server");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("The API server answered {code}: {message}"),
                )
            }
        }
    }
}

/// Turns `... exceeded quota: NAME, requested: a=1,b=2, used: a=3,b=4, limited: a=3,b=5` into Nova's words; a
/// message that reads otherwise is left as it is.
fn quota_message(message: &str) -> String {
    let numbers = |key: &str| -> Option<Vec<(String, String)>> {
        let (_, rest) = message.split_once(key)?;
        let until = [", used: ", ", limited: "].iter().filter_map(|end| rest.find(end)).min();
        let rest = &rest[..until.unwrap_or(rest.len())];
        rest.split(',').map(|pair| pair.trim().split_once('=').map(|(k, v)| (short(k), v.into()))).collect()
    };
    let values = |pairs: &[(String, String)]| {
        pairs.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(", ")
    };
    match (numbers("requested: "), numbers("used: "), numbers("limited: ")) {
        (Some(requested), Some(used), Some(limited)) => format!(
            "Quota exceeded for {}: Requested {}, but already used {} of {}",
            requested.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
            values(&requested),
            values(&used),
            values(&limited),
        ),
        _ => format!("Quota exceeded: {message}"),
    }
}

/// OpenStack's name of a quota key.
fn short(key: &str) -> String {
    match key {
        yunfan_resources::names::QUOTA_VCPUS => "cores",
        yunfan_resources::names::QUOTA_MEMORY => "ram",
        yunfan_resources::names::QUOTA_GIGABYTES => "gigabytes",
        yunfan_resources::names::QUOTA_IMAGE_BYTES => "image_size_total",
        yunfan_resources::names::QUOTA_GROUP_RULES => "security_group_rule",
        "count/virtualmachines.compute.yunfan.io" => "instances",
        "count/volumesnapshots.storage.yunfan.io" => "snapshots",
        other => other.trim_start_matches("count/").split('.').next().unwrap_or(other),
    }
    .to_owned()
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

/// The shape of a service's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `{"error": {"code", "message", "title"}}`
    Keystone,
    /// `{"itemNotFound": {"code", "message"}}`
    Nova,
    /// `{"code", "title", "message"}`
    Glance,
    /// As Nova, but for a quota: 413.
    Cinder,
    /// `{"errors": [{"status", "title", "detail", "code"}]}`
    Placement,
    /// `{"NeutronError": {"type", "message", "detail"}}`
    Neutron,
}

/// Puts the body on a response that is an error: of a [`Fault`], or of the router itself (404, 405).
pub(crate) fn render(shape: Shape, endpoint: &str, response: Response) -> Response {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let fault = match response.extensions().get::<Fault>() {
        Some(fault) => fault.clone(),
        None if response.headers().contains_key(header::CONTENT_TYPE) => return response,
        None => Fault::new(
            status,
            match status {
                StatusCode::NOT_FOUND => "The resource could not be found.",
                StatusCode::METHOD_NOT_ALLOWED => "The method is not allowed for this resource.",
                _ => status.canonical_reason().unwrap_or("Error"),
            },
        ),
    };
    let fault = match (shape, fault.name) {
        (Shape::Cinder | Shape::Glance, Some(OVER_QUOTA)) => {
            Fault { status: StatusCode::PAYLOAD_TOO_LARGE, ..fault }
        }
        // Neutron counts a quota as a conflict, the others as forbidden.
        (Shape::Neutron, Some(OVER_QUOTA)) => Fault { status: StatusCode::CONFLICT, ..fault },
        _ => fault,
    };
    let unauthorized = fault.status == StatusCode::UNAUTHORIZED;
    // A wrong token is refused before a service sees the request, by the same part in each of them.
    let shape = if unauthorized { Shape::Keystone } else { shape };
    let body = shaped(shape, &fault).to_string();
    let (mut parts, _) = response.into_parts();
    parts.status = fault.status;
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    parts.headers.remove(header::CONTENT_LENGTH);
    if unauthorized && let Ok(value) = HeaderValue::from_str(&format!("Keystone uri=\"{endpoint}/identity\""))
    {
        parts.headers.insert(header::WWW_AUTHENTICATE, value);
    }
    if let Some(seconds) = fault.again {
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    Response::from_parts(parts, Body::from(body))
}

fn shaped(shape: Shape, fault: &Fault) -> Value {
    let code = fault.status.as_u16();
    let title = fault.status.canonical_reason().unwrap_or("Error");
    let message = &fault.message;
    match shape {
        Shape::Keystone => json!({"error": {"code": code, "message": message, "title": title}}),
        Shape::Nova => json!({nova_key(code): {"code": code, "message": message}}),
        Shape::Cinder if code == 413 => {
            json!({"overLimit": {"code": code, "message": message, "retryAfter": "0"}})
        }
        Shape::Cinder => json!({nova_key(code): {"code": code, "message": message}}),
        Shape::Placement => {
            let mut body = json!({"errors": [{
                "status": code, "title": title, "detail": message,
                "code": fault.name.unwrap_or("placement.undefined_code"),
            }]});
            if code == 406 {
                body["errors"][0]["min_version"] = json!(PLACEMENT.min_text());
                body["errors"][0]["max_version"] = json!(PLACEMENT.max_text());
            }
            body
        }
        Shape::Glance => json!({"code": format!("{code} {title}"), "title": title, "message": message}),
        Shape::Neutron => {
            json!({"NeutronError": {"type": fault.name.unwrap_or(neutron_type(code)), "message": message, "detail": ""}})
        }
    }
}

fn nova_key(code: u16) -> &'static str {
    match code {
        400 => "badRequest",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "itemNotFound",
        405 => "badMethod",
        406 => "notAcceptable",
        409 => "conflictingRequest",
        413 | 429 => "overLimit",
        415 => "badMediaType",
        501 => "notImplemented",
        503 => "serviceUnavailable",
        _ => "computeFault",
    }
}

fn neutron_type(code: u16) -> &'static str {
    match code {
        400 => "HTTPBadRequest",
        403 => "PolicyNotAuthorized",
        404 => "HTTPNotFound",
        405 => "HTTPMethodNotAllowed",
        409 => "Conflict",
        501 => "HTTPNotImplemented",
        503 => "HTTPServiceUnavailable",
        _ => "HTTPInternalServerError",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_told_in_novas_words() {
        let message = "virtualmachines.compute.yunfan.io \"x\" is forbidden: exceeded quota: project, requested: \
            compute.yunfan.io/memory=512Mi,compute.yunfan.io/vcpus=2, used: compute.yunfan.io/memory=0,compute.yunfan.io/vcpus=3, \
            limited: compute.yunfan.io/memory=1Gi,compute.yunfan.io/vcpus=4";
        assert_eq!(
            quota_message(message),
            "Quota exceeded for ram, cores: Requested 512Mi, 2, but already used 0, 3 of 1Gi, 4"
        );
        assert_eq!(quota_message("exceeded quota"), "Quota exceeded: exceeded quota");
    }

    #[test]
    fn each_service_has_its_own_shape() {
        let fault = Fault::not_found("Instance", "7");
        assert_eq!(
            shaped(Shape::Nova, &fault),
            json!({"itemNotFound": {"code": 404, "message": "Instance 7 could not be found."}})
        );
        assert_eq!(
            shaped(Shape::Neutron, &fault.named("NetworkNotFound"))["NeutronError"]["type"],
            "NetworkNotFound"
        );
        let refused = shaped(Shape::Placement, &Fault::new(StatusCode::NOT_ACCEPTABLE, "x"));
        assert_eq!(refused["errors"][0]["max_version"], "1.38");
        assert_eq!(shaped(Shape::Keystone, &Fault::unauthorized())["error"]["title"], "Unauthorized");
    }

    #[test]
    fn quota_is_a_conflict_to_neutron_and_a_bare_404_gets_a_body() {
        let response = Fault::forbidden("x").named(OVER_QUOTA).into_response();
        assert_eq!(render(Shape::Neutron, "", response).status(), StatusCode::CONFLICT);
        let response = Fault::forbidden("x").named(OVER_QUOTA).into_response();
        assert_eq!(render(Shape::Cinder, "", response).status(), StatusCode::PAYLOAD_TOO_LARGE);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_FOUND;
        let response = render(Shape::Glance, "", response);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    }
}
