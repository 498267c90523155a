//! From a request to the user it is from.
//!
//! Each authenticator looks at one kind of proof. A [`Chain`] asks them in order: the first that
//! finds its proof in the request decides, and a proof that is wrong ends it (401), even where
//! another proof would do: a client that sends a stale token must hear of it.

use std::sync::Arc;

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::request::Parts;
use rustls::pki_types::CertificateDer;

use crate::pki::CertificateUser;
use crate::token::TokenKey;
use crate::{Caller, UserInfo};

/// The request carries a proof of identity that does not hold. It says nothing of why: the cause is
/// logged at debug level, and would help nobody but a forger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "The request's credentials are not valid (expired, revoked or not issued by this cloud); sign in again"
)]
pub struct AuthnError;

/// Finds out whom a request is from.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The user, if the request carries the proof that this authenticator knows; `None` if it does not.
    ///
    /// # Errors
    /// [`AuthnError`] if it carries one that is not valid: to be answered with 401.
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthnError>;
}

/// Request extension: the certificate that the TLS client proved to have the key of, and that the
/// cloud's own authority signed. The TLS acceptor makes one per connection; parsed once.
#[derive(Clone)]
pub struct PeerCertificate(Arc<Result<CertificateUser, AuthnError>>);

impl PeerCertificate {
    /// Reads the leaf certificate (DER) of a connection whose handshake verified it.
    pub fn new(leaf: &CertificateDer<'_>) -> Self {
        Self(Arc::new(CertificateUser::parse(leaf).map_err(|error| {
            tracing::debug!(%error, "client certificate refused");
            AuthnError
        })))
    }

    /// The certificate's user.
    ///
    /// # Errors
    /// [`AuthnError`] if it names none, or has expired since the handshake.
    pub fn user(&self) -> Result<UserInfo, AuthnError> {
        match &*self.0 {
            Ok(certificate) if !certificate.expired() => Ok(certificate.user.clone()),
            _ => Err(AuthnError),
        }
    }
}

/// Trusts a [`Caller`] that is already in the request's extensions: the in-process client.
pub struct InProcess;

#[async_trait]
impl Authenticator for InProcess {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthnError> {
        Ok(request.extensions.get::<Caller>().map(|caller| caller.0.clone()))
    }
}

/// The TLS client's certificate, from the [`PeerCertificate`] in the request's extensions.
pub struct ClientCertificate;

#[async_trait]
impl Authenticator for ClientCertificate {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthnError> {
        request.extensions.get::<PeerCertificate>().map(PeerCertificate::user).transpose()
    }
}

/// The token in `Authorization: Bearer`, or in OpenStack's `X-Auth-Token`.
pub struct BearerToken(pub TokenKey);

#[async_trait]
impl Authenticator for BearerToken {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthnError> {
        match bearer_token(request)? {
            Some(token) => self.0.verify(token).map(|claims| Some(claims.user())).map_err(|_| AuthnError),
            None => Ok(None),
        }
    }
}

/// The token that a request carries, not verified. Other schemes than Bearer are no token.
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

/// Authenticators, asked in order.
#[derive(Clone)]
pub struct Chain(Arc<[Arc<dyn Authenticator>]>);

impl Chain {
    /// A chain of these.
    pub fn new(links: Vec<Arc<dyn Authenticator>>) -> Self {
        Self(links.into())
    }

    /// The chain of a cloud: in-process caller, then token, then client certificate. The token goes
    /// before the certificate so that a client that has both acts as the token's user.
    pub fn standard(tokens: TokenKey) -> Self {
        Self::new(vec![Arc::new(InProcess), Arc::new(BearerToken(tokens)), Arc::new(ClientCertificate)])
    }
}

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthnError> {
        for link in self.0.iter() {
            if let Some(user) = link.authenticate(request).await? {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }
}
