//! Names, labels, annotations, and the metadata that the server owns.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::error::{FieldError, FieldErrorKind};
use crate::lookup::{list, remove, text};
use crate::{ApiError, GroupVersionKind, Object};

/// Longest DNS label.
pub const LABEL_LIMIT: usize = 63;
/// Longest DNS subdomain.
pub const SUBDOMAIN_LIMIT: usize = 253;
/// Most bytes that all annotations of an object may have together.
pub const ANNOTATIONS_LIMIT: usize = 256 * 1024;
/// Most finalizers or owners that an object may have.
const REFERENCES_LIMIT: usize = 256;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What `metadata.name` must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// A DNS label: namespaces, services.
    Label,
    /// A DNS subdomain: most kinds.
    Subdomain,
    /// Anything that fits into a URL path: RBAC kinds.
    PathSegment,
}

fn is_label(name: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_name_part(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// All that is wrong with a text, each in upstream's words; empty where it is good.
pub type Wrongs = Vec<String>;

/// One finding that a text is too long, and one that it breaks `rule`.
fn wrongs(too_long: bool, limit: &str, good: bool, rule: &str) -> Wrongs {
    let long = too_long.then(|| format!("must be no more than {limit}"));
    long.into_iter().chain((!good).then(|| rule.to_owned())).collect()
}

/// What is wrong with a DNS label.
pub fn dns_label(name: &str) -> Wrongs {
    let rule = if is_subdomain(name) { "must not contain dots" } else { LABEL_RULE };
    wrongs(name.len() > LABEL_LIMIT, "63 characters", is_label(name), rule)
}

/// What is wrong with a DNS label as RFC 1035 has it, which begins with a letter.
pub fn dns1035_label(name: &str) -> Wrongs {
    let good = is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase());
    wrongs(name.len() > LABEL_LIMIT, "63 characters", good, LABEL_1035_RULE)
}

fn is_subdomain(name: &str) -> bool {
    name.split('.').all(is_label)
}

/// What is wrong with a DNS subdomain.
pub fn dns_subdomain(name: &str) -> Wrongs {
    wrongs(name.len() > SUBDOMAIN_LIMIT, "253 characters", is_subdomain(name), SUBDOMAIN_RULE)
}

/// What is wrong with a name as a URL path segment.
pub fn path_segment(name: &str) -> Wrongs {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ['/', '%'].into_iter().filter(|c| name.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// What is wrong with a label or annotation key.
pub fn qualified_name(key: &str) -> Wrongs {
    let mut found = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((_, name)) if name.contains('/') => {
            let rule = QUALIFIED_RULE.replacen("name part", "a valid label key", 1);
            return vec![format!(
                "{rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some(("", name)) => {
            found.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            let wrong =
                wrongs(prefix.len() > SUBDOMAIN_LIMIT, "253 bytes", is_subdomain(prefix), SUBDOMAIN_RULE);
            found.extend(wrong.into_iter().map(|why| format!("prefix part {why}")));
            name
        }
    };
    if name.is_empty() {
        found.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LIMIT {
        found.push(format!("name part must be no more than {LABEL_LIMIT} bytes"));
    }
    if !is_name_part(name) {
        found.push(QUALIFIED_RULE.to_owned());
    }
    found
}

/// What is wrong with a label's value.
pub fn label_value(value: &str) -> Wrongs {
    let good = value.is_empty() || is_name_part(value);
    wrongs(value.len() > LABEL_LIMIT, "63 bytes", good, LABEL_VALUE_RULE)
}

/// One error for each thing that is wrong with a text at a path.
pub fn all_wrong<'a>(field: &'a str, text: &'a str, wrongs: Wrongs) -> impl Iterator<Item = FieldError> + 'a {
    wrongs.into_iter().map(move |why| FieldError::invalid(field, text, why))
}

/// Errors of the labels below a field's path.
pub fn validate_labels(labels: Option<&Value>, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        errors.extend(all_wrong(field, key, qualified_name(key)));
        match value.as_str() {
            Some(value) => errors.extend(all_wrong(field, value, label_value(value))),
            None => errors.push(FieldError::invalid(field, value.clone(), "must be a string")),
        }
    }
    errors
}

/// Errors of the annotations below a field's path.
pub fn validate_annotations(annotations: Option<&Value>, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let annotations = annotations.and_then(Value::as_object);
    for key in annotations.into_iter().flat_map(Map::keys) {
        // Kubernetes compares annotation keys in lower case.
        errors.extend(all_wrong(field, key, qualified_name(&key.to_lowercase())));
    }
    if annotations.is_some_and(|annotations| annotations_size(annotations) > ANNOTATIONS_LIMIT) {
        errors.push(FieldError::too_long(field, ANNOTATIONS_LIMIT as u64));
    }
    errors
}

/// Bytes of all annotations together, as [`ANNOTATIONS_LIMIT`] counts them.
pub(crate) fn annotations_size(annotations: &Map<String, Value>) -> usize {
    annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}

/// Checks the name of a complete object, or what its name is to begin with.
pub(crate) fn validate_name(object: &Object, rule: NameRule) -> Vec<FieldError> {
    let check: fn(&str) -> Wrongs = match rule {
        NameRule::Label => dns_label,
        NameRule::Subdomain => dns_subdomain,
        NameRule::PathSegment => path_segment,
    };
    let mut errors = Vec::new();
    let prefix = text(object, &["metadata", "generateName"]);
    if !prefix.is_empty() {
        // A prefix may end in a dash, which no name may: check it as it will be used.
        errors.extend(all_wrong("metadata.generateName", prefix, check(&format!("{prefix}x"))));
    }
    match text(object, &["metadata", "name"]) {
        "" => errors.push(FieldError::required("metadata.name", "name or generateName is required")),
        name => errors.extend(all_wrong("metadata.name", name, check(name))),
    }
    errors
}

/// Checks the metadata of a complete object.
pub fn validate(object: &Object, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let mut errors = validate_name(object, rule);
    errors.extend(validate_beside_name(object, namespaced));
    errors
}

/// Checks the metadata of a complete object, its name aside.
pub(crate) fn validate_beside_name(object: &Object, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let namespace = text(object, &["metadata", "namespace"]);
    match (namespaced, namespace) {
        (true, "") => errors.push(FieldError::required("metadata.namespace", "")),
        (true, name) => errors.extend(all_wrong("metadata.namespace", name, dns_label(name))),
        (false, "") => {}
        (false, _) => {
            errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
        }
    }
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|generation| *generation < 0) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("metadata.generation", generation, why));
    }
    errors.extend(validate_labels(object["metadata"].get("labels"), "metadata.labels"));
    errors.extend(validate_annotations(object["metadata"].get("annotations"), "metadata.annotations"));
    errors.extend(validate_references(object));
    errors
}

fn validate_references(object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let owners = list(object, &["metadata", "ownerReferences"]);
    let finalizers = list(object, &["metadata", "finalizers"]);
    for (field, count) in [("ownerReferences", owners.len()), ("finalizers", finalizers.len())] {
        if count > REFERENCES_LIMIT {
            let field = format!("metadata.{field}");
            errors.push(FieldError::too_many(field, count as u64, REFERENCES_LIMIT as u64));
        }
    }
    errors.extend(validate_owners(owners, "metadata.ownerReferences"));
    for finalizer in finalizers.iter().filter_map(Value::as_str) {
        errors.extend(all_wrong("metadata.finalizers", finalizer, qualified_name(finalizer)));
    }
    // Each says what becomes of what the object owns.
    if ["orphan", "foregroundDeletion"].iter().all(|way| finalizers.iter().any(|finalizer| finalizer == way))
    {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid("metadata.finalizers", finalizers.to_vec(), why));
    }
    errors
}

