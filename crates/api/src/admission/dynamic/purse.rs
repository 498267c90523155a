//! What expressions may cost, and what all of those about one request may cost together.

use std::time::{Duration, Instant};

use yunfan_cel::Budget;
use yunfan_objects::ApiError;

use crate::aside::{Aside, BRIEF};

/// Most units of one run of one expression.
const CALL_LIMIT: u64 = 1_000_000;
/// Most units of all expressions about a request: those of ten policies that take all they may.
const UNITS: u64 = 100_000_000;
/// Longest time of all of them, whatever they cost.
const TIME: Duration = Duration::from_secs(5);

/// What is left for all expressions about a request.
pub(super) struct Purse {
    units: u64,
    time: Duration,
    brief: u64,
    /// Whether what is run now is given up where `brief` ends.
    hasty: bool,
    /// When the time ends, while something is run.
    until: Instant,
}

impl Default for Purse {
    fn default() -> Self {
        Self { units: UNITS, time: TIME, brief: BRIEF, hasty: false, until: Instant::now() }
    }
}

impl Purse {
    /// Runs expressions. Those that take long are run anew where they hold up nobody.
    ///
    /// # Errors
    /// 429 where too many wait for that. 400 where all that may be spent on the request is spent: what would be asked next would
    /// fail for no fault of its own, and must not be passed over, whatever its failure policy says.
    pub(super) async fn spend<T: Send>(
        &mut self,
        aside: &Aside,
        work: impl Fn(&mut Self) -> T + Send + Sync,
    ) -> Result<T, ApiError> {
        if self.brief > 0 {
            let done = self.timed(true, &work);
            if !self.gave_up() {
                return self.unless_empty(done);
            }
        }
        let done = aside.run(|| self.timed(false, &work)).await?;
        self.unless_empty(done)
    }

    fn unless_empty<T>(&self, done: T) -> Result<T, ApiError> {
        if self.units > 0 && !self.time.is_zero() {
            return Ok(done);
        }
        let seconds = TIME.as_secs();
        Err(ApiError::bad_request(format!(
            "the expressions of the policies and webhooks that are asked about this request cost more than {UNITS} units or take longer than {seconds} s together"
        )))
    }

    fn timed<T>(&mut self, hasty: bool, work: &impl Fn(&mut Self) -> T) -> T {
        let start = Instant::now();
        (self.hasty, self.until) = (hasty, start + self.time);
        let done = work(self);
        self.time = self.time.saturating_sub(start.elapsed());
        done
    }

    fn gave_up(&self) -> bool {
        self.hasty && self.brief == 0
    }

    fn is_over(&self) -> bool {
        self.units == 0 || self.gave_up() || Instant::now() >= self.until
    }
}

/// What is left for several expressions together.
pub(super) struct Allowance<'a> {
    units: u64,
    purse: &'a mut Purse,
}

impl<'a> Allowance<'a> {
    /// So many units of what the purse has.
    pub(super) fn new(units: u64, purse: &'a mut Purse) -> Self {
        Self { units, purse }
    }

    /// Whether nothing may be run any more, of these expressions or any of the request.
    pub(super) fn is_spent(&self) -> bool {
        self.units == 0 || self.purse.is_over()
    }

    /// Runs one expression.
    pub(super) fn run<T>(&mut self, expression: impl FnOnce(&mut Budget) -> T) -> T {
        let hasty = if self.purse.hasty { self.purse.brief } else { u64::MAX };
        let units = CALL_LIMIT.min(self.units).min(self.purse.units).min(hasty);
        let time = self.purse.until.saturating_duration_since(Instant::now());
        let mut budget = Budget::new(units, time);
        let out = expression(&mut budget);
        for left in [&mut self.units, &mut self.purse.units, &mut self.purse.brief] {
            *left = left.saturating_sub(budget.used());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(units: u64) -> impl Fn(&mut Allowance<'_>) -> bool {
        move |left| left.run(|budget| budget.charge(units).is_ok())
    }

    #[test]
    fn what_is_left_ends_with_its_units_or_the_requests_units_or_time() {
        let mut purse = Purse { until: Instant::now() + TIME, ..Purse::default() };
        let mut left = Allowance::new(10, &mut purse);
        assert!(cost(9)(&mut left) && !left.is_spent());
        assert!(!cost(2)(&mut left) && left.is_spent());
        assert!(!Allowance::new(10, &mut purse).is_spent());
        purse.units = 1;
        let mut left = Allowance::new(10, &mut purse);
        assert!(!cost(2)(&mut left) && left.is_spent());
        let mut late = Purse::default();
        assert!(Allowance::new(10, &mut late).is_spent());
    }

    #[tokio::test]
    async fn what_one_cannot_pay_is_left_to_others_and_a_request_that_spent_all_is_refused() {
        let (mut purse, aside) = (Purse::default(), Aside::default());
        let greedy = |purse: &mut Purse| cost(u64::MAX)(&mut Allowance::new(UNITS, purse));
        for run in 1..UNITS / CALL_LIMIT {
            assert!(!purse.spend(&aside, greedy).await.expect("others can pay"), "{run}");
        }
        assert!(purse.units > 0 && purse.units <= CALL_LIMIT);
        let error = purse.spend(&aside, greedy).await.expect_err("nothing is left");
        assert_eq!(error.code(), 400);
    }

    #[tokio::test]
    async fn what_takes_long_is_run_anew_aside_and_what_comes_then_too() {
        let (mut purse, aside) = (Purse::default(), Aside::default());
        let runs = std::sync::Mutex::new(Vec::new());
        for units in [BRIEF - 1, CALL_LIMIT, 1] {
            let work = |purse: &mut Purse| {
                let mut left = Allowance::new(UNITS, purse);
                let done = cost(units)(&mut left);
                runs.lock().expect("nobody panics").push((units, left.purse.hasty));
                done
            };
            assert!(purse.spend(&aside, work).await.expect("there is room"), "{units}");
        }
        let runs = runs.into_inner().expect("nobody panics");
        assert_eq!(runs, [(BRIEF - 1, true), (CALL_LIMIT, true), (CALL_LIMIT, false), (1, false)]);
    }
}
