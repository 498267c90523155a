//! Whoever elsewhere knows whose a token is: asked with a TokenReview, and the answer kept for a while.

use std::path::Path;
use std::time::Duration;

use rand::RngCore as _;
use serde_json::{Value, json};
use yunfan_identity::UserInfo;
use yunfan_identity::user::AUTHENTICATED_GROUP;

use super::{Known, TokenError};
use crate::error::ConfigError;
use crate::kept::{self, Kept};
use crate::remote::{Remote, Unanswered};

/// How long the webhook has.
const TIME: Duration = Duration::from_secs(10);
/// Answers that are kept.
const MOST: usize = 8192;

pub(super) struct TokenWebhook {
    remote: Remote,
    version: &'static str,
    time: Duration,
    kept: Kept<Option<Known>>,
    /// So that nobody who sees memory can try tokens against what is kept.
    salt: [u8; 32],
}

impl TokenWebhook {
    pub(super) async fn open(path: &Path, version: &str, time: Duration) -> Result<Self, ConfigError> {
        let version = match version {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            other => {
                let why = format!("is {other:?}; it must be v1 or v1beta1");
                return Err(ConfigError::flag("--authentication-token-webhook-version", why));
            }
        };
        let mut salt = [0; 32];
        rand::rng().fill_bytes(&mut salt);
        Ok(Self { remote: Remote::from_kubeconfig(path).await?, version, time, kept: Kept::new(MOST), salt })
    }

    /// Whose it is, and for which of the audiences asked about. `own` are the API server's: what a webhook means that does
    /// not speak of audiences.
    pub(super) async fn token(
        &self,
        token: &str,
        audiences: &[&str],
        own: &[&str],
    ) -> Result<Option<Known>, TokenError> {
        let asked = audiences.join("\n");
        let key = kept::key(&[&self.salt, token.as_bytes(), asked.as_bytes()]);
        if let Some(known) = self.kept.get(&key) {
            return Ok(known);
        }
        let body = json!({
            "kind": "TokenReview",
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {"creationTimestamp": null},
            "spec": {"token": token, "audiences": audiences},
            "status": {"user": {}},
        });
        let answer = self.remote.post(&body, TIME).await.map_err(|error| {
            tracing::warn!(%error, "authentication webhook failed");
            match error {
                Unanswered::Full(_) => TokenError::Busy,
                // Where it is and what happened there is for the log.
                Unanswered::Failed(_) => "the authentication webhook failed".to_owned().into(),
            }
        })?;
        let known = self.read(&answer, audiences, own)?;
        self.kept.insert(key, known.clone(), self.time);
        Ok(known)
    }

    fn read(&self, answer: &Value, audiences: &[&str], own: &[&str]) -> Result<Option<Known>, String> {
        let version = format!("authentication.k8s.io/{}", self.version);
        if answer["kind"] != "TokenReview" || answer["apiVersion"] != version.as_str() {
            return Err("the authentication webhook's answer is no TokenReview".to_owned());
        }
        let status = &answer["status"];
        match &status["authenticated"] {
            Value::Bool(true) => {}
            Value::Bool(false) | Value::Null => {
                return match status["error"].as_str().filter(|why| !why.is_empty()) {
                    Some(why) => Err(why.chars().take(1024).collect()),
                    None => Ok(None),
                };
            }
            _ => return Err("the authentication webhook's answer makes no sense".to_owned()),
        }
        let mut user: UserInfo = serde_json::from_value(status["user"].clone())
            .map_err(|error| format!("the authentication webhook names no user: {error}"))?;
        if user.name.is_empty() {
            return Err("the authentication webhook names no user".to_owned());
        }
        if !user.in_group(AUTHENTICATED_GROUP) {
            user.groups.push(AUTHENTICATED_GROUP.to_owned());
        }
        let said: Vec<&str> =
            status["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let good_for = if said.is_empty() { own.to_vec() } else { said };
        let common: Vec<String> = audiences
            .iter()
            .filter(|asked| good_for.contains(asked))
            .map(|asked| (*asked).to_owned())
            .collect();
        Ok((!common.is_empty()).then_some(Known { user, audiences: common }))
    }
}
