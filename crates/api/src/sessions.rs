//! Sessions end with whom they are of: a watch, a log that is followed, a shell in a container, that was opened with one of this cloud's
//! own tokens goes when the token would be refused, because its user, its account or what it is bound to is gone, or because it was
//! revoked. One that merely expires ends no session, as in Kubernetes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Inner;
use crate::sender::Proof;

/// Open sessions are looked at this often: a revoked token is to be good for nothing within a second.
const LOOK: Duration = Duration::from_millis(500);

/// Those that are open.
#[derive(Default)]
pub(crate) struct Sessions {
    state: Mutex<State>,
    opened: Notify,
    /// Cancelled when the API goes.
    gone: CancellationToken,
}

#[derive(Default)]
struct State {
    next: u64,
    open: HashMap<u64, (Proof, CancellationToken)>,
}

/// One of them, until it is dropped.
pub(crate) struct Session {
    of: Arc<Sessions>,
    number: u64,
    end: CancellationToken,
}

impl Sessions {
    /// Opens one that goes with this proof. How many there are is bounded by how many places users have for what lasts.
    pub(crate) fn open(self: &Arc<Self>, proof: Proof) -> Session {
        let end = CancellationToken::new();
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.open.insert(number, (proof, end.clone()));
        drop(state);
        self.opened.notify_one();
        Session { of: self.clone(), number, end }
    }

    /// Ends those whose proof no longer holds. Whether there are any.
    fn look(&self, holds: impl Fn(&Proof) -> bool) -> bool {
        let state = self.state();
        for (proof, end) in state.open.values() {
            if !end.is_cancelled() && !holds(proof) {
                end.cancel();
            }
        }
        !state.open.is_empty()
    }

    /// Nobody looks after them any more.
    pub(crate) fn close(&self) {
        self.gone.cancel();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Is cancelled when the session has to end.
    pub(crate) fn end(&self) -> CancellationToken {
        self.end.clone()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.of.state().open.remove(&self.number);
    }
}

/// Looks after the sessions until the API is gone.
pub(crate) async fn run(sessions: Arc<Sessions>, api: Weak<Inner>) {
    let gone = sessions.gone.clone();
    tokio::select! {
        () = look_after(sessions, api) => {}
        () = gone.cancelled() => {}
    }
}

async fn look_after(sessions: Arc<Sessions>, api: Weak<Inner>) {
    loop {
        let any = {
            let Some(api) = api.upgrade() else { return };
            sessions.look(|proof| api.gate.senders.holds(proof))
        };
        if any {
            tokio::time::sleep(LOOK).await;
        } else {
            sessions.opened.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use yunfan_identity::token::Claims;

    use super::*;

    #[test]
    fn a_session_ends_with_its_proof_and_is_forgotten_when_it_is_over() {
        let sessions = Arc::new(Sessions::default());
        let of = |name: &str| sessions.open(Proof::User(Box::new(Claims::new(name, "7", 600))));
        let (ann, bob) = (of("ann"), of("bob"));
        let is_bob = |proof: &Proof| matches!(proof, Proof::User(claims) if claims.sub == "bob");
        assert!(sessions.look(is_bob));
        assert!(ann.end().is_cancelled() && !bob.end().is_cancelled());
        drop((ann, bob));
        assert!(!sessions.look(is_bob), "none is left");
    }
}
