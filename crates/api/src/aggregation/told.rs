//! What an extension server tells of its group version: asked for after each check, kept while the server is away, and
//! believed only as far as it has the form that it should have.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use yunfan_identity::UserInfo;

use super::checks::asker;
use super::spec::Documents;
use super::{Aggregation, Remote, identity};

/// How long a server has for a document, from the question to its last byte.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of a document.
const MAX_BYTES: usize = 4 << 20;
/// Most resources and subresources of a group version, and words of each list of one.
const MAX_RESOURCES: usize = 2000;
const MAX_WORDS: usize = 100;
/// What is accepted: all groups at once, in either version of that.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// What is known of a group version of another server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Known {
    /// Whether this is from before it could not be asked any more.
    pub(crate) stale: bool,
    /// Its resources, as aggregated discovery has them.
    pub(crate) resources: Vec<Value>,
    pub(super) etag: Option<HeaderValue>,
    pub(crate) documents: Documents,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) media: String,
    pub(super) etag: Option<HeaderValue>,
    pub(super) bytes: Bytes,
}

/// What is asked for.
pub(super) struct Question<'a> {
    pub(super) path: &'a str,
    pub(super) accept: &'a str,
    /// Of what is known already.
    pub(super) etag: Option<&'a HeaderValue>,
    pub(super) user: UserInfo,
}

/// Asks for what a server tells of itself; in vain (304) if it still is what has this tag.
pub(super) async fn get(
    aggregation: &Aggregation,
    remote: &Remote,
    question: Question<'_>,
) -> Result<Answer, String> {
    let mut request = Request::get(question.path)
        .header(HOST, remote.server.address.authority())
        .header(ACCEPT, question.accept)
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    if let Some(etag) = question.etag {
        request.headers_mut().insert(IF_NONE_MATCH, etag.clone());
    }
    identity::tell(request.headers_mut(), &question.user).map_err(|error| error.message().to_owned())?;
    let ask = async {
        let (head, body) = remote.server.send(&aggregation.reach, request).await?.into_parts();
        let body = Limited::new(body, MAX_BYTES).collect().await.map_err(|error| error.to_string())?;
        let media = head.headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
        let (media, etag) = (media.to_owned(), head.headers.get(ETAG).cloned());
        Ok(Answer { status: head.status, media, etag, bytes: body.to_bytes() })
    };
    tokio::time::timeout(PATIENCE, ask).await.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
}

/// Asks what a group version has.
pub(super) async fn learn(
    aggregation: &Aggregation,
    remote: &Remote,
    before: Option<&Known>,
) -> Result<Known, String> {
    let etag = before.and_then(|before| before.etag.as_ref());
    let question = Question { path: "/apis", accept: AGGREGATED, etag, user: asker() };
    let answer = get(aggregation, remote, question).await;
    let (group, version) = (remote.group.clone(), remote.version.clone());
    match (answer, before) {
        (Ok(answer), Some(before)) if answer.status == StatusCode::NOT_MODIFIED => {
            return Ok(Known { stale: false, ..before.clone() });
        }
        (Ok(answer), _)
            if answer.status == StatusCode::OK && answer.media.contains("as=APIGroupDiscoveryList") =>
        {
            let find = move |list: &Value| aggregated(list, &group, &version);
            let resources = aggregation.read(answer.bytes, find).await?;
            return Ok(Known { resources, etag: answer.etag, ..Known::default() });
        }
        (Err(why), _) => return Err(why),
        _ => {}
    }
    // It does not know that form.
    let question = Question { path: &remote.path(), accept: "application/json", etag: None, user: asker() };
    let answer = get(aggregation, remote, question).await?;
    if answer.status != StatusCode::OK {
        return Err(format!("the server answered {}", answer.status));
    }
    let resources = aggregation.read(answer.bytes, move |list| legacy(list, &group, &version)).await?;
    Ok(Known { resources, ..Known::default() })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten().take(MAX_RESOURCES)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn words(value: &Value) -> Vec<&str> {
    list(value).filter_map(Value::as_str).take(MAX_WORDS).collect()
}

/// A name that can stand in a path.
fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

fn gvk(value: &Value) -> Value {
    json!({"group": text(&value["group"]), "version": text(&value["version"]), "kind": text(&value["kind"])})
}

/// The resources of a group version in a list of all groups: those of its members that have a meaning.
fn aggregated(all: &Value, group: &str, version: &str) -> Vec<Value> {
    let groups = list(&all["items"]).filter(|item| item["metadata"]["name"] == group);
    let versions = groups.flat_map(|item| list(&item["versions"])).filter(|item| item["version"] == version);
    versions
        .flat_map(|item| list(&item["resources"]))
        .filter(|resource| is_name(text(&resource["resource"])))
        .take(MAX_RESOURCES)
        .map(|resource| {
            let below = list(&resource["subresources"]).filter(|sub| is_name(text(&sub["subresource"])));
            let below = below.take(MAX_WORDS).map(|sub| {
                json!({"subresource": sub["subresource"], "responseKind": gvk(&sub["responseKind"]), "verbs": words(&sub["verbs"])})
            });
            entry(Entry {
                name: text(&resource["resource"]),
                kind: gvk(&resource["responseKind"]),
                namespaced: resource["scope"] == "Namespaced",
                singular: text(&resource["singularResource"]),
                verbs: words(&resource["verbs"]),
                short_names: words(&resource["shortNames"]),
                categories: words(&resource["categories"]),
                below: below.collect(),
            })
        })
        .collect()
}

/// The same, from the list of one group version of old.
fn legacy(all: &Value, group: &str, version: &str) -> Vec<Value> {
    let kind_of = |resource: &Value| {
        let or = |value: &Value, default: &str| {
            value.as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
        };
        json!({"group": or(&resource["group"], group), "version": or(&resource["version"], version), "kind": text(&resource["kind"])})
    };
    let below = |parent: &str| -> Vec<Value> {
        let own = list(&all["resources"]).filter_map(|resource| {
            let (name, sub) = text(&resource["name"]).split_once('/')?;
            (name == parent && is_name(sub)).then(|| {
                json!({"subresource": sub, "responseKind": kind_of(resource), "verbs": words(&resource["verbs"])})
            })
        });
        own.take(MAX_WORDS).collect()
    };
    list(&all["resources"])
        .filter(|resource| is_name(text(&resource["name"])))
        .map(|resource| {
            entry(Entry {
                name: text(&resource["name"]),
                kind: kind_of(resource),
                namespaced: resource["namespaced"] == true,
                singular: text(&resource["singularName"]),
                verbs: words(&resource["verbs"]),
                short_names: words(&resource["shortNames"]),
                categories: words(&resource["categories"]),
                below: below(text(&resource["name"])),
            })
        })
        .collect()
}

/// A resource.
struct Entry<'a> {
    name: &'a str,
    kind: Value,
    namespaced: bool,
    singular: &'a str,
    verbs: Vec<&'a str>,
    short_names: Vec<&'a str>,
    categories: Vec<&'a str>,
    below: Vec<Value>,
}

