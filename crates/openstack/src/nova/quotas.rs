//! Quota sets and limits: the project's ResourceQuota.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

use super::personality;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::quota::{
    self, COMPUTE, COMPUTE_FILES, COMPUTE_NETWORK, DEFAULT_CLASS, Limit, NETWORK, UNLIMITED, Usage,
};
use crate::versions::ok;

/// The limits that a version shows.
fn limits_of(version: Microversion) -> Vec<Limit> {
    let mut limits = COMPUTE.to_vec();
    if version < Microversion(36) {
        limits.extend(COMPUTE_NETWORK);
    }
    if version < Microversion(57) {
        limits.extend(COMPUTE_FILES);
    }
    limits
}

fn view(usages: &[(Limit, Usage)], show: impl Fn(Usage) -> Value) -> Map<String, Value> {
    quota::view(usages, &[], show)
}

/// `GET /os-quota-sets/{project}`
pub(super) async fn show(session: Session, version: Microversion, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_of(&session, &project).await?;
    let usages = quota::read(&session, &namespace, &limits_of(version)).await?;
    let mut set = view(&usages, |usage| json!(usage.limit));
    set.insert("id".into(), json!(project));
    Ok(ok(&json!({"quota_set": set})))
}

/// `GET /os-quota-sets/{project}/defaults`
pub(super) async fn defaults(session: Session, version: Microversion, Path(project): Path<String>) -> Answer {
    quota::namespace_of(&session, &project).await?;
    let usages = quota::defaults(&session, &limits_of(version)).await?;
    let mut set = view(&usages, |usage| json!(usage.limit));
    set.insert("id".into(), json!(project));
    Ok(ok(&json!({"quota_set": set})))
}

/// `GET /os-quota-sets/{project}/detail`
pub(super) async fn detail(session: Session, version: Microversion, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_of(&session, &project).await?;
    let usages = quota::read(&session, &namespace, &limits_of(version)).await?;
    let show = |usage: Usage| json!({"limit": usage.limit, "in_use": usage.used, "reserved": 0});
    let mut set = view(&usages, show);
    set.insert("id".into(), json!(project));
    Ok(ok(&json!({"quota_set": set})))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    quota_set: Map<String, Value>,
}

fn wanted(version: Microversion, set: &Map<String, Value>) -> Result<Vec<(Limit, i64)>, Fault> {
    quota::wanted(&limits_of(version), &[], set)
}

/// `PUT /os-quota-sets/{project}`
pub(super) async fn update(
    session: Session,
    version: Microversion,
    params: Params,
    Path(project): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    if params.get("user_id").is_some() {
        return Err(Fault::unsupported("Limits are a project's: its users have none of their own."));
    }
    let wanted = wanted(version, &body.quota_set)?;
    let namespace = quota::namespace_of(&session, &project).await?;
    if !quota::is_forced(&body.quota_set) {
        quota::check_used(&session, &namespace, &COMPUTE, &wanted).await?;
    }
    quota::write(&session, &namespace, &wanted).await?;
    let usages = quota::read(&session, &namespace, &limits_of(version)).await?;
    Ok(ok(&json!({"quota_set": view(&usages, |usage| json!(usage.limit))})))
}

/// `DELETE /os-quota-sets/{project}`
pub(super) async fn delete(session: Session, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_of(&session, &project).await?;
    quota::reset(&session, &namespace, &[&COMPUTE[..], &COMPUTE_FILES].concat()).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// The limits that a version shows of a class of projects: since 2.50 the same as of a project but those of networks, before that without
/// those of groups.
fn limits_of_class(version: Microversion) -> Vec<Limit> {
    let since_50 = version >= Microversion(50);
    let mut limits = limits_of(version);
    limits.retain(|limit| {
        let of_groups = matches!(limit.name, "server_groups" | "server_group_members");
        let of_network = COMPUTE_NETWORK.iter().any(|other| other.name == limit.name);
        if since_50 { !of_network } else { !of_groups }
    });
    limits
}

async fn class_set(
    session: &Session,
    version: Microversion,
    class: &str,
) -> Result<Map<String, Value>, Fault> {
    let limits = limits_of_class(version);
    let usages = match class {
        DEFAULT_CLASS => quota::defaults(session, &limits).await?,
        _ => limits.into_iter().map(|limit| (limit, Usage { limit: UNLIMITED, used: 0 })).collect(),
    };
    Ok(view(&usages, |usage| json!(usage.limit)))
}

/// `GET /os-quota-class-sets/{class}`
pub(super) async fn class(session: Session, version: Microversion, Path(class): Path<String>) -> Answer {
    super::actions::admin_only(&session, "os_compute_api:os-quota-class-sets:show")?;
    let mut set = class_set(&session, version, &class).await?;
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
    version: Microversion,
    Path(class): Path<String>,
    Json(body): Json<ClassBody>,
) -> Answer {
    super::actions::admin_only(&session, "os_compute_api:os-quota-class-sets:update")?;
    let limits = limits_of_class(version);
    let known = |name: &String| name == "id" || limits.iter().any(|limit| limit.name == *name);
    if let Some(name) = body.quota_class_set.keys().find(|name| !known(name)) {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute quota_class_set. Additional properties are not allowed ('{name}' was unexpected)"
        )));
    }
    let wanted = quota::wanted(&limits, &[], &body.quota_class_set)?;
    if class == DEFAULT_CLASS {
        quota::write_defaults(&session, &wanted).await?;
    } else if wanted.iter().any(|(_, limit)| *limit != UNLIMITED) {
        return Err(quota::no_class(&class));
    }
    Ok(ok(&json!({"quota_class_set": class_set(&session, version, &class).await?})))
}

