//! Protobuf bodies of Kubernetes' own kinds, read into the JSON that the same client would have
//! sent, and written from it.
//!
//! kubectl and everything else that is made with Kubernetes' Go client write the built-in kinds
//! so, and components want them in answers too. What a message looks like is said by the committed
//! table that `generate/protobuf.py` makes.
//!
//! Go clients write every field that is no pointer, also an empty one, and leave out pointers that
//! are nil. In JSON they leave out the empty ones, so these are dropped here too, field by field
//! as the table has it: `replicas: 0` stays, since it is a pointer, and `strategy: {}` goes. Fields
//! that the table does not know are skipped, which is what protobuf wants of a reader.
//!
//! Start reading at [`decode`] and [`encode`]; [`read`] and [`write`] walk a message by the table,
//! [`special`] has the messages with a JSON form of their own, [`wire`] the bytes, [`frame`] what
//! stands around messages in answers.

mod fault;
mod frame;
mod read;
mod special;
mod table;
#[cfg(test)]
mod tests;
mod wire;
mod write;
#[cfg(test)]
mod write_tests;
mod zeros;

pub use frame::{envelope, event, item, list};
use serde_json::{Map, Value};
pub(crate) use zeros::{drop_zeros, fill_times, fill_zeros, settle_status};

use crate::codec::MAX_DEPTH;
use crate::lookup::{list as lookup_list, text};
use crate::{ApiError, GroupVersionKind};
use fault::Fault;
use read::Transcoder;
use table::Table;
use wire::Reader;
pub use wire::Writer;
use write::Encoder;

/// The media type of these bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// How deep messages may nest, which bounds the reader's stack. What they become may nest no deeper
/// than a JSON body.
const MAX_MESSAGES_DEEP: usize = MAX_DEPTH;

/// Most fields, items and entries in a body. Some bytes make a value of hundreds of bytes in memory,
/// more than a JSON text of the same length could make; an object of this many values could not
/// be stored.
const MAX_VALUES: usize = 200_000;

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Whether a media type (parameters are ignored) is [`MEDIA_TYPE`].
pub fn is_protobuf(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case(MEDIA_TYPE)
}

/// Whether the protobuf form of a kind is known.
pub fn knows(api_version: &str, kind: &str) -> bool {
    Table::get().root(api_version, kind).is_some()
}

/// Decodes a body: the envelope with apiVersion and kind, and the object in it.
///
/// # Errors
/// 400 for bytes that are no such message, a kind whose protobuf form is not known, nesting or a
/// number of values beyond the limits.
pub fn decode(body: &[u8]) -> Result<Value, ApiError> {
    decode_as(body, None)
}

/// As [`decode`]; a body that says neither its apiVersion nor its kind is of the one that is expected.
///
/// # Errors
/// As there.
pub fn decode_as(body: &[u8], expected: Option<&GroupVersionKind>) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Err(ApiError::bad_request("empty data"));
    }
    let Some(rest) = body.strip_prefix(MAGIC) else {
        return Err(ApiError::bad_request(format!(
            "provided data does not appear to be a protobuf message, expected prefix [{}]",
            MAGIC.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
        )));
    };
    let bad = |fault: Fault| ApiError::bad_request(format!("the body is no valid protobuf message: {fault}"));
    let envelope = Envelope::read(rest).map_err(bad)?;
    let Envelope { mut api_version, mut kind, object } = envelope;
    let default = expected.map(|expected| (expected.api_version(), expected.kind.as_str()));
    if let Some((default_version, default_kind)) = &default
        && api_version.is_empty()
        && kind.is_empty()
    {
        (api_version, kind) = (default_version, default_kind);
    }
    if rest.is_empty() {
        return Err(ApiError::bad_request("empty body"));
    }
    let Some(root) = Table::get().root(api_version, kind) else {
        return Err(ApiError::bad_request(format!(
            "no kind {kind:?} is registered for version {api_version:?} with a protobuf form: send it as JSON"
        )));
    };
    let mut out = Map::new();
    out.insert("apiVersion".to_owned(), api_version.into());
    out.insert("kind".to_owned(), kind.into());
    Transcoder::new(Table::get(), MAX_VALUES)
        .object(root, object, MAX_MESSAGES_DEEP, &mut out)
        .map_err(bad)?;
    let out = Value::Object(out);
    if deeper_than(&out, MAX_DEPTH) {
        return Err(bad(Fault::new(format!("it nests deeper than {MAX_DEPTH} levels"))));
    }
    Ok(out)
}

/// An object, or a list of a known kind, as a body: the envelope with apiVersion and kind, and the message in it.
///
/// # Errors
/// 406 for a kind whose protobuf form is not known, 500 for an object that does not have its kind's shape.
pub fn encode(object: &Value) -> Result<Vec<u8>, ApiError> {
    let (api_version, kind) = (text(object, &["apiVersion"]), text(object, &["kind"]));
    if !knows(api_version, kind)
        && let Some(of) = kind.strip_suffix("List")
    {
        let mut items = Vec::new();
        for one in lookup_list(object, &["items"]) {
            item(&message(api_version, of, one)?, &mut items);
        }
        return list(api_version, kind, object.get("metadata").unwrap_or(&Value::Null), &items);
    }
    Ok(envelope(api_version, kind, &message(api_version, kind, object)?))
}

/// An object's message alone, as it stands among the items of a list.
///
/// # Errors
/// As [`encode`] has them.
pub fn message(api_version: &str, kind: &str, object: &Value) -> Result<Vec<u8>, ApiError> {
    let table = Table::get();
    let Some(root) = table.root(api_version, kind) else {
        return Err(ApiError::not_acceptable(&["application/json", "application/yaml"]));
    };
    let mut out = Writer::default();
    Encoder::new(table).value(root, object, &mut out).map_err(|fault| {
        ApiError::internal(format!("a {kind} in {api_version} has no protobuf form: {fault}"))
    })?;
    Ok(out.into_bytes())
}

/// Whether objects and lists nest deeper than so many levels.
fn deeper_than(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return value.is_object() || value.is_array() };
    match value {
        Value::Object(map) => map.values().any(|value| deeper_than(value, below)),
        Value::Array(list) => list.iter().any(|value| deeper_than(value, below)),
        _ => false,
    }
}

/// `runtime.Unknown`: what an object travels in.
#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    object: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut out = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, raw)) = reader.next()? {
            match number {
                1 => out.read_type_meta(raw.bytes()?)?,
                2 => out.object = raw.bytes()?,
                3 if !raw.text()?.is_empty() => {
                    return Err(Fault::new("its contentEncoding is not empty"));
                }
                4 if !matches!(raw.text()?, "" | MEDIA_TYPE) => {
                    return Err(Fault::new("its contentType is not empty"));
                }
                _ => {}
            }
        }
        Ok(out)
    }

    fn read_type_meta(&mut self, bytes: &'a [u8]) -> Result<(), Fault> {
        let mut reader = Reader::new(bytes);
        while let Some((number, raw)) = reader.next()? {
            match number {
                1 => self.api_version = raw.text()?,
                2 => self.kind = raw.text()?,
                _ => {}
            }
        }
        Ok(())
    }
}
