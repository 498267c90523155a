//! What is served: `/version`, `/api`, `/apis` and what is below them without a resource; legacy and aggregated.

use std::borrow::Cow;
use std::cmp::Reverse;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HOST;
use http::{HeaderMap, Response};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use yunfan_objects::subresource::{Speaks, Subresource};
use yunfan_objects::{ApiError, Descriptor};

use super::negotiate::{self, Encoding, Shape};
use super::params::Params;
use super::{health, openapi, respond, review};
use crate::Api;
use crate::aggregation::{Group, Merged, priorities};
use crate::kinds::{Kind, Table};

/// The version of Kubernetes whose API this is.
const MAJOR: &str = "1";
const MINOR: &str = "37";

/// `GET /version`: JSON, whatever the client likes. It is no object, and has no other form.
pub(crate) fn version() -> Response<Body> {
    let body = json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR,
        "minCompatibilityMinor": MINOR,
        "gitVersion": git_version(),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": PLATFORM,
    });
    respond::value(200, Encoding::PrettyJson, &body)
}

/// What this program was built for.
const PLATFORM: &str = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };

fn git_version() -> String {
    format!("v{MAJOR}.{MINOR}.0+yunfan.{}", env!("CARGO_PKG_VERSION"))
}

/// The same as labels of a metric.
pub(crate) fn build_labels() -> [(&'static str, String); 9] {
    let (git_version, platform) = (git_version(), PLATFORM.to_owned());
    [
        ("build_date", "1970-01-01T00:00:00Z".to_owned()),
        ("compiler", "rustc".to_owned()),
        ("git_commit", String::new()),
        ("git_tree_state", "clean".to_owned()),
        ("git_version", git_version),
        ("go_version", String::new()),
        ("major", MAJOR.to_owned()),
        ("minor", MINOR.to_owned()),
        ("platform", platform),
    ]
}

/// `/`, `/api`, `/api/VERSION`, `/apis`, `/apis/GROUP`, `/apis/GROUP/VERSION`.
pub(crate) async fn handle(
    api: &Api,
    parts: &[&str],
    headers: &HeaderMap,
    params: &Params,
) -> Result<Response<Body>, ApiError> {
    let table = api.0.registry.kinds.table();
    let merged = api.0.aggregation.merged(&table);
    if parts.is_empty() {
        // No object either.
        return Ok(respond::value(200, Encoding::PrettyJson, &paths(&merged)));
    }
    let format = negotiate::format(headers, params.flag("pretty"), true, false)?;
    if let (Shape::Discovery, ["api" | "apis"]) = (format.shape, parts) {
        let core = parts[0] == "api";
        let name = format!("/discovery/{}", parts[0]);
        let is_wanted = |name: &str| openapi::is_wanted(&table, name);
        let (kinds, all) = (table.clone(), merged.clone());
        let make = move || aggregated(&kinds, &all, core).to_string();
        let list = api.0.documents.get(&name, merged.stamp, is_wanted, make).await?;
        // Clients tell by this whether they got what they asked for.
        const FORM: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        return list.answer(FORM, headers).await;
    }
    let body = match parts {
        ["api"] => {
            let mut all = json!({
                "kind": "APIVersions", "versions": versions(&table, ""),
                "serverAddressByClientCIDRs": addresses(headers),
            });
            if format.encoding == Encoding::Protobuf {
                // In JSON it has none, but an envelope without one is none.
                all["apiVersion"] = json!("v1");
            }
            all
        }
        ["apis"] => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(&merged)}),
        ["api", version] => return resource_list(&table, "", version, format.encoding),
        ["apis", group] => {
            let found = groups(&merged).into_iter().find(|found| found["name"] == *group);
            let mut found = found.ok_or_else(ApiError::no_such_path)?;
            found["kind"] = json!("APIGroup");
            found["apiVersion"] = json!("v1");
            found
        }
        ["apis", group, version] => return resource_list(&table, group, version, format.encoding),
        _ => return Err(ApiError::no_such_path()),
    };
    Ok(respond::value(200, format.encoding, &body))
}

/// Where clients reach this server: at the address that this one used.
fn addresses(headers: &HeaderMap) -> Vec<Value> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.map(|host| json!({"clientCIDR": "0.0.0.0/0", "serverAddress": host})).into_iter().collect()
}

/// All groups that are served here with their versions, those of kinds that are not stored included.
pub(crate) fn all_groups(table: &Table) -> Vec<(String, Vec<String>)> {
    let mut all = table.groups().to_vec();
    for virtual_kind in review::KINDS {
        if !all.iter().any(|(group, _)| group == virtual_kind.group) {
            all.push((virtual_kind.group.to_owned(), vec![review::VERSION.to_owned()]));
        }
    }
    // Where a short name stands for two kinds, clients take the one that comes first.
    all.sort_by_cached_key(|(group, versions)| {
        let first = versions.first().map_or("", String::as_str);
        (Reverse(priorities::local(group, first, true).group), group.clone())
    });
    all
}

