//! Bodies of requests: read within a limit, decoded by their media type.

use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};
use yunfan_objects::codec::{self, Decoded};
use yunfan_objects::{ApiError, FieldValidation, protobuf};

use super::Call;
use crate::kinds::Kind;

/// Bytes of a body.
pub(crate) const LIMIT: usize = 3 << 20;

/// A body and the media type it came with.
pub(crate) struct Received {
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
}

/// Reads a body whole.
pub(crate) async fn receive(request: Request<Body>) -> Result<Received, ApiError> {
    let media_type = media_type(request.headers());
    let limited = Limited::new(request.into_body(), LIMIT);
    let bytes = limited.collect().await.map_err(|error| {
        if error.downcast_ref::<LengthLimitError>().is_some() {
            ApiError::too_large(LIMIT)
        } else {
            ApiError::bad_request(format!("the body could not be read: {error}"))
        }
    })?;
    Ok(Received { media_type, bytes: bytes.to_bytes() })
}

fn media_type(headers: &HeaderMap) -> String {
    headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json").to_owned()
}

impl Received {
    /// The media type without its parameters.
    pub(crate) fn essence(&self) -> &str {
        self.media_type.split(';').next().unwrap_or_default().trim()
    }

    /// The body as a value.
    pub(crate) fn decode(&self) -> Result<Decoded, ApiError> {
        codec::decode(&self.media_type, &self.bytes)
    }

    /// The body as an object of a kind, and warnings about it.
    pub(crate) fn object(&self, call: &Call, kind: &Kind) -> Result<(Value, Vec<String>), ApiError> {
        if !kind.descriptor.builtin && protobuf::is_protobuf(&self.media_type) {
            let accepted: Vec<&str> =
                codec::MEDIA_TYPES.into_iter().filter(|media| *media != protobuf::MEDIA_TYPE).collect();
            return Err(ApiError::unsupported_media_type(&self.media_type, &accepted));
        }
        let Decoded { mut value, duplicates } = self.decode()?;
        let mode = field_validation(call)?;
        let warnings = kind.descriptor.decode(&mut value, mode, &duplicates)?;
        Ok((value, warnings))
    }

    /// The body as an object of a kind that is not stored, such as a Scale or a review.
    pub(crate) fn plain_object(&self) -> Result<Value, ApiError> {
        let value = self.decode()?.value;
        if value.is_object() {
            Ok(value)
        } else {
            Err(ApiError::bad_request("the body must be a JSON object"))
        }
    }

    /// The body as a value; an empty one is an empty object.
    pub(crate) fn optional(&self) -> Result<Value, ApiError> {
        if self.bytes.is_empty() { Ok(json!({})) } else { self.plain_object() }
    }
}

/// The query parameter `fieldValidation`.
pub(crate) fn field_validation(call: &Call) -> Result<FieldValidation, ApiError> {
    FieldValidation::parse(call.params.get("fieldValidation"))
}

/// Whether the query, or a body's `dryRun` list, asks for a dry run.
pub(crate) fn dry_run(call: &Call, body: Option<&Value>) -> Result<bool, ApiError> {
    let given = call.params.all("dryRun").iter().map(String::as_str).filter(|v| !v.is_empty());
    let more = body.and_then(|b| b["dryRun"].as_array()).into_iter().flatten().filter_map(Value::as_str);
    let mut yes = false;
    for word in given.chain(more) {
        if word != "All" {
            return Err(ApiError::bad_request(format!(
                "dryRun: Unsupported value: {word:?}: supported values: \"All\""
            )));
        }
        yes = true;
    }
    Ok(yes)
}