/// What is wrong with owners at the path `field`.
pub(crate) fn validate_owners(owners: &[Value], field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    // The finding holds all owners, so it is told once.
    let mut told = false;
    for owner in owners {
        for (key, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let given = text(owner, &[key]);
            // What has more slashes names no version, nor does what has nothing behind its slash.
            let unversioned = given.matches('/').count() > 1 || given.ends_with('/');
            if given.is_empty() || (key == "apiVersion" && unversioned) {
                errors.push(FieldError::invalid(format!("{field}.{key}"), given, why));
            }
        }
        let kind = GroupVersionKind::read(owner);
        if kind == GroupVersionKind::new("", "v1", "Event") {
            let why = format!("{kind} is disallowed from being an owner");
            errors.push(FieldError {
                field: field.to_owned(),
                kind: FieldErrorKind::InvalidAs(shown_owner(owner)),
                detail: why,
            });
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", kind.kind, text(owner, &["name"]));
            match &controller {
                Some(first) if !told => {
                    told = true;
                    let shown: Vec<String> = owners.iter().map(shown_owner).collect();
                    errors.push(FieldError {
                        field: field.to_owned(),
                        kind: FieldErrorKind::InvalidAs(format!("[{}]", shown.join(","))),
                        detail: format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                    });
                }
                Some(_) => {}
                None => controller = Some(this),
            }
        }
    }
    errors
}

