//! Quotas of networks, subnets and ports.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::auth::Session;
use crate::body::Json;
use crate::error::{Answer, Fault};
use crate::quota::{self, Limit, NETWORK, UNLIMITED, Usage};
use crate::versions::ok;

/// Limits of kinds that there are not: shown as unlimited.
const UNCOUNTED: [&str; 6] =
    ["router", "floatingip", "security_group", "security_group_rule", "subnetpool", "rbac_policy"];

fn view(usages: &[(Limit, Usage)], show: impl Fn(Usage) -> Value) -> Map<String, Value> {
    let none = Usage { limit: UNLIMITED, used: 0 };
    let counted = usages.iter().map(|(limit, usage)| (limit.name, *usage));
    counted
        .chain(UNCOUNTED.map(|name| (name, none)))
        .map(|(name, usage)| (name.to_owned(), show(usage)))
        .collect()
}

/// `GET /quotas/{project}`
pub(super) async fn show(session: Session, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_of(&session, &project).await?;
    let usages = quota::read(&session, &namespace, &NETWORK).await?;
    Ok(ok(&json!({"quota": view(&usages, |usage| json!(usage.limit))})))
}

/// `GET /quotas/{project}/default`
pub(super) async fn defaults(session: Session, Path(project): Path<String>) -> Answer {
    quota::namespace_of(&session, &project).await?;
    let usages = NETWORK.map(|limit| (limit, Usage { limit: UNLIMITED, used: 0 }));
    Ok(ok(&json!({"quota": view(&usages, |usage| json!(usage.limit))})))
}

/// `GET /quotas/{project}/details.json`
pub(super) async fn details(session: Session, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_of(&session, &project).await?;
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
    let mut wanted = Vec::new();
    for (name, value) in &body.quota {
        let number = value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        let number =
            || number.ok_or_else(|| Fault::bad(format!("Invalid input for {name}. {value} is no number.")));
        if let Some(limit) = NETWORK.iter().find(|limit| limit.name == name) {
            wanted.push((*limit, number()?));
        } else if UNCOUNTED.contains(&name.as_str()) {
            if number()? != UNLIMITED {
                return Err(Fault::bad(format!("{name} cannot be limited: there are none. It is -1.")));
            }
        } else if !matches!(name.as_str(), "force" | "check_limit" | "tenant_id" | "project_id") {
            return Err(Fault::bad(format!("Unrecognized attribute(s) '{name}'")));
        }
    }
    let namespace = quota::namespace_of(&session, &project).await?;
    if body.quota.get("check_limit").is_some_and(|check| *check == json!(true)) {
        for (limit, usage) in quota::read(&session, &namespace, &NETWORK).await? {
            let value = wanted.iter().find(|(other, _)| other.name == limit.name).map(|(_, value)| *value);
            if value.is_some_and(|value| value != UNLIMITED && value < usage.used) {
                return Err(Fault::bad(format!(
                    "Quota limit for {} is below what is used: {}.",
                    limit.name, usage.used
                )));
            }
        }
    }
    quota::write(&session, &namespace, &wanted).await?;
    let usages = quota::read(&session, &namespace, &NETWORK).await?;
    Ok(ok(&json!({"quota": view(&usages, |usage| json!(usage.limit))})))
}

/// `DELETE /quotas/{project}`
pub(super) async fn delete(session: Session, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_of(&session, &project).await?;
    quota::reset(&session, &namespace, &NETWORK).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
