//! Whose request is worked on next, among those that have their seats. Seats bound how many requests are under way; with short ones
//! they are seldom taken, and yet a client that sends many at once keeps the processors from everybody who comes behind. So the
//! requests of a flow that has had many lately are let go on one by one, by turns with other such flows, each when the runtime has nothing
//! else to do: whoever asks now and then is served before them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// What is counted together.
const WINDOW: Duration = Duration::from_millis(100);
/// A flow with so many requests in a window waits for its turns: 500 a second.
const MANY: u32 = 50;
/// Flows that are counted in a window; those beyond wait for nothing.
const MOST_FLOWS: usize = 10_000;

/// Who had how many requests lately, and who waits for a turn.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
    /// As many go on at once as there are threads of the runtime.
    threads: usize,
}

#[derive(Debug)]
struct State {
    since: Instant,
    /// Requests of each flow in this window, and in the one before.
    now: HashMap<u64, u32>,
    before: HashMap<u64, u32>,
    waiting: HashMap<u64, VecDeque<oneshot::Sender<()>>>,
    /// The flows of `waiting`, each once; the first has the next turn.
    order: VecDeque<u64>,
    /// Tasks that give turns.
    givers: usize,
}

impl State {
    /// Counts a request at this moment; whether its flow has had many lately.
    fn count(&mut self, flow: u64, at: Instant) -> bool {
        let passed = at.saturating_duration_since(self.since);
        if passed >= WINDOW {
            self.before = std::mem::take(&mut self.now);
            if passed >= 2 * WINDOW {
                self.before.clear();
            }
            self.since = at;
        }
        let room = self.now.len() < MOST_FLOWS;
        let now = match self.now.get_mut(&flow) {
            Some(count) => {
                *count = count.saturating_add(1);
                *count
            }
            None if room => *self.now.entry(flow).or_insert(1),
            None => 0,
        };
        now.max(self.before.get(&flow).copied().unwrap_or_default()) >= MANY
    }

    /// The next to go on, of the flow whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<()>> {
        let flow = self.order.pop_front()?;
        let queue = self.waiting.get_mut(&flow)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&flow);
        } else {
            self.order.push_back(flow);
        }
        next
    }
}

impl Turns {
    pub(super) fn new() -> Self {
        Self::with_threads(std::thread::available_parallelism().map_or(1, Into::into))
    }

    fn with_threads(threads: usize) -> Self {
        let state = State {
            since: Instant::now(),
            now: HashMap::new(),
            before: HashMap::new(),
            waiting: HashMap::new(),
            order: VecDeque::new(),
            givers: 0,
        };
        Self { state: Mutex::new(state), threads }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request of this flow, and waits for its turn if there were many lately.
    pub(super) async fn wait(self: &Arc<Self>, flow: u64) {
        let Some((turn, gives)) = self.enqueue(flow) else { return };
        if gives {
            tokio::spawn(self.clone().give());
        }
        // It is never dropped unanswered.
        let _ = turn.await;
    }

    /// Where the request waits, and whether one more task has to give turns; none where it need not wait.
    fn enqueue(&self, flow: u64) -> Option<(oneshot::Receiver<()>, bool)> {
        let mut state = self.state();
        if !state.count(flow, Instant::now()) {
            return None;
        }
        let (sender, turn) = oneshot::channel();
        let queue = state.waiting.entry(flow).or_default();
        queue.push_back(sender);
        if queue.len() == 1 {
            state.order.push_back(flow);
        }
        let gives = state.givers < self.threads;
        if gives {
            state.givers += 1;
        }
        Some((turn, gives))
    }

    /// Gives turns until nobody waits.
    async fn give(self: Arc<Self>) {
        loop {
            // The runtime comes back here when it has nothing else to do and has looked for what has arrived (or every so often).
            tokio::task::yield_now().await;
            let mut state = self.state();
            let next = state.next();
            if next.is_none() {
                state.givers -= 1;
                return;
            }
            drop(state);
            // Whoever has gone leaves its turn to the next.
            let _ = next.map(|next| next.send(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_counted_over_two_windows() {
        let mut state = Turns::with_threads(1).state.into_inner().expect("nobody else has it");
        let begun = state.since;
        for _ in 1..MANY {
            assert!(!state.count(1, begun));
        }
        assert!(state.count(1, begun), "that is many");
        assert!(!state.count(2, begun), "another flow");
        assert!(state.count(1, begun + WINDOW), "it was many before");
        assert!(!state.count(1, begun + 2 * WINDOW), "it is no longer");
        for _ in 1..MANY {
            state.count(2, begun + 2 * WINDOW);
        }
        assert!(!state.count(2, begun + 5 * WINDOW), "long ago");
    }

    #[tokio::test]
    async fn who_asks_now_and_then_goes_before_who_asks_much_and_those_take_turns() {
        let turns = Arc::new(Turns::with_threads(2));
        for flow in [1, 2] {
            for _ in 0..MANY {
                turns.state().count(flow, Instant::now());
            }
        }
        let went = Arc::new(Mutex::new(Vec::new()));
        let ask = |flow| {
            let (turns, went) = (turns.clone(), went.clone());
            tokio::spawn(async move {
                turns.wait(flow).await;
                went.lock().expect("no task panics").push(flow);
            })
        };
        let mut tasks: Vec<_> = [1, 1, 1, 1, 1, 1, 2, 2, 2].map(ask).into();
        // Who gives up is passed over.
        let gone = ask(1);
        tokio::task::yield_now().await;
        gone.abort();
        tasks.push(ask(3));
        for task in tasks {
            task.await.expect("no task panics");
        }
        let went = went.lock().expect("no task panics").clone();
        let of = |flow| went.iter().filter(|one| **one == flow).count();
        assert_eq!((of(1), of(2), of(3)), (6, 3, 1), "{went:?}");
        let calm = went.iter().position(|one| *one == 3).expect("it went");
        assert!(calm <= 4, "the calm one waits for what had its turn already: {went:?}");
        let last = went.iter().rposition(|one| *one == 2).expect("it went");
        assert!(last <= 8, "the second flow does not wait for all of the first: {went:?}");
        while turns.state().givers > 0 {
            tokio::task::yield_now().await;
        }
        let state = turns.state();
        assert_eq!((state.waiting.len(), state.order.len()), (0, 0));
    }
}
