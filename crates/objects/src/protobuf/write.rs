//! A JSON object into a message, field by field as the table has it: what is in the object is written, and
//! what is not there is left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::fault::Fault;
use super::table::{Field, Kind, Message, Shape, Table};
use super::wire::Writer;

/// Writes messages by a table.
pub(super) struct Encoder<'t> {
    table: &'t Table,
}

impl<'t> Encoder<'t> {
    /// A writer of the messages of this table.
    pub(super) fn new(table: &'t Table) -> Self {
        Self { table }
    }

    /// Writes the fields of a message that is an object in JSON. Fields of the object that the message does
    /// not have are passed over: in another version of a kind they would have no place either.
    pub(super) fn object(
        &self,
        message: usize,
        object: &Map<String, Value>,
        out: &mut Writer,
    ) -> Result<(), Fault> {
        let Message::Fields(fields) = self.table.message(message) else {
            return Err(Fault::new("this message is no object"));
        };
        for field in fields {
            if let (Shape::Inline, Kind::Message(inner)) = (field.shape, field.kind) {
                out.message(field.number, |out| self.object(inner, object, out))?;
            } else if let Some(value) = object.get(&field.name) {
                self.field(field, value, out).map_err(|fault| fault.under(&field.name))?;
            }
        }
        Ok(())
    }

    /// Writes a message on its own: an object, or what else it is in JSON.
    pub(super) fn value(&self, message: usize, value: &Value, out: &mut Writer) -> Result<(), Fault> {
        match (self.table.message(message), value) {
            (Message::Special(special), value) => special.write(self, value, out),
            (Message::Fields(_), Value::Object(object)) => self.object(message, object, out),
            // A client that wrote null meant the empty object.
            (Message::Fields(_), Value::Null) => Ok(()),
            (Message::Fields(_), other) => Err(unexpected("an object", other)),
        }
    }

    fn field(&self, field: &Field, value: &Value, out: &mut Writer) -> Result<(), Fault> {
        match (field.shape, value) {
            // Null is absence, except for a time that is not set, which is an empty message.
            (_, Value::Null) if !self.is_special(field.kind) || field.shape != Shape::One => Ok(()),
            (Shape::One, value) => self.single(field.kind, field.number, value, out),
            (Shape::List, Value::Array(items)) => {
                items.iter().try_for_each(|item| self.single(field.kind, field.number, item, out))
            }
            (Shape::List, other) => Err(unexpected("a list", other)),
            (Shape::Map, Value::Object(map)) => {
                // Sorted, so that the same object gives the same bytes.
                let mut entries: Vec<(&String, &Value)> = map.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in entries {
                    out.message(field.number, |out| {
                        out.bytes(1, key.as_bytes());
                        self.single(field.kind, 2, value, out).map_err(|fault| fault.under(key))
                    })?;
                }
                Ok(())
            }
            (Shape::Map, other) => Err(unexpected("an object", other)),
            (Shape::Inline, _) => Err(Fault::new("this field is no message")),
        }
    }

    fn is_special(&self, kind: Kind) -> bool {
        matches!(kind, Kind::Message(message) if matches!(self.table.message(message), Message::Special(_)))
    }

    fn single(&self, kind: Kind, number: u32, value: &Value, out: &mut Writer) -> Result<(), Fault> {
        match kind {
            Kind::Message(message) => out.message(number, |out| self.value(message, value, out))?,
            Kind::Text => out.bytes(number, text(value)?.as_bytes()),
            Kind::Bytes => {
                let bytes = STANDARD.decode(text(value)?).map_err(|error| Fault::new(error.to_string()))?;
                out.bytes(number, &bytes);
            }
            Kind::Bool => {
                let yes = value.as_bool().ok_or_else(|| unexpected("a truth value", value))?;
                out.number(number, u64::from(yes));
            }
            Kind::Int32 | Kind::Int64 => {
                let whole = whole(value).ok_or_else(|| unexpected("a whole number", value))?;
                out.number(number, whole.cast_unsigned());
            }
            Kind::Double => {
                out.double(number, value.as_f64().ok_or_else(|| unexpected("a number", value))?);
            }
        }
        Ok(())
    }
}

/// A text; null is the empty one.
pub(super) fn text(value: &Value) -> Result<&str, Fault> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(""),
        other => Err(unexpected("a text", other)),
    }
}

/// A whole number, also one that was written with a fraction of zero.
fn whole(value: &Value) -> Option<i64> {
    let exact = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(exact))
}

/// A value of the wrong JSON type.
pub(super) fn unexpected(wanted: &str, given: &Value) -> Fault {
    let given = match given {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Fault::new(format!("{given} in place of {wanted}"))
}
