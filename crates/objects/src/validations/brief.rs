//! Looks at objects that are broken off where rules cost more than others may wait for.

use std::cell::Cell;

thread_local! {
    /// What is left for the rules of the look that this thread is at, units; nothing where it has all the time.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Looks at an object. Nothing where its rules took more than so many units: what was found by then is not all, and it
/// has to be looked at anew, where that may take longer.
pub fn briefly<T>(units: u64, look: impl FnOnce() -> T) -> Option<T> {
    /// Ends the look, also where it ends in a panic.
    struct End(Option<u64>);
    impl Drop for End {
        fn drop(&mut self) {
            LEFT.set(self.0);
        }
    }
    let _end = End(LEFT.replace(Some(units)));
    let found = look();
    (LEFT.get() != Some(0)).then_some(found)
}

/// The most that may be used now.
pub(super) fn left() -> u64 {
    LEFT.get().unwrap_or(u64::MAX)
}

/// Notes what was used.
pub(super) fn pay(units: u64) {
    LEFT.set(LEFT.get().map(|left| left.saturating_sub(units)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_costs_too_much_gives_nothing() {
        let pays = |units: u64| {
            move || {
                pay(units);
                left()
            }
        };
        assert_eq!(briefly(10, pays(9)), Some(1));
        assert_eq!(briefly(10, pays(10)), None);
        assert_eq!(briefly(10, || briefly(5, pays(6))), Some(None));
        assert_eq!(left(), u64::MAX, "what comes then has all the time");
    }
}
