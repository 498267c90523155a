//! Locks by name, for work that is done by one at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// One lock for each name that somebody works on or waits for.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits until it is the caller's turn; that lasts until the guard is dropped.
    pub(crate) async fn wait(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            // Nothing panics under this lock.
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody waits for are forgotten, so that the map holds names in use only.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(name.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_have_turns_of_their_own_and_are_forgotten() {
        let turns = Turns::default();
        let first = turns.wait("a").await;
        drop(turns.wait("b").await);
        assert!(futures::FutureExt::now_or_never(turns.wait("a")).is_none(), "somebody has it");
        drop(first);
        let _again = turns.wait("a").await;
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
