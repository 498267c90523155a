//! Bytes to objects and back.
//!
//! Stored bytes begin with apiVersion, kind and metadata and hold no resourceVersion, so that the
//! revision can be spliced in without decoding ([`splice_revision`]).

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use crate::golang::{json_error, summary};
use crate::{ApiError, Object, protobuf};

/// The media types of bodies. Protobuf is for Kubernetes' own kinds only: of others nobody knows
/// what a field's number stands for.
pub const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// How deep objects and lists may nest in a body. The deepest CustomResourceDefinitions known
/// need less than half of it.
pub const MAX_DEPTH: usize = 100;

/// The same for YAML, whose reader takes tens of KiB of stack for each level: a request is served on
/// a thread with 2 MiB.
pub const MAX_YAML_DEPTH: usize = 64;

/// Most repeated keys that are listed for one body.
const MAX_DUPLICATES: usize = 32;

/// A decoded body.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// The value; of a repeated key the last one.
    pub value: Value,
    /// Findings such as `duplicate field "spec.replicas"`, for [`Descriptor::decode`](crate::Descriptor::decode).
    pub duplicates: Vec<String>,
    /// Whether it was read from YAML, whose findings say the line instead of the path.
    pub yaml: bool,
}

impl Decoded {
    /// The findings as parts of one refusal: those of YAML stand together under a heading, as its
    /// reader reports them.
    pub fn strict_findings(&self) -> Vec<String> {
        if !self.yaml || self.duplicates.is_empty() {
            return self.duplicates.clone();
        }
        vec![format!("yaml: unmarshal errors:\n  {}", self.duplicates.join("\n  "))]
    }
}

/// Decodes a body by its media type (parameters such as `charset` are ignored).
///
/// # Errors
/// 415 for another media type than [`MEDIA_TYPES`]; 400 for a malformed body.
pub fn decode(content_type: &str, body: &[u8]) -> Result<Decoded, ApiError> {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        // No type given counts as JSON, as kube-apiserver has it.
        "" | "application/json" | "text/json" => decode_json(body),
        "application/yaml" | "text/yaml" | "application/x-yaml" => decode_yaml(body),
        protobuf::MEDIA_TYPE => protobuf::decode(body).map(|value| Decoded { value, ..Decoded::default() }),
        _ => Err(ApiError::unsupported_media_type(&MEDIA_TYPES)),
    }
}

/// Decodes JSON.
///
/// # Errors
/// 400 for malformed JSON, and for nesting beyond [`MAX_DEPTH`].
pub fn decode_json(body: &[u8]) -> Result<Decoded, ApiError> {
    let mut duplicates = Vec::new();
    let mut path = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let seed = Strict::<String>::new(&mut duplicates, &mut path);
    let value = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(value) => Ok(Decoded { value, duplicates, yaml: false }),
        Err(error) => Err(ApiError::bad_request(
            json_error(body).unwrap_or_else(|| format!("the body is no valid JSON: {error}")),
        )),
    }
}

/// Sorts findings about the fields of a JSON body (`unknown field "a"`, `duplicate field "b"`) as the fields stand in
/// it; a repeated one stands where it is repeated.
pub fn sort_findings(findings: &mut [String], body: &[u8]) {
    if findings.len() < 2 {
        return;
    }
    let (mut duplicates, mut path, mut order) = (Vec::new(), Vec::new(), Vec::new());
    let mut seed = Strict::<String>::new(&mut duplicates, &mut path);
    seed.order = Some(&mut order);
    // It was read before; what cannot be read any more stands at the end.
    let _ = seed.deserialize(&mut serde_json::Deserializer::from_slice(body));
    findings.sort_by_cached_key(|finding| {
        let path = finding.split_once('"').and_then(|(_, rest)| rest.strip_suffix('"')).unwrap_or_default();
        let nth = usize::from(finding.starts_with("duplicate"));
        let mut places = order.iter().enumerate().filter(|(_, each)| *each == path).map(|(at, _)| at);
        places.nth(nth).unwrap_or(usize::MAX)
    });
}

/// Refuses a body that cannot be read, or says no kind.
/// `whole` says that it is read as a whole, without a look for its kind first.
pub fn unrecognized(error: &ApiError, kind: &str, whole: bool, body: &[u8]) -> ApiError {
    if error.code() != 400 {
        return error.clone();
    }
    let lead = if whole { "" } else { NO_KIND };
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {lead}{error} ({})",
        summary(body)
    ))
}

