//! OpenAPI documents of extension servers: which one of the third version a group version has, and its part of the second,
//! which is merged into ours.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::checks::reader;
use super::told::{Question, get};
use super::{Aggregation, Remote};

/// Most characters of the hash that names a document.
const MAX_HASH: usize = 128;
/// Most definitions of one name.
const MAX_NAMES: usize = 1000;
/// What can be referred to, by its place in a document.
const SHARED: [&str; 2] = ["definitions", "parameters"];

/// What is known of the documents of a group version.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Documents {
    /// The hash of the document of the third version, if there is one; it may be empty.
    pub(crate) third: Option<String>,
    pub(crate) second: Option<Arc<Spec>>,
    etag: Option<HeaderValue>,
}

/// The part of a document of the second version that is about one group version: kept as text, since read it may take many
/// times its size.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spec(String);

/// The same, read.
#[derive(Default, Deserialize, Serialize)]
struct Part {
    paths: Map<String, Value>,
    /// Definitions and parameters that the paths need, directly or not, by the member of the document that they are in.
    shared: [Map<String, Value>; 2],
}

/// Asks for the documents; what can't be had stays as it was before.
pub(super) async fn learn(aggregation: &Aggregation, remote: &Remote, before: Documents) -> Documents {
    let question = |path, etag| Question { path, accept: "application/json", etag, user: reader() };
    let (third, second) = tokio::join!(
        get(aggregation, remote, question("/openapi/v3", None)),
        get(aggregation, remote, question("/openapi/v2", before.etag.as_ref())),
    );
    let mut now = before;
    match third {
        Ok(answer) if answer.status == StatusCode::OK => {
            let path = remote.path();
            let find = move |index: &Value| {
                index["paths"][path.trim_start_matches('/')]["serverRelativeURL"].as_str().map(hash)
            };
            now.third = aggregation.read(answer.bytes, find).await.unwrap_or_default();
        }
        Ok(answer) if answer.status == StatusCode::NOT_FOUND => now.third = None,
        Ok(answer) => tracing::debug!(name = remote.name, status = %answer.status, "no index of documents"),
        Err(why) => tracing::debug!(name = remote.name, why, "no index of documents"),
    }
    match second {
        Ok(answer) if answer.status == StatusCode::OK => {
            let path = format!("{}/", remote.path());
            if let Ok(spec) = aggregation.read(answer.bytes, move |document| Spec::of(document, &path)).await
            {
                now.second = Some(Arc::new(spec));
                now.etag = answer.etag;
            }
        }
        Ok(answer) if answer.status == StatusCode::NOT_FOUND => now.second = None,
        Ok(_) => {}
        Err(why) => tracing::debug!(name = remote.name, why, "no document"),
    }
    now
}

/// The hash in a document's address, as far as it has the form of one.
fn hash(url: &str) -> String {
    let hash = url.split_once("?hash=").map(|(_, hash)| hash).unwrap_or_default();
    let is_one = hash.len() <= MAX_HASH && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_one { hash.to_owned() } else { String::new() }
}

impl Spec {
    /// The part below a path.
    fn of(document: &Value, path: &str) -> Self {
        // What was JSON can be written as JSON.
        Self(serde_json::to_string(&Part::of(document, path)).unwrap_or_default())
    }

    /// Adds it to a document. Paths that are there stay; what is shared under the name of something else gets a name of its
    /// own.
    pub(crate) fn merge_into(&self, document: &mut Value) {
        let part: Part = serde_json::from_str(&self.0).unwrap_or_default();
        part.merge_into(document);
    }
}

impl Part {
    fn of(document: &Value, path: &str) -> Self {
        let mut new = Self::default();
        for (name, item) in document["paths"].as_object().into_iter().flatten() {
            if name.starts_with(path) {
                new.paths.insert(name.clone(), item.clone());
            }
        }
        let mut open: Vec<&Value> = new.paths.keys().map(|name| &document["paths"][name]).collect();
        while let Some(value) = open.pop() {
            each_reference(value, &mut |reference| {
                let Some((index, name)) = target(reference) else { return };
                let shared = &document[SHARED[index]][name];
                if !shared.is_null() && !new.shared[index].contains_key(name) {
                    new.shared[index].insert(name.to_owned(), shared.clone());
                    open.push(shared);
                }
            });
        }
        new
    }