/// An owner as a message shows it: its fields in the order of their declaration.
fn shown_owner(owner: &Value) -> String {
    const FIELDS: [&str; 6] = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
    let fields = FIELDS.iter().filter_map(|key| {
        let optional = matches!(*key, "controller" | "blockOwnerDeletion");
        let value = owner.get(key).cloned().or_else(|| (!optional).then(|| json!("")))?;
        Some(format!("\"{key}\":{value}"))
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// Finalizers that need no domain.
pub(crate) const STANDARD_FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];

/// Finalizers of an object of Kubernetes' own kinds are well known, or somebody's.
pub(crate) fn validate_finalizers(object: &Object) -> Vec<FieldError> {
    const WHY: &str = "name is neither a standard finalizer name nor is it fully qualified";
    let finalizers = list(object, &["metadata", "finalizers"]).iter().filter_map(Value::as_str).enumerate();
    let unknown = finalizers.filter(|(_, name)| !name.contains('/') && !STANDARD_FINALIZERS.contains(name));
    unknown.map(|(at, name)| FieldError::invalid(format!("metadata.finalizers[{at}]"), name, WHY)).collect()
}

/// Checks that metadata which may not change did not.
pub fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        let (new, old) = (&new["metadata"][key], &old["metadata"][key]);
        if new != old && !(key == "namespace" && new.is_null() && old == "") {
            errors.push(FieldError::invalid(format!("metadata.{key}"), new.clone(), "field is immutable"));
        }
    }
    // Once a deletion has begun, an added finalizer could hold the object for ever.
    if old["metadata"].get("deletionTimestamp").is_some_and(|at| !at.is_null()) {
        let before = list(old, &["metadata", "finalizers"]);
        let added: Vec<String> = list(new, &["metadata", "finalizers"])
            .iter()
            .filter(|finalizer| !before.contains(finalizer))
            .map(|finalizer| finalizer.as_str().unwrap_or_default().to_owned())
            .collect();
        if !added.is_empty() {
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.iter().map(|each| format!("{each:?}")).collect::<Vec<_>>().join(", ")
                ),
            ));
        }
    }
    errors
}

/// Fills in the system metadata of a new object: uid, creationTimestamp, namespace; a name from
/// generateName. Clears what only the server may set.
///
/// # Errors
/// 400 where the body names another namespace than the request.
pub fn fill_new(object: &mut Object, namespace: Option<&str>, now: Timestamp) -> Result<(), ApiError> {
    fill_namespace(object, namespace)?;
    let uid = uuid::Uuid::new_v4().to_string();
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Err(ApiError::bad_request("metadata: must be an object"));
    };
    for key in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(key);
    }
    metadata.insert("uid".to_owned(), json!(uid));
    metadata.insert("creationTimestamp".to_owned(), json!(time(now)));
    if metadata.get("name").and_then(Value::as_str).unwrap_or_default().is_empty()
        && let Some(prefix) = metadata.get("generateName").and_then(Value::as_str)
        && !prefix.is_empty()
    {
        let name = generate_name(prefix);
        metadata.insert("name".to_owned(), json!(name));
    }
    Ok(())
}

