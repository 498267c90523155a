//! One suite for every engine: what callers may rely on, whichever stands behind the trait.
//!
//! Each case gets a fresh, empty store whose ring of recent commits is limited to [`WATCH_RING`] commits. Cases panic on
//! a difference. They hold nothing against an engine whose revisions move by themselves (a shared etcd).

mod backups;
mod etcd_server;
mod ranges;
mod txns;
mod watches;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use crate::{Event, FeedLimits, RangeRequest, Revision, Store, StoreError, Txn, WatchItem, WatchStream};
pub use etcd_server::EtcdServer;

/// The ring that the stores under test are opened with.
pub const WATCH_RING: FeedLimits = FeedLimits { commits: 256, bytes: 16 * 1024 * 1024 };

/// How long a case waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

type Run = fn(Arc<dyn Store>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// One promise and how it is tried.
pub struct Case {
    /// What it is called.
    pub name: &'static str,
    /// Tries it.
    pub run: Run,
}

macro_rules! cases {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        vec![$(Case { name: stringify!($name), run: |store| Box::pin($module::$name(store)) }),+]
    };
}

/// All cases.
pub fn cases() -> Vec<Case> {
    cases![
        txns::put_get_delete,
        txns::versions_start_again_after_a_delete,
        txns::compares_choose_the_branch,
        txns::one_revision_for_all_keys,
        txns::no_change_takes_no_revision,
        txns::steps_see_the_steps_before,
        txns::limits_are_errors_and_change_nothing,
        txns::largest_transactions_pass,
        txns::each_transaction_of_a_group_has_its_revision,
        txns::concurrent_increments_lose_nothing,
        ranges::limits_and_counts,
        ranges::odd_bounds,
        ranges::binary_keys_keep_their_order,
        ranges::at_a_recent_revision,
        ranges::at_an_old_revision,
        ranges::pages_at_one_revision_while_writers_go_on,
        ranges::compaction_refuses_the_past_and_keeps_the_rest,
        watches::events_come_in_order_with_prev,
        watches::events_of_one_revision_come_together,
        watches::only_the_range_is_seen,
        watches::resume_misses_and_repeats_nothing,
        watches::history_beyond_the_ring_is_served,
        watches::a_watch_from_the_future_waits,
        watches::compacted_is_told,
        watches::progress_covers_what_was_committed,
        watches::a_slow_watcher_is_told_and_ends,
        watches::large_events_arrive,
        watches::watch_and_range_agree_under_load,
        backups::a_restore_makes_the_store_equal,
        backups::an_empty_store_is_backed_up_too,
        backups::a_damaged_backup_changes_nothing,
        backups::a_backup_is_of_one_moment,
    ]
}

/// Runs all cases, each on a store of its own.
pub async fn run<F, Fut>(mut fresh: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    for case in cases() {
        let store = fresh().await;
        let outcome = tokio::spawn((case.run)(store)).await;
        assert!(outcome.is_ok(), "conformance case {} failed, see above", case.name);
    }
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Revision {
    let txn = Txn::put(key.to_owned(), value.to_owned());
    store.txn(txn).await.unwrap_or_else(|e| panic!("put {key}: {e}")).revision
}

async fn delete(store: &Arc<dyn Store>, key: &str) -> Revision {
    store.txn(Txn::delete(key.to_owned())).await.unwrap_or_else(|e| panic!("delete {key}: {e}")).revision
}

/// Keys and values of a range, as text.
async fn read(store: &Arc<dyn Store>, prefix: &str, revision: Option<Revision>) -> Vec<(String, String)> {
    let req = RangeRequest { revision, ..RangeRequest::prefix(prefix.to_owned()) };
    let answer = store.range(req).await.unwrap_or_else(|e| panic!("range {prefix} at {revision:?}: {e}"));
    answer.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Opens a watch on all keys.
async fn watch_all(store: &Arc<dyn Store>, from: Revision) -> WatchStream {
    store.watch(Bytes::new(), Bytes::new(), from).await.unwrap_or_else(|e| panic!("watch from {from}: {e}"))
}

/// The next item, within reason.
async fn next(watch: &mut WatchStream) -> Option<Result<WatchItem, StoreError>> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch said nothing for too long")
}

/// The next events, skipping progress marks.
async fn next_events(watch: &mut WatchStream) -> (Revision, Vec<Event>) {
    loop {
        match next(watch).await {
            Some(Ok(WatchItem::Events { revision, events })) => return (revision, events),
            Some(Ok(WatchItem::Progress { .. })) => {}
            other => panic!("expected events, got {other:?}"),
        }
    }
}

/// Waits until the watch is live.
async fn next_progress(watch: &mut WatchStream) -> Revision {
    loop {
        match next(watch).await {
            Some(Ok(WatchItem::Progress { revision })) => return revision,
            Some(Ok(WatchItem::Events { .. })) => {}
            other => panic!("expected progress, got {other:?}"),
        }
    }
}

/// The error with which a watch ends, after whatever it delivers before.
async fn last_error(watch: &mut WatchStream) -> StoreError {
    loop {
        match next(watch).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                assert_eq!(next(watch).await, None, "a watch ends after its error");
                return error;
            }
            None => panic!("the watch ended without an error"),
        }
    }
}
