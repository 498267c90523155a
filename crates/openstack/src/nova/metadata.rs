//! A server's free key-value pairs.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::compute::VirtualMachine;

use super::record::unlocked;
use super::servers::find;
use crate::auth::Session;
use crate::body::{Json, Pair, Pairs};
use crate::change::replacing;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

/// How many pairs a server may have.
pub(super) const MAX_PAIRS: usize = 128;
const MAX_LENGTH: usize = 255;

/// Refuses what Nova would refuse.
pub(super) fn check(pairs: &BTreeMap<String, String>) -> Result<(), Fault> {
    if pairs.len() > MAX_PAIRS {
        return Err(Fault::forbidden(format!(
            "Quota exceeded for metadata_items: a server has at most {MAX_PAIRS}."
        )));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_:. ".contains(c);
    for (key, value) in pairs {
        if key.is_empty()
            || key.len() > MAX_LENGTH
            || !key.chars().all(allowed)
            || value.chars().count() > MAX_LENGTH
        {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute metadata. {key:?}: keys have 1 to {MAX_LENGTH} letters, digits and -_:. and \
                 values at most {MAX_LENGTH} characters."
            )));
        }
    }
    Ok(())
}

async fn patch(session: &Session, vm: &VirtualMachine, pairs: Value) -> Result<VirtualMachine, Fault> {
    let machines = session.within::<VirtualMachine>(ids::namespace(vm));
    let patch = Patch::Merge(json!({"spec": {"metadata": pairs}}));
    Ok(machines.patch(ids::name(vm), &PatchParams::default(), &patch).await?)
}

/// `GET /servers/{id}/metadata`
pub(super) async fn list(session: Session, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"metadata": find(&session, &id).await?.spec.metadata})))
}

/// `GET /servers/{id}/metadata/{key}`
pub(super) async fn show(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    let vm = find(&session, &id).await?;
    let value = vm.spec.metadata.get(&key);
    let value = value.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, "Metadata item was not found"))?;
    Ok(ok(&json!({"meta": {key: value}})))
}

/// `POST /servers/{id}/metadata`: sets these and keeps the others.
pub(super) async fn merge(session: Session, Path(id): Path<String>, Json(body): Json<Pairs>) -> Answer {
    let vm = find(&session, &id).await?;
    unlocked(&session, &vm)?;
    let mut all = vm.spec.metadata.clone();
    all.extend(body.metadata.clone());
    check(&all)?;
    let vm = patch(&session, &vm, json!(body.metadata)).await?;
    Ok(ok(&json!({"metadata": vm.spec.metadata})))
}

/// `PUT /servers/{id}/metadata`: these and no others.
pub(super) async fn replace(session: Session, Path(id): Path<String>, Json(body): Json<Pairs>) -> Answer {
    check(&body.metadata)?;
    let vm = find(&session, &id).await?;
    unlocked(&session, &vm)?;
    let changes = replacing(&vm.spec.metadata, &body.metadata);
    let vm = patch(&session, &vm, changes).await?;
    Ok(ok(&json!({"metadata": vm.spec.metadata})))
}

/// `PUT /servers/{id}/metadata/{key}`
pub(super) async fn set(
    session: Session,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Pair>,
) -> Answer {
    let value = body.value(&key)?;
    let vm = find(&session, &id).await?;
    unlocked(&session, &vm)?;
    let mut all = vm.spec.metadata.clone();
    all.insert(key.clone(), value.clone());
    check(&all)?;
    patch(&session, &vm, json!({key.clone(): value})).await?;
    Ok(ok(&json!({"meta": {key: value}})))
}

/// `DELETE /servers/{id}/metadata/{key}`
pub(super) async fn delete(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    let vm = find(&session, &id).await?;
    if !vm.spec.metadata.contains_key(&key) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "Metadata item was not found"));
    }
    unlocked(&session, &vm)?;
    patch(&session, &vm, json!({key: null})).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_checked() {
        let check = |key: &str, value: &str| check(&[(key.to_owned(), value.to_owned())].into());
        assert!(check("role", "web server").is_ok());
        assert!(check("", "x").is_err());
        assert!(check("a/b", "x").is_err());
        assert!(check("a", &"x".repeat(256)).is_err());
    }
}
