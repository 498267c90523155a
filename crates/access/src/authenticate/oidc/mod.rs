//! Tokens of other issuers: JWTs that an OpenID provider signed, checked with the keys that it publishes.

mod claims;
mod distributed;
mod document;
mod keys;

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header};
use serde_json::{Map, Value};
use yunfan_identity::UserInfo;

pub use document::Flags;
pub(super) use document::{Jwt, read};

use claims::Mapping;
use distributed::Distributed;
use keys::{Keys, Unready};

/// The longest token that is looked at, bytes.
const MAX_TOKEN: usize = 64 * 1024;
/// How far an issuer's clock may be ahead when it says from when on a token holds, seconds (as kube-apiserver).
const EARLY: u64 = 300;

/// All asymmetric algorithms that can be verified here; those with a shared secret are no proof of anything.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::EdDSA,
];

/// One issuer, and what is made of its tokens.
pub(super) struct Issuer {
    url: String,
    audiences: Vec<String>,
    algorithms: Vec<Algorithm>,
    mapping: Mapping,
    keys: Keys,
    /// Of the claim that groups come from, where they come from one.
    distributed: Option<Distributed>,
}

impl Issuer {
    /// Whose token it is; `None` for one of another issuer.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) async fn token(&self, token: &str) -> Result<Option<UserInfo>, String> {
        if token.len() > MAX_TOKEN || claimed_issuer(token).as_deref() != Some(&self.url) {
            return Ok(None);
        }
        let named = |why| format!("oidc: {why}");
        let mut claims = self.verify(token, &self.url, &self.keys).await.map_err(named)?;
        if let Some(distributed) = &self.distributed {
            distributed.expand(self, token, &mut claims).await.map_err(named)?;
        }
        self.mapping.user(&claims).map(Some).map_err(|why| format!("oidc: {why}"))
    }

    /// Takes over the keys of whoever among those before is found in the same place: a change of the configuration must not lock users
    /// out whose issuer happens to be away.
    pub(super) fn take_over(&mut self, before: &[Self]) {
        if let Some(known) = before.iter().find(|issuer| issuer.keys.same_source(&self.keys)) {
            self.keys = known.keys.clone();
        }
    }

    /// Waits until the issuer was asked for its keys once.
    pub(super) async fn asked(&self) {
        self.keys.asked().await;
    }

    /// The claims of a token that `issuer` has given for our audiences, and signed with one of these keys.
    async fn verify(&self, token: &str, issuer: &str, keys: &Keys) -> Result<Map<String, Value>, String> {
        // "none", and whatever else is no signature, is no algorithm to this function.
        let header = decode_header(token).map_err(|error| format!("the header cannot be used: {error}"))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(format!("the algorithm {:?} is not allowed", header.alg));
        }
        let mut rules = Validation::new(header.alg);
        rules.leeway = 0;
        rules.set_audience(&self.audiences);
        rules.set_issuer(&[issuer]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        let judged = match judge(token, &fitting(keys, &header).await?, &rules) {
            // Not all issuers name their keys, or give a new one a new name.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {
                keys.again().await;
                judge(token, &fitting(keys, &header).await?, &rules)
            }
            judged => judged,
        };
        on_time(judged.map_err(|error| error.to_string())?)
    }
}

/// The keys that may have signed a token with this header.
async fn fitting(keys: &Keys, header: &Header) -> Result<Vec<DecodingKey>, String> {
    keys.for_token(header.kid.as_deref(), header.alg).await.map_err(|why| match why {
        Unready::Unknown => "no key of the issuer has signed it".to_owned(),
        Unready::Unreachable => "the issuer's keys are not known yet".to_owned(),
    })
}

/// The claims of a token that one of these keys has signed.
fn judge(token: &str, keys: &[DecodingKey], rules: &Validation) -> Result<Map<String, Value>, Error> {
    let mut last = Error::from(ErrorKind::InvalidSignature);
    for key in keys {
        match decode::<Map<String, Value>>(token, key, rules) {
            Ok(found) => return Ok(found.claims),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn on_time(claims: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let early = claims.get("nbf").and_then(Value::as_f64).is_some_and(|from| from > (now + EARLY) as f64);
    if early { Err("it does not hold yet".to_owned()) } else { Ok(claims) }
}

/// Who a token says that it is from; nothing of that is checked.
fn claimed_issuer(token: &str) -> Option<String> {
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Map<String, Value>>(token).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
