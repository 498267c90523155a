//! An issuer's keys: found by OpenID discovery, kept, and fetched anew when a token names one that is not known.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use kube::Config;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::remote::Remote;

/// How long the issuer has for each of two answers.
const TIME: Duration = Duration::from_secs(10);
/// Keys are not fetched more often than this: a client that makes up names of keys must not make us flood the issuer.
const PAUSE: Duration = Duration::from_secs(2);
/// Most keys of an issuer.
const MOST: usize = 256;

/// Why there is no key.
pub(super) enum Unready {
    /// The issuer has none that fits.
    Unknown,
    /// The issuer has not been reached yet.
    Unreachable,
}

/// One key.
#[derive(Clone)]
struct Known {
    id: Option<String>,
    /// What it signs with, where the issuer says so.
    algorithm: Option<String>,
    curve: Option<EllipticCurve>,
    family: Family,
    key: DecodingKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Rsa,
    Ec,
    Ed,
}

impl Known {
    fn read(value: &Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let (family, curve) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Family::Rsa, None),
            AlgorithmParameters::EllipticCurve(of) => (Family::Ec, Some(of.curve.clone())),
            AlgorithmParameters::OctetKeyPair(_) => (Family::Ed, None),
            // A secret that is published is none.
            _ => return None,
        };
        Some(Self {
            id: jwk.common.key_id.clone(),
            algorithm: value["alg"].as_str().map(str::to_owned),
            curve,
            family,
            key: DecodingKey::from_jwk(&jwk).ok()?,
        })
    }

    fn fits(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        let wanted = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => Family::Ec,
            Algorithm::EdDSA => Family::Ed,
            _ => Family::Rsa,
        };
        let curve = match algorithm {
            Algorithm::ES256 => self.curve == Some(EllipticCurve::P256),
            Algorithm::ES384 => self.curve == Some(EllipticCurve::P384),
            _ => true,
        };
        let named = match (id, &self.id) {
            (Some(wanted), Some(own)) => wanted == own,
            // A token that names a key was not signed by one without a name, unless there are no names at all.
            (Some(_), None) => false,
            (None, _) => true,
        };
        let said = self.algorithm.as_deref().is_none_or(|said| said == format!("{algorithm:?}"));
        self.family == wanted && curve && named && said
    }
}

/// Where keys are found.
#[derive(PartialEq, Eq)]
pub(super) struct Source {
    /// The issuer's name, which its discovery document has to repeat.
    pub(super) issuer: String,
    /// URL of that document.
    pub(super) discovery: String,
    /// Authorities (DER) that the issuer's certificate is checked against; the system's where there are none.
    pub(super) authorities: Option<Vec<Vec<u8>>>,
}

/// An issuer's keys; a clone is the same.
#[derive(Clone)]
pub(super) struct Keys(Arc<Inner>);

struct Inner {
    source: Source,
    known: RwLock<Option<Arc<[Known]>>>,
    /// When they were last fetched, or tried to be.
    fetched: Mutex<Option<Instant>>,
}

impl Keys {
    /// Those of an issuer; they are fetched at once, and until that succeeded, again and again.
    pub(super) fn new(source: Source) -> Self {
        let inner = Arc::new(Inner { source, known: RwLock::default(), fetched: Mutex::default() });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            loop {
                let Some(inner) = weak.upgrade() else { return };
                inner.fetch().await;
                if inner.known().is_some() {
                    return;
                }
                drop(inner);
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self(inner)
    }

    /// As [`Self::new`], but they are fetched when a token needs them, and not before: nobody vouches yet for who they are of.
    pub(super) fn when_asked(source: Source) -> Self {
        Self(Arc::new(Inner { source, known: RwLock::default(), fetched: Mutex::default() }))
    }

    /// Whether they are found in the same place as these.
    pub(super) fn same_source(&self, other: &Self) -> bool {
        self.0.source == other.0.source
    }

    /// Waits until the issuer was asked once, with whatever success.
    pub(super) async fn asked(&self) {
        if self.0.known().is_none() {
            self.0.fetch().await;
        }
    }

    /// Has the issuer asked once more, unless that was done a moment ago: it may have exchanged a key without another name.
    pub(super) async fn again(&self) {
        self.0.fetch().await;
    }

    /// Keys that may have signed a token with this header.
    pub(super) async fn for_token(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<DecodingKey>, Unready> {
        let fitting = || -> Vec<DecodingKey> {
            let known = self.0.known();
            let all = known.iter().flat_map(|known| known.iter());
            all.filter(|key| key.fits(id, algorithm)).map(|key| key.key.clone()).collect()
        };
        let found = fitting();
        if !found.is_empty() {
            return Ok(found);
        }
        self.0.fetch().await;
        match (fitting(), self.0.known()) {
            (found, _) if !found.is_empty() => Ok(found),
            (_, Some(_)) => Err(Unready::Unknown),
            (_, None) => Err(Unready::Unreachable),
        }
    }
}

impl Inner {
    fn known(&self) -> Option<Arc<[Known]>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches the keys, unless that was done a moment ago. Many who want it at one time wait for one of them.
    async fn fetch(&self) {
        let mut fetched = self.fetched.lock().await;
        if fetched.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        let found = self.ask().await;
        *fetched = Some(Instant::now());
        match found {
            Ok(keys) => *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(keys.into()),
            Err(why) => {
                tracing::warn!(issuer = self.source.issuer, why, "the issuer's keys cannot be fetched")
            }
        }
    }

    async fn ask(&self) -> Result<Vec<Known>, String> {
        let document = self.get(&self.source.discovery).await?;
        if document["issuer"] != self.source.issuer.as_str() {
            return Err(format!("the discovery document is that of the issuer {}", document["issuer"]));
        }
        let place = document["jwks_uri"].as_str().unwrap_or_default();
        if !place.starts_with("https://") {
            return Err(format!("the discovery document's jwks_uri is {place:?}, and no https URL"));
        }
        let answer = self.get(place).await?;
        let list = answer["keys"].as_array().ok_or("the answer at jwks_uri has no keys")?;
        Ok(list.iter().take(MOST).filter_map(Known::read).collect())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let mut config = Config::new(uri);
        config.root_cert.clone_from(&self.source.authorities);
        Remote::new(config)?.get(TIME).await.map_err(|why| why.to_string())
    }
}
