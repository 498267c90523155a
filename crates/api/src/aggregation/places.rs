//! How many requests of one server may be under way: one that hangs must not hold up all others, nor use up all the connections
//! that there may be.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use yunfan_objects::ApiError;

/// The part of all ordinary requests that may wait for the server's word at one time.
const WAITING_PART: usize = 4;

/// The places of one server.
pub(super) struct Places {
    /// Until the headers of an answer are there.
    waiting: Arc<Semaphore>,
    /// Until the answer has been read, or what was upgraded has ended.
    ordinary: Arc<Semaphore>,
    /// The same of watches and streams, which last: they leave room for others.
    lasting: Arc<Semaphore>,
}

/// The place of one request. Who drops it gives it up.
pub(crate) struct Place {
    _waiting: Option<OwnedSemaphorePermit>,
    stay: OwnedSemaphorePermit,
}

impl Places {
    /// Places for so many ordinary requests, and for as many that last.
    pub(super) fn new(most: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { waiting: places((most / WAITING_PART).max(1)), ordinary: places(most), lasting: places(most) }
    }

    /// A place for one more request.
    ///
    /// # Errors
    /// 429 where all are taken.
    pub(super) fn enter(&self, lasts: bool) -> Result<Place, ApiError> {
        let take = |places: &Arc<Semaphore>| {
            let full = |_| ApiError::too_many_requests("too many requests, please try again later", 1);
            places.clone().try_acquire_owned().map_err(full)
        };
        let _waiting = if lasts { None } else { Some(take(&self.waiting)?) };
        Ok(Place { _waiting, stay: take(if lasts { &self.lasting } else { &self.ordinary })? })
    }
}

impl Place {
    /// What is left of it once the answer's headers are there.
    pub(super) fn answered(self) -> OwnedSemaphorePermit {
        self.stay
    }
}
