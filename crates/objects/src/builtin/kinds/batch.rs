//! The kinds of batch.

use std::sync::Arc;

use super::Kind;
use crate::builtin::batch::{cron_jobs, jobs};

const BASE: Kind = Kind { group: "batch", definitions: "io.k8s.api.batch.v1.", ..Kind::BASE };

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "Job",
        plural: "jobs",
        categories: &["all"],
        status: true,
        selectable: &["status.succeeded"],
        columns: jobs::COLUMNS,
        cells: jobs::cells,
        strategy: || Arc::new(jobs::JobStrategy),
        ..BASE
    },
    Kind {
        kind: "CronJob",
        plural: "cronjobs",
        short_names: &["cj"],
        categories: &["all"],
        status: true,
        columns: cron_jobs::COLUMNS,
        cells: cron_jobs::cells,
        strategy: || Arc::new(cron_jobs::CronJobStrategy),
        ..BASE
    },
];
