//! Messages whose JSON is no object of their fields.

use jiff::Timestamp;
use serde_json::Value;

use super::fault::Fault;
use super::read::Transcoder;
use super::wire::{Raw, Reader, Writer};
use super::write::{Encoder, text as json_text, unexpected};
use crate::codec;

/// Seconds of Go's zero time, the first of January of year 1.
const ZERO_TIME: i64 = -62_135_596_800;

/// Seconds of the end of year 9999, the last that RFC 3339 can write.
const LAST_TIME: i64 = 253_402_300_799;

/// A message with a JSON form of its own. Those with a number hold the index of the message
/// JSONSchemaProps.
#[derive(Clone, Copy)]
pub(super) enum Special {
    /// Seconds in field 1, as RFC 3339.
    Time,
    /// The same with nanoseconds in field 2, of which six digits are written.
    MicroTime,
    /// JSON text in field 1.
    Json,
    /// A text in field 1.
    Quantity,
    /// Field 1 tells which of the others holds it.
    IntOrString,
    /// A list of texts in field 1.
    Strings,
    /// A schema in field 1, or schemas in field 2.
    SchemaOrArray(usize),
    /// A truth value in field 1, or a schema in field 2.
    SchemaOrBool(usize),
    /// A schema in field 1, or texts in field 2.
    SchemaOrStrings(usize),
}

impl Special {
    /// By its name in the table and the index that stands there with it.
    pub(super) fn of(name: &str, schema: Option<usize>) -> Option<Self> {
        Some(match (name, schema) {
            ("time", None) => Self::Time,
            ("micro-time", None) => Self::MicroTime,
            ("json", None) => Self::Json,
            ("quantity", None) => Self::Quantity,
            ("int-or-string", None) => Self::IntOrString,
            ("strings", None) => Self::Strings,
            ("schema-or-array", Some(schema)) => Self::SchemaOrArray(schema),
            ("schema-or-bool", Some(schema)) => Self::SchemaOrBool(schema),
            ("schema-or-strings", Some(schema)) => Self::SchemaOrStrings(schema),
            _ => return None,
        })
    }

    /// Reads it; `None` stands for null.
    pub(super) fn read(
        self,
        transcoder: &mut Transcoder<'_>,
        bytes: &[u8],
        depth: usize,
    ) -> Result<Option<Value>, Fault> {
        match self {
            Self::Time => time(bytes, false),
            Self::MicroTime => time(bytes, true),
            Self::Json => json(bytes),
            Self::Quantity => quantity(bytes).map(Some),
            Self::IntOrString => int_or_string(bytes).map(Some),
            Self::Strings => strings(transcoder, bytes, 1).map(|list| Some(list.into())),
            Self::SchemaOrArray(schema) => {
                let list = schemas(transcoder, schema, bytes, 2, depth)?;
                if list.is_empty() {
                    last_schema(transcoder, schema, bytes, 1, depth)
                } else {
                    Ok(Some(list.into()))
                }
            }
            Self::SchemaOrBool(schema) => {
                let given = last_schema(transcoder, schema, bytes, 2, depth)?;
                given.map_or_else(|| Ok(Some((number(bytes, 1)? != 0).into())), |given| Ok(Some(given)))
            }
            Self::SchemaOrStrings(schema) => {
                let list = strings(transcoder, bytes, 2)?;
                if list.is_empty() {
                    last_schema(transcoder, schema, bytes, 1, depth)
                } else {
                    Ok(Some(list.into()))
                }
            }
        }
    }
}

impl Special {
    /// Writes what [`read`](Self::read) reads.
    pub(super) fn write(self, encoder: &Encoder<'_>, value: &Value, out: &mut Writer) -> Result<(), Fault> {
        match self {
            Self::Time => write_time(value, false, out),
            Self::MicroTime => write_time(value, true, out),
            Self::Json => {
                if !value.is_null() {
                    out.bytes(1, value.to_string().as_bytes());
                }
                Ok(())
            }
            Self::Quantity => {
                match value {
                    Value::Number(number) => out.bytes(1, number.to_string().as_bytes()),
                    other => out.bytes(1, json_text(other)?.as_bytes()),
                }
                Ok(())
            }
            Self::IntOrString => write_int_or_string(value, out),
            Self::Strings => write_strings(value, 1, out),
            Self::SchemaOrArray(schema) => match value {
                Value::Array(list) => {
                    list.iter().try_for_each(|one| out.message(2, |out| encoder.value(schema, one, out)))
                }
                one => out.message(1, |out| encoder.value(schema, one, out)),
            },
            Self::SchemaOrBool(schema) => {
                // A schema allows what fits it.
                out.number(1, u64::from(*value != Value::Bool(false)));
                if value.is_object() {
                    out.message(2, |out| encoder.value(schema, value, out))
                } else {
                    Ok(())
                }
            }
            Self::SchemaOrStrings(schema) => match value {
                Value::Array(_) => write_strings(value, 2, out),
                one => out.message(1, |out| encoder.value(schema, one, out)),
            },
        }
    }
}

fn write_strings(value: &Value, field: u32, out: &mut Writer) -> Result<(), Fault> {
    match value {
        Value::Array(list) => {
            list.iter().try_for_each(|item| json_text(item).map(|item| out.bytes(field, item.as_bytes())))
        }
        Value::Null => Ok(()),
        other => Err(unexpected("a list", other)),
    }
}