/// Puts the request's namespace into a body that names none; takes it out where there is none.
///
/// # Errors
/// 400 where the body names another one.
pub fn fill_namespace(object: &mut Object, namespace: Option<&str>) -> Result<(), ApiError> {
    let given = text(object, &["metadata", "namespace"]);
    match namespace {
        Some(wanted) if given.is_empty() => object["metadata"]["namespace"] = json!(wanted),
        Some(wanted) if given != wanted => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Some(_) => {}
        // An object of the whole cluster is in no namespace, whatever it says.
        None => {
            if let Some(metadata) = object.get_mut("metadata") {
                remove(metadata, "namespace");
            }
        }
    }
    Ok(())
}

/// A name that nobody has yet, in all likelihood: the prefix and five letters or digits.
pub fn generate_name(prefix: &str) -> String {
    numbered_name(prefix, rand::random())
}

/// A name as [`generate_name`] makes them, always the same one of a number.
pub fn numbered_name(prefix: &str, number: u32) -> String {
    // No vowels and no digits that look like letters: no words come out, and all can be read aloud.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const SUFFIX: usize = 5;
    let keep = prefix.len().min(LABEL_LIMIT - SUFFIX);
    let keep = (0..=keep).rev().find(|i| prefix.is_char_boundary(*i)).unwrap_or(0);
    let mut name = prefix[..keep].to_owned();
    // 27^5 suffixes: a number of 32 bits has enough for that.
    let mut rest = number as usize;
    for _ in 0..SUFFIX {
        name.push(char::from(LETTERS[rest % LETTERS.len()]));
        rest /= LETTERS.len();
    }
    name
}

/// Fills in what an update may leave out, and puts the old generation back.
pub fn keep_system_fields(new: &mut Object, old: &Object) {
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let old = &old["metadata"];
    for key in ["uid", "deletionGracePeriodSeconds", "creationTimestamp", "deletionTimestamp"] {
        let absent = metadata.get(key).is_none_or(|value| value.is_null() || value == "");
        // A client may have read these two with less precision: they are the old ones in any case.
        let settled = matches!(key, "creationTimestamp" | "deletionTimestamp");
        if (absent || settled) && !old[key].is_null() {
            metadata.insert(key.to_owned(), old[key].clone());
        }
    }
    metadata.remove("selfLink");
    for key in ["annotations", "finalizers", "labels", "ownerReferences"] {
        if metadata.get(key).is_some_and(|value| *value == json!([]) || *value == json!({})) {
            metadata.remove(key);
        }
    }
    match old["generation"].as_i64() {
        Some(generation) => metadata.insert("generation".to_owned(), json!(generation)),
        None => metadata.remove("generation"),
    };
}

/// Drops owners that are there twice. Returns the uids of those, for a warning.
pub fn drop_repeated_owners(object: &mut Object) -> Vec<String> {
    let Some(Value::Array(owners)) = object["metadata"].get_mut("ownerReferences") else { return Vec::new() };
    let mut seen = HashSet::with_capacity(owners.len());
    let mut dropped = Vec::new();
    owners.retain(|owner| {
        // Keys are sorted in objects, so equal owners have equal texts.
        let new = seen.insert(owner.to_string());
        if !new {
            dropped.push(text(owner, &["uid"]).to_owned());
        }
        new
    });
    dropped
}

