//! What stands around messages in answers: the envelope, lists, events of a watch.

use serde_json::Value;

use super::wire::Writer;
use super::{MAGIC, message};
use crate::ApiError;

/// What every envelope ends with: contentEncoding and contentType, both empty.
const TAIL: [u8; 4] = [3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// Puts a message into the envelope that says what it is.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut type_meta = Writer::default();
    type_meta.bytes(1, api_version.as_bytes());
    type_meta.bytes(2, kind.as_bytes());
    let mut out = Writer::default();
    out.raw(MAGIC);
    out.bytes(1, &type_meta.into_bytes());
    out.bytes(2, message);
    out.raw(&TAIL);
    out.into_bytes()
}

/// Adds a message to the items of a list.
pub fn item(message: &[u8], items: &mut Vec<u8>) {
    let mut out = Writer::default();
    out.head(2, message.len());
    items.extend_from_slice(&out.into_bytes());
    items.extend_from_slice(message);
}

/// A list of items, as [`item`] has put them one behind the other. Every kind of list has its metadata in field 1 and its
/// items in field 2.
///
/// # Errors
/// 500 for metadata that is none of a list.
pub fn list(api_version: &str, list_kind: &str, metadata: &Value, items: &[u8]) -> Result<Vec<u8>, ApiError> {
    let mut out = Writer::default();
    out.bytes(1, &message("meta.k8s.io/v1", "ListMeta", metadata)?);
    out.raw(items);
    Ok(envelope(api_version, list_kind, &out.into_bytes()))
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