fn write_int_or_string(value: &Value, out: &mut Writer) -> Result<(), Fault> {
    let (kind, number, text) = match value {
        Value::String(text) => (1, 0, text.as_str()),
        other => (0, other.as_i64().ok_or_else(|| unexpected("a whole number or a text", other))?, ""),
    };
    out.number(1, kind);
    out.number(2, number.cast_unsigned());
    out.bytes(3, text.as_bytes());
    Ok(())
}

/// Null, a time that is not set, is the empty message.
fn write_time(value: &Value, micro: bool, out: &mut Writer) -> Result<(), Fault> {
    if value.is_null() {
        return Ok(());
    }
    let time: Timestamp =
        json_text(value)?.parse().map_err(|error: jiff::Error| Fault::new(error.to_string()))?;
    // Rounded down, also before 1970: the fraction counts forward.
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
    let nanos = time.as_nanosecond().rem_euclid(1_000_000_000);
    // Times that jiff can hold have seconds that fit.
    out.number(1, (seconds as i64).cast_unsigned());
    out.number(2, if micro { nanos as u64 / 1000 * 1000 } else { 0 });
    Ok(())
}

/// All values of one field of a message.
fn values<'a>(bytes: &'a [u8], wanted: u32) -> impl Iterator<Item = Result<Raw<'a>, Fault>> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        loop {
            match reader.next() {
                Ok(None) => return None,
                Ok(Some((number, raw))) if number == wanted => return Some(Ok(raw)),
                Ok(Some(_)) => {}
                Err(fault) => {
                    // Nothing after a fault makes sense.
                    reader = Reader::new(&[]);
                    return Some(Err(fault));
                }
            }
        }
    })
}

/// The last value of a field; all of the message is read.
fn last<'a>(bytes: &'a [u8], wanted: u32) -> Result<Option<Raw<'a>>, Fault> {
    values(bytes, wanted).try_fold(None, |_, raw| raw.map(Some))
}

fn text(bytes: &[u8], wanted: u32) -> Result<&str, Fault> {
    last(bytes, wanted)?.map_or(Ok(""), Raw::text)
}

fn number(bytes: &[u8], wanted: u32) -> Result<i64, Fault> {
    last(bytes, wanted)?.map_or(Ok(0), |raw| Ok(raw.varint()?.cast_signed()))
}

fn strings(transcoder: &mut Transcoder<'_>, bytes: &[u8], wanted: u32) -> Result<Vec<Value>, Fault> {
    let item = |raw: Result<Raw<'_>, Fault>| {
        transcoder.count()?;
        Ok(Value::from(raw?.text()?))
    };
    values(bytes, wanted).map(item).collect()
}

fn schemas(
    transcoder: &mut Transcoder<'_>,
    schema: usize,
    bytes: &[u8],
    wanted: u32,
    depth: usize,
) -> Result<Vec<Value>, Fault> {
    let depth = depth.checked_sub(1).ok_or_else(|| Fault::new("messages nest too deeply"))?;
    let mut list = Vec::new();
    for raw in values(bytes, wanted) {
        transcoder.count()?;
        list.push(transcoder.value(schema, raw?.bytes()?, depth)?.unwrap_or_default());
    }
    Ok(list)
}

fn last_schema(
    transcoder: &mut Transcoder<'_>,
    schema: usize,
    bytes: &[u8],
    wanted: u32,
    depth: usize,
) -> Result<Option<Value>, Fault> {
    Ok(schemas(transcoder, schema, bytes, wanted, depth)?.pop())
}

fn time(bytes: &[u8], micro: bool) -> Result<Option<Value>, Fault> {
    let seconds = number(bytes, 1)?;
    // Fractions of a plain time are not read, since its JSON has none.
    let nanos = if micro { number(bytes, 2)? } else { 0 };
    if bytes.is_empty() || (seconds, nanos) == (ZERO_TIME, 0) {
        return Ok(None);
    }
    let nanos = i32::try_from(nanos).ok().filter(|nanos| (0..1_000_000_000).contains(nanos));
    let time = nanos
        .filter(|_| (ZERO_TIME..=LAST_TIME).contains(&seconds))
        .and_then(|nanos| Timestamp::new(seconds, nanos).ok())
        .ok_or_else(|| Fault::new("a time outside of the years 1 to 9999"))?;
    Ok(Some(if micro { format!("{time:.6}") } else { time.to_string() }.into()))
}

fn json(bytes: &[u8]) -> Result<Option<Value>, Fault> {
    let Some(raw) = last(bytes, 1)? else { return Ok(None) };
    let raw = raw.bytes()?;
    if raw.is_empty() {
        return Ok(None);
    }
    let decoded = codec::decode_json(raw).map_err(|error| Fault::new(error.to_string()))?;
    Ok(Some(decoded.value).filter(|value| !value.is_null()))
}

fn quantity(bytes: &[u8]) -> Result<Value, Fault> {
    let text = text(bytes, 1)?;
    Ok(if text.is_empty() { "0" } else { text }.into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Fault> {
    match number(bytes, 1)? {
        // Higher bits are dropped, as protobuf has it for 32 bits.
        0 => Ok((number(bytes, 2)? as i32).into()),
        1 => Ok(text(bytes, 3)?.into()),
        other => Err(Fault::new(format!("neither a number nor a text: type {other}"))),
    }
}
