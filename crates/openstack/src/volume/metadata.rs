//! Free key-value pairs of volumes and snapshots.

use std::collections::BTreeMap;
use std::future::Future;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use yunfan_resources::storage::{Volume, VolumeSnapshot};

use super::{snapshots, volumes};
use crate::auth::Session;
use crate::body::{Json, Pair, Pairs, Params};
use crate::change::{Changes, replacing};
use crate::error::{Answer, Fault};
use crate::ids::{self, Kind};
use crate::versions::ok;

/// What has such pairs.
pub(super) trait Tagged:
    Kind + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope> + Send + Sync + 'static
{
    /// What people call it.
    const WHAT: &'static str;

    /// The one with this id.
    fn find(session: &Session, id: &str) -> impl Future<Output = Result<Self, Fault>> + Send;

    /// Its pairs.
    fn pairs(&self) -> &BTreeMap<String, String>;
}

impl Tagged for Volume {
    const WHAT: &'static str = "Volume";

    async fn find(session: &Session, id: &str) -> Result<Self, Fault> {
        volumes::find(session, id).await.map(|(volume, _)| volume)
    }

    fn pairs(&self) -> &BTreeMap<String, String> {
        &self.spec.metadata
    }
}

impl Tagged for VolumeSnapshot {
    const WHAT: &'static str = "Snapshot";

    async fn find(session: &Session, id: &str) -> Result<Self, Fault> {
        snapshots::find(session, id).await
    }

    fn pairs(&self) -> &BTreeMap<String, String> {
        &self.spec.metadata
    }
}

/// The pairs that a list's filter `metadata={'key': 'value'}` wants, which clients write in JSON's way or in Python's.
pub(super) fn filter(params: &Params) -> Result<BTreeMap<String, String>, Fault> {
    let Some(text) = params.get("metadata").filter(|text| !text.is_empty()) else {
        return Ok(BTreeMap::new());
    };
    let read = |text: &str| serde_json::from_str::<BTreeMap<String, String>>(text);
    let read = read(text).or_else(|_| read(&text.replace("u'", "'").replace('\'', "\"")));
    read.map_err(|_| Fault::bad(format!("Invalid input for query parameter metadata: {text} has no pairs")))
}

/// How many pairs a volume may have.
const MAX_PAIRS: usize = 128;
const MAX_LENGTH: usize = 255;

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

fn missing<T: Tagged>(id: &str, key: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("{} {id} has no metadata with key {key}.", T::WHAT))
}

async fn set_pairs<T: Tagged>(session: &Session, one: &T, pairs: Value) -> Result<T, Fault> {
    let changes = Changes::default().set("metadata", Some(pairs));
    changes.apply(&session.within(ids::namespace(one)), one).await
}

/// `GET /volumes/{id}/metadata`
pub(super) async fn list<T: Tagged>(session: Session, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"metadata": T::find(&session, &id).await?.pairs()})))
}

/// `GET /volumes/{id}/metadata/{key}`
pub(super) async fn show<T: Tagged>(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    let one = T::find(&session, &id).await?;
    let value = one.pairs().get(&key).ok_or_else(|| missing::<T>(&id, &key))?;
    Ok(ok(&json!({"meta": {key: value}})))
}

/// `POST /volumes/{id}/metadata`: sets these and keeps the others.
pub(super) async fn merge<T: Tagged>(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<Pairs>,
) -> Answer {
    let one = T::find(&session, &id).await?;
    let mut all = one.pairs().clone();
    all.extend(body.metadata.clone());
    check(&all)?;
    let one = set_pairs(&session, &one, json!(body.metadata)).await?;
    Ok(ok(&json!({"metadata": one.pairs()})))
}

/// `PUT /volumes/{id}/metadata`: these and no others.
pub(super) async fn replace<T: Tagged>(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<Pairs>,
) -> Answer {
    check(&body.metadata)?;
    let one = T::find(&session, &id).await?;
    let changes = replacing(one.pairs(), &body.metadata);
    let one = set_pairs(&session, &one, json!(changes)).await?;
    Ok(ok(&json!({"metadata": one.pairs()})))
}

/// `PUT /volumes/{id}/metadata/{key}`
pub(super) async fn set<T: Tagged>(
    session: Session,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Pair>,
) -> Answer {
    body.value(&key)?;
    merge::<T>(session, Path(id), Json(Pairs { metadata: body.meta.clone() })).await?;
    Ok(ok(&json!({"meta": body.meta})))
}

/// `DELETE /volumes/{id}/metadata/{key}`
pub(super) async fn delete<T: Tagged>(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    let one = T::find(&session, &id).await?;
    if !one.pairs().contains_key(&key) {
        return Err(missing::<T>(&id, &key));
    }
    set_pairs(&session, &one, json!({key: null})).await?;
    Ok(StatusCode::OK.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_as_clients_write_it() {
        let filter = |text: &str| filter(&Params(vec![("metadata".to_owned(), text.to_owned())]));
        for text in ["{'a': 'b c'}", "{u'a': u'b c'}", r#"{"a": "b c"}"#] {
            assert_eq!(filter(text).unwrap(), [("a".to_owned(), "b c".to_owned())].into(), "{text}");
        }
        assert!(filter("").unwrap().is_empty() && filter("a=b").is_err());
    }
}
