//! Reading requests strictly: bodies and queries.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::Value;

use crate::error::Fault;

/// The longest body that is not image data, bytes.
const MAX_BODY: usize = 1 << 20;
/// A body that is not image data is there within this time.
const LONGEST: Duration = Duration::from_secs(60);

/// A JSON body that must be a `T`: fields that `T` does not know, or of another type, are refused by name.
pub(crate) struct Json<T>(pub(crate) T);

/// Free key-value pairs of a server, an image or a volume.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pairs {
    pub(crate) metadata: BTreeMap<String, String>,
}

/// One of them, which the path names, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pair {
    pub(crate) meta: BTreeMap<String, String>,
}

impl Pair {
    /// What the pair with this key is to be.
    ///
    /// # Errors
    /// 400 where it is another one, or not the only one.
    pub(crate) fn value(&self, key: &str) -> Result<&String, Fault> {
        let value = self.meta.get(key).filter(|_| self.meta.len() == 1);
        value.ok_or_else(|| Fault::bad("Request body and URI mismatch"))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if let Some(kind) = kind
            && !kind.to_ascii_lowercase().contains("json")
        {
            return Err(Fault::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("The content type {kind} is not supported; send application/json"),
            ));
        }
        parse(&read(request.into_body()).await?).map(Self)
    }
}

/// Reads a whole body, up to the limit in size and in time: also who is not known yet may send one.
pub(crate) async fn read(body: Body) -> Result<Bytes, Fault> {
    let read = tokio::time::timeout(LONGEST, Limited::new(body, MAX_BODY).collect()).await;
    let Ok(read) = read else {
        let why = format!("The request's body did not come within {} seconds", LONGEST.as_secs());
        return Err(Fault::new(StatusCode::REQUEST_TIMEOUT, why));
    };
    match read {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(Fault::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The request is longer than {MAX_BODY} bytes"),
        )),
        Err(error) => Err(Fault::bad(format!("The request's body could not be read: {error}"))),
    }
}

/// Parses JSON, naming the field at fault.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if cause.is_data() && path != "." {
            Fault::bad(format!("Invalid input for field/attribute {path}. {}", without_place(&cause)))
        } else if cause.is_data() {
            Fault::bad(format!("Invalid request body. {}", without_place(&cause)))
        } else {
            Fault::bad(format!("Malformed request body: {cause}"))
        }
    })?;
    reader.end().map_err(|error| Fault::bad(format!("Malformed request body: {error}")))?;
    Ok(parsed)
}

/// As [`parse`], from a value.
pub(crate) fn parse_value<T: DeserializeOwned>(value: Value) -> Result<T, Fault> {
    parse(value.to_string().as_bytes())
}

fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The one member of an action's body: its name and its argument.
pub(crate) fn action(body: serde_json::Map<String, Value>) -> Result<(String, Value), Fault> {
    let mut members = body.into_iter();
    match (members.next(), members.next()) {
        (Some(action), None) => Ok(action),
        _ => Err(Fault::bad("The request must name exactly one action.")),
    }
}

/// For `Option<Option<T>>` with `#[serde(default)]`: an absent field is `None`, an explicit null `Some(None)`.
pub(crate) fn explicit<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// A field that clients send and that has one value which is true here anyway; any other is refused, with `why`.
pub(crate) fn only(field: &str, given: Option<&Value>, allowed: &[Value], why: &str) -> Result<(), Fault> {
    match given {
        None | Some(Value::Null) => Ok(()),
        Some(value) if allowed.contains(value) => Ok(()),
        Some(value) => Err(Fault::bad(format!("{field}={value} is not supported: {why}"))),
    }
}

/// The query of a request, in its order.
pub(crate) struct Params(pub(crate) Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(pairs)| Self(pairs))
            .map_err(|error| Fault::bad(format!("The query cannot be read: {error}")))
    }
}

impl Params {
    /// The last value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Every value of `key`.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Whether `key` is given and, if so, whether it is true, in any of the spellings that OpenStack takes.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Fault> {
        match self.get(key) {
            None => Ok(None),
            Some("") => Ok(Some(true)),
            Some(value) => spelled(value).map(Some).ok_or_else(|| {
                Fault::bad(format!("Invalid input for query parameter {key}: {value} is no boolean"))
            }),
        }
    }
}

/// A truth value in any of the spellings that OpenStack takes (oslo's `strutils.bool_from_string`).
fn spelled(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "on" | "y" | "yes" => Some(true),
        "0" | "f" | "false" | "off" | "n" | "no" => Some(false),
        _ => None,
    }
}

/// A truth value in a body, which clients write as one, as a number or as text; `None` where nothing is said.
pub(crate) fn boolean(field: &str, given: Option<&Value>) -> Result<Option<bool>, Fault> {
    let text = match given {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let wrong =
        || Fault::bad(format!("Invalid input for field/attribute {field}. Value: {text}. It is a boolean."));
    spelled(&text).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only parsed")]
        size: u32,
        #[serde(default, deserialize_with = "explicit")]
        note: Option<Option<String>>,
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_without_end_is_not_waited_for() {
        let drops = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        let fault = read(Body::from_stream(drops)).await.unwrap_err();
        assert_eq!(fault.status, StatusCode::REQUEST_TIMEOUT);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text: &str| parse::<Outer>(text.as_bytes()).unwrap_err().message;
        assert!(message(r#"{"inner": {"size": "x"}}"#).contains("inner.size"));
        assert!(message(r#"{"inner": {"size": 1, "more": 2}}"#).contains("`more`"));
        assert!(message("{").starts_with("Malformed"));
        assert!(message("{} x").contains("inner"));
        assert!(message(r#"{"inner": {"size": 1}} x"#).starts_with("Malformed"));
    }

    #[test]
    fn null_is_not_absence() {
        let note = |text: &str| parse::<Outer>(text.as_bytes()).unwrap().inner.note;
        assert_eq!(note(r#"{"inner": {"size": 1}}"#), None);
        assert_eq!(note(r#"{"inner": {"size": 1, "note": null}}"#), Some(None));
    }
}
