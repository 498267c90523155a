//! Quota sets and limits of volumes: the project's ResourceQuota.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

use super::backups;
use super::type_specs::admin_only;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::quota::{self, DEFAULT_CLASS, Limit, STORAGE, UNLIMITED, Usage};
use crate::versions::ok;

/// Limits of what is not limited: shown as unlimited.
const UNCOUNTED: [&str; 4] = ["backups", "backup_gigabytes", "per_volume_gigabytes", "groups"];

fn view(project: &str, usages: &[(Limit, Usage)], show: impl Fn(Usage) -> Value) -> Value {
    let mut set = quota::view(usages, &UNCOUNTED, show);
    set.insert("id".into(), json!(project));
    json!({"quota_set": set})
}

/// `GET /os-quota-sets/{project}`, with `?usage=True` also what is used.
pub(super) async fn show(session: Session, params: Params, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_named(&session, &project).await?;
    let usages = quota::read(&session, &namespace, &STORAGE).await?;
    let with_usage = params.flag("usage")? == Some(true);
    let show = |usage: Usage| {
        if with_usage {
            json!({"limit": usage.limit, "in_use": usage.used, "reserved": 0, "allocated": 0})
        } else {
            json!(usage.limit)
        }
    };
    let mut set = view(&project, &usages, show);
    if with_usage {
        let (backups, gib) = backups::used(&session, &namespace).await?;
        set["quota_set"]["backups"]["in_use"] = json!(backups);
        set["quota_set"]["backup_gigabytes"]["in_use"] = json!(gib);
    }
    Ok(ok(&set))
}

/// `GET /os-quota-sets/{project}/defaults`
pub(super) async fn defaults(session: Session, Path(project): Path<String>) -> Answer {
    quota::namespace_named(&session, &project).await?;
    let usages = quota::defaults(&session, &STORAGE).await?;
    Ok(ok(&view(&project, &usages, |usage| json!(usage.limit))))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    quota_set: Map<String, Value>,
}

/// `PUT /os-quota-sets/{project}`
pub(super) async fn update(session: Session, Path(project): Path<String>, Json(body): Json<Body>) -> Answer {
    let wanted = quota::wanted(&STORAGE, &UNCOUNTED, &body.quota_set)?;
    let namespace = quota::namespace_named(&session, &project).await?;
    if !quota::is_forced(&body.quota_set) {
        quota::check_used(&session, &namespace, &STORAGE, &wanted).await?;
    }
    quota::write(&session, &namespace, &wanted).await?;
    let usages = quota::read(&session, &namespace, &STORAGE).await?;
    let set = quota::view(&usages, &UNCOUNTED, |usage| json!(usage.limit));
    Ok(ok(&json!({"quota_set": set})))
}

/// `DELETE /os-quota-sets/{project}`
pub(super) async fn delete(session: Session, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_named(&session, &project).await?;
    quota::reset(&session, &namespace, &STORAGE).await?;
    Ok(StatusCode::OK.into_response())
}

/// The limits of a class of projects: there is one that projects are of; others can be named, and limit nobody.
async fn class_set(session: &Session, class: &str) -> Result<Map<String, Value>, Fault> {
    let usages = match class {
        DEFAULT_CLASS => quota::defaults(session, &STORAGE).await?,
        _ => STORAGE.map(|limit| (limit, Usage { limit: UNLIMITED, used: 0 })).to_vec(),
    };
    Ok(quota::view(&usages, &UNCOUNTED, |usage| json!(usage.limit)))
}

/// `GET /os-quota-class-sets/{class}`
pub(super) async fn class(session: Session, Path(class): Path<String>) -> Answer {
    admin_only(&session, "volume_extension:quota_classes:get")?;
    let mut set = class_set(&session, &class).await?;
    set.insert("id".into(), json!(class));
    Ok(ok(&json!({"quota_class_set": set})))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassBody {
    quota_class_set: Map<String, Value>,
}

/// `PUT /os-quota-class-sets/{class}`: the limits of projects that have none of their own.
pub(super) async fn set_class(
    session: Session,
    Path(class): Path<String>,
    Json(body): Json<ClassBody>,
) -> Answer {
    admin_only(&session, "volume_extension:quota_classes:update")?;
    let wanted = quota::wanted(&STORAGE, &UNCOUNTED, &body.quota_class_set)?;
    if class == DEFAULT_CLASS {
        quota::write_defaults(&session, &wanted).await?;
    } else if wanted.iter().any(|(_, limit)| *limit != UNLIMITED) {
        return Err(quota::no_class(&class));
    }
    Ok(ok(&json!({"quota_class_set": class_set(&session, &class).await?})))
}

/// `GET /limits`
pub(super) async fn limits(session: Session, params: Params) -> Answer {
    let project = params.get("project_id").unwrap_or_else(|| session.project_id());
    let namespace = quota::namespace_named(&session, project).await?;
    let usages = quota::read(&session, &namespace, &STORAGE).await?;
    let mut absolute = Map::new();
    // In the order of [`STORAGE`].
    for ((_, usage), (max, used)) in usages.iter().zip([
        ("maxTotalVolumes", "totalVolumesUsed"),
        ("maxTotalVolumeGigabytes", "totalGigabytesUsed"),
        ("maxTotalSnapshots", "totalSnapshotsUsed"),
    ]) {
        absolute.insert(max.into(), json!(usage.limit));
        absolute.insert(used.into(), json!(usage.used));
    }
    let (backups, gib) = backups::used(&session, &namespace).await?;
    for (max, used, number) in [
        ("maxTotalBackups", "totalBackupsUsed", json!(backups)),
        ("maxTotalBackupGigabytes", "totalBackupGigabytesUsed", json!(gib)),
    ] {
        absolute.insert(max.into(), json!(UNLIMITED));
        absolute.insert(used.into(), number);
    }
    Ok(ok(&json!({"limits": {"rate": [], "absolute": absolute}})))
}
