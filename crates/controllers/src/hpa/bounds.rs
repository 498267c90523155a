//! How fast the number of Pods may change: stabilization, policies, and the least and the most that there may be.

use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Without a behaviour there may be twice as many at once, or so many.
const DOUBLE: f64 = 2.0;
const AT_LEAST: f64 = 4.0;

/// A condition's reason and message.
pub(super) type Why = (&'static str, &'static str);

/// A number of Pods, or a change of it, at a moment.
type Noted = (Instant, i32);

/// What was recommended and done lately. It is lost when the process ends; then the windows begin anew.
#[derive(Clone, Debug)]
pub(super) struct Past {
    /// For so long the highest recommendation counts where no behaviour says otherwise.
    stabilization: Duration,
    recommended: Vec<Noted>,
    ups: Vec<Noted>,
    downs: Vec<Noted>,
}

/// What is wished for, and between what it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) current: i32,
    pub(super) desired: i32,
    pub(super) least: i32,
    pub(super) most: i32,
}

/// What it comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bounded {
    pub(super) replicas: i32,
    /// Whether earlier recommendations held it back, and what to say of that.
    pub(super) able: Why,
    /// Whether a bound did.
    pub(super) limited: bool,
    pub(super) limit: Why,
}

impl Past {
    pub(super) fn new(stabilization: Duration) -> Self {
        Self { stabilization, recommended: Vec::new(), ups: Vec::new(), downs: Vec::new() }
    }

    /// Notes what there was at the first look.
    pub(super) fn begin(&mut self, replicas: i32, now: Instant) {
        if self.recommended.is_empty() {
            self.recommended.push((now, replicas));
        }
    }

    /// Notes a change that was made.
    pub(super) fn scaled(
        &mut self,
        from: i32,
        to: i32,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        now: Instant,
    ) {
        let Some(behavior) = behavior else { return };
        let (noted, rules, change) = if to > from {
            (&mut self.ups, &behavior.scale_up, to.saturating_sub(from))
        } else {
            (&mut self.downs, &behavior.scale_down, from.saturating_sub(to))
        };
        let policies = rules.iter().flat_map(|rules| rules.policies.iter().flatten());
        let longest = policies.map(|policy| policy.period_seconds).max().unwrap_or(0);
        noted.retain(|(at, _)| is_within(*at, seconds(longest), now));
        noted.push((now, change));
    }

    /// Brings a wish into its bounds.
    pub(super) fn bound(
        &mut self,
        wish: Wish,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        now: Instant,
    ) -> Bounded {
        const HIGHER: Why = (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        );
        const LOWER: Why = (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        );
        let (stable, held) = match behavior {
            None => (self.highest(wish.desired, self.stabilization, now).max(wish.desired), HIGHER),
            Some(behavior) => {
                let window = |rules: &Option<HPAScalingRules>, else_: Duration| {
                    let given = rules.as_ref().and_then(|rules| rules.stabilization_window_seconds);
                    given.map_or(else_, seconds)
                };
                let least = self.lowest(wish.desired, window(&behavior.scale_up, Duration::ZERO), now);
                let most = self.highest(wish.desired, window(&behavior.scale_down, self.stabilization), now);
                (wish.current.max(least).min(most), if wish.desired >= wish.current { LOWER } else { HIGHER })
            }
        };
        let longest = behavior.map_or(self.stabilization, |behavior| {
            let all = [&behavior.scale_up, &behavior.scale_down].into_iter().flatten();
            let given = all.filter_map(|rules| rules.stabilization_window_seconds).map(seconds);
            given.fold(self.stabilization, Duration::max)
        });
        self.recommended.retain(|(at, _)| is_within(*at, longest, now));
        self.recommended.push((now, wish.desired));
        let stable_wish = Wish { desired: stable, ..wish };
        let (replicas, limit) = match behavior {
            None => plain(stable_wish),
            Some(behavior) => self.by_rules(stable_wish, behavior, now),
        };
        let ready = ("ReadyForNewScale", "recommended size matches current size");
        let able = if stable == wish.desired { ready } else { held };
        Bounded { replicas, able, limited: replicas != stable, limit }
    }

    fn highest(&self, start: i32, window: Duration, now: Instant) -> i32 {
        let recent = self.recommended.iter().filter(|(at, _)| is_within(*at, window, now));
        recent.map(|(_, replicas)| *replicas).chain([start]).max().unwrap_or(start)
    }

    fn lowest(&self, start: i32, window: Duration, now: Instant) -> i32 {
        let recent = self.recommended.iter().filter(|(at, _)| is_within(*at, window, now));
        recent.map(|(_, replicas)| *replicas).chain([start]).min().unwrap_or(start)
    }

    fn by_rules(&self, wish: Wish, behavior: &HorizontalPodAutoscalerBehavior, now: Instant) -> (i32, Why) {
        if wish.desired > wish.current {
            let limit = self.limit(wish.current, behavior.scale_up.as_ref(), true, now).max(wish.current);
            let (most, why) = if wish.most > limit { (limit, TOO_FAST_UP) } else { (wish.most, TOO_MANY) };
            if wish.desired > most {
                return (most, why);
            }
        } else if wish.desired < wish.current {
            let limit = self.limit(wish.current, behavior.scale_down.as_ref(), false, now).min(wish.current);
            let (least, why) =
                if wish.least < limit { (limit, TOO_FAST_DOWN) } else { (wish.least, TOO_FEW) };
            if wish.desired < least {
                return (least, why);
            }
        }
        (wish.desired, WITHIN)
    }

    /// The number that policies let it come to.
    fn limit(&self, current: i32, rules: Option<&HPAScalingRules>, up: bool, now: Instant) -> i32 {
        let select = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let policies = rules.iter().flat_map(|rules| rules.policies.iter().flatten());
        let limits = policies.map(|policy| {
            let changed = |noted: &[Noted]| {
                let recent =
                    noted.iter().filter(|(at, _)| is_within(*at, seconds(policy.period_seconds), now));
                recent.fold(0_i32, |sum, (_, change)| sum.saturating_add(*change))
            };
            // What there was when the period began.
            let start = current.saturating_sub(changed(&self.ups)).saturating_add(changed(&self.downs));
            let part = f64::from(policy.value) / 100.0;
            match (policy.type_ == "Percent", up) {
                (false, true) => start.saturating_add(policy.value),
                (false, false) => start.saturating_sub(policy.value),
                // Rounded so that there is a change.
                (true, true) => (f64::from(start) * (1.0 + part)).ceil() as i32,
                (true, false) => (f64::from(start) * (1.0 - part)) as i32,
            }
        });
        // The largest change is to the highest number on the way up, and to the lowest on the way down.
        let found = if (select == "Min") == up { limits.min() } else { limits.max() };
        found.unwrap_or(current)
    }
}

const TOO_FAST_UP: Why =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const TOO_FAST_DOWN: Why =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Why = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");

fn plain(wish: Wish) -> (i32, Why) {
    let limit = (DOUBLE * f64::from(wish.current)).max(AT_LEAST) as i32;
    let (most, why) = if wish.most > limit { (limit, TOO_FAST_UP) } else { (wish.most, TOO_MANY) };
    if wish.desired < wish.least {
        (wish.least, TOO_FEW)
    } else if wish.desired > most {
        (most, why)
    } else {
        (wish.desired, WITHIN)
    }
}

fn is_within(at: Instant, window: Duration, now: Instant) -> bool {
    now.saturating_duration_since(at) < window
}

fn seconds(number: i32) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}
