//! Tokens that were found good: a signature on P-256 takes longer to check than all else of a request, and clients show one token again
//! and again. What a token says does not change; whether it still holds is looked at each time.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use sha2::{Digest as _, Sha256};

/// Most tokens that are remembered. Each takes about a kilobyte.
const MOST: usize = 4096;

/// What a token is known by: nobody can show another with the same.
type Key = [u8; 32];

/// Claims of tokens whose signature was checked, and until when each may hold, seconds since 1970.
pub(super) struct Verified<C>(RwLock<HashMap<Key, (u64, C)>>);

impl<C> Default for Verified<C> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<C: Clone> Verified<C> {
    /// The digest of a token.
    pub(super) fn key(token: &str) -> Key {
        Sha256::digest(token.as_bytes()).into()
    }

    /// The claims of a token that was found good before.
    pub(super) fn get(&self, key: &Key) -> Option<C> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).map(|(_, claims)| claims.clone())
    }

    /// Remembers a token that may hold until `end`. Where there are too many, those that have ended are forgotten, and then all.
    pub(super) fn put(&self, key: Key, end: u64, now: u64, claims: C) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST {
            kept.retain(|_, (end, _)| *end > now);
            if kept.len() >= MOST {
                kept.clear();
            }
        }
        kept.insert(key, (end, claims));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_limit_and_what_has_ended_goes_first() {
        let verified = Verified::default();
        let key = |number: usize| Verified::<usize>::key(&number.to_string());
        for number in 0..MOST {
            verified.put(key(number), if number < 10 { 200 } else { 50 }, 1, number);
        }
        assert_eq!((verified.get(&key(3)), verified.get(&key(20))), (Some(3), Some(20)));
        verified.put(key(MOST), 200, 100, MOST);
        assert_eq!((verified.get(&key(3)), verified.get(&key(20))), (Some(3), None));
        assert_eq!(verified.get(&key(MOST)), Some(MOST));
        for number in MOST + 1..2 * MOST + 2 {
            verified.put(key(number), 200, 100, number);
        }
        assert!(verified.0.read().expect("no panic").len() <= MOST);
    }
}
