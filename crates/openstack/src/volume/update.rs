//! `PUT /volumes/{id}`: another name, description or metadata.

use std::collections::BTreeMap;

use axum::extract::Path;
use serde::Deserialize;
use yunfan_resources::storage::Volume;

use super::{metadata, volumes};
use crate::auth::Session;
use crate::body::{Json, explicit};
use crate::change::{Changes, replacing};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::microversion::Microversion;
use crate::versions::ok;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    volume: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default, alias = "display_name", deserialize_with = "explicit")]
    name: Option<Option<String>>,
    #[serde(default, alias = "display_description", deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// Refuses a description that Cinder would refuse.
pub(super) fn check_description(given: Option<&str>) -> Result<(), Fault> {
    if given.is_some_and(|text| text.chars().count() > 255) {
        return Err(Fault::bad(
            "Invalid input for field/attribute description. It has at most 255 characters.",
        ));
    }
    Ok(())
}

/// Changes a volume's spec as the caller.
pub(super) async fn apply(session: &Session, volume: &Volume, changes: Changes) -> Result<Volume, Fault> {
    changes.apply(&session.within(ids::namespace(volume)), volume).await
}

/// `PUT /volumes/{id}`
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    let (volume, _) = volumes::find(&session, &id).await?;
    let fields = body.volume;
    if let Some(name) = &fields.name {
        ids::check_name("name", name.as_deref().unwrap_or_default(), true)?;
    }
    check_description(fields.description.as_ref().and_then(Option::as_deref))?;
    if let Some(pairs) = &fields.metadata {
        metadata::check(pairs)?;
    }
    let changes = Changes::default()
        .set("displayName", fields.name.map(|name| name.filter(|name| !name.is_empty())))
        .set("description", fields.description)
        .set("metadata", fields.metadata.map(|pairs| replacing(&volume.spec.metadata, &pairs)));
    let volume = apply(&session, &volume, changes).await?;
    Ok(ok(&volumes::written(&session, version, &volume).await?))
}
