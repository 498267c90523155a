//! How much may be sent to a client, and when it may send more. (SPDY/3, section 2.6.8; SPDY/3.1 for the whole connection.)

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::super::StreamError;
use super::super::lane::BUFFER;

/// What may be on the way on a stream, and on the whole connection, before anything else is said.
pub(super) const INITIAL: usize = BUFFER;
/// Number that stands for the whole connection.
pub(super) const CONNECTION: u32 = 0;
/// A window cannot grow larger.
const LARGEST: i64 = i32::MAX as i64;

/// What is left of a client's windows.
///
/// kubectl's SPDY library never sends a WINDOW_UPDATE and takes whatever comes. So a limit holds only once the client
/// has shown that it knows the rule: for streams by any update or by a setting, for the connection by an update of it.
/// What other clients get is limited by what TCP takes.
pub(super) struct Windows {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    initial: i64,
    streams_hold: bool,
    connection_holds: bool,
    connection: i64,
    streams: BTreeMap<u32, i64>,
}

impl Windows {
    pub(super) fn new() -> Self {
        let state = State {
            initial: INITIAL as i64,
            streams_hold: false,
            connection_holds: false,
            connection: INITIAL as i64,
            streams: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// A new stream.
    pub(super) fn open(&self, stream: u32) {
        let mut state = self.lock();
        let initial = state.initial;
        state.streams.insert(stream, initial);
    }

    /// Nothing can be sent on a stream any more.
    pub(super) fn close(&self, stream: u32) {
        self.lock().streams.remove(&stream);
        self.changed.notify_waiters();
    }

    /// Takes up to `wanted` bytes of a stream's window, at least one; waits until there are any. None when the stream is closed.
    pub(super) async fn take(&self, stream: u32, wanted: usize) -> Option<usize> {
        loop {
            // Before the look, or a change right behind it would be missed.
            let changed = self.changed.notified();
            let taken = self.lock().take(stream, wanted)?;
            if taken > 0 {
                return Some(taken);
            }
            changed.await;
        }
    }

    /// The client takes more on a stream, or on the connection.
    ///
    /// # Errors
    /// When the window would grow beyond what the protocol allows.
    pub(super) fn grant(&self, stream: u32, delta: u32) -> Result<(), StreamError> {
        let mut state = self.lock();
        let window = if stream == CONNECTION {
            state.connection_holds = true;
            Some(&mut state.connection)
        } else {
            state.streams_hold = true;
            state.streams.get_mut(&stream)
        };
        // Updates of streams that are over may still be on their way.
        if let Some(window) = window {
            *window += i64::from(delta);
            if *window > LARGEST {
                return Err(StreamError::Malformed("a window grows beyond 2^31 - 1"));
            }
        }
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// The client sets how large windows are at first: this counts for those that are open, too.
    ///
    /// # Errors
    /// When that is more than the protocol allows.
    pub(super) fn set_initial(&self, size: u32) -> Result<(), StreamError> {
        let size = i64::from(size);
        if size > LARGEST {
            return Err(StreamError::Malformed("a window is larger than 2^31 - 1"));
        }
        let mut state = self.lock();
        let change = size - state.initial;
        state.initial = size;
        state.streams_hold = true;
        state.streams.values_mut().for_each(|window| *window += change);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers are never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, stream: u32, wanted: usize) -> Option<usize> {
        let window = self.streams.get_mut(&stream)?;
        let mut most = i64::try_from(wanted).unwrap_or(LARGEST);
        if self.streams_hold {
            most = most.min(*window);
        }
        if self.connection_holds {
            most = most.min(self.connection);
        }
        let most = most.max(0);
        *window -= most;
        self.connection -= most;
        Some(most as usize)
    }
}

/// Counts what came and was used, until it is worth telling the client.
#[derive(Default)]
pub(super) struct Used(BTreeMap<u32, u32>);

impl Used {
    /// So many bytes of a stream were used. Returns the stream and how much more it may bring, once that is half a window.
    pub(super) fn add(&mut self, stream: u32, bytes: usize) -> Option<u32> {
        let used = self.0.entry(stream).or_default();
        *used = used.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        (*used >= INITIAL as u32 / 2).then(|| std::mem::take(used))
    }

    pub(super) fn forget(&mut self, stream: u32) {
        self.0.remove(&stream);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_client_without_updates_is_not_waited_for() {
        let windows = Windows::new();
        windows.open(3);
        for _ in 0..10 {
            assert_eq!(windows.take(3, INITIAL).await, Some(INITIAL));
        }
        windows.close(3);
        assert_eq!(windows.take(3, 1).await, None);
    }

    #[tokio::test]
    async fn a_client_with_updates_gets_no_more_than_it_takes() {
        let windows = Windows::new();
        windows.open(3);
        windows.grant(3, 10).unwrap();
        assert_eq!(windows.take(3, INITIAL * 2).await, Some(INITIAL + 10));
        let (taken, ()) = tokio::join!(windows.take(3, 100), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            windows.grant(3, 7).unwrap();
        });
        assert_eq!(taken, Some(7));
        // Smaller from the start: what was sent is below nothing now.
        windows.set_initial(100).unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(10), windows.take(3, 1)).await;
        assert!(waiting.is_err());
        windows.grant(3, INITIAL as u32).unwrap();
        assert_eq!(windows.take(3, INITIAL).await, Some(100));
    }

    #[tokio::test]
    async fn the_connection_has_a_window_of_its_own() {
        let windows = Windows::new();
        windows.open(3);
        windows.open(5);
        windows.grant(CONNECTION, 1).unwrap();
        assert_eq!(windows.take(3, INITIAL).await, Some(INITIAL));
        assert_eq!(windows.take(5, INITIAL).await, Some(1));
        assert!(windows.grant(CONNECTION, i32::MAX as u32).is_ok());
        assert!(windows.grant(CONNECTION, i32::MAX as u32).is_err());
    }

    #[test]
    fn what_was_used_is_told_by_half_windows() {
        let mut used = Used::default();
        assert_eq!(used.add(1, INITIAL / 2 - 1), None);
        assert_eq!(used.add(3, 5), None);
        assert_eq!(used.add(1, 1), Some(INITIAL as u32 / 2));
        assert_eq!(used.add(1, 1), None);
    }
}
