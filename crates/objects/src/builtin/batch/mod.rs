//! The kinds of `batch`.

pub(in crate::builtin) mod cron_jobs;
pub(in crate::builtin) mod jobs;
pub(in crate::builtin) mod policies;
pub(in crate::builtin) mod status;