/// What a refusal of a body in which no kind can be looked up begins with.
pub const NO_KIND: &str = "couldn't get version/kind; json parse error: ";

/// Decodes a YAML document, the first where there are several. Of a repeated key the last one counts, and the line
/// is noted.
///
/// # Errors
/// 400 with the line for malformed YAML, and for nesting beyond [`MAX_YAML_DEPTH`].
pub fn decode_yaml(body: &[u8]) -> Result<Decoded, ApiError> {
    let mut budget = serde_saphyr::Budget::default();
    budget.max_depth = MAX_YAML_DEPTH;
    budget.flow_nesting_limit = MAX_YAML_DEPTH;
    let options = serde_saphyr::options! {
        budget: Some(budget),
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let body = first_document(body);
    let Noted { value, duplicates } = serde_saphyr::from_slice_with_options(body, options)
        .map_err(|error| ApiError::bad_request(yaml_error(&error, body)))?;
    Ok(Decoded { value, duplicates, yaml: true })
}

/// What stands before the mark of a second document.
fn first_document(body: &[u8]) -> &[u8] {
    let (mut at, mut has_content) = (0, false);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let text = line.trim_ascii_end();
        let mark = text == b"---" || text.starts_with(b"--- ");
        if mark && has_content {
            return &body[..at];
        }
        has_content |= !mark && !text.is_empty() && !matches!(text.first(), Some(b'#' | b'%'));
        at += line.len();
    }
    body
}

/// A fault of YAML as Go's reader tells it: the line counts from 0, and the first one is not named.
fn yaml_error(error: &serde_saphyr::Error, body: &[u8]) -> String {
    let error = error.without_snippet();
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
    let problem = match text.strip_prefix("while ").and_then(|rest| rest.split_once(", ")) {
        Some((_, problem)) => problem,
        None => text,
    };
    let line = error.location().map_or(0, |at| at.line().saturating_sub(1) as usize);
    let lines = body.split_inclusive(|byte| *byte == b'\n').count();
    // Where nothing follows what must be followed, that is what is missing.
    let open = body.trim_ascii_end().last().is_some_and(|last| b"{[,:".contains(last));
    let (problem, line) = match problem {
        "unclosed bracket '['" | "unclosed bracket '{'" if open => {
            ("did not find expected node content", lines)
        }
        "unclosed bracket '['" => ("did not find expected ',' or ']'", lines),
        "unclosed bracket '{'" => ("did not find expected ',' or '}'", lines),
        other => (other, line),
    };
    match line {
        0 => format!("yaml: {problem}"),
        line => format!("yaml: line {line}: {problem}"),
    }
}

/// A YAML document with its repeated keys.
struct Noted {
    value: Value,
    duplicates: Vec<String>,
}

impl<'de> Deserialize<'de> for Noted {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let (mut duplicates, mut path) = (Vec::new(), Vec::new());
        let value = Strict::<Spanned<String>>::new(&mut duplicates, &mut path).deserialize(reader)?;
        Ok(Self { value, duplicates })
    }
}

/// A key as a format gives it.
trait Key: DeserializeOwned {
    /// The key, and what is to be noted where it is there for the second time, at this path.
    fn text(&self) -> &str;
    fn repeated(&self, path: &[String]) -> String;
}

impl Key for String {
    fn text(&self) -> &str {
        self
    }

    fn repeated(&self, path: &[String]) -> String {
        format!("duplicate field {:?}", path.concat())
    }
}

impl Key for Spanned<String> {
    fn text(&self) -> &str {
        &self.value
    }

    fn repeated(&self, _: &[String]) -> String {
        format!("line {}: key {:?} already set in map", self.referenced.line(), self.value)
    }
}

fn too_deep() -> String {
    format!("the body nests deeper than {MAX_DEPTH} levels")
}

/// Reads a value, noting repeated keys and refusing deep nesting.
struct Strict<'a, K> {
    duplicates: &'a mut Vec<String>,
    path: &'a mut Vec<String>,
    /// The paths of all fields as they come, where somebody wants to know.
    order: Option<&'a mut Vec<String>>,
    depth: usize,
    key: PhantomData<K>,
}

impl<'a, K> Strict<'a, K> {
    fn new(duplicates: &'a mut Vec<String>, path: &'a mut Vec<String>) -> Self {
        Self { duplicates, path, order: None, depth: 0, key: PhantomData }
    }

    fn inner(&mut self) -> Strict<'_, K> {
        Strict {
            duplicates: self.duplicates,
            path: self.path,
            order: self.order.as_deref_mut(),
            depth: self.depth + 1,
            key: PhantomData,
        }
    }
}

