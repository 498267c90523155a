//! The committed table: which field of which message is what in JSON.

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

use serde_json::Value;

use super::special::Special;

static COMPRESSED: &[u8] = include_bytes!("table.json.gz");

/// All messages that the known kinds are made of.
pub(super) struct Table {
    /// By `apiVersion kind`.
    roots: HashMap<String, usize>,
    messages: Vec<Message>,
}

/// A message.
pub(super) enum Message {
    /// An object in JSON; the fields are in the order of their numbers.
    Fields(Vec<Field>),
    /// Something else in JSON.
    Special(Special),
}

/// A field of a message.
pub(super) struct Field {
    pub(super) number: u32,
    /// In JSON; empty for [`Shape::Inline`].
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
    /// Whether an empty value (0, false, empty text, empty object) is written in JSON.
    pub(super) keep: bool,
    /// Whether something is always written, also where nothing was set.
    pub(super) always: bool,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    /// The message of this index.
    Message(usize),
}

/// How many values a field has, and where they are in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    List,
    /// An object with any keys.
    Map,
    /// One message, whose fields are its owner's in JSON.
    Inline,
}

impl Table {
    /// The table, decoded when it is first asked for.
    pub(super) fn get() -> &'static Self {
        static TABLE: LazyLock<Table> = LazyLock::new(|| {
            let mut text = Vec::with_capacity(64 * 1024);
            flate2::read::GzDecoder::new(COMPRESSED)
                .read_to_end(&mut text)
                .ok()
                .and_then(|_| serde_json::from_slice(&text).ok())
                .and_then(|value| Table::parse(&value))
                // The table is part of the program, and every test here reads it.
                .expect("the committed protobuf table is readable")
        });
        &TABLE
    }

    /// The message of a kind.
    pub(super) fn root(&self, api_version: &str, kind: &str) -> Option<usize> {
        let api_version = match (api_version, kind) {
            // Clients send these under the group and version of what they delete.
            (_, "DeleteOptions") => "meta.k8s.io/v1",
            // These older versions have the same fields under the same numbers.
            ("policy/v1beta1", "Eviction") => "policy/v1",
            ("certificates.k8s.io/v1beta1", _) => "certificates.k8s.io/v1",
            ("storagemigration.k8s.io/v1beta1", _) => "storagemigration.k8s.io/v1",
            _ => api_version,
        };
        self.roots.get(&format!("{api_version} {kind}")).copied()
    }

    /// A message by an index of this table.
    pub(super) fn message(&self, index: usize) -> &Message {
        // parse() has seen that each index in the table has its message.
        &self.messages[index]
    }

    fn parse(value: &Value) -> Option<Self> {
        let list = value["messages"].as_array()?;
        let messages: Option<Vec<Message>> = list.iter().map(|one| Message::parse(one, list.len())).collect();
        let root = |(kind, at): (&String, &Value)| Some((kind.clone(), index(at, list.len())?));
        let roots: Option<HashMap<_, _>> = value["kinds"].as_object()?.iter().map(root).collect();
        Some(Self { roots: roots?, messages: messages? })
    }
}

fn index(value: &Value, count: usize) -> Option<usize> {
    value.as_u64().and_then(|at| usize::try_from(at).ok()).filter(|at| *at < count)
}

impl Message {
    fn parse(value: &Value, count: usize) -> Option<Self> {
        if let Some(name) = value.as_str() {
            return Special::of(name, None).map(Self::Special);
        }
        let parts = value.as_array()?;
        if let [Value::String(name), schema] = parts.as_slice() {
            return Special::of(name, Some(index(schema, count)?)).map(Self::Special);
        }
        let fields: Option<Vec<Field>> = parts.iter().map(|field| Field::parse(field, count)).collect();
        fields.map(Self::Fields)
    }
}

impl Field {
    fn parse(value: &Value, count: usize) -> Option<Self> {
        let [number, name, kind, shape, keep] = value.as_array()?.as_slice() else { return None };
        Some(Self {
            number: u32::try_from(number.as_u64()?).ok()?,
            name: name.as_str()?.to_owned(),
            kind: match kind.as_str() {
                None => Kind::Message(index(kind, count)?),
                Some("s") => Kind::Text,
                Some("y") => Kind::Bytes,
                Some("b") => Kind::Bool,
                Some("i") => Kind::Int32,
                Some("l") => Kind::Int64,
                Some("d") => Kind::Double,
                Some(_) => return None,
            },
            shape: match shape.as_u64()? {
                0 => Shape::One,
                1 => Shape::List,
                2 => Shape::Map,
                3 => Shape::Inline,
                _ => return None,
            },
            keep: keep.as_u64()? & 1 == 1,
            always: keep.as_u64()? & 2 == 2,
        })
    }
}
