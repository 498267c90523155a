//! `/openapi/v2`, one document of all that is served, and `/openapi/v3`, one document for each group and version with an index
//! of them. Both are made from the descriptors when they are first asked for, and again when the kinds in them
//! have changed.

mod gnostic;
mod parameters;
mod paths;
mod schemas;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use http::header::{CACHE_CONTROL, EXPIRES, LOCATION};
use http::{HeaderMap, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use yunfan_objects::builtin::{self, Descriptions};
use yunfan_objects::{ApiError, GroupVersionKind};

use super::document::{Document, fingerprint, http_time, put};
use super::params::Params;
use super::{negotiate, respond, review};
use crate::Api;
use crate::kinds::Table;
use paths::Paths;
use schemas::{Schemas, Version};

/// How long a client may keep a document whose address says which one it is.
const KEEP: SignedDuration = SignedDuration::from_hours(365 * 24);

/// The protobuf form of the second version, in today's spelling and the one that came before it.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// Documents that were made, with what they were made from. There is one per group and version that is served, the
/// index, and two forms of the second version.
#[derive(Default)]
pub(crate) struct OpenApiCache(Mutex<HashMap<String, (u64, Arc<Document>)>>);

/// Answers for what is below `/openapi`.
pub(crate) async fn handle(
    api: &Api,
    parts: &[&str],
    headers: &HeaderMap,
    params: &Params,
) -> Result<Response<Body>, ApiError> {
    match parts {
        ["v2"] => second(api, headers).await,
        ["v3", rest @ ..] => third(api, rest.join("/"), headers, params).await,
        _ => Err(ApiError::no_such_path()),
    }
}

async fn second(api: &Api, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    let accepted = ["application/json", V2_PROTOBUF[0]];
    let wanted = negotiate::best(headers, &accepted, |clause| match clause.media {
        "application/json" | "application/*" | "*/*" => Some("application/json"),
        media if V2_PROTOBUF.contains(&media) => Some(V2_PROTOBUF[1]),
        _ => None,
    })?;
    let document = made(api, if wanted == "application/json" { "v2" } else { "v2.pb" }).await?;
    Ok(document.answer(wanted, headers))
}

async fn third(
    api: &Api,
    path: String,
    headers: &HeaderMap,
    params: &Params,
) -> Result<Response<Body>, ApiError> {
    negotiate::best(headers, &["application/json"], |clause| {
        matches!(clause.media, "application/json" | "application/*" | "*/*").then_some(())
    })?;
    let document = made(api, &path).await?;
    let Some(hash) = params.get("hash").filter(|_| !path.is_empty()) else {
        return Ok(document.answer("application/json", headers));
    };
    if hash != document.etag {
        // The address is that of another document: this one has its own.
        let mut response = respond::raw(301, "text/plain", Body::empty());
        put(&mut response, LOCATION, &format!("/openapi/v3/{path}?hash={}", document.etag));
        return Ok(response);
    }
    let mut response = document.answer("application/json", headers);
    put(&mut response, CACHE_CONTROL, "public, immutable");
    put(&mut response, EXPIRES, &http_time(Timestamp::now() + KEEP));
    Ok(response)
}

/// A document, made on a thread of its own if it is not there: that takes longer than others should wait.
async fn made(api: &Api, name: &str) -> Result<Arc<Document>, ApiError> {
    let table = api.0.registry.kinds.table();
    let (api, name) = (api.clone(), name.to_owned());
    if let Some(document) = api.0.openapi.kept(&name, stamp(&table, &name)) {
        return Ok(document);
    }
    let make = move || document(&api.0.openapi, &table, &name, &builtin::descriptions());
    let document = tokio::task::spawn_blocking(make).await;
    document.map_err(|error| ApiError::internal(error.to_string()))?.ok_or_else(ApiError::no_such_path)
}

impl OpenApiCache {
    fn kept(&self, name: &str, stamp: u64) -> Option<Arc<Document>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(name).filter(|(made, _)| *made == stamp).map(|(_, document)| document.clone())
    }

    fn keep(&self, table: &Table, name: &str, stamp: u64, document: &Arc<Document>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Documents of what is served no more go.
        kept.retain(|name, _| name.starts_with("v2") || name.is_empty() || served(table, name).is_some());
        kept.insert(name.to_owned(), (stamp, document.clone()));
    }
}

