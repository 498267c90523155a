//! Who asked for what, and what became of it: the options of the audit log.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use yunfan_audit::{Audit, AuditError, LogOptions, Mode, Truncation, WebhookOptions};

/// What is recorded of requests, and where.
#[derive(Args)]
pub(crate) struct AuditOptions {
    /// A Policy (audit.k8s.io/v1) that says which requests are recorded, and how much of them.
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// File that records are written to, one a line; `-` is standard output.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// Megabytes of the file at which it is rotated.
    #[arg(long, default_value_t = 100, value_name = "MB")]
    audit_log_maxsize: u64,
    /// Rotated files that are kept; 0 keeps all.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    audit_log_maxbackup: usize,
    /// Days that rotated files are kept; 0 keeps them for ever.
    #[arg(long, default_value_t = 0, value_name = "DAYS")]
    audit_log_maxage: u64,
    /// Compress rotated files with gzip.
    #[arg(long)]
    audit_log_compress: bool,
    /// Whether requests wait for their records: `blocking`, `blocking-strict` (refused if the first can't be written), or `batch`.
    #[arg(long, default_value = "blocking", value_name = "MODE")]
    audit_log_mode: Mode,
    /// Whether records that are too large lose their bodies.
    #[arg(long)]
    audit_log_truncate_enabled: bool,
    /// Bytes of a record, at most; what is still larger without its bodies is lost, and counted.
    #[arg(long, default_value_t = 100 << 10, value_name = "BYTES", value_parser = size())]
    audit_log_truncate_max_event_size: u64,
    /// A kubeconfig that names a webhook that records are sent to.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_webhook_config_file: Option<PathBuf>,
    /// As `--audit-log-mode`.
    #[arg(long, default_value = "batch", value_name = "MODE")]
    audit_webhook_mode: Mode,
    /// Records that wait to be sent; more are lost, and counted.
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER")]
    audit_webhook_batch_buffer_size: usize,
    /// Records that are sent together, at most.
    #[arg(long, default_value_t = 400, value_name = "NUMBER")]
    audit_webhook_batch_max_size: usize,
    /// Seconds that a record waits for others.
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    audit_webhook_batch_max_wait: f64,
    /// Batches that are sent each second, on average, at most; 0 for any number.
    #[arg(long, default_value_t = 10.0, value_name = "NUMBER")]
    audit_webhook_batch_throttle_qps: f64,
    /// Batches that are sent at once where there were less before.
    #[arg(long, default_value_t = 15, value_name = "NUMBER")]
    audit_webhook_batch_throttle_burst: u32,
    /// Seconds until a batch that was not taken is sent again; each time half as long again, five times in all.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    audit_webhook_initial_backoff: f64,
    /// As `--audit-log-truncate-enabled`; batches that are too large are sent in parts.
    #[arg(long)]
    audit_webhook_truncate_enabled: bool,
    /// As `--audit-log-truncate-max-event-size`.
    #[arg(long, default_value_t = 100 << 10, value_name = "BYTES", value_parser = size())]
    audit_webhook_truncate_max_event_size: u64,
    /// Bytes of the records of a batch, at most.
    #[arg(long, default_value_t = 10 << 20, value_name = "BYTES", value_parser = size())]
    audit_webhook_truncate_max_batch_size: u64,
}

/// A number of bytes that something can have.
fn size() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1 << 30)
}

impl AuditOptions {
    /// Opens the audit log, where one is asked for.
    ///
    /// # Errors
    /// A file can't be used.
    pub(crate) async fn start(&self) -> Result<Option<Audit>, AuditError> {
        let Some(policy) = &self.audit_policy_file else { return Ok(None) };
        // Their range fits everywhere.
        let bytes = |given: u64| usize::try_from(given).unwrap_or(usize::MAX);
        let truncate = self.audit_webhook_truncate_enabled.then(|| Truncation {
            record: bytes(self.audit_webhook_truncate_max_event_size),
            batch: bytes(self.audit_webhook_truncate_max_batch_size),
        });
        if truncate.is_some_and(|truncate| truncate.batch < truncate.record) {
            return Err(AuditError::Invalid {
                path: "--audit-webhook-truncate-max-batch-size".to_owned(),
                why: "a batch must have room for a record (--audit-webhook-truncate-max-event-size)"
                    .to_owned(),
            });
        }
        let log = self.audit_log_path.clone().map(|path| LogOptions {
            path,
            max_megabytes: self.audit_log_maxsize,
            max_backups: self.audit_log_maxbackup,
            max_days: self.audit_log_maxage,
            compress: self.audit_log_compress,
            mode: self.audit_log_mode,
            max_record: self
                .audit_log_truncate_enabled
                .then(|| bytes(self.audit_log_truncate_max_event_size)),
        });
        let seconds = |given: f64| Duration::try_from_secs_f64(given.clamp(0.0, 3600.0)).unwrap_or_default();
        let webhook = self.audit_webhook_config_file.clone().map(|kubeconfig| WebhookOptions {
            kubeconfig,
            mode: self.audit_webhook_mode,
            buffer: self.audit_webhook_batch_buffer_size.clamp(1, 1_000_000),
            batch: self.audit_webhook_batch_max_size.clamp(1, 100_000),
            wait: seconds(self.audit_webhook_batch_max_wait),
            per_second: self.audit_webhook_batch_throttle_qps,
            burst: self.audit_webhook_batch_throttle_burst,
            backoff: seconds(self.audit_webhook_initial_backoff),
            truncate,
        });
        Audit::start(policy, log, webhook).await.map(Some)
    }
}
