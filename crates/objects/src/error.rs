//! Refusals, worded as kube-apiserver words them, and their rendering as `metav1.Status`.

use std::collections::HashSet;
use std::fmt;

use serde_json::{Value, json};

use crate::{GroupResource, GroupVersionKind};

/// The machine-readable reason of a [`Status`](ApiError::to_status), as clients match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is named as Kubernetes' API conventions name it.
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    Timeout,
    ServerTimeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
    /// None: what Kubernetes has no word for.
    Unknown,
}

impl Reason {
    /// The word that goes into `status.reason`; empty where that is left out.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Invalid => "Invalid",
            Self::Timeout => "Timeout",
            Self::ServerTimeout => "ServerTimeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::Expired => "Expired",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Unknown => "",
        }
    }
}

/// One cause in `status.details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable, as `FieldValueRequired`.
    pub reason: String,
    /// What a person reads.
    pub message: String,
    /// Path of the field at fault; empty where there is none.
    pub field: String,
}

/// What an error is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Kind, or the resource's plural where Kubernetes gives that.
    pub kind: String,
    /// Uid of the object, where the error is about one.
    pub uid: String,
    /// The fields at fault.
    pub causes: Vec<Cause>,
    /// Seconds after which a client may try again; 0 says nothing.
    pub retry_after_seconds: u32,
}

/// A refusal of a request: what a client gets as `metav1.Status`.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError(Box<Inner>);

#[derive(Clone, Debug, PartialEq)]
struct Inner {
    code: u16,
    reason: Reason,
    message: String,
    details: Option<Details>,
    /// A token to go on with; empty for none.
    go_on: String,
    /// Reason and details in the words of somebody else, who refused the request.
    said: Option<(String, Value)>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// An error with any code and reason, for the cases that no constructor below covers.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Inner { code, reason, message, details: None, go_on: String::new(), said: None }))
    }

    /// A refusal in somebody else's words: any reason, and details as they are (or null).
    pub fn said(code: u16, message: impl Into<String>, reason: &str, details: &Value) -> Self {
        let mut error = Self::new(code, Reason::Unknown, message);
        error.0.said = Some((reason.to_owned(), details.clone()));
        error
    }

    fn about(code: u16, reason: Reason, resource: &GroupResource, name: &str, message: String) -> Self {
        Self::new(code, reason, message).with_details(Details {
            name: name.to_owned(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        })
    }

    /// Sets the details.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.0.details = Some(details);
        self
    }

    /// Sets `metadata.continue`: the token that a list which expired may go on with.
    #[must_use]
    pub fn with_continue(mut self, token: String) -> Self {
        self.0.go_on = token;
        self
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::about(404, Reason::NotFound, resource, name, format!("{resource} {name:?} not found"))
    }

    /// 404 for a path that no resource is served at.
    pub fn no_such_path() -> Self {
        Self::new(404, Reason::NotFound, "the server could not find the requested resource")
            .with_details(Details::default())
    }

    /// 409: `pods "x" already exists`.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        let message = format!("{resource} {name:?} already exists");
        Self::about(409, Reason::AlreadyExists, resource, name, message)
    }

    /// 409: every name that was made from `generateName` is taken; trying again may help.
    pub fn name_not_generated(resource: &GroupResource, name: &str) -> Self {
        let message = format!(
            "{resource} {name:?} already exists, the server was not able to generate a unique name for the object"
        );
        let mut error = Self::about(409, Reason::AlreadyExists, resource, name, message);
        if let Some(details) = &mut error.0.details {
            details.retry_after_seconds = 1;
        }
        error
    }

    /// 409: `Operation cannot be fulfilled on pods "x": ` and the reason given.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::about(409, Reason::Conflict, resource, name, message)
    }

    /// 409 for an update on top of an old revision.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        const WHY: &str =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, WHY)
    }

    /// 409 of server-side apply: one cause for each field that another manager owns.
    pub fn apply_conflict(message: String, causes: Vec<Cause>) -> Self {
        Self::new(409, Reason::Conflict, message).with_details(Details { causes, ..Details::default() })
    }

    /// 422: `Pod "x" is invalid: spec.containers[0].name: Required value`, all field errors listed.
    pub fn invalid(kind: &GroupVersionKind, name: &str, errors: &[FieldError]) -> Self {
        let qualified =
            if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut seen = HashSet::new();
        let texts = errors.iter().map(FieldError::to_string);
        let texts: Vec<String> = texts.filter(|text| seen.insert(text.clone())).collect();
        let listed = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes = errors
            .iter()
            .map(|error| Cause {
                reason: error.kind.reason().to_owned(),
                message: error.body(),
                field: error.field.clone(),
            })
            .collect();
        Self::new(422, Reason::Invalid, format!("{qualified} {name:?} is invalid: {listed}")).with_details(
            Details {
                name: name.to_owned(),
                group: kind.group.clone(),
                kind: kind.kind.clone(),
                causes,
                ..Details::default()
            },
        )
    }

    /// 403: `pods "x" is forbidden: ` and the reason; without a name `pods is forbidden: `.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{resource} is forbidden: {why}"),
            (false, false) => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Self::about(403, Reason::Forbidden, resource, name, message)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// 410 `Expired`: the revision asked for is no longer kept. Clients list again.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// 413, for a body of more than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, Reason::RequestEntityTooLarge, message)
    }

    /// 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(401, Reason::Unauthorized, message)
    }

    /// 405: `create is not supported on resources of kind "pods"`.
    pub fn method_not_allowed(resource: &GroupResource, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind \"{resource}\"");
        Self::about(405, Reason::MethodNotAllowed, resource, "", message)
    }

    /// 415, naming what would be accepted.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    /// 406, naming what can be sent.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, Reason::NotAcceptable, message)
    }

    /// 406 where no form of what is at that path has the media type that is asked for.
    pub fn no_representation(available: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", available.join(", "));
        Self::new(406, Reason::NotAcceptable, message).with_details(Details::default())
    }

    /// 504: the request did not complete in its time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {}", message.into()))
    }

    /// 504: the revision asked for is not reached yet, in the form that clients look for.
    pub fn revision_too_large(asked: u64, current: u64) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        Self::timeout(format!("Too large resource version: {asked}, current: {current}"))
            .with_details(Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() })
    }

    /// 500. The message names what failed and never a secret.
    pub fn internal(message: impl Into<String>) -> Self {
        let cause = Cause { reason: String::new(), message: message.into(), field: String::new() };
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {}", cause.message))
            .with_details(Details { causes: vec![cause], ..Details::default() })
    }

    /// 429, with the seconds to wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, Reason::TooManyRequests, message)
            .with_details(Details { retry_after_seconds, ..Details::default() })
    }

    /// 503, with the seconds to wait.
    pub fn service_unavailable(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
            .with_details(Details { retry_after_seconds, ..Details::default() })
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.code
    }

    /// The reason.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// What a person reads.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the error is about.
    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    /// The `metav1.Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.0.message,
            "code": self.0.code,
        });
        if self.0.reason != Reason::Unknown {
            status["reason"] = json!(self.0.reason.as_str());
        }
        if let Some(details) = &self.0.details {
            status["details"] = details.to_json();
        }
        if let Some((reason, details)) = &self.0.said {
            for (key, value) in [("reason", json!(reason)), ("details", details.clone())] {
                if !value.is_null() && value != "" {
                    status[key] = value;
                }
            }
        }
        if !self.0.go_on.is_empty() {
            status["metadata"]["continue"] = json!(self.0.go_on);
        }
        status
    }
}

