//! The limits of a transaction, checked the same way above both engines.

use std::collections::HashSet;

use bytes::Bytes;

use crate::{Compare, Op, StoreError, Txn};

/// Most compares, and most operations in one branch, of one transaction.
pub const MAX_OPS: usize = 128;

/// Most bytes of one transaction: its keys and values, and 64 for each compare and operation.
pub const MAX_TXN_BYTES: usize = 3 * 512 * 1024;

/// Counted for each compare and operation beside its key and value: what their framing and a prefix take
/// on the wire, so that etcd's own limit is not met first.
pub(crate) const OP_OVERHEAD: usize = 64;

/// Refuses what no engine may accept; the size of what is accepted, in bytes.
pub(crate) fn check(txn: &Txn) -> Result<usize, StoreError> {
    let count = txn.compares.len().max(txn.success.len()).max(txn.failure.len());
    if count > MAX_OPS {
        return Err(StoreError::TooManyOps { count, limit: MAX_OPS });
    }
    let mut bytes = 0;
    for compare in &txn.compares {
        let (Compare::ModRevision { key, .. } | Compare::Exists { key, .. }) = compare;
        check_key(key)?;
        bytes += OP_OVERHEAD + key.len();
    }
    for branch in [&txn.success, &txn.failure] {
        let mut written: HashSet<&[u8]> = HashSet::with_capacity(branch.len());
        for op in branch {
            let (key, value_len, writes) = match op {
                Op::Put { key, value } => (key, value.len(), true),
                Op::Delete { key } => (key, 0, true),
                Op::Get { key } => (key, 0, false),
            };
            check_key(key)?;
            if writes && !written.insert(key) {
                return Err(StoreError::DuplicateKey { key: key.clone() });
            }
            bytes += OP_OVERHEAD + key.len() + value_len;
        }
    }
    if bytes > MAX_TXN_BYTES {
        return Err(StoreError::TooLarge { bytes, limit: MAX_TXN_BYTES });
    }
    Ok(bytes)
}

/// A zero byte at the front is kept for the engines' own keys.
fn check_key(key: &Bytes) -> Result<(), StoreError> {
    match key.first() {
        None | Some(0) => Err(StoreError::InvalidKey { key: key.clone() }),
        Some(_) => Ok(()),
    }
}

/// Whether a transaction can change nothing, whichever branch runs.
pub(crate) fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Get { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_written_in_both_branches_but_once_in_each() {
        let put = |k: &'static str| Op::Put { key: k.into(), value: Bytes::new() };
        let both = Txn { success: vec![put("a")], failure: vec![put("a")], ..Txn::default() };
        assert_eq!(check(&both), Ok(2 * (OP_OVERHEAD + 1)));
        let twice = Txn { success: vec![put("a"), Op::Delete { key: "a".into() }], ..Txn::default() };
        assert_eq!(check(&twice), Err(StoreError::DuplicateKey { key: "a".into() }));
        let read = Txn { success: vec![put("a"), Op::Get { key: "a".into() }], ..Txn::default() };
        assert!(check(&read).is_ok());
    }
}
