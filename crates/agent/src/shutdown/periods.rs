//! How long Pods have to end when their node shuts down, by their priority (the kubelet's `shutdownGracePeriod`,
//! `shutdownGracePeriodCriticalPods` and `shutdownGracePeriodByPodPriority`).

use std::time::Duration;

/// The priority of Pods that ask for none.
const DEFAULT_PRIORITY: i32 = 0;
/// The priority from which on Pods are critical for their cluster.
pub(crate) const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Why periods can't be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeriods {
    /// Critical Pods have a part of the whole.
    #[error("shutdownGracePeriodCriticalPods {critical}s must be <= shutdownGracePeriod {whole}s")]
    Critical {
        /// What critical Pods were to have, seconds.
        critical: u32,
        /// What all were to have, seconds.
        whole: u32,
    },
    /// The two ways to say it exclude each other.
    #[error("Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time")]
    Both,
}

/// Groups of Pods, which end one after the other; without any, a shutdown ends none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownPeriods {
    /// The least important first.
    groups: Vec<Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    /// Pods of this priority and more belong to it, unless another group is nearer.
    priority: i32,
    seconds: u32,
}

impl ShutdownPeriods {
    /// As the kubelet's configuration has it: `whole` seconds for all, of which the last `critical` are for critical Pods; or
    /// `by_priority`, pairs of a priority and seconds.
    ///
    /// # Errors
    /// When these contradict each other.
    pub fn new(whole: u32, critical: u32, by_priority: &[(i32, u32)]) -> Result<Self, InvalidPeriods> {
        let ordinary = whole.checked_sub(critical).ok_or(InvalidPeriods::Critical { critical, whole })?;
        let pairs = match (whole, by_priority) {
            (0, pairs) => pairs.to_vec(),
            (_, []) => vec![(DEFAULT_PRIORITY, ordinary), (CRITICAL_PRIORITY, critical)],
            (..) => return Err(InvalidPeriods::Both),
        };
        let mut groups: Vec<Group> =
            pairs.into_iter().map(|(priority, seconds)| Group { priority, seconds }).collect();
        groups.sort_by_key(|group| group.priority);
        Ok(Self { groups })
    }

    /// How long all groups have together.
    pub fn whole(&self) -> Duration {
        self.groups.iter().map(|group| Duration::from_secs(group.seconds.into())).sum()
    }

    /// Whether Pods are ended at all.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// What each group has, in the order of their ends.
    pub(crate) fn each(&self) -> impl ExactSizeIterator<Item = Duration> + '_ {
        self.groups.iter().map(|group| Duration::from_secs(group.seconds.into()))
    }

    /// How many groups end before those that are critical for their cluster, and how long they have together.
    pub(crate) fn ordinary(&self) -> (usize, Duration) {
        let groups = self.groups.iter().take_while(|group| group.priority < CRITICAL_PRIORITY);
        groups.fold((0, Duration::ZERO), |(count, time), group| {
            (count + 1, time + Duration::from_secs(group.seconds.into()))
        })
    }

    /// The group that Pods of this priority end with: the next lower one, or the lowest.
    pub(crate) fn group_of(&self, priority: i32) -> usize {
        self.groups.partition_point(|group| group.priority <= priority).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_split_between_ordinary_and_critical_pods() {
        let periods = ShutdownPeriods::new(30, 10, &[]).unwrap();
        let groups: Vec<_> = periods.groups.iter().map(|group| (group.priority, group.seconds)).collect();
        assert_eq!(groups, [(0, 20), (2_000_000_000, 10)]);
        assert_eq!(periods.whole(), Duration::from_secs(30));
        assert_eq!(periods.ordinary(), (1, Duration::from_secs(20)));
        assert!(ShutdownPeriods::new(0, 0, &[]).unwrap().is_empty());
    }

    #[test]
    fn pods_end_with_the_group_below_them() {
        let periods = ShutdownPeriods::new(0, 0, &[(100, 1), (10, 2), (1000, 3)]).unwrap();
        let of = |priority| periods.group_of(priority);
        assert_eq!([of(-5), of(0), of(10), of(99)], [0; 4]);
        assert_eq!([of(100), of(999)], [1; 2]);
        assert_eq!([of(1000), of(i32::MAX)], [2; 2]);
        assert_eq!(periods.ordinary(), (3, Duration::from_secs(6)));
        let critical = ShutdownPeriods::new(0, 0, &[(2_000_001_000, 4)]).unwrap();
        assert_eq!(critical.ordinary(), (0, Duration::ZERO));
    }

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(ShutdownPeriods::new(5, 6, &[]), Err(InvalidPeriods::Critical { critical: 6, whole: 5 }));
        assert_eq!(ShutdownPeriods::new(5, 0, &[(0, 1)]), Err(InvalidPeriods::Both));
    }
}
