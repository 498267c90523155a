//! Microversion negotiation: which of Nova's dialects a request speaks.

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::Fault;

/// The minor part of Nova's API version 2.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Microversion(pub(super) u32);

/// The oldest.
pub(super) const MIN: Microversion = Microversion(1);
/// The newest whose every change up to there is served as Nova serves it.
pub(super) const MAX: Microversion = Microversion(79);
/// [`MIN`] as it is written.
pub(super) const MIN_TEXT: &str = "2.1";
/// [`MAX`] as it is written.
pub(super) const MAX_TEXT: &str = "2.79";

const STANDARD: &str = "openstack-api-version";
const LEGACY: &str = "x-openstack-nova-api-version";

impl<S: Send + Sync> FromRequestParts<S> for Microversion {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(MIN))
    }
}

/// Middleware: reads the version that the client asks for, refuses one that there is not (406), and says in the answer which
/// one it was.
pub(super) async fn negotiate(mut request: Request, next: Next) -> Response {
    let (version, mut response) = match requested(request.headers()) {
        Ok(version) => {
            request.extensions_mut().insert(version);
            (version, next.run(request).await)
        }
        Err(fault) => (MIN, fault.into_response()),
    };
    let headers = response.headers_mut();
    if let (Ok(standard), Ok(legacy)) = (
        HeaderValue::from_str(&format!("compute 2.{}", version.0)),
        HeaderValue::from_str(&format!("2.{}", version.0)),
    ) {
        headers.insert(STANDARD, standard);
        headers.insert(LEGACY, legacy);
    }
    headers.append(
        header::VARY,
        HeaderValue::from_static("OpenStack-API-Version, X-OpenStack-Nova-API-Version"),
    );
    response
}

/// The version in the headers; the newer header goes before the older one, and none at all means the oldest version.
fn requested(headers: &HeaderMap) -> Result<Microversion, Fault> {
    let standard = headers.get_all(STANDARD).iter().filter_map(|value| value.to_str().ok());
    let compute = standard.flat_map(|value| value.split(',')).find_map(|entry| {
        let (service, version) = entry.trim().split_once(' ')?;
        service.eq_ignore_ascii_case("compute").then(|| version.trim().to_owned())
    });
    let legacy =
        || headers.get(LEGACY).and_then(|value| value.to_str().ok()).map(|value| value.trim().to_owned());
    let Some(text) = compute.or_else(legacy) else { return Ok(MIN) };
    if text.eq_ignore_ascii_case("latest") {
        return Ok(MAX);
    }
    let number = |part: &str| {
        let canonical = part == "0" || !part.starts_with('0');
        part.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| part.parse::<u32>().ok())
            .flatten()
            .filter(|_| canonical)
    };
    let parts = text.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    match parts {
        None => Err(Fault::bad(format!(
            "API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum."
        ))),
        Some((2, minor)) if (MIN.0..=MAX.0).contains(&minor) => Ok(Microversion(minor)),
        Some(_) => Err(Fault::new(
            StatusCode::NOT_ACCEPTABLE,
            format!(
                "Version {text} is not supported by the API. Minimum is {MIN_TEXT} and maximum is {MAX_TEXT}."
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(pairs: &[(&'static str, &str)]) -> Result<u32, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        requested(&headers).map(|version| version.0).map_err(|fault| fault.status.as_u16())
    }

    #[test]
    fn versions_are_negotiated_as_nova_does() {
        assert_eq!(ask(&[]), Ok(1));
        assert_eq!(ask(&[(STANDARD, "compute 2.37")]), Ok(37));
        assert_eq!(ask(&[(STANDARD, "placement 1.5, compute 2.10"), (LEGACY, "2.4")]), Ok(10));
        assert_eq!(ask(&[(LEGACY, "2.4")]), Ok(4));
        assert_eq!(ask(&[(STANDARD, "compute latest")]), Ok(MAX.0));
        assert_eq!(ask(&[(STANDARD, "compute 2.1000")]), Err(406));
        assert_eq!(ask(&[(STANDARD, "compute 3.1")]), Err(406));
        assert_eq!(ask(&[(STANDARD, "compute 2.01")]), Err(400));
        assert_eq!(ask(&[(LEGACY, "two")]), Err(400));
    }
}
