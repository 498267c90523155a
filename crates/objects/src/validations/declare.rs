//! What a schema's node looks like to a rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use yunfan_cel::{Decl, DeclKind, MAX_REQUEST_BYTES, RESERVED, Type};

use crate::schema::{Additional, Schema, SchemaRef, SchemaType};

/// Most bytes of a character of a text.
const CHARACTER: u64 = 4;
/// Characters of a date with its quotes, and the most of a time or a duration.
const DATE: u64 = 12;
const TIME: u64 = 32;

/// Whether a property has two names, its own and the escaped one.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// The name by which rules call a property; `None` for names that they cannot.
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::new();
    let mut rest = name;
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        return None;
    }
    while let Some(c) = rest.chars().next() {
        if let Some(tail) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = tail;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

fn scalar(ty: Type, max: u64, min_bytes: u64) -> Decl {
    Decl { kind: DeclKind::Scalar(ty), max, min_bytes }
}

/// The declaration of a node; `None` for one that rules do not see, because nothing is said about it.
pub(super) fn declare(schema: &Schema, root: bool) -> Option<Arc<Decl>> {
    Walk { own: true, ..Walk::default() }.declare(schema, root)
}

/// The declaration of a whole object with all of its metadata. What holds itself is not seen inside of itself.
pub(crate) fn declare_whole(schema: &Schema) -> Option<Arc<Decl>> {
    Walk::default().declare(schema, false)
}

#[derive(Default)]
struct Walk<'a> {
    /// Of an object's own fields rules see only what its creator chose.
    own: bool,
    /// The definitions on the way here.
    names: Vec<&'a str>,
}

impl<'a> Walk<'a> {
    fn below(&mut self, schema: &'a SchemaRef) -> Option<Arc<Decl>> {
        let Some(name) = schema.name() else { return self.declare(schema, false) };
        if self.names.contains(&name) {
            return None;
        }
        self.names.push(name);
        let declared = self.declare(schema, false);
        self.names.pop();
        declared
    }

    fn declare(&mut self, schema: &'a Schema, root: bool) -> Option<Arc<Decl>> {
        let limits = &schema.limits;
        Some(Arc::new(match schema.kind {
            SchemaType::Any => return None,
            SchemaType::IntOrString | SchemaType::Quantity => {
                let most = limits.max_length.map(|length| length.saturating_mul(CHARACTER));
                scalar(Type::Dyn, most.unwrap_or(MAX_REQUEST_BYTES - 2), 1)
            }
            SchemaType::Boolean => scalar(Type::Bool, 1, 4),
            SchemaType::Integer => scalar(Type::Int, 1, 1),
            SchemaType::Number => scalar(Type::Double, 1, 1),
            SchemaType::String => {
                let longest = limits.enumeration.as_ref().and_then(|all| {
                    all.iter().map(|value| value.as_str().map_or(0, |text| text.len() as u64)).max()
                });
                let most = MAX_REQUEST_BYTES - 2;
                match schema.format.as_deref() {
                    Some("byte") => scalar(Type::Bytes, limits.max_length.unwrap_or(most), 2),
                    Some("date") => scalar(Type::Timestamp, DATE, DATE),
                    Some("date-time") => scalar(Type::Timestamp, TIME, 21),
                    Some("duration") => scalar(Type::Duration, TIME, 3),
                    _ => {
                        let length = limits.max_length.map(|length| length.saturating_mul(CHARACTER));
                        scalar(Type::String, length.or(longest).unwrap_or(most), 2)
                    }
                }
            }
            SchemaType::Array => {
                let of = self.below(schema.items.as_ref()?)?;
                let max = limits.max_items.unwrap_or((MAX_REQUEST_BYTES - 2) / (of.min_bytes + 1));
                Decl { kind: DeclKind::List(of), max, min_bytes: 2 }
            }
            SchemaType::Object => match &schema.additional {
                Additional::Schema(of) if schema.properties.is_empty() => {
                    let of = self.below(of)?;
                    // A key, its quotes, a colon and a comma.
                    let max = limits.max_properties.unwrap_or((MAX_REQUEST_BYTES - 2) / (of.min_bytes + 6));
                    Decl { kind: DeclKind::Map(of), max, min_bytes: 2 }
                }
                _ => self.object(schema, self.own && (root || schema.embedded_resource)),
            },
        }))
    }

    fn object(&mut self, schema: &'a Schema, whole: bool) -> Decl {
        let mut fields = BTreeMap::new();
        let mut min_bytes = 2;
        for (name, property) in &schema.properties {
            if whole && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let Some((escaped, decl)) = escape(name).zip(self.below(property)) else { continue };
            if schema.required.contains(name) && property.default.is_none() {
                min_bytes += name.len() as u64 + 4 + decl.min_bytes;
            }
            if is_reserved(name) {
                fields.insert(name.clone(), decl.clone());
            }
            fields.insert(escaped, decl);
        }
        if whole {
            // Of an object's own fields rules see only what its creator chose.
            let text = || Arc::new(scalar(Type::String, 253, 2));
            let metadata = BTreeMap::from([("name".to_owned(), text()), ("generateName".to_owned(), text())]);
            let metadata = Decl { kind: DeclKind::Object(Arc::new(metadata)), max: 2, min_bytes: 2 };
            fields.extend([
                ("apiVersion".to_owned(), text()),
                ("kind".to_owned(), text()),
                ("metadata".to_owned(), Arc::new(metadata)),
            ]);
        }
        let max = schema.limits.max_properties.unwrap_or(fields.len() as u64);
        Decl { kind: DeclKind::Object(Arc::new(fields)), max, min_bytes }
    }
}

/// A rule's `fieldPath` (`.a.b`, `['a']`) as it stands in messages, if the schema has such a field; empty
/// for no path.
pub(super) fn field_path(schema: &Schema, path: &str) -> Option<String> {
    let (mut schema, mut rest, mut out) = (schema, path, String::new());
    while !rest.is_empty() {
        let name;
        if let Some(tail) = rest.strip_prefix("['") {
            let end = tail.find("']")?;
            name = tail[..end].replace("\\'", "'");
            rest = &tail[end + 2..];
        } else {
            let tail = rest.strip_prefix('.')?;
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            name = tail[..end].to_owned();
            rest = &tail[end..];
        }
        if let Some(property) = schema.properties.get(&name) {
            out.push('.');
            out.push_str(&name);
            schema = property;
        } else if let (Additional::Schema(inner), true) = (&schema.additional, schema.properties.is_empty()) {
            out.push_str(&format!("[{name}]"));
            schema = inner;
        } else {
            return None;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        for (name, wanted) in [
            ("a", Some("a")),
            ("a.b-c/d", Some("a__dot__b__dash__c__slash__d")),
            ("a__b", Some("a__underscores__b")),
            ("namespace", Some("__namespace__")),
            ("1a", None),
            ("a b", None),
        ] {
            assert_eq!(escape(name).as_deref(), wanted, "{name}");
        }
    }
}
