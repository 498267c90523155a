//! Quotas of networks, subnets, ports and security groups.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::Project;

use crate::auth::Session;
use crate::body::Json;
use crate::error::Answer;
use crate::quota::{self, Limit, NETWORK, Usage};
use crate::versions::ok;
use crate::{directory, ids};

/// Limits of kinds that there are not: shown as unlimited.
const UNCOUNTED: [&str; 1] = ["rbac_policy"];

fn view(usages: &[(Limit, Usage)], show: impl Fn(Usage) -> Value) -> Map<String, Value> {
    quota::view(usages, &UNCOUNTED, show)
}

/// `GET /quotas`: of the projects that have limits of their own.
pub(super) async fn list(session: Session) -> Answer {
    let mut sets = Vec::new();
    for project in ids::list(&session.global::<Project>()).await? {
        let Some(namespace) = directory::home(&project) else { continue };
        if quota::has_own(&session, namespace, &NETWORK).await? {
            let usages = quota::read(&session, namespace, &NETWORK).await?;
            let mut set = view(&usages, |usage| json!(usage.limit));
            set.insert("project_id".into(), json!(project.id()));
            set.insert("tenant_id".into(), json!(project.id()));
            sets.push(Value::Object(set));
        }
    }
    Ok(ok(&json!({"quotas": sets})))
}

/// `GET /quotas/{project}`
pub(super) async fn show(session: Session, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_named(&session, &project).await?;
    let usages = quota::read(&session, &namespace, &NETWORK).await?;
    Ok(ok(&json!({"quota": view(&usages, |usage| json!(usage.limit))})))
}

/// `GET /quotas/{project}/default`
pub(super) async fn defaults(session: Session, Path(project): Path<String>) -> Answer {
    quota::namespace_named(&session, &project).await?;
    let usages = quota::defaults(&session, &NETWORK).await?;
    Ok(ok(&json!({"quota": view(&usages, |usage| json!(usage.limit))})))
}

/// `GET /quotas/{project}/details.json`
pub(super) async fn details(session: Session, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_named(&session, &project).await?;
    let usages = quota::read(&session, &namespace, &NETWORK).await?;
    let show = |usage: Usage| json!({"limit": usage.limit, "used": usage.used, "reserved": 0});
    Ok(ok(&json!({"quota": view(&usages, show)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    quota: Map<String, Value>,
}

/// `PUT /quotas/{project}`
pub(super) async fn update(session: Session, Path(project): Path<String>, Json(body): Json<Body>) -> Answer {
    let wanted = quota::wanted(&NETWORK, &UNCOUNTED, &body.quota)?;
    let namespace = quota::namespace_named(&session, &project).await?;
    if body.quota.get("check_limit").is_some_and(|check| *check == json!(true)) {
        quota::check_used(&session, &namespace, &NETWORK, &wanted).await?;
    }
    quota::write(&session, &namespace, &wanted).await?;
    let usages = quota::read(&session, &namespace, &NETWORK).await?;
    Ok(ok(&json!({"quota": view(&usages, |usage| json!(usage.limit))})))
}

/// `DELETE /quotas/{project}`
pub(super) async fn delete(session: Session, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_named(&session, &project).await?;
    quota::reset(&session, &namespace, &NETWORK).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
