//! How long a Job waits before it makes a Pod in place of one that failed: ten seconds, and twice as long each time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::pod::finished_at;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// Failures since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// With Pods that ended since.
    pub(super) fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Self {
        let success = succeeded.iter().map(|pod| finished_at(pod)).max();
        let before = if success.is_some() { Self::default() } else { self };
        let later = failed.iter().map(|pod| finished_at(pod)).filter(|at| success.is_none_or(|s| *at > s));
        later.fold(before, |all, at| Self { failures: all.failures + 1, last: all.last.max(Some(at)) })
    }

    /// How long to wait; none when it is time.
    pub(super) fn wait(self, now: Timestamp) -> Option<Duration> {
        wait(self.failures, self.last?, now)
    }
}

/// How long to wait after so many failures, the last of them at `last`.
pub(super) fn wait(failures: u32, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = failures.checked_sub(1)?.min(16);
    let whole = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let waited = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    whole.checked_sub(waited).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(second: i64) -> Arc<Pod> {
        let at = Timestamp::from_second(second).unwrap().to_string();
        Arc::new(serde_json::from_value(json!({"metadata": {"creationTimestamp": at}})).unwrap())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_wait_doubles_up_to_ten_minutes() {
        let seconds = |failures, now| wait(failures, at(100), at(now)).map(|left| left.as_secs());
        assert_eq!(seconds(0, 100), None);
        assert_eq!(seconds(1, 100), Some(10));
        assert_eq!(seconds(1, 104), Some(6));
        assert_eq!(seconds(1, 110), None);
        assert_eq!(seconds(3, 100), Some(40));
        assert_eq!(seconds(50, 100), Some(600));
    }

    #[test]
    fn a_success_forgives_what_was_before_it() {
        let two = Backoff::default().after(&[], &[pod(5), pod(3)]);
        assert_eq!(two, Backoff { failures: 2, last: Some(at(5)) });
        assert_eq!(two.after(&[], &[]), two);
        assert_eq!(two.after(&[pod(9)], &[]), Backoff::default());
        assert_eq!(two.after(&[pod(9)], &[pod(8), pod(11)]), Backoff { failures: 1, last: Some(at(11)) });
        assert_eq!(Backoff::default().wait(at(0)), None);
    }
}
