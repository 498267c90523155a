//! A server elsewhere that is asked: where and how a kubeconfig says, or an address and its authorities.

use std::path::Path;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Request, Uri};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::error::ConfigError;

/// Largest answer, bytes.
const MAX_ANSWER: usize = 1 << 20;
/// Questions that one server is asked at one time.
const AT_ONCE: usize = 64;
/// Questions that may wait for their turn beside those; more get no answer at once.
const WAITING: usize = 448;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Too many questions wait for the server: this one was not asked.
    Full(String),
    /// No connection, no trust, a code that is no success, no JSON, too large, too late.
    Failed(String),
}

impl std::fmt::Display for Unanswered {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full(why) | Self::Failed(why) => out.write_str(why),
        }
    }
}

/// A server and how it is asked. Connections are kept and used again.
pub(crate) struct Remote {
    client: Client,
    path: String,
    /// Where it is, for people.
    shown: String,
    places: Semaphore,
    turns: Semaphore,
}

impl Remote {
    /// As the current context of a kubeconfig says.
    ///
    /// # Errors
    /// The file cannot be read, or what it says cannot be used.
    pub(crate) async fn from_kubeconfig(path: &Path) -> Result<Self, ConfigError> {
        let failed = |error: &dyn std::fmt::Display| {
            ConfigError::file(path, "", format!("cannot be used as a kubeconfig: {error}"))
        };
        let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await.map_err(|error| failed(&error))?;
        Self::new(config).map_err(|why| failed(&why))
    }

    pub(crate) fn new(mut config: Config) -> Result<Self, String> {
        let parts = config.cluster_url.clone().into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err("the server's URL needs https:// (or http://) and a host".to_owned());
        };
        let path = parts.path_and_query.map_or_else(|| "/".to_owned(), |path| path.to_string());
        let shown = format!("{scheme}://{authority}{path}");
        // The client would put a slash behind a path of its own.
        let root = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build();
        config.cluster_url = root.map_err(|error| error.to_string())?;
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            path,
            shown,
            places: Semaphore::new(AT_ONCE + WAITING),
            turns: Semaphore::new(AT_ONCE),
        })
    }

    /// Posts JSON and gives the JSON answer.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub(crate) async fn post(&self, body: &Value, time: Duration) -> Result<Value, Unanswered> {
        let bytes = body.to_string().into_bytes();
        let request = Request::post(&self.path).header(CONTENT_TYPE, "application/json");
        self.ask(request, bytes, time).await
    }

    /// Gets a text, with this token where it is not empty.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub(crate) async fn get_text(&self, token: &str, time: Duration) -> Result<String, Unanswered> {
        let mut request = Request::get(&self.path);
        if !token.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = self.bytes(request, Vec::new(), time).await?;
        String::from_utf8(bytes).map_err(|_| Unanswered::Failed(self.named("the answer is no text")))
    }

    /// Gets JSON.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub(crate) async fn get(&self, time: Duration) -> Result<Value, Unanswered> {
        self.ask(Request::get(&self.path), Vec::new(), time).await
    }

    async fn ask(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
        time: Duration,
    ) -> Result<Value, Unanswered> {
        let request = request.header(ACCEPT, "application/json");
        let bytes = self.bytes(request, body, time).await?;
        let failed = |error| Unanswered::Failed(self.named(&format!("the answer is no JSON: {error}")));
        serde_json::from_slice(&bytes).map_err(failed)
    }

    async fn bytes(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
        time: Duration,
    ) -> Result<Vec<u8>, Unanswered> {
        let failed = |why: &str| Unanswered::Failed(self.named(why));
        let request = request.body(Body::from(body));
        let request = request.map_err(|error| failed(&error.to_string()))?;
        let full = |_| Unanswered::Full(self.named("too many questions wait for it"));
        let _place = self.places.try_acquire().map_err(full)?;
        match tokio::time::timeout(time, self.exchange(request)).await {
            Ok(answer) => answer.map_err(|why| failed(&why)),
            Err(_) => Err(failed(&format!("no answer within {} ms", time.as_millis()))),
        }
    }

    fn named(&self, why: &str) -> String {
        format!("{}: {why}", self.shown)
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Vec<u8>, String> {
        let _turn = self.turns.acquire().await.map_err(|e| e.to_string())?;
        let answer = self.client.send(request).await.map_err(|error| chain(&error))?;
        let code = answer.status();
        if !(200..=206).contains(&code.as_u16()) {
            return Err(format!("the server answered {code}"));
        }
        let bytes =
            Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| e.to_string())?;
        Ok(bytes.to_bytes().into())
    }
}

/// An error and what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