impl<'de, K: Key> DeserializeSeed<'de> for Strict<'_, K> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de, K: Key> Visitor<'de> for Strict<'_, K> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if value.is_finite() { Ok(value.into()) } else { Err(E::custom("a number must be finite")) }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        if self.depth == MAX_DEPTH {
            return Err(A::Error::custom(too_deep()));
        }
        let mut list = Vec::new();
        loop {
            self.path.push(format!("[{}]", list.len()));
            let item = access.next_element_seed(self.inner())?;
            self.path.pop();
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        if self.depth == MAX_DEPTH {
            return Err(A::Error::custom(too_deep()));
        }
        let mut map = Map::new();
        let mut repeated = HashSet::new();
        while let Some(key) = access.next_key::<K>()? {
            let lead = if self.path.is_empty() { "" } else { "." };
            self.path.push(format!("{lead}{}", key.text()));
            if let Some(order) = &mut self.order {
                order.push(self.path.concat());
            }
            if map.contains_key(key.text())
                && repeated.insert(key.text().to_owned())
                && self.duplicates.len() < MAX_DUPLICATES
            {
                self.duplicates.push(key.repeated(self.path));
            }
            let value = access.next_value_seed(self.inner())?;
            self.path.pop();
            map.insert(key.text().to_owned(), value);
        }
        Ok(Value::Object(map))
    }
}

/// Encodes an object for the store: compact; apiVersion, kind and metadata first; without
/// `metadata.resourceVersion`.
pub fn encode(object: &Object) -> Bytes {
    let Some(map) = object.as_object() else {
        return Bytes::from(object.to_string());
    };
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    let absent = Value::Null;
    for key in ["apiVersion", "kind"] {
        if let Some(value) = map.get(key) {
            write_member(&mut out, key, value);
        }
    }
    separate(&mut out);
    out.extend_from_slice(b"\"metadata\":{");
    for (key, value) in map.get("metadata").unwrap_or(&absent).as_object().into_iter().flatten() {
        if key != "resourceVersion" {
            write_member(&mut out, key, value);
        }
    }
    out.push(b'}');
    for (key, value) in map {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            write_member(&mut out, key, value);
        }
    }
    out.push(b'}');
    Bytes::from(out)
}

fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