/// `GET /limits`
pub(super) async fn limits(session: Session, version: Microversion, params: Params) -> Answer {
    let project = params.get("tenant_id").unwrap_or_else(|| session.project_id());
    let namespace = match quota::namespace_of(&session, project).await {
        Ok(namespace) => Some(namespace),
        // Nova asks nobody whether there is such a project: one without anything has the default limits.
        Err(fault) if fault.status == StatusCode::BAD_REQUEST => None,
        Err(fault) => return Err(fault),
    };
    let read = async |limits: &[Limit]| match &namespace {
        Some(namespace) => quota::read(&session, namespace, limits).await,
        None => quota::defaults(&session, limits).await,
    };
    let usages = read(&COMPUTE).await?;
    let of = |name: &str| usages.iter().find(|(limit, _)| limit.name == name).map(|(_, usage)| *usage);
    let mut absolute = Map::new();
    for (name, max, used) in [
        ("cores", "maxTotalCores", "totalCoresUsed"),
        ("ram", "maxTotalRAMSize", "totalRAMUsed"),
        ("instances", "maxTotalInstances", "totalInstancesUsed"),
    ] {
        let usage = of(name).unwrap_or(Usage { limit: UNLIMITED, used: 0 });
        absolute.insert(max.to_owned(), json!(usage.limit));
        absolute.insert(used.to_owned(), json!(usage.used));
    }
    let limit = |name: &str| of(name).map_or(UNLIMITED, |usage| usage.limit);
    let most_pairs = i64::try_from(super::metadata::MAX_PAIRS).unwrap_or(i64::MAX);
    let pairs = Some(limit("metadata_items")).filter(|limit| *limit != UNLIMITED);
    absolute.insert("maxServerMeta".to_owned(), json!(pairs.unwrap_or(most_pairs).min(most_pairs)));
    for (name, max) in [
        ("key_pairs", "maxTotalKeypairs"),
        ("server_groups", "maxServerGroups"),
        ("server_group_members", "maxServerGroupMembers"),
    ] {
        absolute.insert(max.to_owned(), json!(limit(name)));
    }
    let groups = of("server_groups").map_or(0, |usage| usage.used);
    absolute.insert("totalServerGroupsUsed".into(), json!(groups));
    let mut unlimited = Vec::new();
    if version < Microversion(36) {
        let of_network = ["floatingip", "security_group"];
        let limits = NETWORK.into_iter().filter(|limit| of_network.contains(&limit.name));
        let limits: Vec<Limit> = limits.collect();
        let used = read(&limits).await?;
        let used =
            |name: &str| used.iter().find(|(limit, _)| limit.name == name).map_or(0, |(_, it)| it.used);
        absolute.insert("totalFloatingIpsUsed".to_owned(), json!(used("floatingip")));
        absolute.insert("totalSecurityGroupsUsed".to_owned(), json!(used("security_group")));
        unlimited.extend(["maxTotalFloatingIps", "maxSecurityGroups", "maxSecurityGroupRules"]);
    }
    if version < Microversion(39) {
        unlimited.push("maxImageMeta");
    }
    if version < Microversion(57) {
        absolute.insert("maxPersonality".into(), json!(personality::MAX));
        absolute.insert("maxPersonalitySize".into(), json!(personality::MAX_BYTES));
    }
    absolute.extend(unlimited.into_iter().map(|name| (name.to_owned(), json!(UNLIMITED))));
    Ok(ok(&json!({"limits": {"rate": [], "absolute": absolute}})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_strictly() {
        let set = |value: Value| wanted(Microversion(79), value.as_object().unwrap());
        let found = set(json!({"cores": 4, "ram": "2048", "force": true})).unwrap();
        assert_eq!(
            found.iter().map(|(limit, value)| (limit.name, *value)).collect::<Vec<_>>(),
            [("cores", 4), ("ram", 2048)]
        );
        assert!(set(json!({"cores": "many"})).is_err());
        assert!(set(json!({"floating_ips": 1})).is_err());
        assert!(set(json!({"key_pairs": 10})).is_ok() && set(json!({"injected_files": 1})).is_err());
        assert!(wanted(Microversion(1), json!({"floating_ips": -1}).as_object().unwrap()).is_ok());
    }
}
