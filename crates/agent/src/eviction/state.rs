//! What a node is short of, from what is seen of it time and again: nothing here does anything.

use std::time::{Duration, Instant};

use super::settings::{EvictionSettings, Signal, Threshold};
use crate::pressure::{KINDS, Left, Shortages};

/// What there is left for each of [`Signal::ALL`]; none where it could not be found out.
pub(crate) type Observations = [Option<Left>; Signal::ALL.len()];

/// What is remembered between two looks.
#[derive(Default)]
pub(super) struct State {
    /// The thresholds that were crossed, with the time at which that was first seen.
    since: Vec<(Threshold, Instant)>,
    /// When each kind of shortage was last seen.
    seen: [Option<Instant>; KINDS.len()],
}

/// What follows from a look.
#[derive(Debug)]
pub(super) struct Verdict {
    /// What the node says of itself.
    pub(super) shortages: Shortages,
    /// What is to be had back, where something is: the first of the disk's, and the first of the others.
    pub(super) reclaim: Vec<Threshold>,
}

fn of(observations: &Observations, signal: Signal) -> Option<Left> {
    observations[signal as usize]
}

/// Whether there is less than a threshold says; once it was crossed, it is as long as not so much more is there as is to come free.
fn is_crossed(threshold: &Threshold, observations: &Observations, again: bool) -> bool {
    of(observations, threshold.signal).is_some_and(|left| {
        let more = threshold.reclaim.filter(|_| again).map_or(0, |more| more.of(left.total));
        left.free < threshold.less_than.of(left.total).saturating_add(more)
    })
}

/// Whether nothing of those signals is short, nor would be if so much more were to come free as is asked for.
pub(super) fn is_well(
    settings: &EvictionSettings,
    observations: &Observations,
    of: impl Fn(Signal) -> bool,
) -> bool {
    let mut thresholds = settings.thresholds.iter().filter(|threshold| of(threshold.signal));
    !thresholds.any(|threshold| is_crossed(threshold, observations, true))
}

impl State {
    pub(super) fn judge(
        &mut self,
        settings: &EvictionSettings,
        observations: &Observations,
        now: Instant,
    ) -> Verdict {
        let before = std::mem::take(&mut self.since);
        for threshold in &settings.thresholds {
            let first = before.iter().find(|(known, _)| known == threshold).map(|(_, first)| *first);
            // It had to end Pods, or would have, and goes on until enough came free.
            let acted = first.is_some_and(|first| now.duration_since(first) >= threshold.grace);
            if is_crossed(threshold, observations, acted) {
                self.since.push((*threshold, first.unwrap_or(now)));
            }
        }
        let mut due: Vec<Threshold> = self
            .since
            .iter()
            .filter(|(threshold, first)| now.duration_since(*first) >= threshold.grace)
            .map(|(threshold, _)| *threshold)
            .collect();
        // A node without memory can do nothing else.
        due.sort_by_key(|threshold| threshold.signal);
        let shortages = self.shortages(observations, settings.transition, now);
        let first = |disk| due.iter().find(|threshold| threshold.signal.is_of_disk() == disk).copied();
        Verdict { shortages, reclaim: [first(false), first(true)].into_iter().flatten().collect() }
    }

