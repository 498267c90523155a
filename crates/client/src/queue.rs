//! Work queues and the shape of every control loop.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::measure::Measure;
use crate::{Change, Informer, Watched};

/// First wait after a failure; each further one doubles it.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
/// Failures with a wait up to this are no news to anyone.
const QUIET_BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait for anything: a pass too many does no harm, and what clients ask for may be more than a clock can hold.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest wait after a panic.
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// Longest wait after failures.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Keys of objects that want work.
///
/// A key that waits is held once however often it is added, and a key that is being worked on is not
/// handed out a second time: it is handed out again when that work is done. So what is
/// held is never more than one entry an object. Cloning it shares it.
pub struct Queue<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    /// What is counted, once a loop works on it.
    measure: OnceLock<Measure>,
}

struct State<T> {
    ready: VecDeque<T>,
    /// In `ready`, or added while in `working`, and since when.
    dirty: HashMap<T, Instant>,
    /// With the moment when the work began.
    working: HashMap<T, Instant>,
    /// Keys to add at a moment; the number tells apart keys of the same moment.
    delayed: BTreeMap<(Instant, u64), T>,
    delayed_at: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    sequence: u64,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Clone + Eq + Hash> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(State {
                    ready: VecDeque::new(),
                    dirty: HashMap::new(),
                    working: HashMap::new(),
                    delayed: BTreeMap::new(),
                    delayed_at: HashMap::new(),
                    failures: HashMap::new(),
                    sequence: 0,
                }),
                changed: Notify::new(),
                measure: OnceLock::new(),
            }),
        }
    }

    /// Asks for work on `key`, now.
    pub fn add(&self, key: T) {
        let mut state = self.lock();
        self.count(state.add(key));
        drop(state);
        self.inner.changed.notify_one();
    }

    /// Asks for work on `key` after `delay`, unless it is asked for earlier. After a day at the latest.
    pub fn add_after(&self, key: T, delay: Duration) {
        let at = Instant::now() + delay.min(LONGEST_DELAY);
        let mut state = self.lock();
        if let Some(&known) = state.delayed_at.get(&key) {
            if known.0 <= at {
                return;
            }
            state.delayed.remove(&known);
        }
        state.sequence += 1;
        let slot = (at, state.sequence);
        state.delayed_at.insert(key.clone(), slot);
        state.delayed.insert(slot, key);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// How many keys wait, delayed ones included.
    pub fn len(&self) -> usize {
        let state = self.lock();
        state.ready.len() + state.delayed.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Feeds the queue from an informer: for each change, the keys that `keys` names. Ends with the process.
    pub fn feed<K, F, I>(&self, informer: &Informer<K>, keys: F)
    where
        K: Watched,
        F: Fn(&K) -> I + Send + 'static,
        I: IntoIterator<Item = T>,
        T: Send + 'static,
    {
        let queue = self.clone();
        let mut changes = informer.subscribe();
        tokio::spawn(async move {
            loop {
                let change: Change<K> = changes.next().await;
                for key in keys(change.object()) {
                    queue.add(key);
                }
            }
        });
    }

    async fn next(&self) -> T {
        loop {
            let wake = {
                let mut state = self.lock();
                let now = Instant::now();
                self.count(state.promote(now));
                if let Some(key) = state.ready.pop_front() {
                    let since = state.dirty.remove(&key);
                    state.working.insert(key.clone(), now);
                    if let Some(measure) = self.inner.measure.get() {
                        measure.taken(since.map_or(Duration::ZERO, |since| now - since));
                    }
                    if !state.ready.is_empty() {
                        self.inner.changed.notify_one();
                    }
                    return key;
                }
                state.delayed.first_key_value().map(|((at, _), _)| *at)
            };
            match wake {
                Some(at) => {
                    tokio::select! {
                        () = self.inner.changed.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.inner.changed.notified().await,
            }
        }
    }

    /// Ends the work on `key`; `failed` decides about the back-off and returns it.
    fn done(&self, key: &T, failed: bool) -> Duration {
        let mut state = self.lock();
        let began = state.working.remove(key);
        if let (Some(measure), Some(began)) = (self.inner.measure.get(), began) {
            measure.done(began.elapsed(), failed);
        }
        if state.dirty.contains_key(key) {
            state.ready.push_back(key.clone());
        }
        let backoff = if failed {
            let count = state.failures.entry(key.clone()).or_insert(0);
            *count += 1;
            FIRST_BACKOFF.saturating_mul(1 << (*count - 1).min(16)).min(LONGEST_BACKOFF)
        } else {
            state.failures.remove(key);
            Duration::ZERO
        };
        drop(state);
        self.inner.changed.notify_one();
        backoff
    }

    /// Counts keys that were added; under the lock, so that none is counted twice.
    fn count(&self, added: u32) {
        if let Some(measure) = self.inner.measure.get() {
            measure.added(added);
        }
    }

    /// From now on it is counted under this name; what waits already, too.
    fn measure(&self, name: &'static str) {
        let state = self.lock();
        if self.inner.measure.set(Measure::of(name)).is_ok() {
            // A queue holds no more keys than memory holds objects.
            self.count(u32::try_from(state.dirty.len()).unwrap_or(u32::MAX));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics under this lock.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// How many keys this has added: one, or none if it waits already.
    fn add(&mut self, key: T) -> u32 {
        if self.dirty.contains_key(&key) {
            return 0;
        }
        self.dirty.insert(key.clone(), Instant::now());
        if !self.working.contains_key(&key) {
            self.ready.push_back(key);
        }
        1
    }

    /// Adds the keys whose moment has come; says how many were added.
    fn promote(&mut self, now: Instant) -> u32 {
        let mut added = 0;
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.delayed_at.remove(&key);
            added += self.add(key);
        }
        added
    }
}

/// Runs a control loop: takes keys off `queue` and reconciles each, at most `workers` at a time and never
/// two of one key at once. `reconcile` brings the world to what the key's object says now, whatever
/// happened before; it returns when to look again, if ever. An error is logged and tried
/// again after a back-off that doubles from 50 ms to 60 s; so is a panic, which one object must not end the whole loop with.
/// Never returns.
pub async fn run_loop<T, F, Fut, E>(name: &'static str, queue: Queue<T>, workers: usize, reconcile: F)
where
    T: Clone + Eq + Hash + Debug + Send + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Duration>, E>> + Send,
    E: Display,
{
    queue.measure(name);
    let work = |worker: usize| {
        let (queue, reconcile) = (&queue, &reconcile);
        async move {
            tracing::trace!(name, worker, "control loop runs");
            loop {
                let key = queue.next().await;
                // Whatever a pass shares is behind locks, which go on being used when one of their holders panicked.
                let pass = AssertUnwindSafe(async { reconcile(key.clone()).await }).catch_unwind();
                match pass.await {
                    Ok(Ok(again)) => {
                        queue.done(&key, false);
                        if let Some(delay) = again {
                            queue.add_after(key, delay);
                        }
                    }
                    Err(_) => {
                        let backoff = queue.done(&key, true).max(AFTER_PANIC);
                        tracing::error!(name, ?key, ?backoff, "reconcile panicked, it is tried again");
                        queue.add_after(key, backoff);
                    }
                    Ok(Err(error)) => {
                        let backoff = queue.done(&key, true);
                        // The first failures are mostly writes that met another's: the next pass sees that one.
                        if backoff > QUIET_BACKOFF {
                            tracing::warn!(name, ?key, %error, ?backoff, "reconcile failed, it is tried again");
                        } else {
                            tracing::debug!(name, ?key, %error, ?backoff, "reconcile failed, it is tried again");
                        }
                        queue.add_after(key, backoff);
                    }
                }
                // Many loops share one task: a pass that had nothing to wait for must not keep the others from theirs.
                tokio::task::yield_now().await;
            }
        }
    };
    futures::future::join_all((0..workers.max(1)).map(work)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_worked_on_once_at_a_time() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.len(), 1);
        let key = queue.next().await;
        queue.add("a");
        assert_eq!(queue.len(), 0, "not handed out while it is worked on");
        queue.done(&key, false);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_delays_counts() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(50));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(500));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_beyond_all_clocks_is_a_day() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::MAX);
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed(), LONGEST_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_for_one_object_ends_no_loop() {
        let queue = Queue::new();
        queue.add("bad");
        queue.add("good");
        let tries = Arc::new(Mutex::new(Vec::new()));
        let seen = tries.clone();
        let work = run_loop("panics", queue, 1, move |key: &str| {
            let seen = seen.clone();
            async move {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push(key);
                assert!(key != "bad" || seen.len() > 3, "the object is bad");
                Ok::<_, String>(None)
            }
        });
        let _ = tokio::time::timeout(Duration::from_secs(60), work).await;
        let tries = tries.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*tries, ["bad", "good", "bad", "bad"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_and_what_was_done_is_counted() {
        let queue = Queue::new();
        queue.add("before");
        queue.measure("counted");
        queue.add("a");
        queue.add("a");
        let told = || {
            let mut registry = prometheus_client::registry::Registry::default();
            crate::register_metrics(&mut registry);
            let mut out = String::new();
            prometheus_client::encoding::text::encode(&mut out, &registry).expect("room");
            out
        };
        let text = told();
        assert!(text.contains("workqueue_adds_total{name=\"counted\"} 2\n"), "{text}");
        assert!(text.contains("workqueue_depth{name=\"counted\"} 2\n"), "{text}");
        let key = queue.next().await;
        queue.done(&key, true);
        let text = told();
        for line in [
            "depth{name=\"counted\"} 1",
            "retries_total{name=\"counted\"} 1",
            "work_duration_seconds_count{name=\"counted\"} 1",
        ] {
            assert!(text.contains(&format!("workqueue_{line}\n")), "{line} is not in {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets() {
        let queue: Queue<u8> = Queue::new();
        let tries = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        let (seen, done) = tokio::sync::oneshot::channel();
        let done_tx = Mutex::new(Some(seen));
        let counter = tries.clone();
        let task = tokio::spawn(run_loop("test", queue.clone(), 2, move |_key| {
            let n = counter.fetch_add(1, Ordering::SeqCst);
            if n == 3
                && let Some(tx) = done_tx.lock().unwrap().take()
            {
                tx.send(()).unwrap();
            }
            async move { if n < 3 { Err("not yet") } else { Ok(None) } }
        }));
        queue.add(1);
        done.await.unwrap();
        assert_eq!(start.elapsed().as_millis(), 50 + 100 + 200);
        task.abort();
    }
}
