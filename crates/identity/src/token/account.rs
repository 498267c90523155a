//! Tokens of service accounts, in the form that Kubernetes gives them.
//!
//! They have a key of their own, on the curve P-256: whoever else is shown such a token (a vault, a cloud's identity
//! service) checks it with what [`AccountKey::jwks`] publishes, and libraries for that know ES256 but not always EdDSA.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::legacy::LegacyClaims;
use super::verified::Verified;
use super::{ISSUER, MAX_TOKEN, TokenError, key_id, now_ms, random_id};
use crate::UserInfo;
use crate::files::{self, FileError};
use crate::user::{
    EXTRA_CREDENTIAL_ID, EXTRA_NODE_NAME, EXTRA_NODE_UID, EXTRA_POD_NAME, EXTRA_POD_UID, service_account_user,
};

/// File of the signing key, in the directory given to [`AccountKey::open_or_create`].
const KEY_FILE: &str = "service-account.key";
/// What is signed: ECDSA on P-256 with SHA-256 (RFC 7518, section 3.4).
const ALGORITHM: Algorithm = Algorithm::ES256;
/// How far the clock of another server of the same cloud may be ahead, seconds.
const SKEW: u64 = 60;

/// An object that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// Its uid; empty where it was not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// What only Kubernetes' tokens say: whose it is, and what it ends with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bond {
    /// Namespace of the service account, and of the Pod or Secret.
    pub namespace: String,
    /// The Node that the token is bound to or, beside a Pod, that the Pod is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The Pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The Secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The service account.
    pub serviceaccount: Reference,
}

impl Bond {
    /// The objects that must still be there for the token to hold: plural, namespace (empty for none) and which.
    pub fn holders(&self) -> impl Iterator<Item = (&'static str, &str, &Reference)> {
        let namespace = self.namespace.as_str();
        // Of a Pod's node the token only tells.
        let node = self.node.as_ref().filter(|_| self.pod.is_none());
        [
            Some(("serviceaccounts", namespace, &self.serviceaccount)),
            self.pod.as_ref().map(|pod| ("pods", namespace, pod)),
            self.secret.as_ref().map(|secret| ("secrets", namespace, secret)),
            node.map(|node| ("nodes", "", node)),
        ]
        .into_iter()
        .flatten()
    }
}

/// What the token of a service account says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountClaims {
    /// Whom it is for: services by names of their own choice, or [`ISSUER`] for the API server.
    pub aud: Vec<String>,
    /// When it ceases to be valid, seconds since 1970.
    pub exp: u64,
    /// When it was issued, seconds since 1970.
    pub iat: u64,
    /// [`ISSUER`].
    pub iss: String,
    /// Its own id.
    pub jti: String,
    /// Whose it is.
    #[serde(rename = "kubernetes.io")]
    pub bond: Bond,
    /// When it begins to be valid, seconds since 1970.
    pub nbf: u64,
    /// The user's name.
    pub sub: String,
}

impl AccountClaims {
    /// Claims of a token issued now for these audiences, valid for `lifetime` seconds.
    pub fn new(bond: Bond, audiences: Vec<String>, lifetime: u64) -> Self {
        let iat = now_ms() / 1000;
        Self {
            aud: audiences,
            exp: iat.saturating_add(lifetime),
            iat,
            iss: ISSUER.to_owned(),
            jti: random_id(),
            sub: service_account_user(&bond.namespace, &bond.serviceaccount.name),
            nbf: iat,
            bond,
        }
    }

    /// The user that a request with this token is from.
    pub fn user(&self) -> UserInfo {
        let bond = &self.bond;
        let mut user =
            UserInfo::service_account(&bond.namespace, &bond.serviceaccount.name, &bond.serviceaccount.uid);
        let mut extra = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(key.to_owned(), vec![value.to_owned()]);
            }
        };
        extra(EXTRA_CREDENTIAL_ID, &format!("JTI={}", self.jti));
        for (object, name, uid) in
            [(&bond.pod, EXTRA_POD_NAME, EXTRA_POD_UID), (&bond.node, EXTRA_NODE_NAME, EXTRA_NODE_UID)]
        {
            if let Some(object) = object {
                extra(name, &object.name);
                extra(uid, &object.uid);
            }
        }
        user
    }
}

/// The key that signs the tokens of service accounts. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct AccountKey(Arc<Inner>);

