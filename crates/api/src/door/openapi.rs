//! `/openapi/v3`: the schemas of what is served, one document per group and version, made from the descriptors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use bytes::Bytes;
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use yunfan_objects::{ApiError, Descriptor, builtin};
use yunfan_store::Revision;

use super::respond;
use crate::Api;
use crate::kinds::{Kind, Table};

const V2_PREFIX: &str = "#/definitions/";
const V3_PREFIX: &str = "#/components/schemas/";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// Documents that were made, with the revision of the kinds' table that they were made from. There is one per group
/// and version that is served, and the index.
#[derive(Default)]
pub(crate) struct OpenApiCache(Mutex<HashMap<String, (Revision, Document)>>);

#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: String,
}

impl Document {
    fn new(value: &Value) -> Self {
        let bytes = Bytes::from(value.to_string());
        // FNV-1a: only to tell documents apart.
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { bytes, etag: format!("{hash:016X}") }
    }
}

/// Answers for the index (an empty path), or for one document: `api/v1`, `apis/apps/v1`.
pub(crate) fn handle(api: &Api, path: &str, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let table = api.0.registry.kinds.table();
    let document = document(&api.0.openapi, &table, path).ok_or_else(ApiError::no_such_path)?;
    let etag = format!("\"{}\"", document.etag);
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known.is_some_and(|known| known.split(',').any(|k| k.trim() == etag)) {
        respond::raw(StatusCode::NOT_MODIFIED.as_u16(), "application/json", Body::empty())
    } else {
        respond::raw(200, "application/json", document.bytes)
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    Ok(response)
}

/// `/openapi/v2` in the one form that is asked for: protobuf, by kubectl before 1.27, which will not apply anything without it. It has
/// no definitions in it: such a client then leaves validation to the server, where it is done anyway.
pub(crate) fn second_version() -> Response<Body> {
    // gnostic's openapi.v2.Document: swagger = 1, info = 2 {title = 1, version = 2}, paths = 8.
    let text = |field: u8, text: &str| {
        let mut bytes = vec![field << 3 | 2, u8::try_from(text.len()).unwrap_or(0)];
        bytes.extend_from_slice(text.as_bytes());
        bytes
    };
    let mut info = text(1, "Yunfan");
    info.extend(text(2, env!("CARGO_PKG_VERSION")));
    let mut document = text(1, "2.0");
    document.extend([2 << 3 | 2, u8::try_from(info.len()).unwrap_or(0)]);
    document.extend(info);
    document.extend([8 << 3 | 2, 0]);
    respond::raw(200, "application/octet-stream", document)
}

fn document(cache: &OpenApiCache, table: &Table, path: &str) -> Option<Document> {
    {
        let kept = cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, document)) = kept.get(path).filter(|(revision, _)| *revision == table.revision()) {
            return Some(document.clone());
        }
    }
    let made = if path.is_empty() {
        Document::new(&index(cache, table))
    } else {
        let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
            ["api", version] => (String::new(), (*version).to_owned()),
            ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
            _ => return None,
        };
        Document::new(&group_version(table, &group, &version)?)
    };
    let mut kept = cache.0.lock().unwrap_or_else(PoisonError::into_inner);
    // Documents of kinds that are served no more go.
    kept.retain(|_, (revision, _)| *revision == table.revision());
    kept.insert(path.to_owned(), (table.revision(), made.clone()));
    Some(made)
}

fn index(cache: &OpenApiCache, table: &Table) -> Value {
    let mut paths = serde_json::Map::new();
    for (group, versions) in table.groups() {
        for version in versions {
            let path = root(group, version);
            if let Some(document) = document(cache, table, &path) {
                let url = format!("/openapi/v3/{path}?hash={}", document.etag);
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
        }
    }
    json!({"paths": paths})
}

/// Where a group and version is served, without the first slash.
fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn group_version(table: &Table, group: &str, version: &str) -> Option<Value> {
    let kinds = table.of_version(group, version)?;
    let mut schemas = Schemas::default();
    let mut paths = serde_json::Map::new();
    for kind in kinds.values() {
        let name = schemas.add_kind(kind);
        add_paths(&mut paths, &kind.descriptor, &name);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Yunfan", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas.take()},
    }))
}

/// The schemas of one document, with all that they refer to.
#[derive(Default)]
struct Schemas {
    done: BTreeMap<String, Value>,
    wanted: BTreeSet<String>,
}

impl Schemas {
    /// Adds a kind and its list; returns the kind's name among the schemas.
    fn add_kind(&mut self, kind: &Kind) -> String {
        let descriptor = &kind.descriptor;
        let gvk = json!([{
            "group": descriptor.group, "version": descriptor.version, "kind": descriptor.kind,
        }]);
        let published = builtin::definitions().raw().find(|(_, raw)| is_kind(raw.get(), descriptor));
        let name = match published {
            Some((name, _)) if descriptor.builtin => {
                self.wanted.insert(name.to_owned());
                self.follow();
                name.to_owned()
            }
            _ => {
                let name = custom_name(descriptor);
                let mut schema = custom_schema(kind);
                schema["x-kubernetes-group-version-kind"] = gvk;
                self.done.insert(name.clone(), schema);
                self.wanted.extend([OBJECT_META.to_owned(), LIST_META.to_owned()]);
                self.follow();
                name
            }
        };
        let list = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"$ref": format!("{V3_PREFIX}{LIST_META}")},
                "items": {"type": "array", "items": {"$ref": format!("{V3_PREFIX}{name}")}},
            },
            "x-kubernetes-group-version-kind": [{
                "group": descriptor.group, "version": descriptor.version, "kind": descriptor.list_kind,
            }],
        });
        self.wanted.insert(LIST_META.to_owned());
        self.follow();
        self.done.insert(format!("{name}List"), list);
        name
    }

    /// Adds what is referred to, until nothing is missing.
    fn follow(&mut self) {
        while let Some(name) = self.wanted.pop_first() {
            if self.done.contains_key(&name) {
                continue;
            }
            let found = builtin::definitions().raw().find(|(known, _)| *known == name);
            let mut schema: Value = found
                .and_then(|(_, raw)| serde_json::from_str(raw.get()).ok())
                .unwrap_or_else(|| json!({"type": "object"}));
            self.rewrite(&mut schema);
            self.done.insert(name, schema);
        }
    }

    /// Turns references from the second version's form into the third's, and takes note of them.
    fn rewrite(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields.iter_mut() {
                    match value.as_str().and_then(|text| text.strip_prefix(V2_PREFIX)).map(str::to_owned) {
                        Some(name) if key == "$ref" => {
                            *value = json!(format!("{V3_PREFIX}{name}"));
                            self.wanted.insert(name);
                        }
                        _ => self.rewrite(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.rewrite(item)),
            _ => {}
        }
    }

    fn take(self) -> BTreeMap<String, Value> {
        self.done
    }
}

