//! Objects are kept encrypted: which of them, with which keys, as Kubernetes' `EncryptionConfiguration` says it.
//!
//! **Owns** that configuration, the key file of a cloud that was told nothing, the forms of encrypted values
//! (`k8s:enc:PROVIDER:VERSION:NAME:`), and the way to KMS v2 plug-ins.
//!
//! **Must never know** what an object is: it sees keys of the store and bytes.
//!
//! **Start reading** at [`Encryption`], then `rules.rs` (what is encrypted with what), `aead.rs` (how), `kms/mod.rs`.
#![forbid(unsafe_code)]

mod aead;
mod config;
mod keyfile;
mod kms;
mod metrics;
mod rules;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use yunfan_store::{StoreError, Transformer};

pub use keyfile::{KEY_FILE, add_key, open_or_create};
pub use kms::{is_of_plug_in, messages};

use aead::Uses;
use config::Configuration;
use metrics::Metrics;
use rules::Rules;

/// How often a file that is followed is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// What it says is not right.
    #[error("{path}: {why}")]
    Invalid {
        /// Which.
        path: String,
        /// What, and where in it.
        why: String,
    },
    /// A KMS plug-in that was not asked before does not answer.
    #[error("{path}: {why}")]
    Unready {
        /// Which configuration.
        path: String,
        /// Which plug-in, and what it says.
        why: String,
    },
}

/// What is encrypted with what, by a file; a clone is the same one.
#[derive(Clone)]
pub struct Encryption(Arc<Inner>);

struct Inner {
    path: PathBuf,
    rules: RwLock<Arc<Rules>>,
    /// The text that the rules are from.
    text: Mutex<String>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    uses: Uses,
    metrics: Metrics,
}

impl Encryption {
    /// Reads an `EncryptionConfiguration`. A KMS plug-in that does not answer is asked on until it does: what needs it waits for that.
    ///
    /// # Errors
    /// The file can't be read, or asks for what there is not.
    pub async fn open(path: &Path) -> Result<Self, EncryptionError> {
        let (uses, metrics) = (Uses::default(), Metrics::default());
        let text = read(path).await?;
        let rules = parse(path, &text)?.into_rules(None, &uses).map_err(|why| invalid(path, why))?;
        if let Err(why) = rules.ready().await {
            tracing::warn!(path = %path.display(), %why, "a KMS plug-in does not answer");
        }
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            rules: RwLock::new(Arc::new(rules)),
            text: Mutex::new(text),
            turn: tokio::sync::Mutex::default(),
            uses,
            metrics,
        })))
    }

    /// Follows the file from now on, until the last handle is gone. What is wrong in it is said in the log, and changes nothing.
    pub fn follow(&self) {
        let inner = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut last = None;
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(inner) = inner.upgrade() else { return };
                let failed = Self(inner).reload().await.err().map(|error| error.to_string());
                if let Some(why) = failed.as_ref().filter(|_| failed != last) {
                    tracing::error!(%why, "the encryption configuration was not taken over");
                }
                last = failed;
            }
        });
    }

    /// Takes over the file as it is now. Returns whether it had changed.
    ///
    /// # Errors
    /// As [`Encryption::open`], and when a new KMS plug-in does not answer: what was before stays in force.
    pub async fn reload(&self) -> Result<bool, EncryptionError> {
        let inner = &self.0;
        let _turn = inner.turn.lock().await;
        let text = read(&inner.path).await?;
        if text == *inner.text.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(false);
        }
        let change = async {
            let path = &inner.path;
            let rules = parse(path, &text)?.into_rules(Some(&self.rules()), &inner.uses);
            let rules = rules.map_err(|why| invalid(path, why))?;
            let path = || path.display().to_string();
            rules.ready().await.map_err(|why| EncryptionError::Unready { path: path(), why })?;
            Ok(rules)
        };
        let changed = change.await;
        inner.metrics.reloaded(changed.is_ok());
        let rules = changed?;
        tracing::info!(keys = ?rules.describe(), "the encryption configuration was taken over");
        *inner.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        *inner.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
        Ok(true)
    }

    /// Adds what is counted here to a catalogue.
    pub fn register(&self, catalog: &mut prometheus_client::registry::Registry) {
        self.0.metrics.register(catalog);
    }

    fn rules(&self) -> Arc<Rules> {
        self.0.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn read(path: &Path) -> Result<String, EncryptionError> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|source| EncryptionError::File { path: path.display().to_string(), source })
}

fn invalid(path: &Path, why: String) -> EncryptionError {
    EncryptionError::Invalid { path: path.display().to_string(), why }
}

fn parse(path: &Path, text: &str) -> Result<Configuration, EncryptionError> {
    Configuration::parse(text).map_err(|why| invalid(path, why))
}

#[async_trait]
impl Transformer for Encryption {
    fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, StoreError> {
        let rules = self.rules();
        let Some(provider) = rules.writer(key) else { return Ok(value) };
        let sealed = provider.seal(key, &value);
        self.0.metrics.sealed(provider.form(), sealed.is_ok());
        let shown = || String::from_utf8_lossy(key).into_owned();
        sealed.map_err(|why| StoreError::Sealing(format!("{}: {why}", shown())))
    }

    async fn open(&self, key: &[u8], sealed: &Bytes) -> Result<Bytes, String> {
        let opened = self.rules().open(key, sealed).await;
        self.0.metrics.opened(rules::form_of(sealed), opened.is_ok());
        opened
    }

    fn names(&self, key: &[u8]) -> bool {
        self.rules().names(key)
    }

    fn is_stale(&self, key: &[u8], kept: &[u8]) -> bool {
        self.rules().is_stale(key, kept)
    }

    async fn refresh(&self) -> Result<(), String> {
        self.reload().await.map(|_| ()).map_err(|error| error.to_string())
    }

    fn file(&self) -> Option<PathBuf> {
        // Whoever asks may have another directory to start from.
        std::path::absolute(&self.0.path).ok()
    }

    fn describe(&self) -> Vec<String> {
        self.rules().describe()
    }
}
