//! `/policies`: texts that services outside may keep here and fetch (Identity API v3, "Policies"). As in Keystone nothing is decided by
//! them; what is allowed in this cloud is RBAC's. Each is a ConfigMap in the cloud's own namespace, which administrators may write.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::names;

use super::collection;
use super::named::{extra, show_extra};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

/// Label of the ConfigMaps, and what their names begin with.
const LABEL: &str = "iam.yunfan.io/keystone-policy";
const PREFIX: &str = "keystone-policy-";
/// What the keys of clients' own attributes begin with.
const OWN: &str = "extra-";
/// Characters of a type, bytes of a text, and how many policies there may be.
const MAX_TYPE: usize = 255;
const MAX_BLOB: usize = 64 * 1024;
const MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    policy: Fields,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    blob: Option<Value>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Fields {
    /// The data that they are kept as; what is not given stays out.
    fn data(&self) -> Result<BTreeMap<String, String>, Fault> {
        let mut data = BTreeMap::new();
        if let Some(kind) = &self.kind {
            if kind.is_empty() || kind.chars().count() > MAX_TYPE {
                return Err(Fault::bad(format!(
                    "Invalid input for field/attribute type. It must have 1 to {MAX_TYPE} characters."
                )));
            }
            data.insert("type".to_owned(), kind.clone());
        }
        if let Some(blob) = &self.blob {
            // Text or any JSON: it is given back as it came.
            let text = blob.to_string();
            if text.len() > MAX_BLOB {
                return Err(Fault::bad(format!(
                    "Invalid input for field/attribute blob. It may have {MAX_BLOB} bytes."
                )));
            }
            data.insert("blob".to_owned(), text);
        }
        // Each of a client's own attributes by itself, so that one can be changed alone.
        for (name, text) in extra(&self.extra)? {
            data.insert(format!("{OWN}{}", ids::stable(&name)), json!([name, text]).to_string());
        }
        Ok(data)
    }
}

fn policies(session: &Session) -> Api<ConfigMap> {
    session.within(names::SYSTEM_NAMESPACE)
}

fn id(policy: &ConfigMap) -> &str {
    ids::name(policy).trim_start_matches(PREFIX)
}

fn view(session: &Session, policy: &ConfigMap) -> Value {
    let of = |key: &str| policy.data.as_ref().and_then(|data| data.get(key));
    let blob: Value = of("blob").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let link = format!("{}/identity/v3/policies/{}", session.door.endpoint, id(policy));
    let mut view = json!({"id": id(policy), "type": of("type"), "blob": blob, "links": {"self": link}});
    let own = policy.data.iter().flatten().filter(|(key, _)| key.starts_with(OWN));
    let own = own.filter_map(|(_, pair)| serde_json::from_str::<(String, String)>(pair).ok());
    show_extra(&mut view, &own.filter(|(_, text)| text != "null").collect());
    view
}

async fn all(session: &Session) -> Result<Vec<ConfigMap>, Fault> {
    Ok(policies(session).list(&ListParams::default().labels(LABEL)).await?.items)
}

async fn find(session: &Session, wanted: &str) -> Result<ConfigMap, Fault> {
    let missing = || Fault::new(StatusCode::NOT_FOUND, format!("Could not find policy: {wanted}."));
    all(session).await?.into_iter().find(|policy| id(policy) == wanted).ok_or_else(missing)
}

/// `GET /policies`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let mut views: Vec<Value> = all(&session).await?.iter().map(|policy| view(&session, policy)).collect();
    views.retain(|policy| super::text_matches(&params, "type", policy["type"].as_str().unwrap_or_default()));
    Ok(collection(&session, "policies", "policies", views))
}

/// `GET /policies/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"policy": view(&session, &find(&session, &id).await?)})))
}

/// `POST /policies`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.policy;
    for (name, there) in [("blob", fields.blob.is_some()), ("type", fields.kind.is_some())] {
        if !there {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute policy. '{name}' is a required property"
            )));
        }
    }
    let data = fields.data()?;
    if all(&session).await?.len() >= MAX {
        return Err(Fault::forbidden(format!("There may be {MAX} policies.")));
    }
    let mut policy = ConfigMap { data: Some(data), ..ConfigMap::default() };
    policy.metadata.name = Some(format!("{PREFIX}{}", ids::plain()));
    policy.metadata.labels = Some([(LABEL.to_owned(), "true".to_owned())].into());
    let made = policies(&session).create(&PostParams::default(), &policy).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"policy": view(&session, &made)})))
}

/// `PATCH /policies/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let policy = find(&session, &id).await?;
    let patch = Patch::Merge(json!({"data": body.policy.data()?}));
    let policy = policies(&session).patch(ids::name(&policy), &PatchParams::default(), &patch).await?;
    Ok(ok(&json!({"policy": view(&session, &policy)})))
}

/// `DELETE /policies/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let policy = find(&session, &id).await?;
    policies(&session).delete(ids::name(&policy), &DeleteParams::default()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_types_are_limited() {
        let of = |blob: Value, kind: &str| {
            Fields { blob: Some(blob), kind: Some(kind.to_owned()), extra: Map::new() }.data()
        };
        let data = of(json!({"a": 1}), "application/json").unwrap();
        assert_eq!((data["blob"].as_str(), data["type"].as_str()), (r#"{"a":1}"#, "application/json"));
        assert!(of(json!("x"), "").is_err());
        assert!(of(json!("x".repeat(MAX_BLOB)), "t").is_err());
    }
}
