//! Answers: bytes that are stored go out as they are, with the revision put in.

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_objects::table::{self, IncludeObject, View};
use yunfan_objects::{ApiError, Descriptor, protobuf};

use super::negotiate::{Encoding, Format, Shape};
use crate::cache::{Entry, Types, splice};
use crate::kinds::Kind;
use crate::registry::Stored;

/// Characters of all warnings of one answer together.
const WARNINGS_LIMIT: usize = 4096;
/// Characters that are left of each where they are more.
const WARNING_CUT: usize = 256;

/// An answer with this body.
pub(crate) fn raw(code: u16, media_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    // Every code here is one of HTTP's.
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// An answer made of a JSON value.
pub(crate) fn value(code: u16, encoding: Encoding, value: &Value) -> Response<Body> {
    match encode(encoding, value) {
        Ok(bytes) => raw(code, encoding.media_type(), bytes),
        Err(why) => error(&why),
    }
}

fn encode(encoding: Encoding, value: &Value) -> Result<Bytes, ApiError> {
    Ok(match encoding {
        Encoding::Json => value.to_string().into(),
        Encoding::PrettyJson => format!("{value:#}\n").into(),
        Encoding::Yaml => match serde_saphyr::to_string(value) {
            Ok(text) => text.into(),
            // JSON is YAML, too.
            Err(_) => value.to_string().into(),
        },
        Encoding::Protobuf => protobuf::encode(value)?.into(),
    })
}

/// The Status of an error.
pub(crate) fn error(error: &ApiError) -> Response<Body> {
    error_as(Encoding::Json, error)
}

/// The Status of an error in this encoding.
pub(crate) fn error_as(encoding: Encoding, error: &ApiError) -> Response<Body> {
    let mut response = value(error.code(), encoding, &error.to_status());
    if let Some(seconds) = error.details().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A text, which no browser may take for anything else.
pub(crate) fn text(code: u16, text: impl Into<Body>) -> Response<Body> {
    let mut response = raw(code, "text/plain; charset=utf-8", text);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// An answer without a body.
pub(crate) fn nothing(code: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// The answer for a path that no part of the API knows: a Status would be the word of one that does.
pub(crate) fn no_page() -> Response<Body> {
    text(404, "404 page not found\n")
}

/// A Status that says that it was done.
pub(crate) fn success(encoding: Encoding, details: Value) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    value(200, encoding, &status)
}

/// Adds `Warning` headers.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    // Where they are too long together, each is cut.
    let longest = match warnings.iter().map(|text| text.chars().count()).sum::<usize>() {
        length if length > WARNINGS_LIMIT => WARNING_CUT,
        _ => WARNINGS_LIMIT,
    };
    let mut written = 0;
    for warning in warnings {
        if written >= WARNINGS_LIMIT {
            return;
        }
        let text: String = warning.chars().take(longest).collect();
        written += text.chars().count();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace(char::is_control, " ");
        if let Ok(header) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append("warning", header);
        }
    }
}

/// One object.
pub(crate) fn object(
    code: u16,
    format: Format,
    kind: &Kind,
    stored: &Stored,
    include: IncludeObject,
) -> Response<Body> {
    let version = kind.other_version();
    let types = version.as_deref().map_or(Types::Stored, Types::Version);
    let mut bytes = BytesMut::with_capacity(stored.bytes.len() + 48);
    if stored.revision == 0 {
        bytes.put_slice(&stored.bytes);
    } else {
        splice(&stored.bytes, stored.revision, types, &mut bytes);
    }
    if format == Format::default() {
        return raw(code, format.encoding.media_type(), bytes.freeze());
    }
    let whole: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    value(code, format.encoding, &shaped(format.shape, &kind.descriptor, whole, include))
}

/// One object in the shape that is asked for.
pub(crate) fn shaped(shape: Shape, descriptor: &Descriptor, whole: Value, include: IncludeObject) -> Value {
    match shape {
        Shape::Table(api_version) => {
            let meta = json!({ "resourceVersion": whole["metadata"]["resourceVersion"] });
            table::render(descriptor, [&whole], View { include, api_version }, Timestamp::now(), meta)
        }
        Shape::Metadata(api_version, _) => table::partial_metadata(&whole, api_version),
        Shape::Whole | Shape::Discovery => whole,
    }
}

/// The entry's object in the version that is asked for.
pub(crate) fn whole(kind: &Kind, entry: &Entry) -> Value {
    let mut object = entry.object();
    if let Some(version) = kind.other_version() {
        object["apiVersion"] = json!(version);
    }
    object
}
