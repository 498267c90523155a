//! Short names for what objects hold.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Ten characters that tell templates apart; the alphabet has no vowels, so that no words appear. `collisions` gives another
/// hash to the same template.
pub(crate) fn short_hash<T: Serialize>(template: &T, collisions: i32) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = Sha256::new();
    // A template is plain data: it always serializes.
    hash.update(serde_json::to_vec(template).unwrap_or_default());
    hash.update(collisions.to_be_bytes());
    hash.finalize()
        .iter()
        .take(10)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}
