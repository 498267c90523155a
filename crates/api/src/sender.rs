//! Whom a request is from: the proofs that count, in their order.
//!
//! A caller within the process; what a front proxy says; a client certificate; a token; a name and a password: kube-apiserver's order.
//! A certificate that is nobody's leaves it to the others; a token or a password that is wrong ends it: a client that sends a stale one
//! must hear of it.

use http::request::Parts;
use jiff::Timestamp;
use yunfan_access::{Authentication, BasicError, Known, TokenError};
use yunfan_identity::authn::{bearer_token, websocket_token};
use yunfan_identity::pki::ClientAuthority;
use yunfan_identity::token::{Bond, Claims, LegacyClaims, TokenKey};
use yunfan_identity::{Caller, PeerCertificate, UserInfo};
use yunfan_objects::ApiError;
use yunfan_serve::PeerAddress;

use crate::accounts::Accounts;
use crate::bootstrap_token::BootstrapTokens;

/// Knows all proofs.
pub(crate) struct Senders {
    pub(crate) accounts: Accounts,
    /// Users who signed in through Keystone's API.
    pub(crate) tokens: TokenKey,
    pub(crate) bootstrap: BootstrapTokens,
    /// Who signs the certificates of clients.
    pub(crate) clients: ClientAuthority,
    pub(crate) configured: Authentication,
}

/// What a session lives by: what one of this cloud's own tokens says.
pub(crate) enum Proof {
    /// Of a user who signed in through Keystone's API.
    User(Box<Claims>),
    /// Of a service account: what has to be there.
    Account(Bond),
    /// The token that a Secret holds.
    Secret(String, LegacyClaims),
}

fn unauthorized() -> ApiError {
    ApiError::unauthorized("Unauthorized")
}

impl Senders {
    /// The request's user; anonymous where it carries no proof and may come without.
    ///
    /// # Errors
    /// 401 for a proof that is wrong, or none; 429 for one who guesses passwords, or while too many tokens are being checked.
    pub(crate) async fn of(&self, parts: &Parts) -> Result<UserInfo, ApiError> {
        if let Some(caller) = parts.extensions.get::<Caller>() {
            return Ok(caller.0.clone());
        }
        if let Some(user) = self.configured.proxied(parts) {
            return Ok(user);
        }
        let certificate = parts.extensions.get::<PeerCertificate>();
        if let Some(user) = certificate.and_then(|peer| self.of_certificate(peer)) {
            return Ok(user);
        }
        if let Some(token) = bearer_token(parts).map_err(|_| unauthorized())? {
            return self.of_token(token).await;
        }
        // A page in a browser can't say more when it opens a WebSocket.
        if let Some(token) = websocket_token(&parts.headers).map_err(|_| unauthorized())? {
            return self.of_token(&token).await;
        }
        let address = parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip());
        match self.configured.basic(parts, address).await {
            Ok(Some(user)) => return Ok(user),
            Ok(None) => {}
            Err(BasicError::Wrong) => return Err(unauthorized()),
            Err(BasicError::Later(wait)) => {
                let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
                let why = "too many wrong passwords, please try again later";
                return Err(ApiError::too_many_requests(why, seconds));
            }
            Err(BasicError::Busy) => {
                let why = "too many passwords are being checked at this moment, please try again later";
                return Err(ApiError::too_many_requests(why, 1));
            }
        }
        match certificate.is_none() && self.configured.allows_anonymous(parts.uri.path()) {
            true => Ok(UserInfo::anonymous()),
            false => Err(unauthorized()),
        }
    }

    /// What a request proved its sender with, where that may be taken back: one of our own tokens.
    pub(crate) fn proof(&self, parts: &Parts) -> Option<Proof> {
        let certificate = parts.extensions.get::<PeerCertificate>();
        let without = parts.extensions.get::<Caller>().is_some()
            || self.configured.proxied(parts).is_some()
            || certificate.is_some_and(|peer| self.of_certificate(peer).is_some());
        if without {
            return None;
        }
        let within = websocket_token(&parts.headers).ok().flatten();
        let token = bearer_token(parts).ok().flatten().or(within.as_deref())?;
        if let Some(proof) = self.accounts.proof(token) {
            return Some(proof);
        }
        let claims = self.tokens.is_named_by(token).then(|| self.tokens.verify(token).ok())?;
        claims.map(|claims| Proof::User(Box::new(claims)))
    }

    /// Whether a proof would still do, were it not too old.
    pub(crate) fn holds(&self, proof: &Proof) -> bool {
        match proof {
            Proof::User(claims) => !self.tokens.revocations().is_revoked(claims),
            Proof::Account(bond) => self.accounts.are_there(bond),
            Proof::Secret(token, claims) => self.accounts.is_kept(token, claims),
        }
    }

    /// For how many seconds more the certificate is good that a request came with; none where it says nothing of who sends it.
    pub(crate) fn certificate_left(&self, parts: &Parts) -> Option<i64> {
        let peer = parts.extensions.get::<PeerCertificate>()?;
        if parts.extensions.get::<Caller>().is_some() || self.configured.proxied(parts).is_some() {
            return None;
        }
        peer.ends().map(|ends| ends - Timestamp::now().as_second())
    }

    /// Whose certificate it is; nobody's, where it has expired, or an authority that is for others than clients has signed it.
    fn of_certificate(&self, peer: &PeerCertificate) -> Option<UserInfo> {
        let of_client = self.configured.proxy_authorities().is_empty() || self.clients.signed(peer);
        peer.user().ok().filter(|_| of_client)
    }

    async fn of_token(&self, token: &str) -> Result<UserInfo, ApiError> {
        match self.token(token, &self.accounts.audiences.all()).await {
            Ok(Some(known)) => Ok(known.user),
            Ok(None) => Err(unauthorized()),
            Err(busy @ TokenError::Busy) => Err(ApiError::too_many_requests(busy.to_string(), 1)),
            Err(why) => {
                tracing::debug!(%why, "token refused");
                Err(unauthorized())
            }
        }
    }

    /// Whose token it is, and for which of these audiences. Our own are shown to nobody else.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) async fn token(&self, token: &str, audiences: &[&str]) -> Result<Option<Known>, TokenError> {
        if let Some(judged) = self.accounts.review(token, audiences).await {
            return judged.map(Some).map_err(TokenError::from);
        }
        let common = self.accounts.audiences.among(audiences);
        let ours = !common.is_empty();
        let known = |user| Known { user, audiences: common };
        if self.tokens.is_named_by(token) {
            let claims = self.tokens.verify(token).map_err(|_| "invalid bearer token".to_owned())?;
            if claims.app_credential.as_ref().is_some_and(|credential| credential.ruled) {
                // None of its rules can speak of this API.
                return Err("the token is for requests to OpenStack's services".to_owned().into());
            }
            return Ok(ours.then(|| known(claims.user())));
        }
        if ours && let Some(user) = self.bootstrap.user(token) {
            return Ok(Some(known(user)));
        }
        self.configured.token(token, audiences, &self.accounts.audiences.all()).await
    }
}