impl Details {
    fn to_json(&self) -> Value {
        let mut out = serde_json::Map::new();
        let texts = [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)];
        for (key, text) in texts {
            if !text.is_empty() {
                out.insert(key.to_owned(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self.causes.iter().map(Cause::to_json).collect();
            out.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            out.insert("retryAfterSeconds".to_owned(), json!(self.retry_after_seconds));
        }
        Value::Object(out)
    }
}

impl Cause {
    fn to_json(&self) -> Value {
        let mut out = serde_json::Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                out.insert(key.to_owned(), json!(text));
            }
        }
        Value::Object(out)
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldErrorKind {
    /// It must be given.
    Required,
    /// Its value is wrong: the value, to be shown.
    Invalid(Value),
    /// Its value has the wrong type: the value, to be shown.
    TypeInvalid(Value),
    /// Its value is none of the supported ones.
    NotSupported(Value, Vec<String>),
    /// Its value is none of the supported ones: the value as it is to be shown.
    NotSupportedAs(String, Vec<String>),
    /// It names something that is not there.
    NotFound(Value),
    /// It repeats another one.
    Duplicate(Value),
    /// It may not be given here.
    Forbidden,
    /// It is longer than this number of bytes.
    TooLong(u64),
    /// It has this many entries, and may have that many.
    TooMany(u64, u64),
    /// Its value is wrong: the value as it is to be shown.
    InvalidAs(String),
    /// Its value repeats another one: the value as it is to be shown.
    DuplicateAs(String),
    /// Its value, which is too large to be shown, is wrong.
    InvalidWhole,
    /// Its value, which is too large to be shown, repeats another one.
    DuplicateWhole,
    /// The server cannot work with it.
    Internal,
}

impl FieldErrorKind {
    fn reason(&self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid(_) | Self::InvalidAs(_) | Self::InvalidWhole => "FieldValueInvalid",
            Self::TypeInvalid(_) => "FieldValueTypeInvalid",
            Self::NotSupported(..) | Self::NotSupportedAs(..) => "FieldValueNotSupported",
            Self::NotFound(_) => "FieldValueNotFound",
            Self::Duplicate(_) | Self::DuplicateAs(_) | Self::DuplicateWhole => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong(_) => "FieldValueTooLong",
            Self::TooMany(..) => "FieldValueTooMany",
            Self::Internal => "InternalError",
        }
    }
}

/// One field at fault.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path, as `spec.containers[0].name`.
    pub field: String,
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// What to do about it; may be empty.
    pub detail: String,
}

