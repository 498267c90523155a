//! Bytes to objects and back.
//!
//! Stored bytes begin with apiVersion, kind and metadata and hold no resourceVersion, so that the
//! revision can be spliced in without decoding ([`splice_revision`]).

mod strict;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::golang::{json_error, summary};
use crate::{ApiError, GroupVersionKind, Object, Schema, protobuf};
use strict::{Known, Order, Strict};

/// The media types of bodies. Protobuf is for Kubernetes' own kinds only: of others nobody knows
/// what a field's number stands for.
pub const MEDIA_TYPES: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// How deep objects and lists may nest in a body. The deepest CustomResourceDefinitions known
/// need less than half of it.
pub const MAX_DEPTH: usize = 100;

/// The same for YAML, whose reader takes tens of KiB of stack for each level: a request is served on
/// a thread with 2 MiB.
pub const MAX_YAML_DEPTH: usize = 64;

/// A decoded body.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// The value; of a repeated key the last one, see also [`decode_for`].
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
    decode_for(None, content_type, body)
}

/// As [`decode`], for a kind of Kubernetes' own with this schema. Of JSON it is read as Go reads it into a type: what a
/// repeated field says is laid over what it said before, whose unknown fields are told of as well, and nothing is told of
/// what is inside of an unknown field.
///
/// # Errors
/// As there.
pub fn decode_for(schema: Option<&Schema>, content_type: &str, body: &[u8]) -> Result<Decoded, ApiError> {
    decode_as(schema, None, content_type, body)
}

/// As [`decode_for`], where a body of this kind is expected: one in protobuf need not say so.
///
/// # Errors
/// As there.
pub fn decode_as(
    schema: Option<&Schema>,
    expected: Option<&GroupVersionKind>,
    content_type: &str,
    body: &[u8],
) -> Result<Decoded, ApiError> {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        // No type given counts as JSON, as kube-apiserver has it.
        "" if content_type.is_empty() => read_json(schema, body),
        "application/json" | "text/json" => read_json(schema, body),
        "application/yaml" | "text/yaml" | "application/x-yaml" => decode_yaml(body),
        protobuf::MEDIA_TYPE => {
            protobuf::decode_as(body, expected).map(|value| Decoded { value, ..Decoded::default() })
        }
        _ => Err(ApiError::unsupported_media_type(&MEDIA_TYPES)),
    }
}

/// Decodes JSON.
///
/// # Errors
/// 400 for malformed JSON, and for nesting beyond [`MAX_DEPTH`].
pub fn decode_json(body: &[u8]) -> Result<Decoded, ApiError> {
    read_json(None, body)
}

fn read_json(schema: Option<&Schema>, body: &[u8]) -> Result<Decoded, ApiError> {
    let mut duplicates = Vec::new();
    let mut path = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let known = schema.map_or(Known::Anything, Known::Fields);
    let seed = Strict::<String>::new(&mut duplicates, &mut path, known);
    let value = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(value) => Ok(Decoded { value, duplicates, yaml: false }),
        Err(error) => Err(ApiError::bad_request(
            json_error(body).unwrap_or_else(|| format!("the body is no valid JSON: {error}")),
        )),
    }
}

