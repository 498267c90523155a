//! Microversion negotiation: which of a service's dialects a request speaks.

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::Fault;

/// The minor part of a service's API version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Microversion(pub(crate) u32);

/// The dialects of one service.
pub(crate) struct Dialects {
    /// Its name in the header.
    service: &'static str,
    /// The major version, which all dialects have.
    major: u32,
    /// The oldest, and what a request speaks that names none.
    pub(crate) min: u32,
    /// The newest.
    pub(crate) max: u32,
    /// An older header, with the version alone in it; `Vary` names it as it is written here.
    legacy: Option<&'static str>,
}

/// Nova's: up to the newest whose every change is served as Nova serves it.
pub(crate) const NOVA: Dialects =
    Dialects { service: "compute", major: 2, min: 1, max: 96, legacy: Some("X-OpenStack-Nova-API-Version") };
/// Cinder's: up to the one with which paths need no project. What versions up to there change about the resources that are
/// served is served; resources that they add and that are not there are not found.
pub(crate) const CINDER: Dialects = Dialects { service: "volume", major: 3, min: 0, max: 67, legacy: None };
/// Placement's, up to the one after which traits and members can be asked for as alternatives.
pub(crate) const PLACEMENT: Dialects =
    Dialects { service: "placement", major: 1, min: 0, max: 38, legacy: None };

const STANDARD: HeaderName = HeaderName::from_static("openstack-api-version");

impl<S: Send + Sync> FromRequestParts<S> for Microversion {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        // The middleware has put it there.
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(Self(0)))
    }
}

impl Dialects {
    fn text(&self, minor: u32) -> String {
        format!("{}.{minor}", self.major)
    }

    /// The oldest version as it is written.
    pub(crate) fn min_text(&self) -> String {
        self.text(self.min)
    }

    /// The newest version as it is written.
    pub(crate) fn max_text(&self) -> String {
        self.text(self.max)
    }

    /// The version in the headers; the newer header goes before the older one, and none at all means the oldest version.
    fn requested(&self, headers: &HeaderMap) -> Result<Microversion, Fault> {
        let standard = headers.get_all(STANDARD).iter().filter_map(|value| value.to_str().ok());
        let own = standard.flat_map(|value| value.split(',')).find_map(|entry| {
            let (service, version) = entry.trim().split_once(' ')?;
            service.eq_ignore_ascii_case(self.service).then(|| version.trim().to_owned())
        });
        let legacy = || {
            let value = headers.get(self.legacy?).and_then(|value| value.to_str().ok());
            value.map(|value| value.trim().to_owned())
        };
        let Some(text) = own.or_else(legacy) else { return Ok(Microversion(self.min)) };
        if text.eq_ignore_ascii_case("latest") {
            return Ok(Microversion(self.max));
        }
        match parse(&text) {
            None => Err(Fault::bad(format!(
                "API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum."
            ))),
            Some((major, minor)) if major == self.major && (self.min..=self.max).contains(&minor) => {
                Ok(Microversion(minor))
            }
            Some(_) => Err(Fault::new(
                StatusCode::NOT_ACCEPTABLE,
                format!(
                    "Version {text} is not supported by the API. Minimum is {} and maximum is {}.",
                    self.min_text(),
                    self.max_text()
                ),
            )),
        }
    }

    /// Middleware: reads the version that the client asks for, refuses one that there is not (406), and says in the answer
    /// which one it was.
    pub(crate) async fn negotiate(&self, mut request: Request, next: Next) -> Response {
        let (version, mut response) = match self.requested(request.headers()) {
            Ok(version) => {
                request.extensions_mut().insert(version);
                (version, next.run(request).await)
            }
            Err(fault) => (Microversion(self.min), fault.into_response()),
        };
        let text = self.text(version.0);
        let mut vary = "OpenStack-API-Version".to_owned();
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&format!("{} {text}", self.service)) {
            headers.insert(STANDARD, value);
        }
        if let Some(legacy) = self.legacy {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(legacy), HeaderValue::from_str(&text)) {
                headers.insert(name, value);
            }
            vary = format!("{vary}, {legacy}");
        }
        if let Ok(vary) = HeaderValue::from_str(&vary) {
            headers.append(header::VARY, vary);
        }
        response
    }
}

/// `MAJOR.MINOR`, without leading zeros.
fn parse(text: &str) -> Option<(u32, u32)> {
    let number = |part: &str| {
        let canonical = part == "0" || !part.starts_with('0');
        let digits = part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u32>().ok().filter(|_| digits && canonical)
    };
    let (major, minor) = text.split_once('.')?;
    Some((number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "openstack-api-version";
    const LEGACY: &str = "x-openstack-nova-api-version";

    fn ask(dialects: &Dialects, pairs: &[(&'static str, &str)]) -> Result<u32, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        dialects.requested(&headers).map(|version| version.0).map_err(|fault| fault.status.as_u16())
    }

    #[test]
    fn versions_are_negotiated_as_nova_does() {
        assert_eq!(ask(&NOVA, &[]), Ok(1));
        assert_eq!(ask(&NOVA, &[(OWN, "compute 2.37")]), Ok(37));
        assert_eq!(ask(&NOVA, &[(OWN, "placement 1.5, compute 2.10"), (LEGACY, "2.4")]), Ok(10));
        assert_eq!(ask(&NOVA, &[(LEGACY, "2.4")]), Ok(4));
        assert_eq!(ask(&NOVA, &[(OWN, "compute latest")]), Ok(NOVA.max));
        assert_eq!(ask(&NOVA, &[(OWN, "compute 2.1000")]), Err(406));
        assert_eq!(ask(&NOVA, &[(OWN, "compute 3.1")]), Err(406));
        assert_eq!(ask(&NOVA, &[(OWN, "compute 2.01")]), Err(400));
        assert_eq!(ask(&NOVA, &[(LEGACY, "two")]), Err(400));
    }

    #[test]
    fn each_service_has_its_own() {
        assert_eq!(ask(&CINDER, &[(OWN, "compute 2.37")]), Ok(0));
        assert_eq!(ask(&CINDER, &[(OWN, "volume 3.59")]), Ok(59));
        assert_eq!(ask(&CINDER, &[(OWN, "volume 3.999")]), Err(406));
        assert_eq!(ask(&PLACEMENT, &[(OWN, "placement 1.38")]), Ok(38));
        assert_eq!(ask(&PLACEMENT, &[(OWN, "placement 1.40")]), Err(406));
        assert_eq!(ask(&PLACEMENT, &[(OWN, "placement one")]), Err(400));
    }
}
