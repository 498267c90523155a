//! One object as the cache holds it: the stored bytes, and what was read out of them so far.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::Value;
use yunfan_objects::selector::settle_fields;
use yunfan_store::Revision;

use super::project::project;
use crate::admission::is_mirror;

/// One stored object at one revision. Immutable: a write makes a new entry. Nothing is decoded before it is asked for.
pub(crate) struct Entry {
    /// Full key in the store.
    pub(crate) key: Arc<str>,
    /// Stored JSON, without `metadata.resourceVersion`.
    pub(crate) bytes: Bytes,
    /// Revision of the write that made it.
    pub(crate) revision: Revision,
    /// Most objects are only ever copied: they pay for no more than this pointer.
    decoded: OnceLock<Box<Decoded>>,
}

/// What was read out of the bytes so far.
#[derive(Default)]
struct Decoded {
    labels: OnceLock<Value>,
    fields: OnceLock<(Fields, Value)>,
    value: OnceLock<Arc<Value>>,
    mirror: OnceLock<bool>,
    life: OnceLock<Life>,
}

/// Which object it is, and when it is to go.
pub(crate) struct Life {
    pub(crate) uid: String,
    /// `metadata.deletionTimestamp`.
    pub(crate) end: Option<Timestamp>,
}

/// Selectable fields of a kind, beside name and namespace: paths with dots.
pub(crate) type Fields = Arc<[String]>;

impl Entry {
    /// An entry of the stored bytes.
    pub(crate) fn new(key: Arc<str>, bytes: Bytes, revision: Revision) -> Self {
        Self { key, bytes, revision, decoded: OnceLock::new() }
    }

    /// The same object as seen at another revision (a deletion shows the last state at its own revision).
    pub(crate) fn at(&self, revision: Revision) -> Self {
        Self::new(self.key.clone(), self.bytes.clone(), revision)
    }

    /// Why the store could not open the object, where it keeps it encrypted and could not.
    pub(crate) fn unreadable(&self) -> Option<&str> {
        yunfan_store::unreadable(&self.bytes)
    }

    fn decoded(&self) -> &Decoded {
        self.decoded.get_or_init(Box::default)
    }

    /// `metadata.labels`, or null; read without the rest, and kept.
    pub(crate) fn labels(&self) -> &Value {
        self.decoded().labels.get_or_init(|| {
            let mut found = project(&self.bytes, ["metadata.labels"]);
            found.pointer_mut("/metadata/labels").map(Value::take).unwrap_or_default()
        })
    }

    /// Which object it is and when it is to go; read without the rest, and kept.
    pub(crate) fn life(&self) -> &Life {
        self.decoded().life.get_or_init(|| {
            let found = project(&self.bytes, ["metadata.uid", "metadata.deletionTimestamp"]);
            let text = |field: &str| found["metadata"][field].as_str();
            let uid = text("uid").unwrap_or_default().to_owned();
            Life { uid, end: text("deletionTimestamp").and_then(|time| time.parse().ok()) }
        })
    }

    /// Whether it is a Pod that stands for a static one of its node; read without the rest, and kept.
    pub(crate) fn is_mirror(&self) -> bool {
        *self.decoded().mirror.get_or_init(|| is_mirror(&project(&self.bytes, ["metadata.annotations"])))
    }

    /// An object with name, namespace and these selectable fields alone: what a field selector looks at. Read once and
    /// kept, for the fields that are asked for first (a definition may change what is selectable).
    pub(crate) fn fields(&self, selectable: &Fields) -> Cow<'_, Value> {
        let read = || {
            let named = ["metadata.name", "metadata.namespace"];
            let mut found =
                project(&self.bytes, named.into_iter().chain(selectable.iter().map(String::as_str)));
            settle_fields(&mut found);
            found
        };
        let (known, value) = self.decoded().fields.get_or_init(|| (selectable.clone(), read()));
        if known == selectable { Cow::Borrowed(value) } else { Cow::Owned(read()) }
    }

    /// The decoded object without its resourceVersion, decoded once and kept: for the few kinds that
    /// admission asks again and again. `Null` if the stored bytes are no JSON.
    pub(crate) fn value(&self) -> &Arc<Value> {
        self.decoded().value.get_or_init(|| Arc::new(self.decode_stored()))
    }

    /// The decoded object, not kept: most objects are decoded seldom, and a decoded one takes
    /// several times the memory of its bytes.
    pub(crate) fn decode_stored(&self) -> Value {
        if let Some(value) = self.decoded.get().and_then(|decoded| decoded.value.get()) {
            return Value::clone(value);
        }
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The decoded object with its resourceVersion.
    pub(crate) fn object(&self) -> Value {
        let mut value = self.decode_stored();
        set_revision(&mut value, self.revision);
        value
    }

    /// Appends the object's JSON with its resourceVersion. What is made for one answer, and not stored, has none.
    pub(crate) fn render_into(&self, types: Types<'_>, out: &mut BytesMut) {
        if self.revision == 0 {
            return out.put_slice(&self.bytes);
        }
        splice(&self.bytes, self.revision, types, out);
    }
}

