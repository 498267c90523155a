//! `application/vnd.kubernetes.protobuf`: Go clients send the built-in kinds so by default. A body becomes
//! the same JSON value that the client would have sent as JSON; answers are JSON, which all of them accept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use yunfan_objects::{ApiError, meta};

use super::messages::{Count, Field, FieldType, Form, Message, Messages};
use super::reader::{Fault, Fields, Raw};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Levels of nesting; the deepest kind, a CustomResourceDefinition's schema, may nest by itself.
const MAX_DEPTH: usize = 128;

/// Decodes a body.
///
/// # Errors
/// 400 for bytes that are no such body, 415 for a kind that has no protobuf form here.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let bad = |fault: Fault| ApiError::bad_request(format!("the body is no valid protobuf object: {fault}"));
    let Some(envelope) = body.strip_prefix(MAGIC) else {
        return Err(ApiError::bad_request("the body is no protobuf object: it does not begin with k8s\\0"));
    };
    let (api_version, kind, raw) = open(envelope).map_err(bad)?;
    let table = Messages::get();
    let Some(message) = table.of_kind(&api_version, &kind).and_then(|name| table.message(name)) else {
        let given = format!("{MEDIA_TYPE} of {api_version} {kind}");
        return Err(ApiError::unsupported_media_type(&given, &["application/json", "application/yaml"]));
    };
    let mut object = Map::new();
    read(table, message, raw, 0, &mut object).map_err(bad)?;
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

