//! When a CronJob is due.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;
use yunfan_objects::cron::Schedule;

/// More missed moments than this are worth a warning.
const MANY: i64 = 100;
/// How long after its moment a Job is looked for, so that clocks that round differently agree.
const DELTA: Duration = Duration::from_millis(100);

/// The last moment that has come and not been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) at: Timestamp,
    /// Whether very many moments before it were missed.
    pub(super) missed_many: bool,
}

/// A CronJob's moments.
pub(super) struct Clock<'a> {
    pub(super) cron: &'a CronJob,
    pub(super) schedule: &'a Schedule,
    pub(super) zone: &'a TimeZone,
    pub(super) now: Timestamp,
}

impl Clock<'_> {
    /// From when on moments count: the last that was served, or the CronJob's creation.
    fn start(&self) -> Timestamp {
        let last = self.cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
        let born = self.cron.metadata.creation_timestamp.as_ref();
        last.or(born).map_or(self.now, |time| time.0)
    }

    /// The first moment after another; none where none comes.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, self.zone)
    }

    /// What is due; moments before the starting deadline do not count.
    pub(super) fn due(&self) -> Option<Due> {
        let deadline = self
            .cron
            .spec
            .starting_deadline_seconds
            .and_then(|seconds| self.now.checked_sub(SignedDuration::from_secs(seconds)).ok());
        self.latest(deadline.map_or(self.start(), |deadline| deadline.max(self.start())))
    }

    /// The latest moment after `from` that has come.
    fn latest(&self, from: Timestamp) -> Option<Due> {
        let first = self.next(from).filter(|first| *first <= self.now)?;
        let second = self.next(first).filter(|second| *second <= self.now);
        let Some(second) = second else { return Some(Due { at: first, missed_many: false }) };
        let apart = second.as_second() - first.as_second();
        let missed = (self.now.as_second() - first.as_second()) / apart.max(1) + 1;
        // Evenly spread they are counted from the first: an `@every` has no other beginning.
        let whole = SignedDuration::from_secs(apart.saturating_mul((missed - 2).max(0)));
        let even = first.checked_add(whole).ok().and_then(|from| self.next(from));
        let mut near =
            even.filter(|moment| *moment <= self.now).unwrap_or_else(|| self.looked_back(first, second));
        while let Some(moment) = self.next(near).filter(|moment| *moment <= self.now) {
            near = moment;
        }
        Some(Due { at: near, missed_many: missed > MANY })
    }

    /// A moment that is not long ago, where they are spread unevenly: it is looked further and further back.
    fn looked_back(&self, first: Timestamp, second: Timestamp) -> Timestamp {
        let mut back = second.duration_since(first);
        loop {
            let from = self.now.checked_sub(back).map_or(first, |from| from.max(first));
            match self.next(from).filter(|moment| *moment <= self.now) {
                Some(moment) => return moment,
                None if from == first => return second,
                None => back = back.saturating_add(back),
            }
        }
    }

    /// How long until the next moment; none where none comes.
    pub(super) fn wait(&self) -> Option<Duration> {
        let served = self.latest(self.start()).map_or(self.start(), |due| due.at);
        let next = self.next(served.max(self.start()))?;
        Some(Duration::try_from(next.duration_since(self.now)).unwrap_or_default() + DELTA)
    }

    /// Whether it is too late for a moment.
    pub(super) fn is_past_deadline(&self, at: Timestamp) -> bool {
        let deadline = self.cron.spec.starting_deadline_seconds;
        deadline.is_some_and(|seconds| self.now.duration_since(at) > SignedDuration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn due(spec: Value, last: Option<&str>, now: &str) -> Option<(String, bool)> {
        let cron = cron(spec, last);
        let schedule = Schedule::parse(&cron.spec.schedule).unwrap();
        let clock =
            Clock { cron: &cron, schedule: &schedule, zone: &TimeZone::UTC, now: now.parse().unwrap() };
        clock.due().map(|due| (due.at.to_string(), due.missed_many))
    }

    fn cron(mut spec: Value, last: Option<&str>) -> CronJob {
        spec["jobTemplate"] = json!({});
        serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": spec, "status": {"lastScheduleTime": last}}))
        .unwrap()
    }

    #[test]
    fn the_latest_moment_that_was_missed_is_due() {
        let each = |more: Value| {
            let mut spec = json!({"schedule": "*/10 * * * *"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let some = |at: &str, many| Some((at.to_owned(), many));
        for (spec, last, now, expected) in [
            (each(json!({})), None, "2026-01-01T00:09:59Z", None),
            (each(json!({})), None, "2026-01-01T00:10:00Z", some("2026-01-01T00:10:00Z", false)),
            (each(json!({})), Some("2026-01-01T00:10:00Z"), "2026-01-01T00:15:00Z", None),
            (
                each(json!({})),
                Some("2026-01-01T00:10:00Z"),
                "2026-01-01T00:45:00Z",
                some("2026-01-01T00:40:00Z", false),
            ),
            (each(json!({})), None, "2026-01-02T00:00:05Z", some("2026-01-02T00:00:00Z", true)),
            (each(json!({"startingDeadlineSeconds": 60})), None, "2026-01-02T00:05:00Z", None),
            (
                each(json!({"startingDeadlineSeconds": 600})),
                None,
                "2026-01-02T00:05:00Z",
                some("2026-01-02T00:00:00Z", false),
            ),
            (
                json!({"schedule": "@every 7m"}),
                Some("2026-01-01T00:10:30Z"),
                "2026-01-01T03:00:00Z",
                some("2026-01-01T02:58:30Z", false),
            ),
            // Moments that are not evenly spread.
            (
                json!({"schedule": "0 1,2,12 * * *"}),
                None,
                "2026-01-03T11:00:00Z",
                some("2026-01-03T02:00:00Z", false),
            ),
        ] {
            assert_eq!(due(spec.clone(), last, now), expected, "{spec} {now}");
        }
    }

    #[test]
    fn the_wait_is_until_the_next_moment() {
        let cron = cron(json!({"schedule": "*/10 * * * *"}), Some("2026-01-01T00:10:00Z"));
        let schedule = Schedule::parse("*/10 * * * *").unwrap();
        let wait = |now: &str| {
            let now = now.parse().unwrap();
            Clock { cron: &cron, schedule: &schedule, zone: &TimeZone::UTC, now }.wait().unwrap().as_millis()
        };
        assert_eq!(wait("2026-01-01T00:15:00Z"), 300_100);
        assert_eq!(wait("2026-01-01T00:20:00Z"), 600_100);
    }
}