struct Inner {
    header: Header,
    sign: EncodingKey,
    verify: DecodingKey,
    /// The point on the curve, uncompressed (SEC 1, section 2.3.3): 4, then the coordinates of 32 bytes each.
    public: Vec<u8>,
    rules: Validation,
    verified: Verified<AccountClaims>,
    legacy_rules: Validation,
    legacy: Verified<LegacyClaims>,
}

impl std::fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccountKey").field("kid", &self.0.header.kid).finish_non_exhaustive()
    }
}

impl AccountKey {
    /// Reads the key in `dir` (`service-account.key`, PKCS #8 PEM, mode 0600), or makes one where there is none.
    ///
    /// # Errors
    /// [`TokenError::File`] naming the file, if it cannot be read or written, or is no P-256 key.
    pub fn open_or_create(dir: &Path) -> Result<Self, TokenError> {
        let path = dir.join(KEY_FILE);
        if let Some(pem) = files::read(&path)? {
            let corrupt = || FileError::corrupt(&path, "a P-256 private key in PKCS #8 PEM");
            let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| corrupt())?;
            return Self::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| corrupt().into());
        }
        let der = generate()?;
        files::create_dir(dir)?;
        files::write_private(&path, &files::pem("PRIVATE KEY", &der))?;
        Self::from_pkcs8(&der)
    }

    /// A key that lives in memory only.
    ///
    /// # Errors
    /// None that a caller can mend; see [`TokenError`].
    pub fn ephemeral() -> Result<Self, TokenError> {
        Self::from_pkcs8(&generate()?)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, TokenError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
            .map_err(|_| rejected())?;
        let public = pair.public_key().as_ref().to_vec();
        let mut header = Header::new(ALGORITHM);
        header.typ = None;
        header.kid = Some(key_id(&public));
        let mut rules = Validation::new(ALGORITHM);
        rules.leeway = SKEW;
        rules.validate_nbf = true;
        // Each place that is shown a token has audiences of its own: see `verify`.
        rules.validate_aud = false;
        rules.set_issuer(&[ISSUER]);
        rules.set_required_spec_claims(&["exp", "nbf", "iss", "sub", "aud"]);
        let mut legacy_rules = Validation::new(ALGORITHM);
        // What ends such a token is that its Secret goes.
        legacy_rules.validate_exp = false;
        legacy_rules.validate_aud = false;
        legacy_rules.set_issuer(&[LegacyClaims::issuer()]);
        legacy_rules.set_required_spec_claims(&["iss", "sub"]);
        Ok(Self(Arc::new(Inner {
            header,
            sign: EncodingKey::from_ec_der(der),
            verify: DecodingKey::from_ec_der(&public),
            public,
            rules,
            verified: Verified::default(),
            legacy_rules,
            legacy: Verified::default(),
        })))
    }

    /// Signs `claims`.
    ///
    /// # Errors
    /// [`TokenError::Claims`] if they have too many or too long audiences.
    pub fn issue(&self, claims: &AccountClaims) -> Result<String, TokenError> {
        self.sign(claims)
    }

    /// Signs the claims of a token that a Secret is to hold.
    ///
    /// # Errors
    /// None that a caller can mend; see [`TokenError`].
    pub fn issue_legacy(&self, claims: &LegacyClaims) -> Result<String, TokenError> {
        self.sign(claims)
    }

    fn sign(&self, claims: &impl Serialize) -> Result<String, TokenError> {
        let token = jsonwebtoken::encode(&self.0.header, claims, &self.0.sign)
            .map_err(|error| TokenError::Claims(error.to_string()))?;
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Claims(
                "it would be longer than 16 KiB; ask for fewer audiences".to_owned(),
            ));
        }
        Ok(token)
    }

    /// Whether a token says that this key signed it: any other is another authenticator's to judge.
    pub fn is_named_by(&self, token: &str) -> bool {
        token.len() <= MAX_TOKEN
            && jsonwebtoken::decode_header(token).is_ok_and(|header| header.kid == self.0.header.kid)
    }

    /// The claims of a token that this key signed and that is valid now. Whom it is for, and whether what it is
    /// bound to is still there, the caller looks at.
    ///
    /// # Errors
    /// [`TokenError::Invalid`], whatever the cause.
    pub fn verify(&self, token: &str) -> Result<AccountClaims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Invalid);
        }
        let (key, now) = (Verified::<AccountClaims>::key(token), now_ms() / 1000);
        if let Some(claims) = self.0.verified.get(&key) {
            let begun = claims.nbf <= now.saturating_add(SKEW);
            return if begun && claims.exp.saturating_add(SKEW) > now {
                Ok(claims)
            } else {
                Err(TokenError::Invalid)
            };
        }
        let claims = jsonwebtoken::decode::<AccountClaims>(token, &self.0.verify, &self.0.rules);
        let claims = claims.map(|decoded| decoded.claims).map_err(|error| {
            tracing::debug!(%error, "token of a service account refused");
            TokenError::Invalid
        })?;
        self.0.verified.put(key, claims.exp.saturating_add(SKEW), now, claims.clone());
        Ok(claims)
    }

    /// The claims of a token that a Secret was given, and that this key signed. Whether the Secret holds it still, the caller looks at.
    ///
    /// # Errors
    /// [`TokenError::Invalid`], whatever the cause.
    pub fn verify_legacy(&self, token: &str) -> Result<LegacyClaims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Invalid);
        }
        let key = Verified::<LegacyClaims>::key(token);
        if let Some(claims) = self.0.legacy.get(&key) {
            return Ok(claims);
        }
        let claims = jsonwebtoken::decode::<LegacyClaims>(token, &self.0.verify, &self.0.legacy_rules);
        let claims = claims.map(|decoded| decoded.claims).map_err(|error| {
            tracing::debug!(%error, "token of a service account's Secret refused");
            TokenError::Invalid
        })?;
        self.0.legacy.put(key, u64::MAX, now_ms() / 1000, claims.clone());
        Ok(claims)
    }

    /// The public key as a JSON Web Key Set (RFC 7517, section 5).
    pub fn jwks(&self) -> Value {
        let (x, y) = self.0.public[1..].split_at(self.0.public.len() / 2);
        let encode = |coordinate| URL_SAFE_NO_PAD.encode(coordinate);
        json!({ "keys": [{
            "use": "sig", "kty": "EC", "kid": self.0.header.kid, "crv": "P-256", "alg": "ES256",
            "x": encode(x), "y": encode(y),
        }] })
    }

    /// What a relying party looks up first: OpenID Connect Discovery 1.0, section 3, as far as it is about tokens
    /// that were issued already. `host` is where the key set is served, with its port.
    pub fn openid_configuration(host: &str) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("https://{host}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

fn generate() -> Result<Vec<u8>, TokenError> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map(|der| der.as_ref().to_vec())
        .map_err(|_| rejected())
}