fn entry(of: Entry<'_>) -> Value {
    let mut value = json!({
        "resource": of.name, "responseKind": of.kind, "scope": if of.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": of.singular, "verbs": of.verbs,
    });
    let more = [
        ("shortNames", json!(of.short_names)),
        ("categories", json!(of.categories)),
        ("subresources", json!(of.below)),
    ];
    for (key, list) in more.into_iter().filter(|(_, list)| list != &json!([])) {
        value[key] = list;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_form_says_the_same_as_the_new_one() {
        let old = json!({"resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"], "shortNames": ["th"]},
            {"name": "things/scale", "group": "autoscaling", "version": "v1", "kind": "Scale", "namespaced": true, "verbs": ["update"]},
        ]});
        let resource = json!({
            "resource": "things", "singularResource": "thing", "scope": "Namespaced", "verbs": ["get"], "shortNames": ["th"],
            "responseKind": {"group": "a", "version": "v1", "kind": "Thing"},
            "subresources": [{"subresource": "scale", "verbs": ["update"],
                "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}],
        });
        assert_eq!(legacy(&old, "a", "v1"), std::slice::from_ref(&resource));
        let new = json!({"items": [
            {"metadata": {"name": "b"}, "versions": [{"version": "v1", "resources": [{"resource": "others"}]}]},
            {"metadata": {"name": "a"}, "versions": [{"version": "v2"}, {"version": "v1", "resources": [resource]}]},
        ]});
        assert_eq!(aggregated(&new, "a", "v1"), [resource]);
    }

    #[test]
    fn lies_are_left_out() {
        for lie in [
            json!(null),
            json!({"items": "x", "resources": 7}),
            json!({"items": [{"metadata": {"name": "a"}, "versions": [{"version": "v1", "resources": [
                {"resource": "../x"}, {"resource": 7}, "things", {}]}]}],
                "resources": [{"name": ""}, {"name": "a b"}, 7, {"name": "x".repeat(300)}, {"name": "a/b"}]}),
        ] {
            assert!(aggregated(&lie, "a", "v1").is_empty() && legacy(&lie, "a", "v1").is_empty(), "{lie}");
        }
        let many: Vec<Value> =
            (0..MAX_RESOURCES * 2).map(|n| json!({"name": format!("n{n}"), "verbs": [1, "get"]})).collect();
        let found = legacy(&json!({"resources": many}), "a", "v1");
        assert_eq!((found.len(), &found[0]["verbs"]), (MAX_RESOURCES, &json!(["get"])));
        assert_eq!(found[0]["responseKind"], json!({"group": "a", "version": "v1", "kind": ""}));
    }
}
