//! Bodies of requests: read within a limit, decoded by their media type.

use std::io::Read;

use axum::body::Body;
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};
use yunfan_objects::codec::{self, Decoded, NO_KIND};
use yunfan_objects::{ApiError, FieldValidation, GroupVersionKind, Schema, decode, golang, protobuf};

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
    let packed = is_packed(request.headers())?;
    let limited = Limited::new(request.into_body(), LIMIT);
    let bytes = limited.collect().await.map_err(|error| {
        if error.downcast_ref::<LengthLimitError>().is_some() {
            ApiError::too_large(LIMIT)
        } else {
            ApiError::bad_request(format!("the body could not be read: {error}"))
        }
    })?;
    let bytes = if packed { unpack(&bytes.to_bytes())? } else { bytes.to_bytes() };
    Ok(Received { media_type, bytes })
}

/// Whether a body came compressed with gzip.
fn is_packed(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(_) => Err(ApiError::unsupported_media_type(&["gzip", "identity"])),
    }
}

/// What was compressed counts as large as it becomes.
pub(crate) fn unpack(packed: &[u8]) -> Result<Bytes, ApiError> {
    let mut bytes = Vec::new();
    let read = GzDecoder::new(packed).take(LIMIT as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| ApiError::bad_request(format!("the body is no valid gzip: {error}")))?;
    if bytes.len() > LIMIT { Err(ApiError::too_large(LIMIT)) } else { Ok(bytes.into()) }
}

fn media_type(headers: &HeaderMap) -> String {
    headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json").to_owned()
}

impl Received {
    /// The media type without its parameters.
    pub(crate) fn essence(&self) -> &str {
        self.media_type.split(';').next().unwrap_or_default().trim()
    }

    /// The body as a value, of a kind of Kubernetes' own where its schema is given.
    fn decode(
        &self,
        schema: Option<&Schema>,
        expected: Option<&GroupVersionKind>,
    ) -> Result<Decoded, ApiError> {
        codec::decode_as(schema, expected, &self.media_type, &self.bytes)
    }

    /// The body as an object of a kind, and warnings about it.
    pub(crate) fn object(
        &self,
        kind: &Kind,
        mode: FieldValidation,
    ) -> Result<(Value, Vec<String>), ApiError> {
        if !kind.descriptor.builtin && protobuf::is_protobuf(&self.media_type) {
            let accepted: Vec<&str> =
                codec::MEDIA_TYPES.into_iter().filter(|media| *media != protobuf::MEDIA_TYPE).collect();
            return Err(ApiError::unsupported_media_type(&accepted));
        }
        let descriptor = &kind.descriptor;
        let schema = descriptor.builtin.then_some(&*descriptor.schema);
        // What is sent to the cloud's own kinds need not say what it is, as with Kubernetes' own.
        let named = !descriptor.builtin && !kind.is_own();
        self.read(&descriptor.gvk(), schema, mode, named, |value| descriptor.shape(value))
    }

    /// The body as an object of a kind of Kubernetes' own that is not stored, and warnings about it.
    pub(crate) fn plain(
        &self,
        kind: &GroupVersionKind,
        schema: &Schema,
        mode: FieldValidation,
    ) -> Result<(Value, Vec<String>), ApiError> {
        self.read(kind, Some(schema), mode, false, |value| decode::shape_plain(value, kind, schema))
    }

    /// `named` says that the body must say what it is.
    fn read(
        &self,
        kind: &GroupVersionKind,
        schema: Option<&Schema>,
        mode: FieldValidation,
        named: bool,
        shape: impl FnOnce(&mut Value) -> Result<Vec<String>, ApiError>,
    ) -> Result<(Value, Vec<String>), ApiError> {
        let yaml = self.essence().ends_with("yaml");
        let unrecognized = |error, yaml| codec::unrecognized(&error, &kind.kind, yaml, &self.bytes);
        // In these, nobody looks for a kind before all is read.
        let whole = yaml || protobuf::is_protobuf(&self.media_type);
        let mut decoded = self.decode(schema, Some(kind)).map_err(|error| unrecognized(error, whole))?;
        let value = &mut decoded.value;
        if value.is_null() && schema.is_some() {
            *value = json!({});
        } else if !value.is_object() {
            return Err(unrecognized(no_object(value), false));
        } else if named {
            // Of kinds that others define nobody guesses which one is meant, nor which version.
            if matches!(&value["kind"], Value::Null) || value["kind"] == "" {
                return Err(unrecognized(self.without_kind(), true));
            }
            if value["apiVersion"].is_null() {
                value["apiVersion"] = json!("");
            }
        }
        let mut findings = match mode {
            FieldValidation::Strict => decoded.strict_findings(),
            _ => std::mem::take(&mut decoded.duplicates),
        };
        let shaped = shape(&mut decoded.value);
        findings.extend(shaped.map_err(|error| match error.message().starts_with(NO_KIND) {
            true => codec::unrecognized(&error, &kind.kind, true, &self.bytes),
            false => error,
        })?);
        // Of custom kinds they are sorted already.
        if !decoded.yaml && schema.is_some() {
            codec::sort_findings(&mut findings, &self.bytes);
        }
        let warnings = decode::judge(kind, mode, findings)?;
        Ok((decoded.value, warnings))
    }

    /// The refusal of an object that does not say its kind.
    fn without_kind(&self) -> ApiError {
        let text = String::from_utf8_lossy(&self.bytes);
        ApiError::bad_request(format!("Object 'Kind' is missing in '{text}'"))
    }

    /// The body as it is, where it says itself of which kind it is, or is of the expected one.
    pub(crate) fn plain_object(&self, expected: &GroupVersionKind) -> Result<Value, ApiError> {
        let named = |error: ApiError| match error.code() {
            400 => ApiError::bad_request(format!("{NO_KIND}{error}")),
            _ => error,
        };
        match self.decode(None, Some(expected)).map_err(named)?.value {
            Value::Null => Ok(json!({})),
            value if value.is_object() => Ok(value),
            value => Err(named(no_object(&value))),
        }
    }
}

/// A body that is JSON, and no object.
fn no_object(value: &Value) -> ApiError {
    let what = golang::type_name(value);
    ApiError::bad_request(format!(
        r#"json: cannot unmarshal {what} into Go value of type struct {{ APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }}"#
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    async fn received(encoding: &str, body: Vec<u8>) -> Result<Bytes, u16> {
        let request = Request::builder().header(CONTENT_ENCODING, encoding).body(Body::from(body));
        let received = receive(request.expect("a request")).await;
        received.map(|received| received.bytes).map_err(|error| error.code())
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(bytes).expect("room");
        out.finish().expect("room")
    }

    #[tokio::test]
    async fn compressed_bodies_are_read_within_the_limit() {
        assert_eq!(received("gzip", packed(b"{}")).await, Ok(Bytes::from_static(b"{}")));
        assert_eq!(received("identity", b"{}".to_vec()).await, Ok(Bytes::from_static(b"{}")));
        assert_eq!(received("gzip", packed(&vec![b' '; LIMIT + 1])).await, Err(413));
        assert_eq!(received("gzip", b"no gzip".to_vec()).await, Err(400));
        assert_eq!(received("br", b"{}".to_vec()).await, Err(415));
    }
}
