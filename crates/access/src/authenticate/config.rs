//! The flags of authentication, and `AuthenticationConfiguration`, the file that says the same and more.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;

use super::basic::Basic;
use super::headers::HeaderOptions;
use super::oidc::{self, Flags, Jwt};
use super::tokens::TokenFile;
use super::webhook::TokenWebhook;
use super::{Anonymous, Authentication, Inner, Structured};
use crate::error::{ConfigError, Fault};
use crate::files::{self, Followed};

const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
/// How long issuers that are new in the file have to give their keys before the others change.
const NEW: Duration = Duration::from_secs(10);
/// Most paths that are open.
const MOST_PATHS: usize = 64;

/// What the flags say; their names are kube-apiserver's, but for `--basic-auth-file`, which it had long ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticationOptions {
    /// `--token-auth-file`.
    pub token_file: Option<PathBuf>,
    /// `--basic-auth-file`.
    pub basic_file: Option<PathBuf>,
    /// `--authentication-token-webhook-config-file`: a kubeconfig.
    pub webhook_config_file: Option<PathBuf>,
    /// `--authentication-token-webhook-version`: `v1` or `v1beta1`.
    pub webhook_version: String,
    /// `--authentication-token-webhook-cache-ttl`.
    pub webhook_cache_ttl: Duration,
    /// `--anonymous-auth`.
    pub anonymous: Option<bool>,
    /// `--oidc-*`.
    pub oidc: Flags,
    /// `--requestheader-*`.
    pub headers: HeaderOptions,
    /// `--authentication-config`: a file of issuers, and of what is open to all.
    pub config: Option<PathBuf>,
}

impl Default for AuthenticationOptions {
    fn default() -> Self {
        Self {
            token_file: None,
            basic_file: None,
            webhook_config_file: None,
            webhook_version: "v1".to_owned(),
            webhook_cache_ttl: Duration::from_secs(120),
            anonymous: None,
            oidc: Flags::default(),
            headers: HeaderOptions::default(),
            config: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<AnonymousPart>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnonymousPart {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<AnonymousCondition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnonymousCondition {
    path: String,
}

impl AuthenticationOptions {
    /// Makes what they describe, and follows the files. To be called within a runtime.
    ///
    /// # Errors
    /// What of the flags and files cannot be used.
    pub async fn read(self) -> Result<Authentication, ConfigError> {
        let structured = match &self.config {
            Some(path) => {
                if self.oidc.any() {
                    let why = "cannot stand beside the flags --oidc-*; put the issuer into the file";
                    return Err(ConfigError::flag("--authentication-config", why));
                }
                let text = files::read(path)?;
                let structured = structured(path, &text, self.anonymous)?;
                Some((path.clone(), text, structured))
            }
            None => None,
        };
        let webhook = match &self.webhook_config_file {
            Some(path) => {
                Some(TokenWebhook::open(path, &self.webhook_version, self.webhook_cache_ttl).await?)
            }
            None => None,
        };
        let mut inner = Inner {
            tokens: self.token_file.map(TokenFile::open).transpose()?,
            webhook,
            basic: self.basic_file.map(Basic::open).transpose()?,
            proxy: self.headers.read()?,
            structured: RwLock::default(),
        };
        let Some((path, text, read)) = structured else {
            let anonymous = if self.anonymous == Some(false) { Anonymous::None } else { Anonymous::All };
            let issuers = self.oidc.read()?.into_iter().collect();
            inner.structured = RwLock::new(Arc::new(Structured { issuers, anonymous }));
            return Ok(Authentication(Arc::new(inner)));
        };
        inner.structured = RwLock::new(Arc::new(read));
        let authentication = Authentication(Arc::new(inner));
        follow(&authentication, path, text, self.anonymous);
        Ok(authentication)
    }
}

/// Takes what the file says when it changes; one that becomes wrong changes nothing.
fn follow(authentication: &Authentication, path: PathBuf, text: String, flag: Option<bool>) {
    let weak = Arc::downgrade(&authentication.0);
    let mut followed = Followed::new(path.clone(), text);
    tokio::spawn(async move {
        loop {
            let new = followed.look().await;
            let Some(inner) = weak.upgrade() else { return };
            let Some(text) = new else { continue };
            match structured(&path, &text, flag) {
                Ok(mut new) => {
                    let before = inner.structured.read().unwrap_or_else(PoisonError::into_inner).clone();
                    for issuer in &mut new.issuers {
                        issuer.take_over(&before.issuers);
                    }
                    // What is new has a moment to give its keys, while the others still count as they did.
                    let asked = async {
                        for issuer in &new.issuers {
                            issuer.asked().await;
                        }
                    };
                    // An error means that the time is over.
                    let _ = tokio::time::timeout(NEW, asked).await;
                    *inner.structured.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                    tracing::info!(file = %path.display(), "authentication is configured anew");
                }
                Err(error) => tracing::error!(%error, "authentication stays as it was"),
            }
        }
    });
}

fn structured(path: &Path, text: &str, flag: Option<bool>) -> Result<Structured, ConfigError> {
    let fail = |fault: Fault| fault.of(path);
    let document: Document = files::object(text, "AuthenticationConfiguration", &VERSIONS).map_err(fail)?;
    let anonymous = match (document.anonymous, flag) {
        (Some(_), Some(_)) => {
            let why = "cannot stand beside the flag --anonymous-auth; leave one of them out";
            return Err(fail(Fault::new("anonymous", why)));
        }
        (None, Some(false)) => Anonymous::None,
        (None, _) => Anonymous::All,
        (Some(part), None) => anonymous(part).map_err(fail)?,
    };
    let issuers = oidc::read(document.jwt).map_err(fail)?;
    Ok(Structured { issuers, anonymous })
}

fn anonymous(part: AnonymousPart) -> Result<Anonymous, Fault> {
    if part.conditions.len() > MOST_PATHS {
        return Err(Fault::new("anonymous.conditions", format!("must have at most {MOST_PATHS} entries")));
    }
    match (part.enabled, part.conditions.is_empty()) {
        (true, true) => Ok(Anonymous::All),
        (false, true) => Ok(Anonymous::None),
        (false, false) => {
            Err(Fault::new("anonymous.conditions", "say when somebody may come in, but enabled is false"))
        }
        (true, false) => {
            let mut paths = Vec::new();
            for (index, condition) in part.conditions.into_iter().enumerate() {
                if !condition.path.starts_with('/') {
                    let field = format!("anonymous.conditions[{index}].path");
                    return Err(Fault::new(field, format!("is {:?}; it must begin with /", condition.path)));
                }
                paths.push(condition.path);
            }
            Ok(Anonymous::At(paths))
        }
    }
}