fn write_member(out: &mut Vec<u8>, key: &str, value: &Value) {
    separate(out);
    // Writing a value with text keys into memory cannot fail: there is no I/O and no foreign
    // Serialize implementation.
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

/// Puts `"resourceVersion":"N"` into bytes made by [`encode`]; other bytes come back unchanged.
///
/// The mark `"metadata":{` cannot be part of a text before it, because quotes inside a text are
/// escaped, and only the texts apiVersion and kind stand before it.
pub fn splice_revision(encoded: &[u8], revision: u64) -> Vec<u8> {
    const MARK: &[u8] = b"\"metadata\":{";
    let Some(start) = encoded.windows(MARK.len()).position(|window| window == MARK) else {
        return encoded.to_vec();
    };
    let at = start + MARK.len();
    let comma = if encoded.get(at) == Some(&b'}') { "" } else { "," };
    let splice = format!("\"resourceVersion\":\"{revision}\"{comma}");
    let mut out = Vec::with_capacity(encoded.len() + splice.len());
    out.extend_from_slice(&encoded[..at]);
    out.extend_from_slice(splice.as_bytes());
    out.extend_from_slice(&encoded[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn repeated_keys_are_found_once_with_their_path() {
        let decoded = decode_json(br#"{"a":[{"b":1,"b":2,"b":3}],"c":1,"c":2}"#).unwrap();
        assert_eq!(decoded.value, json!({"a": [{"b": 3}], "c": 2}));
        assert_eq!(decoded.duplicates, ["duplicate field \"a[0].b\"", "duplicate field \"c\""]);
    }

    #[test]
    fn deep_nesting_is_refused_in_both_formats() {
        let nested = |depth: usize| ("[".repeat(depth) + &"]".repeat(depth)).into_bytes();
        assert!(decode_json(&nested(MAX_DEPTH)).is_ok());
        assert!(decode_json(&nested(MAX_DEPTH + 1)).is_err());
        assert!(decode_yaml(&nested(MAX_YAML_DEPTH)).is_ok());
        assert!(decode_yaml(&nested(MAX_YAML_DEPTH + 1)).is_err());
        let text = "{\"a\":".repeat(100_000);
        assert_eq!(decode_json(text.as_bytes()).unwrap_err().code(), 400);
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for body in ["", "{", "{\"a\":1}x", "{'a':1}"] {
            assert_eq!(decode_json(body.as_bytes()).unwrap_err().code(), 400, "{body}");
        }
        assert_eq!(decode("application/xml", b"").unwrap_err().code(), 415);
        assert_eq!(decode_yaml(b"a: [1").unwrap_err().code(), 400);
        for odd in [&b"a: .nan"[..], b"a: .inf", b"a: *b", b"a: &b [*b]", b"\xff\xfe", b"a: 1e999"] {
            assert_eq!(decode_yaml(odd).unwrap_err().code(), 400, "{odd:?}");
        }
        assert_eq!(decode_json(b"{\"a\":1e999}").unwrap_err().code(), 400);
        assert_eq!(decode_json(b"{\"a\":\"\xff\"}").unwrap_err().code(), 400);
    }

    #[test]
    fn yaml_says_the_line_of_a_repeated_key() {
        let decoded = decode_yaml(b"\na: 1\nb:\n  c: 1\n  c: 2\na: 3\n").unwrap();
        assert_eq!(decoded.value, json!({"a": 3, "b": {"c": 2}}));
        assert_eq!(
            decoded.duplicates,
            ["line 5: key \"c\" already set in map", "line 6: key \"a\" already set in map"]
        );
        assert!(decoded.strict_findings()[0].starts_with("yaml: unmarshal errors:\n  line 5"));
    }

    #[test]
    fn aliases_cannot_fill_the_memory() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let items = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert_eq!(decode_yaml(bomb.as_bytes()).unwrap_err().code(), 400);
    }

    #[test]
    fn faults_are_told_as_go_tells_them() {
        let of = |text: &str| decode_yaml(text.as_bytes()).unwrap_err().message().to_owned();
        assert_eq!(of("{a: b: c}"), "yaml: did not find expected ',' or '}'");
        let nested = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y1\ndata: {a: b}\n";
        assert_eq!(of(nested), "yaml: line 3: did not find expected ',' or '}'");
        assert_eq!(of("a: [1"), "yaml: line 1: did not find expected ',' or ']'");
        let error = decode_json(b"{\"a\"").unwrap_err();
        assert_eq!(
            unrecognized(&error, "Pod", false, b"{\"a\"").message(),
            "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"a\")"
        );
    }

    #[test]
    fn findings_stand_as_their_fields_do() {
        let body = br#"{"z":1,"a":{"b":1,"b":2},"y":1}"#;
        let finding = |text: &str| text.to_owned();
        let mut findings = [
            finding("duplicate field \"a.b\""),
            finding("unknown field \"y\""),
            finding("unknown field \"z\""),
        ];
        sort_findings(&mut findings, body);
        assert_eq!(findings, ["unknown field \"z\"", "duplicate field \"a.b\"", "unknown field \"y\""]);
    }

    #[test]
    fn of_several_documents_the_first_is_read() {
        let decoded = decode_yaml(b"# a comment\n---\na: 1\n---\nb: 2\n").unwrap();
        assert_eq!(decoded.value, json!({"a": 1}));
    }

    #[test]
    fn yaml_gives_the_same_object() {
        let decoded = decode("application/yaml; charset=utf-8", b"a: 1\nb: [x, 'y']\nc: {d: true}").unwrap();
        assert_eq!(decoded.value, json!({"a": 1, "b": ["x", "y"], "c": {"d": true}}));
    }

    #[test]
    fn encoding_orders_and_leaves_the_revision_out() {
        let object = json!({"spec": {}, "kind": "A\"b", "apiVersion": "v1", "metadata": {"name": "x", "resourceVersion": "7"}});
        let bytes = encode(&object);
        assert_eq!(&bytes[..], br#"{"apiVersion":"v1","kind":"A\"b","metadata":{"name":"x"},"spec":{}}"#);
        let spliced: Value = serde_json::from_slice(&splice_revision(&bytes, 42)).unwrap();
        assert_eq!(spliced["metadata"], json!({"name": "x", "resourceVersion": "42"}));
        let empty = splice_revision(&encode(&json!({"kind": "\"metadata\":{"})), 3);
        let empty: Value = serde_json::from_slice(&empty).unwrap();
        assert_eq!(empty, json!({"kind": "\"metadata\":{", "metadata": {"resourceVersion": "3"}}));
    }
}