/// Sorts findings about the fields of a JSON body (`unknown field "a"`, `duplicate field "b"`) as the fields stand in
/// it, each once; a repeated one stands where it is repeated.
pub fn sort_findings(findings: &mut Vec<String>, body: &[u8]) {
    if findings.len() < 2 {
        return;
    }
    let path_of = |finding: &str| {
        let path = finding.split_once('"').and_then(|(_, rest)| rest.strip_suffix('"'));
        path.unwrap_or_default().to_owned()
    };
    let paths: Vec<String> = findings.iter().map(|finding| path_of(finding)).collect();
    let mut order = Order::of(paths.iter().map(String::as_str));
    let (mut duplicates, mut path) = (Vec::new(), Vec::new());
    let mut seed = Strict::<String>::new(&mut duplicates, &mut path, Known::Anything);
    seed.order = Some(&mut order);
    // It was read before; what cannot be read any more stands at the end.
    let _ = seed.deserialize(&mut serde_json::Deserializer::from_slice(body));
    findings.sort_by_cached_key(|finding| {
        let nth = usize::from(finding.starts_with("duplicate"));
        order.place(&path_of(finding), nth).unwrap_or(usize::MAX)
    });
    findings.dedup();
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
        let value = Strict::<Spanned<String>>::new(&mut duplicates, &mut path, Known::Anything)
            .deserialize(reader)?;
        Ok(Self { value, duplicates })
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
    fn of_a_known_kind_a_repeated_field_is_laid_over_what_it_was() {
        let all = crate::builtin::descriptors();
        let deployment = all.iter().find(|each| each.kind == "Deployment").expect("a kind");
        let read = |spec: &str| {
            let body = format!(r#"{{"spec":{spec}}}"#);
            let decoded = decode_for(Some(&deployment.schema), "application/json", body.as_bytes()).unwrap();
            let mut findings = decoded.duplicates;
            sort_findings(&mut findings, body.as_bytes());
            (decoded.value["spec"].clone(), findings)
        };
        let (value, findings) = read(
            r#"{"selector":{"x":1,"matchLabels":{"a":"b"}},"selector":{"x":2,"matchLabels":{"c":"d"}},"odd":{"a":1,"a":2},"odd":1}"#,
        );
        assert_eq!(value["selector"]["matchLabels"], json!({"a": "b", "c": "d"}));
        assert_eq!(findings, ["unknown field \"spec.selector.x\"", "duplicate field \"spec.selector\""]);
        let (value, findings) = read(
            r#"{"template":{"spec":{"containers":[{"name":"a","image":"i","env":[{"X":1}],"env":[{"Y":1}]},{"name":"b","Z":1}],"containers":[{"name":"c"}]}}}"#,
        );
        let containers = &value["template"]["spec"]["containers"];
        assert_eq!(containers[0]["name"], "c");
        assert_eq!(containers[0]["image"], "i");
        assert_eq!(containers.as_array().map(Vec::len), Some(1));
        let path = |rest: &str| format!("\"spec.template.spec.containers{rest}\"");
        assert_eq!(
            findings,
            [
                format!("unknown field {}", path("[0].env[0].X")),
                format!("duplicate field {}", path("[0].env")),
                format!("unknown field {}", path("[0].env[0].Y")),
                format!("unknown field {}", path("[1].Z")),
                format!("duplicate field {}", path("")),
            ]
        );
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
        for odd in ["application/xml", ";;"] {
            assert_eq!(decode(odd, b"{}").unwrap_err().code(), 415);
        }
        assert!(decode("", b"{}").is_ok());
        assert_eq!(decode_yaml(b"a: [1").unwrap_err().code(), 400);
        for odd in [&b"a: .nan"[..], b"a: .inf", b"a: *b", b"a: &b [*b]", b"\xff\xfe", b"a: 1e999"] {
            assert_eq!(decode_yaml(odd).unwrap_err().code(), 400, "{odd:?}");
        }
        assert_eq!(decode_json(b"{\"a\":1e999}").unwrap_err().code(), 400);
        assert_eq!(decode_json(b"{\"a\":\"\xff\"}").unwrap_err().code(), 400);
    }

    #[test]
    fn each_value_of_a_repeated_field_is_looked_at_once() {
        let all = crate::builtin::descriptors();
        let pods = &all.iter().find(|each| each.kind == "Pod").expect("a kind").schema;
        let body = r#"{"metadata":{"labels":{"a":"1"},"x":1},"metadata":{"labels":{"b":"2"},"y":1},"metadata":{"z":1},"metadata":{"name":"n","w":1}}"#;
        let decoded = decode_for(Some(pods), "application/json", body.as_bytes()).unwrap();
        let unknown = ["x", "y", "z"].map(|field| format!("unknown field \"metadata.{field}\""));
        assert_eq!(decoded.duplicates[0], "duplicate field \"metadata\"");
        assert_eq!(decoded.duplicates[1..], unknown);
        // The last one's are found with the whole object.
        assert_eq!(decoded.value["metadata"], json!({"labels": {"a": "1", "b": "2"}, "name": "n", "w": 1}));
        // What grows with the square of this takes minutes.
        let labels: Vec<String> = (0..20_000).map(|n| format!("\"k{n}\":\"\"")).collect();
        let body = format!(
            "{{\"metadata\":{{\"labels\":{{{}}}}}{}}}",
            labels.join(","),
            ",\"metadata\":{}".repeat(20_000)
        );
        let decoded = decode_for(Some(pods), "application/json", body.as_bytes()).unwrap();
        assert_eq!(decoded.value["metadata"]["labels"].as_object().map(serde_json::Map::len), Some(20_000));
    }

    #[test]
    fn findings_are_sorted_without_a_copy_of_the_way_to_each_field() {
        // With one, this takes gigabytes.
        let long = "k".repeat(100_000);
        let fields: Vec<String> = (0..20_000).map(|n| format!("\"f{n}\":1,\"f{n}\":2")).collect();
        let body = format!("{{\"{long}\":{{{}}},\"b\":1,\"a\":1}}", fields.join(","));
        let mut findings = ["a", "b"].map(|field| format!("unknown field {field:?}")).to_vec();
        sort_findings(&mut findings, body.as_bytes());
        assert_eq!(findings, ["unknown field \"b\"", "unknown field \"a\""]);
        assert_eq!(decode_json(body.as_bytes()).unwrap().duplicates.len(), 32);
    }

    #[test]
    fn yaml_says_the_line_of_a_repeated_key() {
        let decoded = decode_yaml(b"\na: 1\nb:\n  c: 1\n  c: 2\na:\n  - d: 1\n    d: 2\n").unwrap();
        assert_eq!(decoded.value, json!({"a": [{"d": 2}], "b": {"c": 2}}));
        // What is in a value comes before its key.
        let lines = [(5, "c"), (8, "d"), (6, "a")]
            .map(|(line, key)| format!("line {line}: key {key:?} already set in map"));
        assert_eq!(decoded.duplicates, lines);
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
        let mut findings = vec![
            finding("duplicate field \"a.b\""),
            finding("unknown field \"y\""),
            finding("unknown field \"z\""),
            finding("unknown field \"y\""),
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
