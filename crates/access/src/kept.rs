//! Answers that are kept for a while: so many and no more.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// What an answer is kept under: so that neither the time of a look-up nor a look into memory tells a secret.
pub(crate) type Key = [u8; 32];

/// The key of these parts.
pub(crate) fn key(parts: &[&[u8]]) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Kept answers, by key. When half of the room is taken, all that was not asked for since the last time goes: about what
/// "least recently used" means, without a list to keep.
pub(crate) struct Kept<V> {
    half: usize,
    turns: Mutex<Turns<V>>,
}

struct Turns<V> {
    young: HashMap<Key, (Instant, V)>,
    old: HashMap<Key, (Instant, V)>,
}

impl<V: Clone> Kept<V> {
    /// Room for at most `most`.
    pub(crate) fn new(most: usize) -> Self {
        let turns = Turns { young: HashMap::new(), old: HashMap::new() };
        Self { half: (most / 2).max(1), turns: Mutex::new(turns) }
    }

    /// The answer, if it is still good.
    pub(crate) fn get(&self, key: &Key) -> Option<V> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((until, value)) = turns.young.get(key) {
            return (*until > now).then(|| value.clone());
        }
        let (until, value) = turns.old.remove(key)?;
        if until <= now {
            return None;
        }
        self.put(&mut turns, *key, (until, value.clone()));
        Some(value)
    }

    /// Keeps an answer for this time; none keeps nothing.
    pub(crate) fn insert(&self, key: Key, value: V, time: Duration) {
        if !time.is_zero() {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            self.put(&mut turns, key, (Instant::now() + time, value));
        }
    }

    fn put(&self, turns: &mut Turns<V>, key: Key, value: (Instant, V)) {
        if turns.young.len() >= self.half && !turns.young.contains_key(&key) {
            turns.old = std::mem::take(&mut turns.young);
        }
        turns.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_there_is_room_for() {
        let (kept, hour) = (Kept::new(8), Duration::from_secs(3600));
        let name = |n: usize| key(&[&n.to_le_bytes()]);
        for n in 0..100 {
            kept.insert(name(n), n, hour);
            assert_eq!(kept.get(&name(0)), Some(0), "what is asked for stays");
            let turns = kept.turns.lock().expect("nobody panics");
            assert!(turns.young.len() + turns.old.len() <= 8);
        }
        assert_eq!((kept.get(&name(99)), kept.get(&name(50))), (Some(99), None));
    }

    #[test]
    fn what_has_had_its_time_is_gone_and_keys_do_not_run_into_each_other() {
        let kept = Kept::new(8);
        kept.insert(key(&[b"a"]), 1, Duration::ZERO);
        kept.insert(key(&[b"b"]), 1, Duration::from_nanos(1));
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!((kept.get(&key(&[b"a"])), kept.get(&key(&[b"b"]))), (None, None));
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
    }
}
