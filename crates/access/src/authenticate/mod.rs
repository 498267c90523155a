//! Who a request is from, by what an operator configures beside the cloud's own certificates and tokens.

mod basic;
mod config;
mod headers;
mod lines;
mod oidc;
mod tokens;
mod webhook;

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderMap;
use http::request::Parts;
use rustls::pki_types::CertificateDer;
use yunfan_identity::UserInfo;

pub use basic::BasicError;
pub use config::AuthenticationOptions;
pub use headers::HeaderOptions;
pub use oidc::Flags as OidcOptions;

use basic::Basic;
use headers::FrontProxy;
use oidc::Issuer;
use tokens::TokenFile;
use webhook::TokenWebhook;

/// A token that is good for someone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Whose it is.
    pub user: UserInfo,
    /// Those of the audiences asked about that it is for.
    pub audiences: Vec<String>,
}

/// Why a token is good for nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Somebody who should know says no, or cannot be asked.
    #[error("{0}")]
    Refused(String),
    /// So many tokens are being asked about that this one was not: it may be good.
    #[error("too many tokens are being checked, please try again later")]
    Busy,
}

impl From<String> for TokenError {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

/// What is configured; a clone is the same, and changes with its files. Without anything, requests without credentials are
/// anonymous, and there is nothing more.
#[derive(Clone, Default)]
pub struct Authentication(Arc<Inner>);

#[derive(Default)]
struct Inner {
    tokens: Option<TokenFile>,
    webhook: Option<TokenWebhook>,
    basic: Option<Basic>,
    proxy: Option<FrontProxy>,
    /// What the structured file says, which may change.
    structured: RwLock<Arc<Structured>>,
}

/// What an AuthenticationConfiguration says.
#[derive(Default)]
struct Structured {
    issuers: Vec<Issuer>,
    anonymous: Anonymous,
}

/// Which requests may come without credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Anonymous {
    #[default]
    All,
    /// Those for one of these paths.
    At(Vec<String>),
    None,
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Authentication")
    }
}

impl Authentication {
    fn structured(&self) -> Arc<Structured> {
        self.0.structured.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whose token it is, and for which of the audiences asked about. `own` are the API server's audiences.
    ///
    /// # Errors
    /// Why nobody knows it, where somebody says so.
    pub async fn token(
        &self,
        token: &str,
        audiences: &[&str],
        own: &[&str],
    ) -> Result<Option<Known>, TokenError> {
        // Who does not speak of audiences speaks of tokens for the API server.
        let common: Vec<String> =
            audiences.iter().filter(|asked| own.contains(asked)).map(|asked| (*asked).to_owned()).collect();
        let ours = !common.is_empty();
        let known = |user: UserInfo| Known { user, audiences: common.clone() };
        let mut errors: Vec<String> = Vec::new();
        if let Some(user) = self.0.tokens.as_ref().filter(|_| ours).and_then(|file| file.user(token)) {
            return Ok(Some(known(user)));
        }
        for issuer in self.structured().issuers.iter().filter(|_| ours) {
            match Box::pin(issuer.token(token)).await {
                Ok(Some(user)) => return Ok(Some(known(user))),
                Ok(None) => {}
                Err(why) => errors.push(why),
            }
        }
        if let Some(webhook) = &self.0.webhook {
            match Box::pin(webhook.token(token, audiences, own)).await {
                Ok(Some(known)) => return Ok(Some(known)),
                Ok(None) => {}
                Err(TokenError::Refused(why)) => errors.push(why),
                Err(busy) => return Err(busy),
            }
        }
        if errors.is_empty() { Ok(None) } else { Err(errors.join(", ").into()) }
    }

    /// Whom a request from `address` is from, if it carries a name and a password, and these are configured.
    ///
    /// # Errors
    /// [`BasicError`].
    pub async fn basic(
        &self,
        request: &Parts,
        address: Option<IpAddr>,
    ) -> Result<Option<UserInfo>, BasicError> {
        match &self.0.basic {
            Some(basic) => Box::pin(basic.user(request, address)).await,
            None => Ok(None),
        }
    }

    /// Whom a front proxy says that a request is from: one that showed a certificate of the authority of front proxies.
    pub fn proxied(&self, request: &Parts) -> Option<UserInfo> {
        self.0.proxy.as_ref()?.user(request)
    }

    /// Takes away what a front proxy said, so that nobody else takes a client's word for it.
    pub fn forget_proxied(&self, headers: &mut HeaderMap) {
        if let Some(proxy) = &self.0.proxy {
            proxy.forget(headers);
        }
    }

    /// The authorities of front proxies, whose certificates connections may show beside those of clients.
    pub fn proxy_authorities(&self) -> &[CertificateDer<'static>] {
        self.0.proxy.as_ref().map(FrontProxy::authorities).unwrap_or_default()
    }

    /// Whether a request for this path may come without credentials.
    pub fn allows_anonymous(&self, path: &str) -> bool {
        match &self.structured().anonymous {
            Anonymous::All => true,
            Anonymous::At(paths) => paths.iter().any(|allowed| allowed == path),
            Anonymous::None => false,
        }
    }
}

#[cfg(test)]
mod tests;