fn rejected() -> TokenError {
    TokenError::Claims("the signing key is rejected".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> AccountClaims {
        let named = |name: &str| Reference { name: name.to_owned(), uid: format!("uid-{name}") };
        let bond = Bond {
            namespace: "demo".to_owned(),
            serviceaccount: named("robot"),
            pod: Some(named("web")),
            node: Some(Reference { name: "n1".to_owned(), uid: String::new() }),
            secret: None,
        };
        AccountClaims::new(bond, vec!["vault".to_owned()], 600)
    }

    #[test]
    fn a_token_that_was_good_ends_all_the_same() {
        let key = AccountKey::ephemeral().unwrap();
        let claims = claims();
        let token = key.issue(&claims).unwrap();
        for _ in 0..2 {
            assert_eq!(key.verify(&token).unwrap(), claims);
        }
        // As if it had been shown while it held, or by a clock that was ahead.
        let digest = Verified::<AccountClaims>::key(&token);
        let ended = AccountClaims { exp: claims.iat - SKEW - 1, ..claims.clone() };
        key.0.verified.put(digest, u64::MAX, 0, ended);
        assert!(key.verify(&token).is_err());
        let early = AccountClaims { nbf: claims.iat + SKEW + 100, ..claims };
        key.0.verified.put(digest, u64::MAX, 0, early);
        assert!(key.verify(&token).is_err());
        let other = AccountKey::ephemeral().unwrap();
        assert!(other.verify(&token).is_err(), "what one key found good says nothing of another");
    }

    #[test]
    fn a_token_comes_back_as_its_claims() {
        let key = AccountKey::ephemeral().unwrap();
        let claims = claims();
        let token = key.issue(&claims).unwrap();
        assert_eq!(key.verify(&token).unwrap(), claims);
        assert!(key.is_named_by(&token));
        let body = token.split('.').nth(1).unwrap();
        let body: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
        assert_eq!(
            body["kubernetes.io"],
            json!({ "namespace": "demo", "serviceaccount": { "name": "robot", "uid": "uid-robot" },
                    "pod": { "name": "web", "uid": "uid-web" }, "node": { "name": "n1" } })
        );
    }

    #[test]
    fn its_user_is_the_account_with_what_the_token_is_bound_to() {
        let claims = claims();
        let user = claims.user();
        assert_eq!(user.name, "system:serviceaccount:demo:robot");
        assert_eq!(user.uid, "uid-robot");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:demo", "system:authenticated"]
        );
        let extra: Vec<(&str, &str)> =
            user.extra.iter().map(|(key, values)| (key.as_str(), values[0].as_str())).collect();
        assert_eq!(
            extra,
            [
                ("authentication.kubernetes.io/credential-id", format!("JTI={}", claims.jti).as_str()),
                ("authentication.kubernetes.io/node-name", "n1"),
                ("authentication.kubernetes.io/pod-name", "web"),
                ("authentication.kubernetes.io/pod-uid", "uid-web"),
            ]
        );
    }

    #[test]
    fn it_ends_with_what_it_is_bound_to_but_not_with_a_pods_node() {
        let holders = |bond: &Bond| -> Vec<String> {
            bond.holders()
                .map(|(plural, namespace, it)| format!("{plural} {namespace}/{}", it.name))
                .collect()
        };
        let mut bond = claims().bond;
        assert_eq!(holders(&bond), ["serviceaccounts demo/robot", "pods demo/web"]);
        bond.pod = None;
        assert_eq!(holders(&bond), ["serviceaccounts demo/robot", "nodes /n1"]);
    }

    #[test]
    fn expired_early_forged_and_foreign_tokens_are_refused() {
        let key = AccountKey::ephemeral().unwrap();
        key.verify(&key.issue(&claims()).unwrap()).unwrap();
        let refused = |change: fn(&mut AccountClaims)| {
            let mut claims = claims();
            change(&mut claims);
            assert!(key.verify(&key.issue(&claims).unwrap()).is_err(), "{claims:?}");
        };
        refused(|claims| claims.exp = claims.iat - SKEW - 1);
        refused(|claims| claims.nbf = claims.iat + SKEW + 30);
        refused(|claims| claims.iss = "https://elsewhere".to_owned());
        let other = AccountKey::ephemeral().unwrap().issue(&claims()).unwrap();
        assert!(key.verify(&other).is_err());
        assert!(!key.is_named_by(&other) && !key.is_named_by("nonsense"));
        let token = key.issue(&claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "kid": key.0.header.kid }).to_string());
        assert!(key.verify(&format!("{none}.{}.", parts[1])).is_err());
        assert!(key.verify(&token[..token.len() - 4]).is_err());
        let mut long = claims();
        long.aud = vec!["a".repeat(MAX_TOKEN)];
        assert!(key.issue(&long).is_err());
    }

    #[test]
    fn others_verify_it_with_what_is_published() {
        let key = AccountKey::ephemeral().unwrap();
        let token = key.issue(&claims()).unwrap();
        let published = key.jwks()["keys"][0].clone();
        let text = |field: &str| published[field].as_str().unwrap().to_owned();
        assert_eq!(Some(text("kid")), jsonwebtoken::decode_header(&token).unwrap().kid);
        let verify = DecodingKey::from_ec_components(&text("x"), &text("y")).unwrap();
        let mut rules = Validation::new(ALGORITHM);
        rules.set_audience(&["vault"]);
        jsonwebtoken::decode::<Value>(&token, &verify, &rules).unwrap();
        let about = AccountKey::openid_configuration("cloud:6443");
        assert_eq!(about["jwks_uri"], "https://cloud:6443/openid/v1/jwks");
        assert_eq!(about["issuer"], claims().iss);
    }

    #[test]
    fn the_key_is_kept_and_a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let token = AccountKey::open_or_create(dir.path()).unwrap().issue(&claims()).unwrap();
        AccountKey::open_or_create(dir.path()).unwrap().verify(&token).unwrap();
        let path = dir.path().join(KEY_FILE);
        std::fs::write(&path, "garbage").unwrap();
        let error = AccountKey::open_or_create(dir.path()).err().unwrap().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