/// Whether a path is below one of Kubernetes' own groups, which answer for every path of theirs. Custom groups do
/// so for their kinds alone.
pub(super) fn is_known(api: &Api, path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some("api"), _) => true,
        (Some("apis"), Some(group)) => {
            let table = api.0.registry.kinds.table();
            let mut stored = table.resources().iter().filter(|resource| resource.definition.is_none());
            stored.any(|resource| resource.versions.iter().any(|version| version.group == group))
                || review::KINDS.iter().any(|kind| kind.group == group)
        }
        _ => false,
    }
}

/// Whether a version of a group is served here.
pub(super) fn serves(api: &Api, group: &str, version: &str) -> bool {
    let table = api.0.registry.kinds.table();
    table.of_version(group, version).is_some()
        || (version == review::VERSION && review::KINDS.iter().any(|kind| kind.group == group))
}

fn versions(table: &Table, group: &str) -> Vec<String> {
    let found = table.groups().iter().find(|(name, _)| name == group);
    found.map(|(_, versions)| versions.clone()).unwrap_or_default()
}

fn groups(merged: &Merged) -> Vec<Value> {
    let named = merged.groups.iter().filter(|group| !group.name.is_empty());
    named
        .map(|group| {
            let name = &group.name;
            let version =
                |version: &str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
            let versions: Vec<Value> = group.versions.iter().map(|one| version(&one.name)).collect();
            json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
        })
        .collect()
}

fn paths(merged: &Merged) -> Value {
    let fixed = [
        "/.well-known/openid-configuration",
        "/api",
        "/apis",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/version",
    ];
    let mut paths: Vec<String> = fixed.map(str::to_owned).to_vec();
    for endpoint in ["healthz", "livez", "readyz"] {
        paths.push(format!("/{endpoint}"));
        paths.extend(health::checks(endpoint).map(|check| format!("/{endpoint}/{}", check.name)));
    }
    for Group { name: group, versions } in &merged.groups {
        let versions = || versions.iter().map(|version| &version.name);
        if group.is_empty() {
            paths.extend(versions().map(|version| format!("/api/{version}")));
        } else {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions().map(|version| format!("/apis/{group}/{version}")));
            paths.extend(versions().map(|version| format!("/openapi/v3/apis/{group}/{version}")));
        }
    }
    paths.sort();
    json!({"paths": paths})
}

/// Whether there is anything of the kind in the store: what nobody can make is found out when it is asked for.
fn is_stored(kind: &Kind) -> bool {
    kind.descriptor.verbs.iter().any(|verb| verb == "create")
}

/// Changes when objects are stored in another version: a client that moves them to the new one looks at it.
fn storage_version_hash(kind: &Kind) -> String {
    let storage = &kind.resource.storage_api_version;
    let version = if storage.contains('/') { storage.clone() } else { format!("/{storage}") };
    let digest = Sha256::digest(format!("{version}/{}", kind.descriptor.kind));
    STANDARD.encode(&digest[..8])
}

/// `APIResourceList`. Its fields stand in the order of Kubernetes' own: there are those who look at the text.
#[derive(Serialize)]
struct ResourceList<'a> {
    kind: &'static str,
    /// Left out by the oldest group, in all but envelopes.
    #[serde(rename = "apiVersion", skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    #[serde(rename = "groupVersion")]
    group_version: String,
    resources: Vec<Resource<'a>>,
}

/// `APIResource`.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Resource<'a> {
    name: String,
    singular_name: String,
    namespaced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    kind: Cow<'a, str>,
    verbs: Vec<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    short_names: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    categories: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_version_hash: Option<String>,
}

fn resource_list(
    table: &Table,
    group: &str,
    version: &str,
    encoding: Encoding,
) -> Result<Response<Body>, ApiError> {
    let mut resources = Vec::new();
    let mut builtin = true;
    for kind in table.of_version(group, version).into_iter().flat_map(|kinds| kinds.values()) {
        let descriptor = &kind.descriptor;
        builtin &= descriptor.builtin;
        resources.push(Resource {
            name: descriptor.plural.clone(),
            singular_name: descriptor.singular.clone(),
            namespaced: descriptor.namespaced,
            group: None,
            version: None,
            kind: Cow::from(&descriptor.kind),
            verbs: descriptor.verbs.iter().map(String::as_str).collect(),
            short_names: &descriptor.short_names,
            categories: &descriptor.categories,
            storage_version_hash: is_stored(kind).then(|| storage_version_hash(kind)),
        });
        resources.extend(subresources(descriptor).into_iter().map(|sub| below(descriptor, sub)));
    }
    if version == review::VERSION {
        let virtual_kinds = review::KINDS.iter().filter(|kind| kind.group == group);
        resources.extend(virtual_kinds.map(|kind| Resource {
            name: kind.plural.to_owned(),
            singular_name: kind.kind.to_lowercase(),
            namespaced: kind.namespaced,
            kind: Cow::from(kind.kind),
            verbs: vec!["create"],
            ..Resource::default()
        }));
    }
    if resources.is_empty() {
        return Err(ApiError::no_such_path());
    }
    // Custom kinds come as they are defined.
    if builtin {
        resources.sort_by(|one, other| one.name.cmp(&other.name));
    }
    let list = ResourceList {
        kind: "APIResourceList",
        api_version: (!group.is_empty() || encoding == Encoding::Protobuf).then_some("v1"),
        group_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
        resources,
    };
    let made = match encoding {
        Encoding::Json => serde_json::to_vec(&list),
        Encoding::PrettyJson => serde_json::to_vec_pretty(&list),
        _ => return Ok(respond::value(200, encoding, &json!(list))),
    };
    let text = made.map_err(|why| ApiError::internal(why.to_string()))?;
    Ok(respond::raw(200, encoding.media_type(), text))
}

