//! From a request to what it brings as a proof of who it is from. Which proof counts is decided at the front desk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::request::Parts;
use rustls::pki_types::CertificateDer;

use crate::UserInfo;
use crate::pki::CertificateUser;

/// The request carries a proof of identity that does not hold. It says nothing of why: the cause is
/// logged at debug level, and would help nobody but a forger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "The request's credentials are not valid (expired, revoked or not issued by this cloud); sign in again"
)]
pub struct AuthnError;

/// Request extension: the certificate that the TLS client proved to have the key of, and that one of the server's client
/// authorities signed. The TLS acceptor makes one per connection; parsed once.
#[derive(Clone)]
pub struct PeerCertificate(Arc<Peer>);

struct Peer {
    user: Result<CertificateUser, AuthnError>,
    /// The leaf, and what came with it.
    chain: Vec<CertificateDer<'static>>,
    /// Which authorities were found to have signed it, and which not.
    signed: Mutex<HashMap<u64, bool>>,
}

impl PeerCertificate {
    /// Reads the chain (DER, leaf first) of a connection whose handshake verified it; `None` for an empty one.
    pub fn new(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let user = CertificateUser::parse(chain.first()?).map_err(|error| {
            tracing::debug!(%error, "client certificate refused");
            AuthnError
        });
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        Some(Self(Arc::new(Peer { user, chain, signed: Mutex::default() })))
    }

    /// The certificate's user.
    ///
    /// # Errors
    /// [`AuthnError`] if it names none, or has expired since the handshake.
    pub fn user(&self) -> Result<UserInfo, AuthnError> {
        match &self.0.user {
            Ok(certificate) if !certificate.expired() => Ok(certificate.user.clone()),
            _ => Err(AuthnError),
        }
    }

    /// The last second in which it is valid, seconds since 1970; none if it names no user.
    pub fn ends(&self) -> Option<i64> {
        self.0.user.as_ref().ok().map(|certificate| certificate.not_after)
    }

    /// What is known of the authority of this number, or is found out: `check` is handed the chain.
    pub(crate) fn signed_by(
        &self,
        authority: u64,
        check: impl FnOnce(&[CertificateDer<'static>]) -> bool,
    ) -> bool {
        let mut signed = self.0.signed.lock().unwrap_or_else(PoisonError::into_inner);
        *signed.entry(authority).or_insert_with(|| check(&self.0.chain))
    }
}

/// The token in `Authorization: Bearer`, or in OpenStack's `X-Auth-Token`, not verified. Other schemes than Bearer are no token.
///
/// # Errors
/// [`AuthnError`] if the header is not printable ASCII, or the token is empty.
pub fn bearer_token(request: &Parts) -> Result<Option<&str>, AuthnError> {
    let token = if let Some(value) = request.headers.get(AUTHORIZATION) {
        let value = value.to_str().map_err(|_| AuthnError)?;
        match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Ok(None),
        }
    } else if let Some(value) = request.headers.get("x-auth-token") {
        value.to_str().map_err(|_| AuthnError)?.trim()
    } else {
        return Ok(None);
    };
    if token.is_empty() { Err(AuthnError) } else { Ok(Some(token)) }
}

/// What stands before a token among the subprotocols of a WebSocket (Kubernetes' `pkg/authentication/request/websocket`).
const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// The header of subprotocols.
const PROTOCOLS: &str = "sec-websocket-protocol";

/// The token that a request for a WebSocket carries among its subprotocols, base64url without padding: a page in a browser can set no other
/// header. Such a request names at least one other subprotocol, which is the one that is spoken.
///
/// # Errors
/// There are several, it is no text in base64url, or it stands alone.
pub fn websocket_token(headers: &HeaderMap) -> Result<Option<String>, AuthnError> {
    let upgrades = headers.get(http::header::UPGRADE).and_then(|value| value.to_str().ok());
    if !upgrades.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket")) {
        return Ok(None);
    }
    let (mut found, mut others) = (None, false);
    for value in headers.get_all(PROTOCOLS) {
        let Ok(text) = value.to_str() else { continue };
        for protocol in text.split(',').map(str::trim) {
            match protocol.strip_prefix(SUBPROTOCOL) {
                Some(_) if found.is_some() => return Err(AuthnError),
                Some(encoded) => found = Some(encoded),
                None => others |= !protocol.is_empty(),
            }
        }
    }
    let Some(encoded) = found else { return Ok(None) };
    let token = URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match token {
        Some(token) if others && !token.is_empty() => Ok(Some(token)),
        _ => Err(AuthnError),
    }
}