/// What an object's JSON says of its own type.
#[derive(Clone, Copy)]
pub(crate) enum Types<'v> {
    /// What the stored object says.
    Stored,
    /// Another version of its group.
    Version(&'v str),
    /// Nothing: the list that it is an item of says it.
    Left,
}

/// Sets `metadata.resourceVersion`.
pub(crate) fn set_revision(object: &mut Value, revision: Revision) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
    }
}

const HEAD: &[u8] = b"{\"apiVersion\":\"";
const METADATA: &[u8] = b"\"metadata\":{";

/// Copies stored JSON, putting in the revision, and what is wanted of the type (our conversion between versions of a
/// kind changes nothing but its apiVersion). Stored bytes begin with apiVersion, kind and metadata, which is what makes
/// this a copy and no decoding.
pub(crate) fn splice(stored: &[u8], revision: Revision, types: Types<'_>, out: &mut BytesMut) {
    let mut rest = stored;
    if let Types::Version(version) = types
        && let Some(tail) = stored.strip_prefix(HEAD)
        && let Some(quote) = tail.iter().position(|b| *b == b'"')
    {
        out.put_slice(HEAD);
        out.put_slice(version.as_bytes());
        rest = &tail[quote..];
    }
    let window = &rest[..rest.len().min(512)];
    let Some(at) = window.windows(METADATA.len()).position(|w| w == METADATA) else {
        out.put_slice(rest);
        return;
    };
    let (head, tail) = (&rest[..at], &rest[at + METADATA.len()..]);
    match types {
        Types::Left => out.put_u8(b'{'),
        Types::Stored | Types::Version(_) => out.put_slice(head),
    }
    out.put_slice(METADATA);
    out.put_slice(b"\"resourceVersion\":\"");
    out.put_slice(revision.to_string().as_bytes());
    out.put_slice(if tail.first() == Some(&b'}') { b"\"" } else { b"\"," });
    out.put_slice(tail);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced(stored: &str, types: Types<'_>) -> Value {
        let mut out = BytesMut::new();
        splice(stored.as_bytes(), 7, types, &mut out);
        serde_json::from_slice(&out).expect("what comes out is JSON")
    }

    #[test]
    fn the_revision_is_put_in() {
        let stored = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"metadata":{}}}"#;
        let object = spliced(stored, Types::Stored);
        assert_eq!(object["metadata"]["resourceVersion"], "7");
        assert_eq!(object["metadata"]["name"], "a");
        assert_eq!(object["apiVersion"], "v1");
        assert_eq!(spliced(stored, Types::Version("x/v2"))["apiVersion"], "x/v2");
        let item =
            serde_json::json!({"metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"metadata": {}}});
        assert_eq!(spliced(stored, Types::Left), item);
        let empty = r#"{"apiVersion":"v1","kind":"Pod","metadata":{}}"#;
        assert_eq!(spliced(empty, Types::Stored)["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn labels_and_fields_are_read_without_the_rest() {
        let bytes =
            br#"{"metadata":{"name":"b","labels":{"a":"b"},"uid":"u"},"spec":{"nodeName":"n","x":[1]}}"#;
        let entry = Entry::new("/registry/core/pods/a/b".into(), Bytes::from_static(bytes), 3);
        assert_eq!(entry.labels(), &serde_json::json!({"a": "b"}));
        let node: Fields = ["spec.nodeName".to_owned()].into();
        let wanted = serde_json::json!({"metadata": {"name": "b"}, "spec": {"nodeName": "n"}});
        assert_eq!(entry.fields(&node).as_ref(), &wanted);
        let other: Fields = ["spec.x".to_owned()].into();
        assert_eq!(entry.fields(&other)["spec"], serde_json::json!({"x": [1]}));
    }

    #[test]
    fn whose_mirror_it_is_not_is_told_by_its_annotations_alone() {
        let of = |text: &'static str| {
            Entry::new("/registry/core/pods/a/b".into(), Bytes::from_static(text.as_bytes()), 3).is_mirror()
        };
        assert!(of(r#"{"metadata":{"annotations":{"kubernetes.io/config.mirror":"x"}}}"#));
        let other = r#"{"metadata":{"labels":{"kubernetes.io/config.mirror":"x"},"annotations":{"a":"b"}},"spec":{}}"#;
        assert!(!of(other) && !of("{}") && !of("no JSON"));
    }
}