/// A time as `metav1.Time` has it: RFC 3339, UTC, whole seconds.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as `metav1.MicroTime` has it.
pub fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_complete_and_one_controls() {
        let of = |owners: Value| -> Vec<String> {
            let owners = owners.as_array().cloned().unwrap_or_default();
            validate_owners(&owners, "metadata.ownerReferences").iter().map(ToString::to_string).collect()
        };
        let owner = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true});
        assert!(of(json!([owner("Pod", "a")])).is_empty());
        let empty = of(json!([{}]));
        assert_eq!(empty.len(), 4);
        assert_eq!(
            empty[0],
            "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty"
        );
        let two = of(json!([owner("Pod", "a"), owner("Pod", "b")]));
        assert!(two[0].ends_with("Found \"true\" in references for Pod/a and Pod/b"), "{two:?}");
        let unversioned = json!({"apiVersion": "v1/", "kind": "Pod", "name": "a", "uid": "u"});
        let found = of(json!([unversioned]));
        assert_eq!(
            found,
            ["metadata.ownerReferences.apiVersion: Invalid value: \"v1/\": version must not be empty"]
        );
        let event = of(json!([owner("Event", "a")]));
        assert!(event[0].ends_with("/v1, Kind=Event is disallowed from being an owner"), "{event:?}");
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(dns_label("web-1"), [""; 0]);
        for bad in ["", "Web", "-a", "a-", "a_b", &"a".repeat(64)] {
            assert_eq!(dns_label(bad).len(), 1, "{bad}");
        }
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns_label(&"A".repeat(64)).len(), 2);
        assert_eq!(dns_subdomain("a.b-c.d"), [""; 0]);
        assert_eq!(dns_subdomain("a..b").len(), 1);
        assert_eq!(qualified_name("example.com/My_Name.x"), [""; 0]);
        for (bad, findings) in
            [("", 2), ("/a", 1), ("a/", 2), ("a/b/c", 1), ("A.com/x", 1), ("-a", 1), ("/", 3)]
        {
            assert_eq!(qualified_name(bad).len(), findings, "{bad}");
        }
        assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist of"));
        assert_eq!(label_value(""), [""; 0]);
        assert_eq!(label_value("a b").len(), 1);
        assert_eq!(path_segment("system:node"), [""; 0]);
        assert_eq!(path_segment("a/b%c").len(), 2);
    }

    #[test]
    fn a_new_object_gets_its_metadata() {
        let mut object =
            json!({"metadata": {"generateName": "web-", "uid": "forged", "deletionTimestamp": "x"}});
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        fill_new(&mut object, Some("demo"), now).unwrap();
        let metadata = &object["metadata"];
        assert_eq!(metadata["namespace"], "demo");
        assert_eq!(metadata["creationTimestamp"], "2023-11-14T22:13:20Z");
        assert_eq!(text(&object, &["metadata", "name"]).len(), 9);
        assert_ne!(metadata["uid"], "forged");
        assert!(metadata.get("deletionTimestamp").is_none());
        assert!(validate(&object, true, NameRule::Subdomain).is_empty());
        assert!(fill_new(&mut object, Some("other"), now).is_err());
    }

    #[test]
    fn generations_are_counted_from_zero() {
        let object = |generation: i64| json!({"metadata": {"name": "a", "generation": generation}});
        assert_eq!(validate(&object(0), false, NameRule::Subdomain), []);
        assert_eq!(
            validate(&object(-1), false, NameRule::Subdomain)[0].to_string(),
            "metadata.generation: Invalid value: -1: must be greater than or equal to 0"
        );
    }

    #[test]
    fn immutable_metadata_is_kept() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 4, "creationTimestamp": "t"}});
        let mut new = json!({"metadata": {"name": "a", "generation": 9}});
        keep_system_fields(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 4);
        assert!(validate_update(&new, &old).is_empty());
        new["metadata"]["uid"] = json!("2");
        assert_eq!(validate_update(&new, &old)[0].field, "metadata.uid");
    }

    #[test]
    fn what_a_change_left_empty_is_not_there() {
        let old = json!({"metadata": {"name": "a", "ownerReferences": [{"uid": "u"}]}});
        let mut new = json!({"metadata": {"name": "a", "ownerReferences": [], "finalizers": [], "labels": {},
            "annotations": {"k": ""}}});
        keep_system_fields(&mut new, &old);
        assert_eq!(new, json!({"metadata": {"name": "a", "annotations": {"k": ""}}}));
    }
}
