//! The flags of authorization.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use yunfan_identity::abac::AbacAuthorizer;

use super::webhook::{Failure, Settings, Version, Webhook};
use super::{Authorization, Link, file};
use crate::error::ConfigError;
use crate::files::{self, Followed};
use crate::remote::Remote;

/// How long a webhook of the flags has (kube-apiserver's).
const TIMEOUT: Duration = Duration::from_secs(30);
const MODES: &str = "Node, RBAC, ABAC, Webhook, AlwaysAllow and AlwaysDeny";

/// What the flags say; their names are kube-apiserver's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationOptions {
    /// `--authorization-mode`: Node and RBAC where nothing is given.
    pub modes: Vec<String>,
    /// `--authorization-policy-file`, for the mode ABAC.
    pub policy_file: Option<PathBuf>,
    /// `--authorization-webhook-config-file`: a kubeconfig, for the mode Webhook.
    pub webhook_config_file: Option<PathBuf>,
    /// `--authorization-webhook-version`: `v1` or `v1beta1`.
    pub webhook_version: String,
    /// `--authorization-webhook-cache-authorized-ttl`.
    pub authorized_ttl: Duration,
    /// `--authorization-webhook-cache-unauthorized-ttl`.
    pub unauthorized_ttl: Duration,
    /// `--authorization-config`: a file in place of all of them but the policy file.
    pub config: Option<PathBuf>,
}

impl Default for AuthorizationOptions {
    fn default() -> Self {
        Self {
            modes: Vec::new(),
            policy_file: None,
            webhook_config_file: None,
            webhook_version: "v1".to_owned(),
            authorized_ttl: Duration::from_secs(300),
            unauthorized_ttl: Duration::from_secs(30),
            config: None,
        }
    }
}

/// What is wrong with the name of a mode.
pub(super) fn modes_error(name: &str) -> String {
    format!("{name:?} is no mode of authorization; there are {MODES}")
}

/// The modes that need no server elsewhere.
pub(super) struct Modes {
    policy_file: Option<PathBuf>,
}

impl Modes {
    /// The authorizer of this name; `None` for what is none of these.
    ///
    /// # Errors
    /// ABAC's policy file is missing or wrong.
    pub(super) fn link(&self, name: &str) -> Result<Option<Link>, ConfigError> {
        Ok(Some(match name {
            "Node" => Link::Node,
            "RBAC" => Link::Rbac,
            "AlwaysAllow" => Link::AlwaysAllow,
            "AlwaysDeny" => Link::AlwaysDeny,
            "ABAC" => Link::Abac(self.policies()?),
            _ => return Ok(None),
        }))
    }

    fn policies(&self) -> Result<AbacAuthorizer, ConfigError> {
        let Some(path) = &self.policy_file else {
            let why = "is missing; the mode ABAC needs a file of policies, one JSON object a line";
            return Err(ConfigError::flag("--authorization-policy-file", why));
        };
        AbacAuthorizer::read(&files::read(path)?)
            .map_err(|error| ConfigError::file(path, format!("line {}", error.line), error.why))
    }
}

impl AuthorizationOptions {
    /// Makes the chain, and follows its file where there is one: a file that becomes wrong changes nothing. To be called
    /// within a runtime.
    ///
    /// # Errors
    /// What of the flags and files cannot be used.
    pub async fn read(self) -> Result<Authorization, ConfigError> {
        let modes = Modes { policy_file: self.policy_file.clone() };
        match self.config.clone() {
            Some(path) => {
                if !self.modes.is_empty() || self.webhook_config_file.is_some() {
                    let why = "cannot stand beside --authorization-mode and --authorization-webhook-config-file; put all into the file";
                    return Err(ConfigError::flag("--authorization-config", why));
                }
                followed(path, modes).await
            }
            None => Ok(Authorization::new(self.links(&modes).await?)),
        }
    }

    async fn links(&self, modes: &Modes) -> Result<Vec<Link>, ConfigError> {
        const FLAG: &str = "--authorization-mode";
        if self.modes.is_empty() {
            self.nothing_unused(&["Node", "RBAC"])?;
            return Ok(vec![Link::Node, Link::Rbac]);
        }
        let names: Vec<&str> = self.modes.iter().map(String::as_str).collect();
        let mut links = Vec::new();
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(ConfigError::flag(FLAG, format!("{name} is given twice; give it once")));
            }
            links.push(match *name {
                "Webhook" => self.webhook().await?,
                name => modes.link(name)?.ok_or_else(|| ConfigError::flag(FLAG, modes_error(name)))?,
            });
        }
        self.nothing_unused(&names)?;
        Ok(links)
    }

    /// A file that nobody reads is a mistake: its writer believes that it protects something.
    fn nothing_unused(&self, modes: &[&str]) -> Result<(), ConfigError> {
        for (given, flag, mode) in [
            (self.policy_file.is_some(), "--authorization-policy-file", "ABAC"),
            (self.webhook_config_file.is_some(), "--authorization-webhook-config-file", "Webhook"),
        ] {
            if given && !modes.contains(&mode) {
                let why = format!("is only read in the mode {mode}; add {mode} to --authorization-mode");
                return Err(ConfigError::flag(flag, why));
            }
        }
        Ok(())
    }

    async fn webhook(&self) -> Result<Link, ConfigError> {
        let Some(path) = &self.webhook_config_file else {
            let why = "is missing; the mode Webhook needs a kubeconfig that says whom to ask";
            return Err(ConfigError::flag("--authorization-webhook-config-file", why));
        };
        let version = Version::named(&self.webhook_version).ok_or_else(|| {
            let why = format!("is {:?}; it must be v1 or v1beta1", self.webhook_version);
            ConfigError::flag("--authorization-webhook-version", why)
        })?;
        let settings = Settings {
            name: "webhook".to_owned(),
            version,
            timeout: TIMEOUT,
            failure: Failure::NoOpinion,
            authorized: self.authorized_ttl,
            unauthorized: self.unauthorized_ttl,
            conditions: Vec::new(),
        };
        let remote = Remote::from_kubeconfig(path).await?;
        Ok(Link::Webhook(Box::new(Webhook::new(settings, remote))))
    }
}

/// The chain of a file, which changes with it.
async fn followed(path: PathBuf, modes: Modes) -> Result<Authorization, ConfigError> {
    let text = files::read(&path)?;
    let authorization = Authorization::new(file::read(&path, &text, &modes).await?);
    let weak = Arc::downgrade(&authorization.0);
    let mut followed = Followed::new(path.clone(), text);
    tokio::spawn(async move {
        loop {
            let new = followed.look().await;
            // Ends with whoever needs it.
            let Some(links) = weak.upgrade() else { return };
            let Some(text) = new else { continue };
            match file::read(&path, &text, &modes).await {
                Ok(new) => {
                    Authorization(links).replace(new);
                    tracing::info!(file = %path.display(), "authorization is configured anew");
                }
                Err(error) => tracing::error!(%error, "authorization stays as it was"),
            }
        }
    });
    Ok(authorization)
}
