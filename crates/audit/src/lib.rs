//! The record of who asked for what, and what became of it: Kubernetes' audit log (`audit.k8s.io/v1`).
//!
//! **Owns** the policy (which requests are recorded, and how much of them), what is cut out of every record, and where records go: a file that
//! is rotated, standard output, a webhook.
//!
//! **Must never know** how a request is answered: it is given what there is to say, as JSON.
//!
//! **Start reading** at [`Audit`], then `policy.rs` (what is recorded), `queue.rs` (how records wait), `log.rs`, `webhook.rs`.
#![forbid(unsafe_code)]

mod cut;
mod log;
mod metrics;
mod policy;
mod queue;
mod webhook;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

pub use cut::{cut, cut_machine, cut_strays, is_cut, is_of_machines, is_plain_note, without_managed_fields};
pub use log::LogOptions;
pub use policy::{Asked, Judged, Level, Policy, Stage, Stages};
pub use queue::Mode;
pub use webhook::{Truncation, WebhookOptions};

use metrics::Metrics;
use queue::Queue;

/// Why there can be no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// What a file says is not right.
    #[error("{path}: {why}")]
    Invalid {
        /// Which.
        path: String,
        /// What, and where in it.
        why: String,
    },
}

/// The audit log; a clone is the same one.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    policy: Policy,
    queues: Vec<Queue>,
    metrics: Metrics,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

/// A record could not be written, and must have been before the request goes on.
#[derive(Debug)]
pub struct Unwritten;

impl Audit {
    /// Reads the policy, and opens where records go. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A file can't be used.
    pub async fn start(
        policy: &Path,
        log: Option<LogOptions>,
        webhook: Option<WebhookOptions>,
    ) -> Result<Self, AuditError> {
        let policy = Policy::read(policy)?;
        let metrics = Metrics::default();
        let mut queues = Vec::new();
        if let Some(options) = log {
            queues.push(log::start(options, &metrics)?);
        }
        if let Some(options) = webhook {
            queues.push(webhook::start(options, &metrics).await?);
        }
        Ok(Self(Arc::new(Inner { policy, queues, metrics })))
    }

    /// How much of a request is recorded.
    pub fn judge(&self, asked: &Asked<'_>) -> Judged {
        let judged = self.0.policy.judge(asked);
        self.0.metrics.judged(judged.level);
        judged
    }

    /// Records something. Returns when it is written where that is asked for.
    ///
    /// # Errors
    /// It could not be written to a place where that must be before a request goes on; said of [`Stage::RequestReceived`] alone.
    pub async fn record(&self, stage: Stage, event: &Value) -> Result<(), Unwritten> {
        let line = line(event);
        self.0.metrics.recorded();
        let mut strict = true;
        for queue in &self.0.queues {
            // One that is too large is lost, and keeps nobody waiting, as with kube-apiserver.
            let Some(line) = queue.fitting(event, &line) else { continue };
            strict &= queue.put(line).await || !queue.is_strict();
        }
        if strict || stage != Stage::RequestReceived {
            return Ok(());
        }
        self.0.metrics.rejected();
        Err(Unwritten)
    }

    /// Records something without waiting for anything.
    pub fn record_now(&self, event: &Value) {
        let line = line(event);
        self.0.metrics.recorded();
        for queue in &self.0.queues {
            if let Some(line) = queue.fitting(event, &line) {
                queue.put_now(line);
            }
        }
    }

    /// Waits until all that was recorded so far is written, or given up.
    pub async fn flush(&self) {
        for queue in &self.0.queues {
            queue.flush().await;
        }
    }

    /// Adds what is counted here to a catalogue.
    pub fn register(&self, catalog: &mut prometheus_client::registry::Registry) {
        self.0.metrics.register(catalog);
    }
}

fn line(event: &Value) -> Bytes {
    Bytes::from(event.to_string())
}
