//! Slows down those who guess passwords: after some wrong ones for a user from one address, each further try has to wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Wrong passwords that cost no time.
const FREE: u32 = 10;
/// The wait after the first one beyond; it doubles with each.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// Who did not try for so long starts anew.
const FORGET: Duration = Duration::from_secs(600);
/// Users and addresses that are remembered.
const MOST: usize = 8192;

/// Tries, by user and address.
#[derive(Default)]
pub struct Throttle(Mutex<HashMap<[u8; 32], Tries>>);

struct Tries {
    count: u32,
    last: Instant,
    next: Instant,
}

impl Throttle {
    /// Whether one may try now.
    ///
    /// # Errors
    /// How long to wait before the next try.
    pub fn check(&self, who: (&str, Option<IpAddr>)) -> Result<(), Duration> {
        let now = Instant::now();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(&key(who)) {
            Some(tries) if tries.next > now => Err(tries.next - now),
            _ => Ok(()),
        }
    }

    /// The password was wrong.
    pub fn failed(&self, who: (&str, Option<IpAddr>)) {
        let now = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(who);
        if all.len() >= MOST && !all.contains_key(&key) {
            make_room(&mut all, now);
        }
        let tries = all.entry(key).or_insert(Tries { count: 0, last: now, next: now });
        if now.duration_since(tries.last) > FORGET {
            tries.count = 0;
        }
        (tries.count, tries.last) = (tries.count.saturating_add(1), now);
        if let Some(beyond) = tries.count.checked_sub(FREE) {
            tries.next = now + LONGEST.min(FIRST * 2_u32.pow(beyond.min(6)));
        }
    }

    /// The password was right.
    pub fn passed(&self, who: (&str, Option<IpAddr>)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(who));
    }
}

/// Forgets who starts anew anyway, and if these are none, the one who tried the longest time ago.
fn make_room(all: &mut HashMap<[u8; 32], Tries>, now: Instant) {
    all.retain(|_, tries| now.duration_since(tries.last) <= FORGET);
    if all.len() >= MOST
        && let Some(oldest) = all.iter().min_by_key(|(_, tries)| tries.last).map(|(key, _)| *key)
    {
        all.remove(&oldest);
    }
}

/// Of one size, however long a name a client makes up.
fn key((name, address): (&str, Option<IpAddr>)) -> [u8; 32] {
    let address = address.map(|address| address.to_string()).unwrap_or_default();
    Sha256::new().chain_update(address).chain_update([0_u8]).chain_update(name).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_gets_slow_and_a_right_password_starts_anew() {
        let throttle = Throttle::default();
        let (here, there) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([127, 0, 0, 2])));
        for _ in 0..FREE {
            assert_eq!(throttle.check(("ann", here)), Ok(()));
            throttle.failed(("ann", here));
        }
        let wait = throttle.check(("ann", here)).expect_err("there were too many");
        assert!(wait <= LONGEST && !wait.is_zero());
        assert_eq!(throttle.check(("bob", here)), Ok(()));
        assert_eq!(throttle.check(("ann", there)), Ok(()));
        throttle.passed(("ann", here));
        assert_eq!(throttle.check(("ann", here)), Ok(()));
    }

    #[test]
    fn there_are_never_more_than_there_is_room_for() {
        let throttle = Throttle::default();
        for n in 0..MOST + 10 {
            throttle.failed((&n.to_string(), None));
        }
        assert_eq!(throttle.0.lock().expect("nobody panics").len(), MOST);
    }
}