    fn shortages(&mut self, observations: &Observations, transition: Duration, now: Instant) -> Shortages {
        let mut shortages = [None; KINDS.len()];
        for signal in Signal::ALL {
            if of(observations, signal).is_some() {
                shortages[signal.kind()].get_or_insert(false);
            }
        }
        for (threshold, _) in &self.since {
            self.seen[threshold.signal.kind()] = Some(now);
        }
        for (shortage, seen) in shortages.iter_mut().zip(&self.seen) {
            let lately = seen.is_some_and(|seen| seen == now || now.duration_since(seen) < transition);
            *shortage = shortage.map(|_| lately);
        }
        shortages
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Amount;
    use super::*;

    const WELL: Observations = [
        Some(Left { free: 100 << 20, total: 1 << 40 }),
        Some(Left { free: 10, total: 100 }),
        Some(Left { free: 5, total: 100 }),
        Some(Left { free: 0, total: 100 }),
        Some(Left { free: 0, total: 100 }),
        Some(Left { free: 5, total: 100 }),
    ];

    fn with(signal: Signal, left: Option<Left>) -> Observations {
        let mut observations = WELL;
        observations[signal as usize] = left;
        observations
    }

    fn short(signal: Signal) -> Observations {
        let left = of(&WELL, signal).unwrap();
        with(signal, Some(Left { free: left.free - 1, ..left }))
    }

    fn signals(verdict: &Verdict) -> Vec<Signal> {
        verdict.reclaim.iter().map(|threshold| threshold.signal).collect()
    }

    #[test]
    fn each_signal_has_its_own_limit() {
        let settings = EvictionSettings::default();
        let judge = |observations| State::default().judge(&settings, &observations, Instant::now());
        let well = judge(WELL);
        assert_eq!((well.shortages, well.reclaim), ([Some(false); 3], vec![]));
        for (signal, expected) in [
            (Signal::Memory, [true, false, false]),
            (Signal::NodeDisk, [false, true, false]),
            (Signal::NodeInodes, [false, true, false]),
            (Signal::Pids, [false, false, true]),
        ] {
            let verdict = judge(short(signal));
            assert_eq!(verdict.shortages, expected.map(Some), "{signal:?}");
            assert_eq!(signals(&verdict), [signal]);
            assert!(!is_well(&settings, &short(signal), |_| true));
            assert!(is_well(&settings, &short(signal), |other| other != signal));
        }
        let large = |free| with(Signal::NodeDisk, Some(Left { free, total: u64::MAX }));
        assert_eq!(judge(large(2 << 30)).shortages[1], Some(false));
        assert_eq!(judge(large((2 << 30) - 1)).shortages[1], Some(true));
        assert_eq!(judge([None; 6]).shortages, [None; 3]);
        assert_eq!(judge(with(Signal::NodeInodes, None)).shortages, [Some(false); 3]);
    }

    #[test]
    fn a_shortage_is_told_of_until_it_has_been_over_for_a_while() {
        let settings = EvictionSettings::default();
        let (mut state, begin) = (State::default(), Instant::now());
        let told = |state: &mut State, observations, after: Duration| {
            state.judge(&settings, &observations, begin + after).shortages[1]
        };
        assert_eq!(told(&mut state, WELL, Duration::ZERO), Some(false));
        assert_eq!(told(&mut state, short(Signal::NodeDisk), Duration::ZERO), Some(true));
        let last = settings.transition - Duration::from_secs(1);
        assert_eq!(told(&mut state, WELL, last), Some(true));
        assert_eq!(told(&mut state, with(Signal::NodeDisk, None), last), Some(true), "inodes tell of it too");
        assert_eq!(told(&mut state, WELL, settings.transition), Some(false));
    }

    #[test]
    fn a_soft_threshold_waits_and_one_that_acts_goes_on_until_enough_came_free() {
        let soft = Threshold {
            signal: Signal::NodeDisk,
            less_than: Amount::Units(20),
            grace: Duration::from_secs(60),
            reclaim: Some(Amount::Units(5)),
        };
        let settings = EvictionSettings { thresholds: vec![soft], ..EvictionSettings::default() };
        let (mut state, begin) = (State::default(), Instant::now());
        let mut reclaims = |free, seconds| {
            let observations = with(Signal::NodeDisk, Some(Left { free, total: 100 }));
            let verdict = state.judge(&settings, &observations, begin + Duration::from_secs(seconds));
            assert_eq!(verdict.shortages[1], Some(true));
            !verdict.reclaim.is_empty()
        };
        assert!(!reclaims(19, 0));
        assert!(!reclaims(22, 30), "it was over");
        assert!(!reclaims(19, 40) && !reclaims(19, 99));
        assert!(reclaims(19, 100));
        assert!(reclaims(24, 110), "five more are asked for");
        assert!(!reclaims(25, 120));
        assert!(!reclaims(24, 130), "it is over");
    }

    #[test]
    fn memory_comes_first() {
        let settings = EvictionSettings::default();
        let mut observations = short(Signal::Pids);
        observations[Signal::Memory as usize] = Some(Left { free: 0, total: 1 });
        let verdict = State::default().judge(&settings, &observations, Instant::now());
        assert_eq!(signals(&verdict), [Signal::Memory]);
    }

    #[test]
    fn the_disk_holds_up_nothing_else() {
        let settings = EvictionSettings::default();
        let mut observations = short(Signal::NodeInodes);
        for signal in [Signal::NodeDisk, Signal::Pids] {
            observations[signal as usize] = Some(Left { free: 0, total: 100 });
        }
        let verdict = State::default().judge(&settings, &observations, Instant::now());
        assert_eq!(signals(&verdict), [Signal::Pids, Signal::NodeDisk]);
    }
}
