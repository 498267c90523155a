//! KMS v2: a plug-in on a Unix socket keeps the key that never leaves it. With it is encrypted a seed of ours, from which each value's key
//! is derived: so the plug-in is asked once for a seed and not for each value, and may be away for a while.

pub mod messages;
mod plugin;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::aead::{Derived, Key, Single, Uses, random};
use messages::{DecryptRequest, EncryptedObject};
use plugin::Plugin;

/// What a plug-in is called where it is told that it does not do something.
const PLUG_IN: &str = "the KMS plug-in";

/// Whether a plug-in has to do with it that an object can't be read, by what is said of that: it may come back, or get its key back.
pub fn is_of_plug_in(why: &str) -> bool {
    why.contains(PLUG_IN)
}

/// How often a plug-in is asked how it is: while all is well, and else.
const POLL: Duration = Duration::from_secs(10);
const POLL_FAILING: Duration = Duration::from_secs(2);
/// How long values are still encrypted while the plug-in does not say that its key is the same (as in Kubernetes).
const GRACE: Duration = Duration::from_secs(180);
/// How long a plug-in that did not answer is not asked to decrypt again: many values may be waiting.
const PAUSE: Duration = Duration::from_secs(1);
/// Seeds that are remembered. There is one for each key of the plug-in and each start of a server.
const MAX_SEEDS: usize = 4096;
/// Limits of Kubernetes for what a plug-in may give.
const MAX_KEY_ID: usize = 1024;
const MAX_SOURCE: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 * 1024;
const SEED: i32 = 1;
const PLAIN_KEY: i32 = 0;

/// Which plug-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KmsSettings {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    /// For one answer.
    pub(crate) time: Duration,
}

/// One plug-in, and the seed that values are encrypted with now.
pub(crate) struct Kms {
    settings: KmsSettings,
    prefix: String,
    plugin: Plugin,
    now: RwLock<Now>,
    seeds: Mutex<HashMap<[u8; 32], Arc<Key>>>,
    /// Until when it is not asked to decrypt, and why.
    pause: Mutex<Option<(Instant, String)>>,
    /// Whether somebody asks it again and again.
    followed: AtomicBool,
}

#[derive(Default)]
struct Now {
    seed: Option<Arc<Seed>>,
    /// Until when the seed may be used.
    until: Option<Instant>,
    /// What was wrong lately.
    wrong: Option<String>,
}

/// A seed and what is kept of it with each value.
struct Seed {
    key: Arc<Key>,
    kept: EncryptedObject,
}

impl Kms {
    /// Begins to ask the plug-in, until the last handle is gone.
    pub(crate) fn start(settings: KmsSettings) -> Self {
        Self {
            prefix: format!("k8s:enc:kms:v2:{}:", settings.name),
            plugin: Plugin::new(&settings),
            settings,
            now: RwLock::default(),
            seeds: Mutex::default(),
            pause: Mutex::default(),
            followed: AtomicBool::new(false),
        }
    }

