//! `POST /volumes/{id}/action`.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use yunfan_resources::storage::Volume;

use super::update::apply;
use super::view::{Machines, status_of};
use super::volumes::{find, remove, size};
use super::{image, marks, outside, snapshots, types};
use crate::auth::Session;
use crate::body::{Json, parse_value};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::microversion::Microversion;

/// Actions of Cinder that this cloud does not serve; any other word is no action at all. (Nova's own steps of an attachment are
/// among them: here a server's wish is one object.)
const UNSERVED: [&str; 9] = [
    "os-begin_detaching",
    "os-extend_volume_completion",
    "os-initialize_connection",
    "os-migrate_volume",
    "os-migrate_volume_completion",
    "os-reimage",
    "os-roll_detaching",
    "os-terminate_connection",
    "os-unmanage",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extend {
    new_size: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadOnly {
    readonly: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bootable {
    bootable: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retype {
    new_type: String,
    #[serde(default)]
    migration_policy: Option<String>,
}

/// Gives a volume another type. There is one driver, so no data has to move for it, whatever the policy says.
async fn retype(session: &Session, machines: &Machines, volume: &Volume, wanted: Retype) -> Answer {
    if !matches!(wanted.migration_policy.as_deref(), None | Some("never" | "on-demand")) {
        return Err(Fault::bad(
            "Invalid input for field/attribute migration_policy. It is never or on-demand.",
        ));
    }
    let status = status_of(machines, volume, Timestamp::now());
    if !matches!(status, "available" | "in-use") {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume status must be available or in-use to be retyped; it is {status}."
        )));
    }
    let kind = types::find(session, &wanted.new_type).await?;
    if volume.spec.volume_type.as_deref() == Some(ids::name(&kind)) {
        return Err(Fault::bad("Invalid input received: New volume type is the same as the old one."));
    }
    apply(session, volume, Changes::default().set("type", Some(ids::name(&kind)))).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `POST /volumes/{id}/action`
pub(super) async fn act(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    let (action, argument) = crate::body::action(body)?;
    let (volume, machines) = find(&session, &id).await?;
    match action.as_str() {
        "os-extend" => {
            let new = size("new_size", &parse_value::<Extend>(argument)?.new_size)?;
            let status = status_of(&machines, &volume, Timestamp::now());
            // A volume in use can be extended since 3.42.
            let may = status == "available" || (status == "in-use" && version >= Microversion(42));
            if !may {
                return Err(Fault::bad(format!(
                    "Invalid volume: Volume {id} status must be 'available' to extend, or 'in-use' since 3.42; it is \
                     '{status}'."
                )));
            }
            if new <= volume.spec.size_gib {
                return Err(Fault::bad(format!(
                    "Invalid input received: New size for extend must be greater than current size. (current: {}, \
                     extended: {new}).",
                    volume.spec.size_gib
                )));
            }
            apply(&session, &volume, Changes::default().set("sizeGib", Some(new))).await?;
            if let Some(uid) = machines.wish(&volume) {
                // As Cinder tells Nova, so that it is among the server's actions. Who may not write that down has a larger volume all the same.
                let noted = crate::nova::note(&session, ids::namespace(&volume), uid, "extend_volume").await;
                if let Err(fault) = noted {
                    tracing::info!(%fault, volume = id, "the extension is not among the server's actions");
                }
            }
            Ok(StatusCode::ACCEPTED.into_response())
        }
        "os-set_bootable" => {
            let bootable = parse_value::<Bootable>(argument)?.bootable;
            apply(&session, &volume, Changes::default().set("bootable", Some(bootable))).await?;
            Ok(StatusCode::OK.into_response())
        }
        "os-volume_upload_image" => {
            image::upload(&session, version, &volume, &machines, parse_value(argument)?).await
        }
        "os-set_image_metadata" => {
            image::set_metadata(&session, version, &volume, parse_value(argument)?).await
        }
        "os-unset_image_metadata" => {
            image::unset_metadata(&session, version, &volume, parse_value(argument)?).await
        }
        "os-show_image_metadata" => image::metadata(&session, version, &volume).await,
        "os-force_delete" => {
            if !session.is_admin() {
                return Err(Fault::forbidden("Policy doesn't allow os-force_delete to be performed."));
            }
            for snapshot in snapshots::of(&session, &volume).await? {
                snapshots::remove(&session, &snapshot).await?;
            }
            remove(&session, &volume).await?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
        "os-reset_status" => marks::reset_volume(&session, &machines, &volume, parse_value(argument)?).await,
        "os-attach" => outside::attach(&session, &machines, &volume, parse_value(argument)?).await,
        "os-detach" | "os-force_detach" => {
            let force = action == "os-force_detach";
            outside::detach(&session, &machines, &volume, (parse_value(argument)?, force)).await
        }
        "os-reserve" => marks::reserve(&session, &machines, &volume).await,
        "os-unreserve" => marks::unreserve(&session, &volume).await,
        "os-retype" => retype(&session, &machines, &volume, parse_value(argument)?).await,
        "os-update_readonly_flag" => {
            let flag = parse_value::<ReadOnly>(argument)?.readonly;
            let status = status_of(&machines, &volume, Timestamp::now());
            if status != "available" {
                return Err(Fault::bad(format!(
                    "Invalid volume: Volume {id} status must be available to update readonly flag, but current status is: \
                     {status}."
                )));
            }
            apply(&session, &volume, Changes::default().set("readOnly", Some(flag))).await?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
        word if UNSERVED.contains(&word) => {
            Err(Fault::unsupported(format!("The action {word} is not served by this cloud.")))
        }
        word => Err(Fault::bad(format!("There is no such action: {word}"))),
    }
}
