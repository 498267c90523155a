//! Passwords of guests' administrators: made up where a client gives none, and told to the guest by the metadata service.

use rand::Rng;

/// Length of one that is made up (Nova's default).
const LENGTH: usize = 12;
/// No letters or digits that are taken for one another.
const LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// A new one.
pub(super) fn random() -> String {
    let mut random = rand::rng();
    (0..LENGTH).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        assert_eq!(random().len(), LENGTH);
        assert_ne!(random(), random());
    }
}
