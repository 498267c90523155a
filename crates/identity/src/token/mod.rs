//! Signed tokens, that every door verifies by itself.
//!
//! A user's token is a JWS signed with the cloud's Ed25519 key. What it says ([`Claims`]) is all that a door
//! needs to know of its user, so verification asks nobody; what has been revoked before its time is in
//! [`Revocations`], in memory. A service account's token ([`AccountClaims`]) has another form and another key: it holds
//! as long as the objects that it names.

mod account;
mod legacy;
mod pass;
mod revocation;
mod verified;

pub use account::{AccountClaims, AccountKey, Bond, Reference};
pub use legacy::LegacyClaims;
pub use pass::{PASS_LIFETIME, Pass, Place};
pub use revocation::{Revocations, RevocationsFull, WHOLE};

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::RngCore;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::UserInfo;
use crate::files::{self, FileError};
use crate::user::{
    EXTRA_CREDENTIAL_ID, EXTRA_LIMIT_NAMESPACE, EXTRA_LIMIT_ROLES, EXTRA_PROJECT_ID, EXTRA_PROJECT_NAME,
    EXTRA_ROLES,
};

/// `iss` of every token.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The longest time that a token may be valid, seconds: two days. What is revoked must be remembered for as long.
pub const MAX_LIFETIME: u64 = 48 * 3600;
/// The longest token that is looked at, bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// File of the signing key, in the directory given to [`TokenKey::open_or_create`].
const KEY_FILE: &str = "token.key";
/// The DER of a PKCS #8 Ed25519 private key (RFC 8410) up to its 32 bytes of seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Something that has an id and a name: a project, a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Its immutable id.
    pub id: String,
    /// Its `metadata.name`.
    pub name: String,
}

/// What a token has of its user's rights, where these are not all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The namespace in which it has any.
    pub namespace: String,
    /// The ClusterRoles of which they are.
    pub roles: Vec<String>,
}

/// The application credential that a token was got with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppCredential {
    /// Its id; the token is revoked by it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it may not make further credentials.
    pub restricted: bool,
    /// Whether it is for some requests to OpenStack's services alone: those that its access rules name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ruled: bool,
}

/// The trust that a token was got by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Its id; the token is revoked by it.
    pub id: String,
    /// Id of the user who trusts, as whom the token acts.
    pub trustor: String,
    /// Id of the user who is trusted, who got the token.
    pub trustee: String,
    /// Their name: the token is revoked with theirs.
    #[serde(default)]
    pub trustee_name: String,
    /// Id of their domain.
    #[serde(default)]
    pub trustee_domain: String,
    /// Whether the token names the user who is trusted as its own, where it acts with the rights of the one who trusts all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub names_trustee: bool,
}

/// What the token of a User who signed in through Keystone's API says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// [`ISSUER`].
    pub iss: String,
    /// The user's name.
    pub sub: String,
    /// The user's id.
    #[serde(default)]
    pub uid: String,
    /// The project that it is scoped to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<Scope>,
    /// The domain that it is scoped to, or that the project is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Scope>,
    /// The user's own domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_domain: Option<Scope>,
    /// Whether it is scoped to the whole cloud.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// What it is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// What it was got with, if that was no password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_credential: Option<AppCredential>,
    /// What it was got by, if somebody acts for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
    /// Keystone role names that the user has in the scope.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// The user's groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// How the user signed in (`password`, `token`, `application_credential`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// When it was issued, seconds since 1970.
    pub iat: u64,
    /// The milliseconds of `iat`: a token issued just after its user's tokens were revoked is good.
    #[serde(default)]
    pub iat_ms: u16,
    /// When it ceases to be valid, seconds since 1970.
    pub exp: u64,
    /// The token's own id.
    pub jti: String,
    /// Keystone's audit ids: this token's, and that of the first of the chain of tokens it comes from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audit_ids: Vec<String>,
}

impl Claims {
    /// Claims of a token issued now to `sub`, valid for `lifetime` seconds (at most [`MAX_LIFETIME`]), with new ids.
    pub fn new(sub: impl Into<String>, uid: impl Into<String>, lifetime: u64) -> Self {
        let now = now_ms();
        let iat = now / 1000;
        Self {
            iss: ISSUER.to_owned(),
            sub: sub.into(),
            uid: uid.into(),
            iat,
            iat_ms: (now % 1000) as u16, // < 1000
            exp: iat.saturating_add(lifetime.min(MAX_LIFETIME)),
            jti: random_id(),
            audit_ids: vec![random_id()],
            ..Self::default()
        }
    }

    /// The user that a request with this token is from.
    pub fn user(&self) -> UserInfo {
        let mut user = UserInfo::authenticated(self.sub.clone(), self.groups.iter().cloned());
        user.uid.clone_from(&self.uid);
        let mut extra = |key: &str, values: Vec<String>| {
            if !values.is_empty() {
                user.extra.insert(key.to_owned(), values);
            }
        };
        extra(EXTRA_CREDENTIAL_ID, vec![format!("JTI={}", self.jti)]);
        extra(EXTRA_ROLES, self.roles.clone());
        if let Some(limit) = &self.limit {
            extra(EXTRA_LIMIT_NAMESPACE, vec![limit.namespace.clone()]);
            extra(EXTRA_LIMIT_ROLES, limit.roles.clone());
        }
        if let Some(project) = &self.project {
            extra(EXTRA_PROJECT_ID, vec![project.id.clone()]);
            extra(EXTRA_PROJECT_NAME, vec![project.name.clone()]);
        }
        user
    }

