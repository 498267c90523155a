//! A message into a JSON object, field by field as the table has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::fault::Fault;
use super::table::{Field, Kind, Message, Shape, Table};
use super::wire::{Raw, Reader};

/// Reads messages of one body.
pub(super) struct Transcoder<'t> {
    table: &'t Table,
    /// How many values may still be made.
    left: usize,
}

impl<'t> Transcoder<'t> {
    /// A reader for one body of at most so many values.
    pub(super) fn new(table: &'t Table, most_values: usize) -> Self {
        Self { table, left: most_values }
    }

    /// Reads a message that is an object in JSON into `out`, with at most `depth` levels of
    /// messages. What is in `out` already counts as sent earlier.
    pub(super) fn object(
        &mut self,
        message: usize,
        bytes: &[u8],
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let table = self.table;
        let Message::Fields(fields) = table.message(message) else {
            return Err(Fault::new("this message is no object"));
        };
        if depth == 0 {
            return Err(Fault::new("messages nest too deeply"));
        }
        let mut reader = Reader::new(bytes);
        while let Some((number, raw)) = reader.next()? {
            let Ok(at) = fields.binary_search_by_key(&number, |field| field.number) else { continue };
            let field = &fields[at];
            self.field(field, raw, depth - 1, out).map_err(|fault| fault.under(&field.name))?;
        }
        Ok(())
    }

    /// A message on its own: an object or what else it is in JSON; `None` stands for null.
    pub(super) fn value(
        &mut self,
        message: usize,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        match self.table.message(message) {
            Message::Special(special) => special.read(self, bytes, depth),
            Message::Fields(_) => {
                let mut object = Map::new();
                self.object(message, bytes, depth, &mut object)?;
                Ok(Some(Value::Object(object)))
            }
        }
    }

    /// Counts a value.
    pub(super) fn count(&mut self) -> Result<(), Fault> {
        self.left = self.left.checked_sub(1).ok_or_else(|| Fault::new("the body has too many values"))?;
        Ok(())
    }

    fn field(
        &mut self,
        field: &Field,
        raw: Raw<'_>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        self.count()?;
        match (field.shape, field.kind) {
            (Shape::Inline, Kind::Message(message)) => self.object(message, raw.bytes()?, depth, out),
            (Shape::Inline, _) => Err(Fault::new("this field is no message")),
            (Shape::One, _) => self.one(field, raw, depth, out),
            (Shape::List, _) => self.list(field, raw, depth, out),
            (Shape::Map, _) => self.entry(field, raw, depth, out),
        }
    }

    fn one(
        &mut self,
        field: &Field,
        raw: Raw<'_>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        // Of a repeated scalar the last one counts; repeated messages are merged.
        let before = out.remove(&field.name);
        let value = match (field.kind, before) {
            (Kind::Message(message), Some(Value::Object(mut object)))
                if matches!(self.table.message(message), Message::Fields(_)) =>
            {
                self.object(message, raw.bytes()?, depth, &mut object)?;
                Some(Value::Object(object))
            }
            (kind, _) => self.single(kind, raw, depth)?,
        };
        if let Some(value) = value.filter(|value| field.keep || !is_zero(value)) {
            out.insert(field.name.clone(), value);
        }
        Ok(())
    }

    fn list(
        &mut self,
        field: &Field,
        raw: Raw<'_>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let numbers = matches!(field.kind, Kind::Bool | Kind::Int32 | Kind::Int64 | Kind::Double);
        let mut items = Vec::new();
        match raw {
            // Either form is to be understood, whatever the message says.
            Raw::Bytes(bytes) if numbers => {
                let mut reader = Reader::new(bytes);
                while let Some(raw) = reader.packed(field.kind == Kind::Double)? {
                    self.count()?;
                    items.push(scalar(field.kind, raw)?);
                }
            }
            raw => items.push(self.single(field.kind, raw, depth)?.unwrap_or_default()),
        }
        match out.get_mut(&field.name) {
            Some(Value::Array(list)) => list.extend(items),
            _ => {
                out.insert(field.name.clone(), Value::Array(items));
            }
        }
        Ok(())
    }

    /// One entry of a map: a message with the key in field 1 and the value in field 2.
    fn entry(
        &mut self,
        field: &Field,
        raw: Raw<'_>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        let (mut key, mut value) = ("", None);
        let mut reader = Reader::new(raw.bytes()?);
        while let Some((number, raw)) = reader.next()? {
            match number {
                1 => key = raw.text()?,
                2 => value = Some(raw),
                _ => {}
            }
        }
        // What is absent is the empty value of its type.
        let raw = value.unwrap_or(match field.kind {
            Kind::Text | Kind::Bytes | Kind::Message(_) => Raw::Bytes(&[]),
            Kind::Bool | Kind::Int32 | Kind::Int64 => Raw::Varint(0),
            Kind::Double => Raw::Fixed64(0),
        });
        let value = self.single(field.kind, raw, depth).map_err(|fault| fault.under(key))?;
        let slot = out.entry(field.name.as_str()).or_insert_with(|| Value::Object(Map::new()));
        if let Some(map) = slot.as_object_mut() {
            map.insert(key.to_owned(), value.unwrap_or_default());
        }
        Ok(())
    }

    fn single(&mut self, kind: Kind, raw: Raw<'_>, depth: usize) -> Result<Option<Value>, Fault> {
        match kind {
            Kind::Message(message) => self.value(message, raw.bytes()?, depth),
            kind => scalar(kind, raw).map(Some),
        }
    }
}

/// A value that is no message.
fn scalar(kind: Kind, raw: Raw<'_>) -> Result<Value, Fault> {
    Ok(match kind {
        Kind::Text => raw.text()?.into(),
        Kind::Bytes => STANDARD.encode(raw.bytes()?).into(),
        Kind::Bool => (raw.varint()? != 0).into(),
        // Higher bits are dropped, as protobuf has it: negative numbers come with all 64.
        Kind::Int32 => (raw.varint()? as i32).into(),
        Kind::Int64 => raw.varint()?.cast_signed().into(),
        Kind::Double => Number::from_f64(raw.double()?)
            .map(Value::Number)
            .ok_or_else(|| Fault::new("a number that is not finite has no JSON form"))?,
        Kind::Message(_) => return Err(Fault::new("a message is no scalar")),
    })
}

/// Whether a Go client would leave this out of its JSON if it may.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}
