//! Work that computes for longer than others may wait for a thread: it is done beside the async workers, a few at a time.

use std::num::NonZero;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
use yunfan_objects::ApiError;

/// So many units of expressions, about a millisecond, are run where everybody waits for it: to go aside costs something, too.
pub(crate) const BRIEF: u64 = 10_000;
/// Most who may wait for their turn, so that they leave places for requests that take no time.
const MOST: usize = 128;

/// Where such work is done.
pub(crate) struct Aside {
    /// All who are here, at work or not.
    places: Semaphore,
    /// Those at work: half of the cores are left to everybody else.
    turns: Semaphore,
}

impl Default for Aside {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { places: Semaphore::new(MOST), turns: Semaphore::new((cores / 2).max(1)) }
    }
}

impl Aside {
    /// Does the work in its turn.
    ///
    /// # Errors
    /// 429 where too many wait already.
    pub(crate) async fn run<T>(&self, work: impl FnOnce() -> T + Send) -> Result<T, ApiError> {
        let _place = self.places.try_acquire().map_err(|_| {
            ApiError::too_many_requests("too many requests with costly rules, please try again later", 1)
        })?;
        let turn = self.turns.acquire().await;
        let _turn = turn.map_err(|error| ApiError::internal(error.to_string()))?;
        // A runtime of one thread has no other that could go on meanwhile.
        Ok(match Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
            _ => work(),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn who_comes_when_too_many_wait_is_sent_away() {
        let aside = Aside::default();
        let held =
            aside.turns.acquire_many(aside.turns.available_permits() as u32).await.expect("it is open");
        let all = join_all((0..=MOST).map(|_| aside.run(|| ())));
        let ended = async {
            // All but the last are let in, and wait.
            while aside.places.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            drop(held);
        };
        let (all, ()) = tokio::join!(all, ended);
        let codes: Vec<u16> = all.into_iter().filter_map(|done| Some(done.err()?.code())).collect();
        assert_eq!(codes, [429]);
        aside.run(|| ()).await.expect("there is room again");
    }
}
