//! JSON schemas of metadata definitions, which clients make their classes of.

use axum::extract::Path;
use serde_json::{Value, json};

use crate::auth::Session;
use crate::error::{Answer, Fault};
use crate::versions::ok;

fn text() -> Value {
    json!({"type": "string", "maxLength": 80})
}

fn read_only() -> Value {
    json!({"type": "string", "readOnly": true})
}

/// A property: itself a JSON schema.
fn property() -> Value {
    json!({
        "name": "property", "required": ["name", "type", "title"], "additionalProperties": true,
        "properties": {
            "name": text(), "title": {"type": "string"}, "description": {"type": "string"}, "type": {"type": "string"},
            "operators": {"type": "array", "items": {"type": "string"}}, "enum": {"type": "array"}, "default": {},
            "minimum": {"type": "number"}, "maximum": {"type": "number"}, "minLength": {"type": "integer"},
            "maxLength": {"type": "integer"}, "pattern": {"type": "string"}, "items": {"type": "object"},
            "uniqueItems": {"type": "boolean"}, "minItems": {"type": "integer"}, "maxItems": {"type": "integer"},
            "additionalItems": {"type": "boolean"}, "readonly": {"type": "boolean"},
        },
    })
}

fn object() -> Value {
    json!({
        "name": "object", "required": ["name"], "additionalProperties": false,
        "properties": {
            "name": text(), "description": {"type": "string"}, "required": {"type": "array", "items": {"type": "string"}},
            "properties": {"type": "object", "additionalProperties": property()}, "schema": read_only(), "self": read_only(),
            "created_at": read_only(), "updated_at": read_only(),
        },
    })
}

fn tag() -> Value {
    json!({
        "name": "tag", "required": ["name"], "additionalProperties": false,
        "properties": {"name": text(), "created_at": read_only(), "updated_at": read_only()},
    })
}

fn resource_type() -> Value {
    json!({
        "name": "resource_type_association", "required": ["name"], "additionalProperties": false,
        "properties": {
            "name": text(), "prefix": text(), "properties_target": text(), "created_at": read_only(), "updated_at": read_only(),
        },
    })
}

fn namespace() -> Value {
    json!({
        "name": "namespace", "required": ["namespace"], "additionalProperties": false,
        "properties": {
            "namespace": text(), "display_name": text(), "description": {"type": "string"},
            "visibility": {"type": "string", "enum": ["public", "private"]}, "protected": {"type": "boolean"},
            "owner": {"type": "string", "maxLength": 255}, "schema": read_only(), "self": read_only(),
            "created_at": read_only(), "updated_at": read_only(),
            "resource_type_associations": {"type": "array", "items": resource_type()},
            "properties": {"type": "object", "additionalProperties": property()},
            "objects": {"type": "array", "items": object()}, "tags": {"type": "array", "items": tag()},
        },
    })
}

/// The schema of a list with this name.
fn many(name: &str, entries: Value) -> Value {
    json!({
        "name": name,
        "properties": {name: entries, "first": {"type": "string"}, "next": {"type": "string"}, "schema": {"type": "string"}},
        "links": [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, {"rel": "describedby", "href": "{schema}"}],
    })
}

fn schema(kind: &str) -> Option<Value> {
    let list = |name: &str, item: Value| many(name, json!({"type": "array", "items": item}));
    Some(match kind {
        "namespace" => namespace(),
        "namespaces" => list("namespaces", namespace()),
        "resource_type" => resource_type(),
        "resource_types" => list("resource_type_associations", resource_type()),
        "object" => object(),
        "objects" => list("objects", object()),
        "property" => property(),
        "properties" => many("properties", json!({"type": "object", "additionalProperties": property()})),
        "tag" => tag(),
        "tags" => list("tags", tag()),
        _ => return None,
    })
}

/// `GET /schemas/metadefs/{kind}`
pub(super) async fn show(_: Session, Path(kind): Path<String>) -> Answer {
    let found = schema(&kind).ok_or_else(|| Fault::not_found("Schema", &format!("metadefs/{kind}")))?;
    Ok(ok(&found))
}
