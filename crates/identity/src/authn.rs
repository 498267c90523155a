//! From a request to what it brings as a proof of who it is from. Which proof counts is decided at the front desk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::AUTHORIZATION;
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

#[cfg(test)]
mod tests {
    use super::*;

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