    fn merge_into(&self, document: &mut Value) {
        let mut renamed: BTreeMap<String, String> = BTreeMap::new();
        let mut added: Vec<(usize, String, &Value)> = Vec::new();
        for (index, all) in self.shared.iter().enumerate() {
            for (name, value) in all {
                let known = |name: &str| &document[SHARED[index]][name];
                // Another server may have brought this very definition under its second name.
                let mut names =
                    (1..=MAX_NAMES).map(|n| if n == 1 { name.clone() } else { format!("{name}_v{n}") });
                let Some(new) = names.find(|new| known(new).is_null() || known(new) == value) else {
                    continue;
                };
                if new != *name {
                    renamed
                        .insert(format!("#/{}/{name}", SHARED[index]), format!("#/{}/{new}", SHARED[index]));
                }
                if known(&new).is_null() {
                    added.push((index, new, value));
                }
            }
        }
        let put = |document: &mut Value, member: &str, name: &str, value: &Value| {
            let mut value = value.clone();
            rename(&mut value, &renamed);
            if document[member][name].is_null() {
                document[member][name] = value;
            }
        };
        for (index, name, value) in added {
            put(document, SHARED[index], &name, value);
        }
        for (name, item) in &self.paths {
            put(document, "paths", name, item);
        }
    }
}

/// The kind of what a reference leads to (by its place in [`SHARED`]), and its name.
fn target(reference: &str) -> Option<(usize, &str)> {
    SHARED.iter().enumerate().find_map(|(index, member)| {
        let name = reference.strip_prefix("#/")?.strip_prefix(member)?.strip_prefix('/')?;
        Some((index, name))
    })
}

fn each_reference(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found(reference);
            }
            members.values().for_each(|value| each_reference(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| each_reference(value, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(new) = names.get(reference)
            {
                reference.clone_from(new);
            }
            members.values_mut().for_each(|value| rename(value, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| rename(value, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn theirs() -> Value {
        json!({
            "paths": {"/apis/a/v1/things": {"get": {"schema": {"$ref": "#/definitions/Thing"},
                    "parameters": [{"$ref": "#/parameters/pretty"}]}},
                "/apis/a/v10/x": {"get": {"$ref": "#/definitions/Other"}}, "/api/v1/pods": {}},
            "parameters": {"pretty": {"name": "pretty"}},
            "definitions": {"Thing": {"meta": {"$ref": "#/definitions/Meta"}, "self": {"$ref": "#/definitions/Thing"}},
                "Meta": {"new": true}, "Other": {}},
        })
    }

    #[test]
    fn what_a_group_version_needs_is_taken_along() {
        let spec = Part::of(&theirs(), "/apis/a/v1/");
        assert_eq!(spec.paths.keys().collect::<Vec<_>>(), ["/apis/a/v1/things"]);
        assert_eq!(spec.shared[0].keys().collect::<Vec<_>>(), ["Meta", "Thing"]);
        assert_eq!(spec.shared[1].len(), 1);
        for odd in
            [json!(7), json!({"paths": {"/apis/a/v1/x": {"$ref": "#/definitions/None", "a": {"$ref": 7}}}})]
        {
            assert!(Part::of(&odd, "/apis/a/v1/").shared[0].is_empty());
        }
    }

    #[test]
    fn what_is_not_the_same_gets_a_name_of_its_own() {
        let spec = Spec::of(&theirs(), "/apis/a/v1/");
        let ours = json!({"paths": {"/api/v1/pods": {"own": 1}}, "parameters": {"pretty": {"name": "pretty"}},
            "definitions": {"Meta": {"old": true}}});
        let mut document = ours.clone();
        spec.merge_into(&mut document);
        assert_eq!(document["paths"]["/api/v1/pods"], ours["paths"]["/api/v1/pods"]);
        let definitions = &document["definitions"];
        assert_eq!(
            (&definitions["Meta"], &definitions["Meta_v2"]),
            (&json!({"old": true}), &json!({"new": true}))
        );
        assert_eq!(definitions["Thing"]["meta"]["$ref"], "#/definitions/Meta_v2");
        assert_eq!(document["paths"]["/apis/a/v1/things"]["get"]["schema"]["$ref"], "#/definitions/Thing");
        assert_eq!(document["parameters"], ours["parameters"]);
        let once = document.clone();
        spec.merge_into(&mut document);
        assert_eq!(document["paths"], once["paths"], "a path is taken once");
    }

    #[test]
    fn a_hash_is_one_or_none() {
        assert_eq!(hash("/openapi/v3/apis/a/v1?hash=0AF9"), "0AF9");
        for odd in ["", "/x", "/x?hash=../..", &format!("/x?hash={}", "a".repeat(200))] {
            assert_eq!(hash(odd), "", "{odd}");
        }
    }
}
