//! Claims that an issuer keeps elsewhere: a token names the claim and where it is (OpenID Connect Core 1.0, section 5.6.2), and what is
//! fetched there is a token again, of whatever issuer. As in kube-apiserver that is so for the claim of groups alone, and lasts for ten
//! seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use kube::Config;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::keys::{Keys, Source};
use super::{Issuer, MAX_TOKEN, claimed_issuer};
use crate::kept::{self, Kept, Key};
use crate::remote::Remote;

/// How long the other side has for its answer.
const TIME: Duration = Duration::from_secs(5);
/// How long a claim counts that was fetched: kube-apiserver keeps what it knows of a token for so long.
const KEPT: Duration = Duration::from_secs(10);
/// How long it counts that it could not be had: who asked at the same time need not ask again.
const FAILED: Duration = Duration::from_secs(1);
/// Claims that are kept.
const MOST: usize = 1024;
/// Claims that are fetched at one time.
const AT_ONCE: usize = 32;
/// Other issuers whose keys are known.
const MOST_ISSUERS: usize = 16;

type Turn = tokio::sync::Mutex<()>;

/// Fetches the claim of one issuer's tokens.
pub(super) struct Distributed {
    claim: String,
    authorities: Option<Vec<Vec<u8>>>,
    /// By the token that told of it.
    kept: Kept<Arc<Result<Value, String>>>,
    turns: Semaphore,
    /// Tokens whose claim is being fetched: one asks, and who comes with the same token waits for what it gets.
    asking: Mutex<HashMap<Key, Weak<Turn>>>,
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
            asking: Mutex::default(),
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
        let turn = self.turn(key);
        let _turn = turn.lock().await;
        let value = match self.kept.get(&key) {
            Some(known) => (*known).clone(),
            None => {
                let value = self.fetch(issuer, &place).await;
                let time = if value.is_ok() { KEPT } else { FAILED };
                self.kept.insert(key, Arc::new(value.clone()), time);
                value
            }
        };
        claims.insert(self.claim.clone(), value.map_err(failed)?);
        Ok(())
    }

    fn turn(&self, key: Key) -> Arc<Turn> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        asking.retain(|_, turn| turn.strong_count() > 0);
        let turn = asking.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        asking.insert(key, Arc::downgrade(&turn));
        turn
    }

    fn place<'a>(&self, claims: &'a Map<String, Value>) -> Result<Option<Place<'a>>, String> {
        if claims.contains_key(&self.claim) {
            return Ok(None);
        }
        let Some(names) = claims.get("_claim_names") else { return Ok(None) };
        let names = names.as_object().ok_or("_claim_names is no map")?;
        let sources = claims.get("_claim_sources").ok_or("no claim sources")?;
        let sources = sources.as_object().ok_or("_claim_sources is no map")?;
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
        let mut config = Config::new(endpoint.parse().map_err(|error| format!("{endpoint}: {error}"))?);
        config.root_cert.clone_from(&self.authorities);
        let answer = {
            let turn = tokio::time::timeout(TIME, self.turns.acquire()).await;
            let _turn = turn.map_err(|_| "too many are being fetched".to_owned())?;
            Remote::new(config)?.get_text(place.access_token, TIME).await
        };
        let token = answer.map_err(|why| why.to_string())?;
        let token = token.trim();
        let from = claimed_issuer(token).filter(|_| token.len() <= MAX_TOKEN);
        let from = from.ok_or_else(|| format!("the answer of {endpoint} is no token"))?;
        let mut claims = match from == issuer.url {
            true => issuer.verify(token, &from, &issuer.keys).await?,
            false => {
                let keys = self.keys_of(&from)?;
                let claims = issuer.verify(token, &from, &keys).await?;
                // Only now is it known that there is such an issuer, and that it has to do with these tokens.
                self.others.lock().unwrap_or_else(PoisonError::into_inner).entry(from).or_insert(keys);
                claims
            }
        };
        claims
            .remove(&self.claim)
            .ok_or_else(|| format!("the token of {endpoint} has no claim {:?}", self.claim))
    }

    /// The keys of another issuer, which are found as those of the first.
    fn keys_of(&self, issuer: &str) -> Result<Keys, String> {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
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
        Ok(Keys::when_asked(source))
    }
}
