//! What stands around messages in answers: the envelope, lists, events of a watch.

use serde_json::Value;

use super::wire::Writer;
use super::{MAGIC, message};
use crate::ApiError;

/// What every envelope ends with: contentEncoding and contentType, both empty.
const TAIL: [u8; 4] = [3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// Puts a message into the envelope that says what it is.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    open(api_version, kind, message.len(), &mut out);
    out.raw(message);
    out.raw(&TAIL);
    out.into_bytes()
}

/// The beginning of an envelope, up to where its message of so many bytes begins.
fn open(api_version: &str, kind: &str, length: usize, out: &mut Writer) {
    let mut type_meta = Writer::default();
    type_meta.bytes(1, api_version.as_bytes());
    type_meta.bytes(2, kind.as_bytes());
    out.raw(MAGIC);
    out.bytes(1, &type_meta.into_bytes());
    out.head(2, length);
}

/// A list that is sent piece by piece: `head`, then for each item [`Parts::before`] and its message, then
/// `tail`. Every kind of list has its metadata in field 1 and its items in field 2.
#[derive(Debug)]
pub struct Parts {
    /// What stands before the first item.
    pub head: Vec<u8>,
    /// What stands behind the last one.
    pub tail: &'static [u8],
}

impl Parts {
    /// What stands before an item of so many bytes.
    pub fn before(item: usize) -> Vec<u8> {
        let mut out = Writer::default();
        out.head(2, item);
        out.into_bytes()
    }
}

/// What stands around the items of a list. Their lengths are wanted first, because a message begins with its own.
///
/// # Errors
/// 500 for metadata that is none of a list.
pub fn list_parts(
    api_version: &str,
    list_kind: &str,
    metadata: &Value,
    items: impl Iterator<Item = usize>,
) -> Result<Parts, ApiError> {
    let mut start = Writer::default();
    start.bytes(1, &message("meta.k8s.io/v1", "ListMeta", metadata)?);
    let start = start.into_bytes();
    let length = items.map(|item| Parts::before(item).len() + item).sum::<usize>();
    let mut head = Writer::default();
    open(api_version, list_kind, start.len() + length, &mut head);
    head.raw(&start);
    Ok(Parts { head: head.into_bytes(), tail: &TAIL })
}

/// A whole list of messages.
///
/// # Errors
/// As [`list_parts`] has them.
pub fn list(
    api_version: &str,
    list_kind: &str,
    metadata: &Value,
    items: &[Vec<u8>],
) -> Result<Vec<u8>, ApiError> {
    let parts = list_parts(api_version, list_kind, metadata, items.iter().map(Vec::len))?;
    let mut out = parts.head;
    for item in items {
        out.extend(Parts::before(item.len()));
        out.extend_from_slice(item);
    }
    out.extend_from_slice(parts.tail);
    Ok(out)
}

/// One event of a watch with its frame, four bytes that say how long it is: `ADDED` and the like, and the object in
/// its envelope.
pub fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Writer::default();
    raw.bytes(1, object);
    let mut event = Writer::default();
    event.bytes(1, kind.as_bytes());
    event.bytes(2, &raw.into_bytes());
    let event = event.into_bytes();
    // An object is far below 4 GiB: a body has a limit.
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(4 + event.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&event);
    out
}