/// Takes such tokens out of what goes on to somebody else; the other subprotocols stay.
pub fn remove_websocket_token(headers: &mut HeaderMap) {
    let stays = |protocol: &&str| !protocol.starts_with(SUBPROTOCOL);
    let of = |value: &HeaderValue| -> Option<HeaderValue> {
        let text = value.to_str().ok()?;
        let kept: Vec<&str> = text.split(',').map(str::trim).filter(stays).collect();
        (!kept.is_empty()).then(|| kept.join(", ")).and_then(|kept| kept.parse().ok())
    };
    let kept: Vec<HeaderValue> = headers.get_all(PROTOCOLS).iter().filter_map(of).collect();
    headers.remove(PROTOCOLS);
    for value in kept {
        headers.append(PROTOCOLS, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_its_token_among_the_subprotocols() {
        let headers = |protocols: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert("upgrade", HeaderValue::from_static("websocket"));
            for protocol in protocols {
                headers.append(PROTOCOLS, protocol.parse().expect("a header"));
            }
            headers
        };
        // "a.b"
        let token = format!("{SUBPROTOCOL}YS5i");
        let both = format!("v5.channel.k8s.io, {token}");
        assert_eq!(websocket_token(&headers(&[&both])), Ok(Some("a.b".to_owned())));
        assert_eq!(websocket_token(&headers(&[&token, "v4.channel.k8s.io"])), Ok(Some("a.b".to_owned())));
        assert_eq!(websocket_token(&headers(&["v5.channel.k8s.io"])), Ok(None));
        for wrong in [
            vec![token.as_str()],
            vec![&both, &token],
            vec![&format!("x, {SUBPROTOCOL}!")],
            vec![&format!("x,{SUBPROTOCOL}")],
        ] {
            assert_eq!(websocket_token(&headers(&wrong)), Err(AuthnError), "{wrong:?}");
        }
        let mut plain = headers(&[&both]);
        plain.remove("upgrade");
        assert_eq!(websocket_token(&plain), Ok(None), "no WebSocket");
        let mut onwards = headers(&[&both, &token]);
        remove_websocket_token(&mut onwards);
        let left: Vec<_> = onwards.get_all(PROTOCOLS).iter().collect();
        assert_eq!(left, ["v5.channel.k8s.io"]);
    }

    #[test]
    fn a_token_comes_in_either_header() {
        let found = |name: &str, value: &str| {
            let request = http::Request::builder().header(name, value).body(()).expect("a request");
            let parts = request.into_parts().0;
            bearer_token(&parts).map(|token| token.map(str::to_owned))
        };
        for (name, value) in
            [("authorization", "Bearer a.b"), ("authorization", "bearer  a.b"), ("x-auth-token", "a.b")]
        {
            assert_eq!(found(name, value), Ok(Some("a.b".to_owned())), "{value}");
        }
        assert_eq!(found("authorization", "Basic YTpi"), Ok(None));
        assert_eq!(found("accept", "x"), Ok(None));
        for (name, value) in
            [("authorization", "Bearer "), ("x-auth-token", ""), ("authorization", "Bearer \u{e9}")]
        {
            assert_eq!(found(name, value), Err(AuthnError), "{value}");
        }
    }
}