    /// Asks now, and from then on again and again.
    ///
    /// # Errors
    /// There is no seed yet.
    pub(crate) async fn ready(self: &Arc<Self>) -> Result<(), String> {
        let asked = self.look().await;
        // Once, however often the configuration is read while it is away.
        if !self.followed.swap(true, Ordering::Relaxed) {
            let kms = Arc::downgrade(self);
            let mut well = asked.is_ok();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(if well { POLL } else { POLL_FAILING }).await;
                    let Some(kms) = kms.upgrade() else { return };
                    let looked = kms.look().await;
                    if well != looked.is_ok() {
                        match &looked {
                            Ok(()) => {
                                tracing::info!(name = kms.settings.name, "the KMS plug-in is well again")
                            }
                            Err(why) => tracing::error!(%why, "a KMS plug-in is not well"),
                        }
                    }
                    well = looked.is_ok();
                }
            });
        }
        self.seed().map(|_| ())
    }

    pub(crate) fn settings(&self) -> &KmsSettings {
        &self.settings
    }

    /// What its values begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn describe(&self) -> String {
        match self.seed() {
            Ok(seed) => format!("kms {}, key {}", self.settings.name, seed.kept.key_id),
            Err(why) => format!("kms {} ({why})", self.settings.name),
        }
    }

    /// Asks how the plug-in is, and makes a new seed where it has another key than before.
    async fn look(&self) -> Result<(), String> {
        let looked = self.look_once().await.map_err(|why| self.said(&why));
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        match &looked {
            Ok(new) => {
                if let Some(seed) = new {
                    now.seed = Some(seed.clone());
                }
                now.until = Some(Instant::now() + GRACE);
                now.wrong = None;
                drop(now);
                *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            Err(why) => now.wrong = Some(why.clone()),
        }
        looked.map(|_| ())
    }

    async fn look_once(&self) -> Result<Option<Arc<Seed>>, String> {
        let status = self.plugin.status().await?;
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            return Err(format!("it speaks {:?}, not v2", status.version));
        }
        if status.healthz != "ok" {
            return Err(format!("it says that it is not well: {:?}", status.healthz));
        }
        check_key_id(&status.key_id)?;
        let before = self.now.read().unwrap_or_else(PoisonError::into_inner).seed.clone();
        if before.as_ref().is_some_and(|seed| seed.kept.key_id == status.key_id) {
            return Ok(None);
        }
        let secret: [u8; 32] = random()?;
        let answer = self.plugin.encrypt(secret.to_vec()).await?;
        check_key_id(&answer.key_id)?;
        if before.is_some() && answer.key_id != status.key_id {
            return Err(format!("its key is {:?}, but it encrypts with {:?}", status.key_id, answer.key_id));
        }
        let annotations: usize = answer.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if answer.ciphertext.is_empty()
            || answer.ciphertext.len() > MAX_SOURCE
            || annotations > MAX_ANNOTATIONS
        {
            return Err(format!(
                "its answer to Encrypt is not within the limits: {} bytes (1 to {MAX_SOURCE}) and {annotations} bytes of annotations (up to {MAX_ANNOTATIONS})",
                answer.ciphertext.len()
            ));
        }
        let kept = EncryptedObject {
            encrypted_data: Vec::new(),
            key_id: answer.key_id,
            encrypted_dek_source: answer.ciphertext,
            annotations: answer.annotations,
            encrypted_dek_source_type: SEED,
        };
        let key = Arc::new(Key::Derived(Derived::new(&secret).ok_or("a seed has 32 bytes")?));
        self.remember(digest(&kept), key.clone());
        tracing::info!(
            name = self.settings.name,
            key_id = kept.key_id,
            "values are encrypted with a new seed"
        );
        Ok(Some(Arc::new(Seed { key, kept })))
    }

    fn said(&self, why: &str) -> String {
        format!("{PLUG_IN} {:?} at {}: {why}", self.settings.name, self.settings.socket.display())
    }

    /// The seed to encrypt with.
    fn seed(&self) -> Result<Arc<Seed>, String> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        let why = || now.wrong.clone().unwrap_or_else(|| self.said("it was not asked yet"));
        let seed = now.seed.clone().ok_or_else(why)?;
        if now.until.is_none_or(|until| until < Instant::now()) {
            return Err(why());
        }
        Ok(seed)
    }

    fn remember(&self, digest: [u8; 32], key: Arc<Key>) {
        let mut seeds = self.seeds.lock().unwrap_or_else(PoisonError::into_inner);
        if seeds.len() >= MAX_SEEDS {
            // Rare enough that all may be asked for anew.
            seeds.clear();
        }
        seeds.insert(digest, key);
    }

    /// Appends the encrypted value, with its beginning.
    pub(crate) fn seal(&self, bound: &[u8], value: &[u8], out: &mut BytesMut) -> Result<(), String> {
        let seed = self.seed()?;
        let mut data = BytesMut::with_capacity(value.len() + 64);
        seed.key.seal(bound, value, &mut data)?;
        out.put_slice(self.prefix.as_bytes());
        let kept = EncryptedObject { encrypted_data: data.into(), ..seed.kept.clone() };
        kept.encode(out).map_err(|error| error.to_string())
    }

    /// The value of what follows the beginning.
    pub(crate) async fn open(&self, bound: &[u8], rest: &[u8]) -> Result<Bytes, String> {
        let kept =
            EncryptedObject::decode(rest).map_err(|error| format!("what is kept is damaged: {error}"))?;
        let digest = digest(&kept);
        let known = self.seeds.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        let key = match known {
            Some(key) => key,
            None => {
                let key = Arc::new(self.decrypt(&kept).await?);
                self.remember(digest, key.clone());
                key
            }
        };
        key.open(bound, &kept.encrypted_data).ok_or_else(|| {
            format!(
                "the key {:?} of the KMS plug-in {:?} does not decrypt it: the value was changed or moved",
                kept.key_id, self.settings.name
            )
        })
    }

    async fn decrypt(&self, kept: &EncryptedObject) -> Result<Key, String> {
        let shown = |why: &str| format!("it needs the key {:?}, and {}", kept.key_id, self.said(why));
        let paused = self.pause.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((until, why)) = paused
            && until > Instant::now()
        {
            return Err(shown(&why));
        }
        let asked = DecryptRequest {
            ciphertext: kept.encrypted_dek_source.clone(),
            uid: String::new(),
            key_id: kept.key_id.clone(),
            annotations: kept.annotations.clone(),
        };
        let secret = match self.plugin.decrypt(asked).await {
            Ok(answer) => answer.plaintext,
            Err(error) => {
                if error.away {
                    let pause = (Instant::now() + PAUSE, error.why.clone());
                    *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = Some(pause);
                }
                return Err(shown(&error.why));
            }
        };
        let key = match kept.encrypted_dek_source_type {
            SEED => Derived::new(&secret).map(Key::Derived),
            // Kubernetes 1.27 and 1.28 kept such keys, each of which it used for few values.
            PLAIN_KEY => Single::new(&secret, &Uses::default()).map(|key| Key::Single(Box::new(key))),
            _ => None,
        };
        key.ok_or_else(|| shown("it gave what is no key of the kind that is needed"))
    }

    /// Whether what follows the beginning is encrypted with the plug-in's key of now.
    pub(crate) fn is_current(&self, rest: &[u8]) -> bool {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        let (Some(seed), Ok(kept)) = (&now.seed, EncryptedObject::decode(rest)) else { return false };
        kept.key_id == seed.kept.key_id && kept.encrypted_dek_source_type == SEED
    }
}

fn check_key_id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_KEY_ID {
        return Err(format!("its key_id has {} bytes; 1 to {MAX_KEY_ID} may be", id.len()));
    }
    Ok(())
}

/// The plug-in's key that a value says it needs, from what follows its beginning.
pub(crate) fn key_id(rest: &[u8]) -> Option<String> {
    EncryptedObject::decode(rest).ok().map(|kept| kept.key_id)
}

/// What tells one seed from another.
fn digest(kept: &EncryptedObject) -> [u8; 32] {
    let all = EncryptedObject { encrypted_data: Vec::new(), ..kept.clone() };
    Sha256::digest(all.encode_to_vec()).into()
}
