//! `/openapi/v2`, one document of all that is served, and `/openapi/v3`, one document for each group and version with an index
//! of them. Both are made from the descriptors when they are first asked for, and again when the kinds in them
//! have changed.

mod general;
mod gnostic;
mod parameters;
mod paths;
mod schemas;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, EXPIRES, LOCATION};
use http::{HeaderMap, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use yunfan_objects::builtin::Descriptions;
use yunfan_objects::{ApiError, GroupVersionKind};

use super::document::{Document, blocking, fingerprint, http_time, put};
use super::params::Params;
use super::{negotiate, respond, review};
use crate::Api;
use crate::aggregation::{Group, Merged};
use crate::kinds::Table;
use paths::Paths;
use schemas::{Schemas, Version};

/// How long a client may keep a document whose address says which one it is.
const KEEP: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Names of the documents beside those of the third version, which have their path. No path begins so.
const V2: &str = "/v2";
const V2_PACKED: &str = "/v2.pb";
const INDEX: &str = "/v3";

/// The protobuf form of the second version, in today's spelling and the one that came before it.
const V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

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
    let name = if wanted == "application/json" { V2 } else { V2_PACKED };
    let table = api.0.registry.kinds.table();
    document(api, &table, name).await?.answer(wanted, headers).await
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
    let document = match path.as_str() {
        "" => index(api).await?,
        path => match document(api, &api.0.registry.kinds.table(), path).await {
            // Clients get no word of explanation.
            Err(error) if error == ApiError::no_such_path() => return Ok(respond::nothing(404)),
            found => found?,
        },
    };
    let Some(hash) = params.get("hash").filter(|_| !path.is_empty()) else {
        return document.answer("application/json", headers).await;
    };
    if hash != document.etag {
        // The address is that of another document: this one has its own.
        let mut response = respond::raw(301, "text/plain", Body::empty());
        put(&mut response, LOCATION, &format!("/openapi/v3/{path}?hash={}", document.etag));
        return Ok(response);
    }
    let mut response = document.answer("application/json", headers).await?;
    put(&mut response, CACHE_CONTROL, "public, immutable");
    put(&mut response, EXPIRES, &http_time(Timestamp::now() + KEEP));
    Ok(response)
}

/// The index of the third version's documents.
async fn index(api: &Api) -> Result<Arc<Document>, ApiError> {
    let table = api.0.registry.kinds.table();
    let documents = &api.0.documents;
    let merged = api.0.aggregation.merged(&table);
    if let Some(document) = documents.kept(INDEX, merged.stamp) {
        return Ok(document);
    }
    // Held until all are made, so that they are read once.
    let of = api.clone();
    let _texts = blocking(move || of.0.documents.texts()).await?;
    let mut paths = Map::new();
    for name in general::names(&table) {
        let etag = &document(api, &table, &name).await?.etag;
        let url = format!("/openapi/v3/{name}?hash={etag}");
        paths.insert(name, json!({"serverRelativeURL": url}));
    }
    for Group { name: group, versions } in &merged.groups {
        for version in versions {
            let path = root(group, &version.name);
            let hash = match &version.remote {
                None => document(api, &table, &path).await?.etag.clone(),
                Some(known) => match &known.documents.third {
                    Some(hash) => hash.clone(),
                    None => continue,
                },
            };
            let query = if hash.is_empty() { hash } else { format!("?hash={hash}") };
            let url = format!("/openapi/v3/{path}{query}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    let make = move || json!({"paths": paths}).to_string();
    documents.get(INDEX, merged.stamp, |name| is_wanted(&table, name), make).await
}

/// A document of the second version by its name, or of the third by its path.
async fn document(api: &Api, table: &Arc<Table>, name: &str) -> Result<Arc<Document>, ApiError> {
    let version = served(table, name);
    let general = general::is_served(table, name).then(|| name.to_owned());
    if version.is_none() && general.is_none() && ![V2, V2_PACKED].contains(&name) {
        return Err(ApiError::no_such_path());
    }
    let merged = api.0.aggregation.merged(table);
    let stamp = stamp(table, name).unwrap_or(merged.stamp);
    let (of, kinds, packed) = (api.clone(), table.clone(), name == V2_PACKED);
    let make = move || {
        let texts = of.0.documents.texts();
        match (version, general) {
            (Some((group, version)), _) => {
                let add = |paths: &mut Paths<'_, '_>| add_version(paths, &kinds, &group, &version);
                Bytes::from(one(add, &texts).to_string())
            }
            (None, Some(name)) => one(|paths| paths.add_general(&name), &texts).to_string().into(),
            (None, None) if packed => gnostic::document(&all(&kinds, &merged, &texts)).into(),
            (None, None) => all(&kinds, &merged, &texts).to_string().into(),
        }
    };
    api.0.documents.get(name, stamp, |name| is_wanted(table, name), make).await
}

/// Says from what a document of the third version is made: one of kinds that have no definitions never changes.
fn stamp(table: &Table, name: &str) -> Option<u64> {
    if general::is_served(table, name) {
        return Some(fingerprint(name.as_bytes()));
    }
    let (group, version) = served(table, name)?;
    let definitions = table
        .of_version(&group, &version)
        .into_iter()
        .flat_map(|kinds| kinds.values())
        .filter_map(|kind| kind.resource.definition.as_ref());
    let bytes: Vec<u8> =
        definitions.flat_map(|entry| entry.key.bytes().chain(entry.revision.to_be_bytes())).collect();
    Some(fingerprint(&bytes))
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

/// Whether a document is kept: there is one for each group and version that is served, and those that have names.
pub(super) fn is_wanted(table: &Table, name: &str) -> bool {
    name.starts_with('/') || served(table, name).is_some() || general::is_served(table, name)
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

/// A document of the third version with the paths that `add` adds.
fn one(add: impl FnOnce(&mut Paths<'_, '_>), texts: &Descriptions) -> Value {
    let mut schemas = Schemas::new(Version::V3, texts);
    let mut paths = Paths { version: Version::V3, schemas: &mut schemas, paths: Map::new() };
    add(&mut paths);
    let (security, schemes) = security();
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths.paths,
        "components": {"schemas": schemas.take(), "securitySchemes": schemes},
        "security": security,
    })
}

fn all(table: &Table, merged: &Merged, texts: &Descriptions) -> Value {
    let mut schemas = Schemas::new(Version::V2, texts);
    let mut paths = Paths { version: Version::V2, schemas: &mut schemas, paths: Map::new() };
    general::names(table).iter().for_each(|name| paths.add_general(name));
    for Group { name: group, versions } in &merged.groups {
        for version in versions.iter().filter(|version| version.remote.is_none()) {
            add_version(&mut paths, table, group, &version.name);
        }
    }
    let (security, definitions) = security();
    let mut document = json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths.paths,
        "definitions": schemas.take(),
        "parameters": parameters::definitions(),
        "security": security,
        "securityDefinitions": definitions,
    });
    let known = merged.groups.iter().flat_map(|group| &group.versions);
    for known in known.filter_map(|version| version.remote.as_ref()) {
        if let Some(spec) = &known.documents.second {
            spec.merge_into(&mut document);
        }
    }
    document
}

fn add_version(paths: &mut Paths<'_, '_>, table: &Table, group: &str, version: &str) {
    paths.schemas.add_meta("Patch");
    // Upstream's custom groups have no such path either.
    if general::is_served(table, &format!("apis/{group}")) || group.is_empty() {
        paths.add_resources(group, version);
    }
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
