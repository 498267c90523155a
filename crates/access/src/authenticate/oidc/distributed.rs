//! Claims that an issuer keeps elsewhere: a token names the claim and where it is (OpenID Connect Core 1.0, section 5.6.2), and what is
//! fetched there is a token again, of whatever issuer. As in kube-apiserver that is so for the claim of groups alone, and lasts for ten
//! seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Config;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::keys::{Keys, Source};
use super::{Issuer, MAX_TOKEN, claimed_issuer};
use crate::kept::{self, Kept};
use crate::remote::Remote;

/// How long the other side has for its answer.
const TIME: Duration = Duration::from_secs(5);
/// How long a claim counts that was fetched: kube-apiserver keeps what it knows of a token for so long.
const KEPT: Duration = Duration::from_secs(10);
/// Claims that are kept.
const MOST: usize = 1024;
/// Claims that are fetched at one time.
const AT_ONCE: usize = 32;
/// Other issuers whose keys are known.
const MOST_ISSUERS: usize = 16;

/// Fetches the claim of one issuer's tokens.
pub(super) struct Distributed {
    claim: String,
    authorities: Option<Vec<Vec<u8>>>,
    /// By the token that told of it.
    kept: Kept<Arc<Value>>,
    turns: Semaphore,
    others: Mutex<HashMap<String, Keys>>,
}

/// Where a claim is.
struct Place<'a> {
    endpoint: &'a str,
    /// What opens it; nothing, where it is open.
    access_token: &'a str,
}

impl Distributed {
    /// For the claim of this name; `authorities` as those of the issuer.
    pub(super) fn new(claim: &str, authorities: Option<Vec<Vec<u8>>>) -> Self {
        Self {
            claim: claim.to_owned(),
            authorities,
            kept: Kept::new(MOST),
            turns: Semaphore::new(AT_ONCE),
            others: Mutex::default(),
        }
    }

    /// Puts the claim among the verified claims of `token`, where these say that it is elsewhere.
    ///
    /// # Errors
    /// Why it cannot be had: without it, it is not known who the user is.
    pub(super) async fn expand(
        &self,
        issuer: &Issuer,
        token: &str,
        claims: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let failed = |why: String| format!("could not expand distributed claims: {why}");
        let Some(place) = self.place(claims).map_err(failed)? else { return Ok(()) };
        let key = kept::key(&[token.as_bytes()]);
        if let Some(value) = self.kept.get(&key) {
            claims.insert(self.claim.clone(), (*value).clone());
            return Ok(());
        }
        let value = self.fetch(issuer, &place).await.map_err(failed)?;
        self.kept.insert(key, Arc::new(value.clone()), KEPT);
        claims.insert(self.claim.clone(), value);
        Ok(())
    }

    fn place<'a>(&self, claims: &'a Map<String, Value>) -> Result<Option<Place<'a>>, String> {
        if claims.contains_key(&self.claim) {
            return Ok(None);
        }
        let (Some(names), Some(sources)) = (claims.get("_claim_names"), claims.get("_claim_sources")) else {
            return Ok(None);
        };
        let Some(source) = names.get(&self.claim) else { return Ok(None) };
        let source = source.as_str().ok_or("the name of the claim's source is no text")?;
        let Some(source) = sources.get(source) else {
            return Err(format!("_claim_names has the source {source:?}, which is not in _claim_sources"));
        };
        let text = |field: &str| source[field].as_str().unwrap_or_default();
        match text("endpoint") {
            // It is in the token itself, which kube-apiserver does not take either.
            "" => Ok(None),
            endpoint => Ok(Some(Place { endpoint, access_token: text("access_token") })),
        }
    }

    async fn fetch(&self, issuer: &Issuer, place: &Place<'_>) -> Result<Value, String> {
        let endpoint = place.endpoint;
        if !endpoint.starts_with("https://") {
            return Err(format!("the endpoint {endpoint:?} is no https URL"));
        }
        let _turn = self.turns.try_acquire().map_err(|_| "too many are being fetched".to_owned())?;
        let mut config = Config::new(endpoint.parse().map_err(|error| format!("{endpoint}: {error}"))?);
        config.root_cert.clone_from(&self.authorities);
        let answer = Remote::new(config)?.get_text(place.access_token, TIME).await;
        let token = answer.map_err(|why| why.to_string())?;
        let token = token.trim();
        let from = claimed_issuer(token).filter(|_| token.len() <= MAX_TOKEN);
        let from = from.ok_or_else(|| format!("the answer of {endpoint} is no token"))?;
        let mut claims = match from == issuer.url {
            true => issuer.verify(token, &from, &issuer.keys).await?,
            false => issuer.verify(token, &from, &self.keys_of(&from)?).await?,
        };
        claims
            .remove(&self.claim)
            .ok_or_else(|| format!("the token of {endpoint} has no claim {:?}", self.claim))
    }

    /// The keys of another issuer, which are found as those of the first.
    fn keys_of(&self, issuer: &str) -> Result<Keys, String> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = others.get(issuer) {
            return Ok(keys.clone());
        }
        if !issuer.starts_with("https://") {
            return Err(format!("the issuer {issuer:?} is no https URL"));
        }
        if others.len() >= MOST_ISSUERS {
            return Err(format!(
                "claims of more than {MOST_ISSUERS} other issuers, as {issuer}, are not taken"
            ));
        }
        let discovery = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let source = Source { issuer: issuer.to_owned(), discovery, authorities: self.authorities.clone() };
        let keys = Keys::new(source);
        others.insert(issuer.to_owned(), keys.clone());
        Ok(keys)
    }
}
