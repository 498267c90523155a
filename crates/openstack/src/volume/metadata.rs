//! A volume's free key-value pairs.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::storage::Volume;

use super::update::apply;
use super::volumes::find;
use crate::auth::Session;
use crate::body::Json;
use crate::change::{Changes, replacing};
use crate::error::{Answer, Fault};
use crate::versions::ok;

/// How many pairs a volume may have.
const MAX_PAIRS: usize = 128;
const MAX_LENGTH: usize = 255;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct One {
    meta: BTreeMap<String, String>,
}

/// Refuses what Cinder would refuse.
pub(super) fn check(pairs: &BTreeMap<String, String>) -> Result<(), Fault> {
    if pairs.len() > MAX_PAIRS {
        return Err(Fault::bad(format!("Invalid volume metadata: a volume has at most {MAX_PAIRS} items.")));
    }
    for (key, value) in pairs {
        if key.is_empty() || key.chars().count() > MAX_LENGTH || value.chars().count() > MAX_LENGTH {
            return Err(Fault::bad(format!(
                "Invalid volume metadata: {key:?}: keys have 1 to {MAX_LENGTH} characters and values at most as many."
            )));
        }
    }
    Ok(())
}

fn missing(id: &str, key: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Volume {id} has no metadata with key {key}."))
}

async fn set_pairs(session: &Session, volume: &Volume, pairs: Value) -> Result<Volume, Fault> {
    apply(session, volume, Changes::default().set("metadata", Some(pairs))).await
}

/// `GET /volumes/{id}/metadata`
pub(super) async fn list(session: Session, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"metadata": find(&session, &id).await?.0.spec.metadata})))
}

/// `GET /volumes/{id}/metadata/{key}`
pub(super) async fn show(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    let (volume, _) = find(&session, &id).await?;
    let value = volume.spec.metadata.get(&key).ok_or_else(|| missing(&id, &key))?;
    Ok(ok(&json!({"meta": {key: value}})))
}

/// `POST /volumes/{id}/metadata`: sets these and keeps the others.
pub(super) async fn merge(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let (volume, _) = find(&session, &id).await?;
    let mut all = volume.spec.metadata.clone();
    all.extend(body.metadata.clone());
    check(&all)?;
    let volume = set_pairs(&session, &volume, json!(body.metadata)).await?;
    Ok(ok(&json!({"metadata": volume.spec.metadata})))
}

/// `PUT /volumes/{id}/metadata`: these and no others.
pub(super) async fn replace(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    check(&body.metadata)?;
    let (volume, _) = find(&session, &id).await?;
    let changes = replacing(&volume.spec.metadata, &body.metadata);
    let volume = set_pairs(&session, &volume, json!(changes)).await?;
    Ok(ok(&json!({"metadata": volume.spec.metadata})))
}

/// `PUT /volumes/{id}/metadata/{key}`
pub(super) async fn set(
    session: Session,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<One>,
) -> Answer {
    if body.meta.len() != 1 || !body.meta.contains_key(&key) {
        return Err(Fault::bad("The body must have exactly the item that the path names."));
    }
    merge(session, Path(id), Json(Body { metadata: body.meta.clone() })).await?;
    Ok(ok(&json!({"meta": body.meta})))
}

/// `DELETE /volumes/{id}/metadata/{key}`
pub(super) async fn delete(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    let (volume, _) = find(&session, &id).await?;
    if !volume.spec.metadata.contains_key(&key) {
        return Err(missing(&id, &key));
    }
    set_pairs(&session, &volume, json!({key: null})).await?;
    Ok(StatusCode::OK.into_response())
}
