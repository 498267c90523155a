//! Between etcd's words and ours.

use bytes::Bytes;
use etcd_client::proto::{PbEvent, PbKeyValue};
use etcd_client::{CompareOp, TxnOp, TxnOpResponse};

use super::keys::Keys;
use crate::feed::Commit;
use crate::{Compare, Event, KeyValue, Op, OpResult, Revision, StoreError, Txn};

/// etcd's revisions are signed but never negative.
pub(super) fn revision(value: i64) -> Revision {
    Revision::try_from(value).unwrap_or(0)
}

/// Our revision for etcd; one that does not fit is in the future anyway.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

pub(super) fn kv(keys: &Keys, kv: PbKeyValue) -> Option<KeyValue> {
    Some(KeyValue {
        key: keys.inside(kv.key)?,
        value: Bytes::from(kv.value),
        create_revision: revision(kv.create_revision),
        mod_revision: revision(kv.mod_revision),
        version: u64::try_from(kv.version).unwrap_or(0),
    })
}

pub(super) fn txn(keys: &Keys, txn: &Txn) -> etcd_client::Txn {
    let compare = |compare: &Compare| match compare {
        Compare::ModRevision { key, equals } => {
            etcd_client::Compare::mod_revision(keys.outside(key), CompareOp::Equal, signed(*equals))
        }
        Compare::Exists { key, exists } => {
            let op = if *exists { CompareOp::Greater } else { CompareOp::Equal };
            etcd_client::Compare::create_revision(keys.outside(key), op, 0)
        }
    };
    let op = |op: &Op| match op {
        Op::Put { key, value } => TxnOp::put(keys.outside(key), value.to_vec(), None),
        Op::Delete { key } => TxnOp::delete(keys.outside(key), None),
        Op::Get { key } => TxnOp::get(keys.outside(key), None),
    };
    etcd_client::Txn::new()
        .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.success.iter().map(op).collect::<Vec<_>>())
        .or_else(txn.failure.iter().map(op).collect::<Vec<_>>())
}

pub(super) fn result(keys: &Keys, response: TxnOpResponse) -> OpResult {
    match response {
        TxnOpResponse::Put(_) | TxnOpResponse::Txn(_) => OpResult::Put,
        TxnOpResponse::Delete(deleted) => OpResult::Delete { existed: deleted.deleted() > 0 },
        TxnOpResponse::Get(mut got) => {
            OpResult::Get(got.take_kvs().pop().and_then(|found| kv(keys, found.0)))
        }
    }
}

/// Groups etcd's events into commits, one per revision; whether the heartbeat was among them.
pub(super) fn commits(keys: &Keys, events: Vec<PbEvent>) -> (Vec<Commit>, bool) {
    let heartbeat = keys.heartbeat();
    let mut commits: Vec<Commit> = Vec::new();
    let mut beat = false;
    for event in events {
        let Some(new) = event.kv else { continue };
        let at = revision(new.mod_revision);
        if commits.last().is_none_or(|c| c.revision != at) {
            commits.push(Commit { revision: at, events: Vec::new() });
        }
        if new.key == heartbeat {
            beat = true;
            continue;
        }
        let prev = event.prev_kv.and_then(|old| kv(keys, old));
        let deleted = event.r#type == etcd_client::EventType::Delete as i32;
        let Some(new) = kv(keys, new) else { continue };
        let event = if deleted {
            Event::Delete { key: new.key, revision: at, prev }
        } else {
            Event::Put { kv: new, prev }
        };
        if let Some(commit) = commits.last_mut() {
            commit.events.push(event);
        }
    }
    (commits, beat)
}

/// An error of a read, or of a write that etcd refused before doing anything.
pub(super) fn error(error: &etcd_client::Error, requested: Revision) -> StoreError {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return StoreError::Unavailable(error.to_string());
    };
    let message = status.message();
    match status.code() as i32 {
        _ if message.contains("has been compacted") => StoreError::Compacted { compact_revision: 0 },
        _ if message.contains("future revision") => StoreError::FutureRevision { requested, current: 0 },
        // Unknown, DeadlineExceeded, Aborted, Internal, Unavailable.
        2 | 4 | 10 | 13 | 14 => StoreError::Unavailable(format!("etcd: {}", chain(status))),
        _ => StoreError::Refused(format!("etcd: {message}")),
    }
}

/// An error of a write: when etcd may have done it nevertheless, say so.
pub(super) fn write_error(failed: &etcd_client::Error) -> StoreError {
    match error(failed, 0) {
        StoreError::Unavailable(why) if !why.contains("tcp connect error") => StoreError::Unknown(why),
        other => other,
    }
}

/// An error with its causes, because the message of a transport error says next to nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