    /// What it is for: the id of a project, or else of a domain, or [`WHOLE`].
    pub fn place(&self) -> Option<&str> {
        let scope = self.project.as_ref().or(self.domain.as_ref());
        scope.map(|scope| scope.id.as_str()).or_else(|| self.system.then_some(WHOLE))
    }

    /// When it was issued, milliseconds since 1970.
    pub fn issued_at_ms(&self) -> u64 {
        self.iat.saturating_mul(1000).saturating_add(u64::from(self.iat_ms))
    }
}

/// Why a token could not be made, or is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token is refused. Always the same, so that it tells a forger nothing.
    #[error("The token is not valid")]
    Invalid,
    /// A token cannot be issued with such claims.
    #[error("A token cannot be issued: {0}")]
    Claims(String),
    /// The key's file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The cloud's signing key, and what has been revoked. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct TokenKey(Arc<Inner>);

struct Inner {
    header: Header,
    sign: EncodingKey,
    verify: DecodingKey,
    public: Vec<u8>,
    rules: Validation,
    revocations: Revocations,
}

impl TokenKey {
    /// Reads the key in `dir` (`token.key`, PKCS #8 PEM, mode 0600), or makes one where there is none.
    ///
    /// # Errors
    /// [`TokenError::File`] naming the file, if it cannot be read or written, or is no Ed25519 key.
    pub fn open_or_create(dir: &Path) -> Result<Self, TokenError> {
        let path = dir.join(KEY_FILE);
        if let Some(pem) = files::read(&path)? {
            let seed = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
                .ok()
                .and_then(|der| seed_of(der.secret_pkcs8_der()))
                .ok_or_else(|| FileError::corrupt(&path, "an Ed25519 private key in PKCS #8 PEM"))?;
            return Self::from_seed(&seed);
        }
        let seed = random_seed();
        files::create_dir(dir)?;
        files::write_private(&path, &files::pem("PRIVATE KEY", &[&PKCS8_PREFIX[..], &seed].concat()))?;
        Self::from_seed(&seed)
    }

    /// A key that lives in memory only.
    ///
    /// # Errors
    /// None that a caller can mend; see [`TokenError`].
    pub fn ephemeral() -> Result<Self, TokenError> {
        Self::from_seed(&random_seed())
    }

    fn from_seed(seed: &[u8; 32]) -> Result<Self, TokenError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|_| TokenError::Claims("the signing key is rejected".to_owned()))?;
        let public = pair.public_key().as_ref().to_vec();
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(key_id(&public));
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.leeway = 0;
        rules.set_issuer(&[ISSUER]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        Ok(Self(Arc::new(Inner {
            header,
            sign: EncodingKey::from_ed_der(&[&PKCS8_PREFIX[..], seed].concat()),
            verify: DecodingKey::from_ed_der(&public),
            public,
            rules,
            revocations: Revocations::default(),
        })))
    }

    /// Signs `claims`.
    ///
    /// # Errors
    /// [`TokenError::Claims`] if they lack a subject or an id, or are valid for longer than [`MAX_LIFETIME`].
    pub fn issue(&self, claims: &Claims) -> Result<String, TokenError> {
        let refuse = |why: &str| Err(TokenError::Claims(why.to_owned()));
        if claims.sub.is_empty() || claims.jti.is_empty() {
            return refuse("the subject (sub) and the id (jti) must not be empty");
        }
        if claims.iss != ISSUER {
            return refuse("the issuer (iss) is another cloud's");
        }
        if claims.exp.saturating_sub(claims.iat) > MAX_LIFETIME {
            return refuse("it would be valid for more than two days");
        }
        let token = jsonwebtoken::encode(&self.0.header, claims, &self.0.sign)
            .map_err(|error| TokenError::Claims(error.to_string()))?;
        if token.len() > MAX_TOKEN {
            return refuse("it would be longer than 16 KiB; the user has too many groups or roles");
        }
        Ok(token)
    }

    /// The claims of a token that this key signed, that is valid now and is not revoked.
    ///
    /// # Errors
    /// [`TokenError::Invalid`], whatever the cause.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Invalid);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.0.verify, &self.0.rules)
            .map_err(|error| {
                tracing::debug!(%error, "token refused");
                TokenError::Invalid
            })?
            .claims;
        // `exp` itself is the first second in which the token is no longer valid.
        if claims.exp <= now_ms() / 1000 || self.0.revocations.is_revoked(&claims) {
            return Err(TokenError::Invalid);
        }
        Ok(claims)
    }

    /// Whether a token says that this key signed it: nobody else is to be asked about it.
    pub fn is_named_by(&self, token: &str) -> bool {
        token.len() <= MAX_TOKEN
            && jsonwebtoken::decode_header(token).is_ok_and(|header| header.kid == self.0.header.kid)
    }

    /// What has been revoked; to be fed by whoever stores it.
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// The public key, 32 bytes; for a JWKS document.
    pub fn public_key(&self) -> &[u8] {
        &self.0.public
    }

    /// The key's id (`kid` in the token's header).
    pub fn key_id(&self) -> &str {
        self.0.header.kid.as_deref().unwrap_or_default()
    }
}

/// A new id that cannot be guessed: 32 hexadecimal digits.
pub fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    seed
}

/// The seed in a PKCS #8 Ed25519 key, as we and other tools (version 1, without attributes) write it.
fn seed_of(der: &[u8]) -> Option<[u8; 32]> {
    der.strip_prefix(&PKCS8_PREFIX[..])?.try_into().ok()
}

/// What a key is called in the header of what it signed.
fn key_id(public: &[u8]) -> String {
    hex(&Sha256::digest(public)[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
