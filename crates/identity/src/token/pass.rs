//! Passes to consoles: what is in the address of one, where no header can be sent.
//!
//! A pass is signed with the key of users' tokens, but is none: it has another issuer, and opens one console of one machine for some
//! minutes. It carries the claims of the token that it was asked for with, so that it ends with that token, and with all that
//! ends that one: the user, the project, the role.

use jsonwebtoken::{Algorithm, Validation};
use serde::{Deserialize, Serialize};

use super::{Claims, MAX_TOKEN, TokenError, TokenKey, now_ms};

/// `iss` of every pass.
const PASS_ISSUER: &str = "yunfan:console";
/// How long a pass opens its console, seconds: as long as Nova's by default.
pub const PASS_LIFETIME: u64 = 600;

/// The console that a pass opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Namespace of the machine.
    pub namespace: String,
    /// Name of the machine.
    pub name: String,
    /// Its uid: another machine of that name is not meant.
    pub uid: String,
    /// What kind of console it is.
    pub kind: String,
}

/// What a pass says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    iss: String,
    sub: String,
    exp: u64,
    /// What it opens.
    pub place: Place,
    /// Who asked for it.
    pub claims: Claims,
}

impl Pass {
    /// Who has a token with these claims may look at a console, from now on for [`PASS_LIFETIME`] seconds, but no longer than with
    /// the token itself.
    pub fn new(claims: Claims, place: Place) -> Self {
        let exp = (now_ms() / 1000).saturating_add(PASS_LIFETIME).min(claims.exp);
        Self { iss: PASS_ISSUER.to_owned(), sub: claims.sub.clone(), exp, place, claims }
    }
}

impl TokenKey {
    /// Signs a pass.
    ///
    /// # Errors
    /// [`TokenError::Claims`] if it would be too long.
    pub fn issue_pass(&self, pass: &Pass) -> Result<String, TokenError> {
        let text = jsonwebtoken::encode(&self.0.header, pass, &self.0.sign)
            .map_err(|error| TokenError::Claims(error.to_string()))?;
        if text.len() > MAX_TOKEN {
            return Err(TokenError::Claims("it would be longer than 16 KiB".to_owned()));
        }
        Ok(text)
    }

    /// What a pass says that this key signed, that is good now, and whose token has not been revoked.
    ///
    /// # Errors
    /// [`TokenError::Invalid`], whatever the cause.
    pub fn verify_pass(&self, text: &str) -> Result<Pass, TokenError> {
        if text.len() > MAX_TOKEN {
            return Err(TokenError::Invalid);
        }
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.leeway = 0;
        rules.set_issuer(&[PASS_ISSUER]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        let pass = jsonwebtoken::decode::<Pass>(text, &self.0.verify, &rules)
            .map_err(|error| {
                tracing::debug!(%error, "a pass to a console is refused");
                TokenError::Invalid
            })?
            .claims;
        if pass.exp <= now_ms() / 1000 || self.0.revocations.is_revoked(&pass.claims) {
            return Err(TokenError::Invalid);
        }
        Ok(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Scope;

    fn pass(lifetime: u64) -> Pass {
        let mut claims = Claims::new("ann", "1", lifetime);
        claims.project = Some(Scope { id: "p".to_owned(), name: "demo".to_owned() });
        let place = Place {
            namespace: "demo".to_owned(),
            name: "vm1".to_owned(),
            uid: "u".to_owned(),
            kind: "vnc".to_owned(),
        };
        Pass::new(claims, place)
    }

    #[test]
    fn a_pass_is_no_token_and_a_token_no_pass() {
        let key = TokenKey::ephemeral().unwrap();
        let pass = pass(3600);
        let text = key.issue_pass(&pass).unwrap();
        assert_eq!(key.verify_pass(&text).unwrap(), pass);
        assert!(key.verify(&text).is_err());
        let token = key.issue(&pass.claims).unwrap();
        assert!(key.verify_pass(&token).is_err());
        assert!(TokenKey::ephemeral().unwrap().verify_pass(&text).is_err());
        assert!(key.verify_pass(&format!("bad{text}")).is_err());
    }

    #[test]
    fn a_pass_ends_in_ten_minutes_and_with_its_token() {
        let key = TokenKey::ephemeral().unwrap();
        let now = now_ms() / 1000;
        let long = pass(3600);
        assert!((now + PASS_LIFETIME..=now + PASS_LIFETIME + 5).contains(&long.exp));
        let short = pass(60);
        assert_eq!(short.exp, short.claims.exp);
        let over = Pass { exp: now, ..long.clone() };
        assert!(key.verify_pass(&key.issue_pass(&over).unwrap()).is_err());
        let texts = [&long, &short].map(|pass| key.issue_pass(pass).unwrap());
        key.revocations().revoke(&short.claims.jti, short.claims.exp).unwrap();
        assert!(key.verify_pass(&texts[0]).is_ok() && key.verify_pass(&texts[1]).is_err());
        key.revocations().revoke_project("p", now_ms()).unwrap();
        assert!(key.verify_pass(&texts[0]).is_err());
    }
}
