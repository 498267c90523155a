//! What an evaluation may use.

use std::time::{Duration, Instant};

use crate::eval::EvalError;

/// Charges between two looks at the clock.
const CLOCK: u32 = 256;

/// Cost and time that are left. Every step of an evaluation is charged, and what is made in memory is charged
/// by its size, so that a budget bounds memory as well.
#[derive(Debug)]
pub struct Budget {
    left: u64,
    used: u64,
    end: Instant,
    ticks: u32,
}

impl Budget {
    /// So many units of cost (about one for each step, variable and call), and so much time.
    pub fn new(cost: u64, time: Duration) -> Self {
        Self { left: cost, used: 0, end: Instant::now() + time, ticks: 0 }
    }

    /// Units used so far.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// More than can be charged: what weighs so much need not be weighed on.
    pub(crate) fn beyond(&self) -> u64 {
        self.left.saturating_add(2)
    }

    /// Takes units.
    ///
    /// # Errors
    /// There are not as many left, or the time is over.
    pub fn charge(&mut self, units: u64) -> Result<(), EvalError> {
        // What was not there to be taken is not used: others may have it.
        self.used = self.used.saturating_add(units.min(self.left));
        if units > self.left {
            self.left = 0;
            return Err(EvalError::Limit);
        }
        self.left -= units;
        self.ticks += 1;
        if self.ticks >= CLOCK {
            self.ticks = 0;
            if Instant::now() > self.end {
                self.left = 0;
                return Err(EvalError::Limit);
            }
        }
        Ok(())
    }

    /// Takes a tenth of a unit for each of so many bytes, as for looking through a text.
    ///
    /// # Errors
    /// As [`charge`](Self::charge).
    pub fn charge_bytes(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.charge((bytes as u64).div_ceil(10))
    }
}