impl FieldError {
    /// A field that must be given.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), kind: FieldErrorKind::Required, detail: detail.into() }
    }
    /// A wrong value.
    pub fn invalid(field: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), kind: FieldErrorKind::Invalid(value.into()), detail: detail.into() }
    }
    /// A value of the wrong type.
    pub fn type_invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), kind: FieldErrorKind::TypeInvalid(value.into()), detail: detail.into() }
    }
    /// A value that is none of the supported ones.
    pub fn not_supported(field: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let supported = supported.iter().map(|s| (*s).to_owned()).collect();
        let kind = FieldErrorKind::NotSupported(value.into(), supported);
        Self { field: field.into(), kind, detail: String::new() }
    }
    /// A name of something that is not there.
    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { field: field.into(), kind: FieldErrorKind::NotFound(value.into()), detail: String::new() }
    }
    /// A value that repeats another one.
    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { field: field.into(), kind: FieldErrorKind::Duplicate(value.into()), detail: String::new() }
    }
    /// A field that may not be given, or not be changed.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), kind: FieldErrorKind::Forbidden, detail: detail.into() }
    }
    /// A text of more than `limit` bytes.
    pub fn too_long(field: impl Into<String>, limit: u64) -> Self {
        Self { field: field.into(), kind: FieldErrorKind::TooLong(limit), detail: String::new() }
    }
    /// A list of more than `limit` entries.
    pub fn too_many(field: impl Into<String>, actual: u64, limit: u64) -> Self {
        Self { field: field.into(), kind: FieldErrorKind::TooMany(actual, limit), detail: String::new() }
    }

    /// The same finding about a list or an object, which is not shown.
    pub fn whole(mut self) -> Self {
        self.kind = match self.kind {
            FieldErrorKind::Invalid(_) => FieldErrorKind::InvalidWhole,
            FieldErrorKind::Duplicate(_) => FieldErrorKind::DuplicateWhole,
            kind => kind,
        };
        self
    }
    /// What the server cannot work with.
    pub fn internal(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), kind: FieldErrorKind::Internal, detail: detail.into() }
    }

    /// The text without the field's path, as it stands in a cause.
    pub fn body(&self) -> String {
        use FieldErrorKind::{Invalid, TooMany, TypeInvalid};
        let unsupported = |value: &str, supported: &[String]| {
            let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            format!("Unsupported value: {value}: supported values: {}", list.join(", "))
        };
        let lead = match &self.kind {
            FieldErrorKind::Required => "Required value".to_owned(),
            FieldErrorKind::Forbidden => "Forbidden".to_owned(),
            Invalid(value) | TypeInvalid(value) => format!("Invalid value: {}", shown(value)),
            FieldErrorKind::InvalidAs(text) => format!("Invalid value: {}", cut(text.clone())),
            FieldErrorKind::DuplicateAs(text) => format!("Duplicate value: {}", cut(text.clone())),
            FieldErrorKind::NotFound(value) => format!("Not found: {}", shown(value)),
            FieldErrorKind::Duplicate(value) => format!("Duplicate value: {}", shown(value)),
            FieldErrorKind::NotSupported(value, supported) => unsupported(&shown(value), supported),
            FieldErrorKind::NotSupportedAs(text, supported) => unsupported(&cut(text.clone()), supported),
            FieldErrorKind::InvalidWhole => "Invalid value".to_owned(),
            FieldErrorKind::DuplicateWhole => "Duplicate value".to_owned(),
            FieldErrorKind::Internal => "Internal error".to_owned(),
            FieldErrorKind::TooLong(limit) => format!("Too long: may not be more than {limit} bytes"),
            TooMany(actual, limit) => format!("Too many: {actual}: must have at most {limit} items"),
        };
        if self.detail.is_empty() { lead } else { format!("{lead}: {}", self.detail) }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return f.write_str(&self.body());
        }
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A value as it stands in a message. A large one is cut: a message is not a copy of the object.
fn shown(value: &Value) -> String {
    cut(value.to_string())
}

fn cut(mut text: String) -> String {
    const LIMIT: usize = 4096;
    if text.len() > LIMIT {
        let cut = (0..=LIMIT).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}