/// Whether a published definition is this kind's.
fn is_kind(raw: &str, descriptor: &Descriptor) -> bool {
    // Cheap first: most definitions are of no kind.
    if !raw.contains("x-kubernetes-group-version-kind") || !raw.contains(&descriptor.kind) {
        return false;
    }
    let Ok(schema) = serde_json::from_str::<Value>(raw) else { return false };
    schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten().any(|gvk| {
        gvk["group"] == descriptor.group.as_str()
            && gvk["version"] == descriptor.version.as_str()
            && gvk["kind"] == descriptor.kind.as_str()
    })
}

/// `io.yunfan.compute.v1.Flavor` for `compute.yunfan.io/v1` Flavor.
fn custom_name(descriptor: &Descriptor) -> String {
    let reversed: Vec<&str> = descriptor.group.rsplit('.').collect();
    format!("{}.{}.{}", reversed.join("."), descriptor.version, descriptor.kind)
}

/// A custom kind's schema as its definition has it.
fn custom_schema(kind: &Kind) -> Value {
    let definition = kind.resource.definition.as_ref().map(|entry| entry.decode_stored()).unwrap_or_default();
    let versions = definition["spec"]["versions"].as_array().cloned().unwrap_or_default();
    let version = versions.iter().find(|version| version["name"] == kind.descriptor.version.as_str());
    let mut schema = version.map(|version| version["schema"]["openAPIV3Schema"].clone()).unwrap_or_default();
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["properties"]["metadata"] = json!({"$ref": format!("{V3_PREFIX}{OBJECT_META}")});
    schema
}

/// The paths of a kind with the operations that clients look for.
fn add_paths(paths: &mut serde_json::Map<String, Value>, descriptor: &Descriptor, schema: &str) {
    let base = root(&descriptor.group, &descriptor.version);
    let scope = if descriptor.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("/{base}{scope}/{}", descriptor.plural);
    let verbs = |verb: &str| descriptor.verbs.iter().any(|v| v == verb);
    let mut item = serde_json::Map::new();
    let mut all = serde_json::Map::new();
    if verbs("list") {
        all.insert("get".into(), operation(descriptor, "list", &format!("{schema}List"), &[]));
    }
    if verbs("create") {
        all.insert("post".into(), operation(descriptor, "post", schema, &WRITE));
    }
    if verbs("get") {
        item.insert("get".into(), operation(descriptor, "get", schema, &[]));
    }
    if verbs("update") {
        item.insert("put".into(), operation(descriptor, "put", schema, &WRITE));
    }
    if verbs("patch") {
        item.insert("patch".into(), operation(descriptor, "patch", schema, &PATCH));
    }
    if verbs("delete") {
        item.insert("delete".into(), operation(descriptor, "delete", schema, &["dryRun"]));
    }
    if descriptor.status_subresource {
        let status = json!({
            "get": operation(descriptor, "get", schema, &[]),
            "put": operation(descriptor, "put", schema, &WRITE),
            "patch": operation(descriptor, "patch", schema, &PATCH),
        });
        paths.insert(format!("{collection}/{{name}}/status"), status);
    }
    paths.insert(format!("{collection}/{{name}}"), Value::Object(item));
    paths.insert(collection, Value::Object(all));
}

const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const PATCH: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];

fn operation(descriptor: &Descriptor, action: &str, schema: &str, parameters: &[&str]) -> Value {
    let reference = json!({"$ref": format!("{V3_PREFIX}{schema}")});
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| {
            let kind = if *name == "force" { "boolean" } else { "string" };
            json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
        })
        .collect();
    let body = match action {
        "post" | "put" => json!({"content": {"*/*": {"schema": reference}}, "required": true}),
        "patch" => {
            let mut types = vec!["apply-patch+yaml", "json-patch+json", "merge-patch+json"];
            if descriptor.builtin {
                // kubectl apply picks its patch by this, and custom kinds take no strategic merge.
                types.push("strategic-merge-patch+json");
            }
            let content: serde_json::Map<String, Value> = types
                .iter()
                .map(|kind| (format!("application/{kind}"), json!({"schema": {"type": "object"}})))
                .collect();
            json!({"content": content, "required": true})
        }
        _ => Value::Null,
    };
    let mut operation = json!({
        "operationId": format!("{action}{}{}", descriptor.version, descriptor.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {
            "group": descriptor.group, "version": descriptor.version, "kind": descriptor.kind,
        },
    });
    if !body.is_null() {
        operation["requestBody"] = body;
    }
    operation
}