/// The subresources of a kind by name, as clients are used to see them; of a custom one as they stand in the table.
fn subresources(descriptor: &Descriptor) -> Vec<&'static Subresource> {
    let mut all: Vec<_> = descriptor.all_subresources().collect();
    if descriptor.builtin {
        all.sort_unstable_by_key(|sub| sub.name);
    }
    all
}

/// A subresource as an entry of its own.
fn below<'a>(descriptor: &'a Descriptor, sub: &'static Subresource) -> Resource<'a> {
    let speaks = sub.spoken(descriptor);
    // Left out where it is the list's own.
    let foreign = matches!(sub.speaks, Speaks::Other(Some(_), ..));
    Resource {
        name: format!("{}/{}", descriptor.plural, sub.name),
        namespaced: descriptor.namespaced,
        kind: Cow::from(speaks.kind),
        group: foreign.then_some(speaks.group),
        version: foreign.then_some(speaks.version),
        verbs: sub.verbs.to_vec(),
        ..Resource::default()
    }
}

fn some(words: &[String]) -> Option<&[String]> {
    (!words.is_empty()).then_some(words)
}

fn drop_nulls(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
}

/// `APIGroupDiscoveryList`: all groups with all their resources in one answer.
fn aggregated(table: &Table, merged: &Merged, core: bool) -> Value {
    let groups = merged.groups.iter().filter(|group| group.name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|group| {
            let versions = group.versions.iter().map(|version| {
                let own = || aggregated_resources(table, &group.name, &version.name);
                let known = version.remote.as_deref();
                let freshness = if known.is_some_and(|known| known.stale) { "Stale" } else { "Current" };
                let resources = known.map_or_else(own, |known| known.resources.clone());
                json!({"version": version.name, "freshness": freshness, "resources": resources})
            });
            // The oldest group has no name.
            let metadata = if core { json!({}) } else { json!({"name": group.name}) };
            json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    })
}

fn aggregated_resources(table: &Table, group: &str, version: &str) -> Vec<Value> {
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let mut resources: Vec<Value> = Vec::new();
    let mut builtin = true;
    for kind in table.of_version(group, version).into_iter().flat_map(|kinds| kinds.values()) {
        let descriptor = &kind.descriptor;
        builtin &= descriptor.builtin;
        // Kubernetes' own kinds leave out the group and the version that they are listed under.
        let spoken =
            |(of, at): (&str, &str), kind: &str| match descriptor.builtin && (of, at) == (group, version) {
                true => json!({"group": "", "version": "", "kind": kind}),
                false => json!({"group": of, "version": at, "kind": kind}),
            };
        let below: Vec<Value> = subresources(descriptor)
            .into_iter()
            .map(|sub| {
                let speaks = sub.spoken(descriptor);
                let kind = spoken((&speaks.group, &speaks.version), &speaks.kind);
                json!({"subresource": sub.name, "responseKind": kind, "verbs": sub.verbs})
            })
            .collect();
        let mut resource = json!({
            "resource": descriptor.plural,
            "responseKind": spoken((group, version), &descriptor.kind),
            "scope": scope(descriptor.namespaced),
            "singularResource": descriptor.singular,
            "verbs": descriptor.verbs,
            "shortNames": some(&descriptor.short_names),
            "categories": some(&descriptor.categories),
            "subresources": (!below.is_empty()).then_some(below),
        });
        drop_nulls(&mut resource);
        resources.push(resource);
    }
    if version == review::VERSION {
        resources.extend(review::KINDS.iter().filter(|kind| kind.group == group).map(|kind| {
            json!({
                "resource": kind.plural, "scope": scope(kind.namespaced), "singularResource": kind.kind.to_lowercase(),
                "responseKind": {"group": "", "version": "", "kind": kind.kind}, "verbs": ["create"],
            })
        }));
    }
    // Custom kinds come as they are defined.
    if builtin {
        resources.sort_by(|one, other| one["resource"].as_str().cmp(&other["resource"].as_str()));
    }
    resources
}