/// `runtime.Unknown`: the type, and the bytes of the object.
fn open(envelope: &[u8]) -> Result<(String, String, &[u8]), Fault> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), [].as_slice());
    for field in Fields(envelope) {
        match field? {
            (1, Raw::Bytes(type_meta)) => {
                for field in Fields(type_meta) {
                    match field? {
                        (1, Raw::Bytes(text)) => api_version = utf8(text)?.to_owned(),
                        (2, Raw::Bytes(text)) => kind = utf8(text)?.to_owned(),
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    if kind.is_empty() { Err(Fault::Envelope) } else { Ok((api_version, kind, raw)) }
}

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::Utf8)
}

/// Reads a message's fields into an object. Fields of newer clients, which the table does not have, are passed over.
fn read(
    table: &Messages,
    message: &Message,
    bytes: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), Fault> {
    if depth > MAX_DEPTH {
        return Err(Fault::Depth(MAX_DEPTH));
    }
    for item in Fields(bytes) {
        let (number, raw) = item?;
        let Some(field) = message.fields.iter().find(|field| field.number == number) else { continue };
        match (field.name, field.holds) {
            (None, FieldType::Message(name)) => {
                let (Raw::Bytes(inner), Some(message)) = (raw, table.message(name)) else {
                    return Err(Fault::Mismatch(number));
                };
                read(table, message, inner, depth + 1, out)?;
            }
            (None, _) => {}
            (Some(name), _) => put(table, field, name, raw, depth, out)?,
        }
    }
    Ok(())
}

fn put(
    table: &Messages,
    field: &Field,
    name: &str,
    raw: Raw<'_>,
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), Fault> {
    match field.count {
        Count::Map => {
            let Raw::Bytes(entry) = raw else { return Err(Fault::Mismatch(field.number)) };
            let (mut key, mut held) = (String::new(), empty(table, field.holds));
            for item in Fields(entry) {
                match item? {
                    (1, Raw::Bytes(text)) => key = utf8(text)?.to_owned(),
                    (2, raw) => held = value(table, field, raw, depth)?,
                    _ => {}
                }
            }
            let map = out.entry(name).or_insert_with(|| json!({}));
            map[key] = held;
        }
        Count::Many => {
            let held = value(table, field, raw, depth)?;
            let list = out.entry(name).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(held);
            }
        }
        Count::Once | Count::UnlessEmpty => {
            let held = value(table, field, raw, depth)?;
            let says_nothing = match &held {
                Value::Null => true,
                Value::Bool(yes) => !yes,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::String(text) => text.is_empty(),
                _ => false,
            };
            if !(held.is_null() || (says_nothing && field.count == Count::UnlessEmpty)) {
                out.insert(name.to_owned(), held);
            }
        }
    }
    Ok(())
}

fn empty(table: &Messages, holds: FieldType) -> Value {
    match holds {
        FieldType::Text | FieldType::Bytes => json!(""),
        FieldType::Bool => json!(false),
        FieldType::Int | FieldType::Double | FieldType::Float => json!(0),
        FieldType::Message(name) => match table.message(name).map(|message| message.form) {
            Some(Form::List) => json!([]),
            Some(Form::Quantity) => json!("0"),
            _ => json!({}),
        },
    }
}

fn value(table: &Messages, field: &Field, raw: Raw<'_>, depth: usize) -> Result<Value, Fault> {
    Ok(match (field.holds, raw) {
        (FieldType::Text, Raw::Bytes(bytes)) => json!(utf8(bytes)?),
        (FieldType::Bytes, Raw::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        (FieldType::Bool, Raw::Varint(number)) => json!(number != 0),
        // Negative numbers are written as their two's complement in 64 bits.
        (FieldType::Int, Raw::Varint(number)) => json!(number as i64),
        (FieldType::Double, Raw::Fixed64(bits)) => json!(f64::from_bits(bits)),
        (FieldType::Float, Raw::Fixed32(bits)) => json!(f32::from_bits(bits)),
        (FieldType::Message(name), Raw::Bytes(bytes)) => {
            let message = table.message(name).ok_or(Fault::Mismatch(field.number))?;
            formed(table, message, bytes, depth + 1)?
        }
        _ => return Err(Fault::Mismatch(field.number)),
    })
}

fn formed(table: &Messages, message: &Message, bytes: &[u8], depth: usize) -> Result<Value, Fault> {
    let mut object = Map::new();
    match message.form {
        Form::Object => {
            read(table, message, bytes, depth, &mut object)?;
            Ok(Value::Object(object))
        }
        Form::Time | Form::MicroTime => time(bytes, message.form),
        Form::Duration => duration(bytes),
        Form::IntOrString => int_or_string(bytes),
        Form::Quantity => Ok(json!(utf8(first_bytes(bytes)?.unwrap_or(b"0"))?)),
        Form::Json => match first_bytes(bytes)? {
            None | Some(b"") => Ok(Value::Null),
            Some(text) => serde_json::from_slice(text).map_err(|_| Fault::Json),
        },
        Form::List => {
            read(table, message, bytes, depth, &mut object)?;
            Ok(object.remove("items").unwrap_or_else(|| json!([])))
        }
        Form::OrBool => {
            read(table, message, bytes, depth, &mut object)?;
            let allows = object.remove("allows").or_else(|| object.remove("Allows")).unwrap_or(json!(false));
            Ok(object.into_iter().next().map_or(allows, |(_, schema)| schema))
        }
        Form::OrArray => {
            read(table, message, bytes, depth, &mut object)?;
            Ok(object.into_iter().next().map_or(Value::Null, |(_, inner)| inner))
        }
    }
}

fn first_bytes(bytes: &[u8]) -> Result<Option<&[u8]>, Fault> {
    for field in Fields(bytes) {
        if let (1, Raw::Bytes(inner)) = field? {
            return Ok(Some(inner));
        }
    }
    Ok(None)
}

fn numbers(bytes: &[u8]) -> Result<[i64; 2], Fault> {
    let mut found = [0; 2];
    for field in Fields(bytes) {
        if let (number @ (1 | 2), Raw::Varint(value)) = field? {
            found[number as usize - 1] = value as i64;
        }
    }
    Ok(found)
}

fn time(bytes: &[u8], form: Form) -> Result<Value, Fault> {
    let [seconds, nanos] = numbers(bytes)?;
    // Go's zero time is written as nothing at all.
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let at = i32::try_from(nanos).ok().and_then(|nanos| Timestamp::new(seconds, nanos).ok());
    let at = at.ok_or(Fault::TooLong)?;
    Ok(json!(if form == Form::Time { meta::time(at) } else { meta::micro_time(at) }))
}

fn duration(bytes: &[u8]) -> Result<Value, Fault> {
    let [nanos, _] = numbers(bytes)?;
    Ok(json!(match nanos {
        0 => "0s".to_owned(),
        nanos if nanos % 1_000_000_000 == 0 => format!("{}s", nanos / 1_000_000_000),
        nanos => format!("{nanos}ns"),
    }))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Fault> {
    let (mut kind, mut number, mut text) = (0, 0, "");
    for field in Fields(bytes) {
        match field? {
            (1, Raw::Varint(value)) => kind = value,
            (2, Raw::Varint(value)) => number = value as i64,
            (3, Raw::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { json!(number) } else { json!(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("short")];
        out.extend_from_slice(bytes);
        out
    }

    fn body(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw)].concat()
    }

    #[test]
    fn an_object_is_what_it_would_be_as_json() {
        let meta =
            [field(1, b"a"), field(2, b""), field(11, &[field(1, b"k"), field(2, b"v")].concat())].concat();
        let secret =
            [field(1, &meta), field(2, &[field(1, b"p"), field(2, b"hi")].concat()), field(3, b"Opaque")]
                .concat();
        let object = decode(&body("v1", "Secret", &secret)).expect("decodes");
        let wanted = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a", "labels": {"k": "v"}},
            "data": {"p": "aGk="}, "type": "Opaque"});
        assert_eq!(object, wanted);
    }

    #[test]
    fn special_forms() {
        assert_eq!(int_or_string(&[0x08, 1, 0x1a, 2, b'5', b'%']), Ok(json!("5%")));
        assert_eq!(int_or_string(&[0x10, 80]), Ok(json!(80)));
        assert_eq!(time(&[0x08, 1], Form::Time), Ok(json!("1970-01-01T00:00:01Z")));
        assert_eq!(time(&[], Form::Time), Ok(Value::Null));
        // An explicit nought of a field that is a pointer in Go stays: replicas 0 is no replicas unsaid.
        let spec = field(2, &[0x08, 0]);
        let object = decode(&body("apps/v1", "Deployment", &spec)).expect("decodes");
        assert_eq!(object["spec"]["replicas"], 0);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(decode(b"{}").map_err(|e| e.code()), Err(400));
        assert_eq!(decode(&body("v1", "Pod", &[0x0a, 0x7f])).map_err(|e| e.code()), Err(400));
        assert_eq!(decode(&body("v1", "", &[])).map_err(|e| e.code()), Err(400));
        assert_eq!(decode(&body("x/v1", "Thing", &[])).map_err(|e| e.code()), Err(415));
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut bytes = Vec::new();
            for _ in 0..60 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.push((state >> 33) as u8);
            }
            // Anything but a panic is fine.
            let _ = decode(&body("v1", "Pod", &bytes));
        }
    }
}