/// Says from what a document is made: a document of kinds that have no definitions never changes.
fn stamp(table: &Table, name: &str) -> u64 {
    let Some((group, version)) = served(table, name) else { return table.revision() };
    let definitions = table
        .of_version(&group, &version)
        .into_iter()
        .flat_map(|kinds| kinds.values())
        .filter_map(|kind| kind.resource.definition.as_ref());
    let bytes: Vec<u8> =
        definitions.flat_map(|entry| entry.key.bytes().chain(entry.revision.to_be_bytes())).collect();
    fingerprint(&bytes)
}

/// Group and version of a document of the third version, if they are served.
fn served(table: &Table, name: &str) -> Option<(String, String)> {
    let (group, version) = match name.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => (String::new(), (*version).to_owned()),
        ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return None,
    };
    let groups = super::discovery::all_groups(table);
    let found = groups.iter().any(|(name, versions)| *name == group && versions.contains(&version));
    found.then_some((group, version))
}

fn document(cache: &OpenApiCache, table: &Table, name: &str, texts: &Descriptions) -> Option<Arc<Document>> {
    let stamp = stamp(table, name);
    if let Some(document) = cache.kept(name, stamp) {
        return Some(document);
    }
    let made = Arc::new(match name {
        "" => Document::new(index(cache, table, texts).to_string()),
        "v2" => Document::new(all(table, texts).to_string()),
        "v2.pb" => Document::new(gnostic::document(&all(table, texts))),
        name => {
            let (group, version) = served(table, name)?;
            Document::new(group_version(table, &group, &version, texts).to_string())
        }
    });
    cache.keep(table, name, stamp, &made);
    Some(made)
}

fn index(cache: &OpenApiCache, table: &Table, texts: &Descriptions) -> Value {
    let mut paths = Map::new();
    for (group, versions) in super::discovery::all_groups(table) {
        for version in versions {
            let path = root(&group, &version);
            if let Some(document) = document(cache, table, &path, texts) {
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

fn info() -> Value {
    json!({"title": "Yunfan", "version": env!("CARGO_PKG_VERSION")})
}

/// How clients say who they are.
fn security() -> (Value, Value) {
    let bearer = json!({
        "BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
        },
    });
    (json!([{"BearerToken": []}]), bearer)
}

fn group_version(table: &Table, group: &str, version: &str, texts: &Descriptions) -> Value {
    let mut schemas = Schemas::new(Version::V3, texts);
    let mut paths = Paths { version: Version::V3, schemas: &mut schemas, paths: Map::new() };
    add_version(&mut paths, table, group, version);
    let (security, schemes) = security();
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths.paths,
        "components": {"schemas": schemas.take(), "securitySchemes": schemes},
        "security": security,
    })
}

fn all(table: &Table, texts: &Descriptions) -> Value {
    let mut schemas = Schemas::new(Version::V2, texts);
    let mut paths = Paths { version: Version::V2, schemas: &mut schemas, paths: Map::new() };
    for (group, versions) in super::discovery::all_groups(table) {
        for version in versions {
            add_version(&mut paths, table, &group, &version);
        }
    }
    let (security, definitions) = security();
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths.paths,
        "definitions": schemas.take(),
        "parameters": parameters::definitions(),
        "security": security,
        "securityDefinitions": definitions,
    })
}

fn add_version(paths: &mut Paths<'_, '_>, table: &Table, group: &str, version: &str) {
    paths.schemas.add_meta("Patch");
    for kind in table.of_version(group, version).into_iter().flat_map(|kinds| kinds.values()) {
        let schema = paths.schemas.add_kind(kind);
        paths.add_kind(&kind.descriptor, &schema);
    }
    if version != review::VERSION {
        return;
    }
    for review in review::KINDS.iter().filter(|review| review.group == group) {
        let kind = GroupVersionKind::new(group, version, review.kind);
        if let Some(schema) = paths.schemas.add_builtin(&kind) {
            paths.add_review(&kind, review.plural, review.namespaced, &schema);
        }
    }
}
