//! Quota sets and limits: the project's ResourceQuota.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::quota::{self, COMPUTE, Limit, NETWORK, UNLIMITED, Usage};
use crate::versions::ok;

/// Limits of Nova's that nothing here counts: shown as unlimited.
const UNCOUNTED: [&str; 4] = ["key_pairs", "metadata_items", "server_groups", "server_group_members"];
/// Limits that were taken out with 2.36.
const UNTIL_36: [&str; 4] = ["fixed_ips", "floating_ips", "security_groups", "security_group_rules"];
/// Limits that were taken out with 2.57.
const UNTIL_57: [&str; 3] = ["injected_files", "injected_file_content_bytes", "injected_file_path_bytes"];

/// The limits that a version shows and nothing counts.
fn uncounted(version: Microversion) -> Vec<&'static str> {
    let mut names = UNCOUNTED.to_vec();
    if version < Microversion(36) {
        names.extend(UNTIL_36);
    }
    if version < Microversion(57) {
        names.extend(UNTIL_57);
    }
    names
}

fn view(
    version: Microversion,
    usages: &[(Limit, Usage)],
    show: impl Fn(Usage) -> Value,
) -> Map<String, Value> {
    quota::view(usages, &uncounted(version), show)
}

/// `GET /os-quota-sets/{project}`
pub(super) async fn show(session: Session, version: Microversion, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_of(&session, &project).await?;
    let usages = quota::read(&session, &namespace, &COMPUTE).await?;
    let mut set = view(version, &usages, |usage| json!(usage.limit));
    set.insert("id".into(), json!(project));
    Ok(ok(&json!({"quota_set": set})))
}

/// `GET /os-quota-sets/{project}/defaults`: a project without a quota has no limits.
pub(super) async fn defaults(session: Session, version: Microversion, Path(project): Path<String>) -> Answer {
    quota::namespace_of(&session, &project).await?;
    let usages = COMPUTE.map(|limit| (limit, Usage { limit: UNLIMITED, used: 0 }));
    let mut set = view(version, &usages, |usage| json!(usage.limit));
    set.insert("id".into(), json!(project));
    Ok(ok(&json!({"quota_set": set})))
}

/// `GET /os-quota-sets/{project}/detail`
pub(super) async fn detail(session: Session, version: Microversion, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_of(&session, &project).await?;
    let usages = quota::read(&session, &namespace, &COMPUTE).await?;
    let show = |usage: Usage| json!({"limit": usage.limit, "in_use": usage.used, "reserved": 0});
    let mut set = view(version, &usages, show);
    set.insert("id".into(), json!(project));
    Ok(ok(&json!({"quota_set": set})))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    quota_set: Map<String, Value>,
}

fn wanted(version: Microversion, set: &Map<String, Value>) -> Result<Vec<(Limit, i64)>, Fault> {
    quota::wanted(&COMPUTE, &uncounted(version), set)
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
    let usages = quota::read(&session, &namespace, &COMPUTE).await?;
    Ok(ok(&json!({"quota_set": view(version, &usages, |usage| json!(usage.limit))})))
}

/// `DELETE /os-quota-sets/{project}`
pub(super) async fn delete(session: Session, Path(project): Path<String>) -> Answer {
    let namespace = quota::namespace_of(&session, &project).await?;
    quota::reset(&session, &namespace, &COMPUTE).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// The set of limits of a class of projects. There is one, the default, and it limits nothing.
fn class_set(version: Microversion, class: &str) -> Map<String, Value> {
    let usages = COMPUTE.map(|limit| (limit, Usage { limit: UNLIMITED, used: 0 }));
    let mut set = view(version, &usages, |usage| json!(usage.limit));
    if version < Microversion(50) {
        // These were not in the sets before.
        set.retain(|name, _| !matches!(name.as_str(), "server_groups" | "server_group_members"));
    }
    if version >= Microversion(50) {
        set.retain(|name, _| !UNTIL_36.contains(&name.as_str()));
    }
    set.insert("id".into(), json!(class));
    set
}

/// `GET /os-quota-class-sets/{class}`
pub(super) async fn class(session: Session, version: Microversion, Path(class): Path<String>) -> Answer {
    super::actions::admin_only(&session, "os_compute_api:os-quota-class-sets:show")?;
    Ok(ok(&json!({"quota_class_set": class_set(version, &class)})))
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassBody {
    quota_class_set: Map<String, Value>,
}

/// `PUT /os-quota-class-sets/{class}`: what is there can be said again; other limits than none have no place to be kept.
pub(super) async fn set_class(
    session: Session,
    version: Microversion,
    Path(class): Path<String>,
    Json(body): Json<ClassBody>,
) -> Answer {
    super::actions::admin_only(&session, "os_compute_api:os-quota-class-sets:update")?;
    let mut set = class_set(version, &class);
    for (name, value) in &body.quota_class_set {
        match set.get(name) {
            Some(there) if there == value || name == "id" => {}
            Some(_) => {
                return Err(Fault::bad(format!(
                    "{name}={value} is not supported: limits are set for each project (os-quota-sets), and a new project has none."
                )));
            }
            None => {
                return Err(Fault::bad(format!(
                    "Invalid input for field/attribute quota_class_set. Additional properties are not allowed ('{name}' was unexpected)"
                )));
            }
        }
    }
    set.remove("id");
    Ok(ok(&json!({"quota_class_set": set})))
}

/// `GET /limits`
pub(super) async fn limits(session: Session, version: Microversion, params: Params) -> Answer {
    let project = params.get("tenant_id").unwrap_or_else(|| session.project_id());
    let namespace = quota::namespace_of(&session, project).await?;
    let usages = quota::read(&session, &namespace, &COMPUTE).await?;
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
    absolute.insert("maxServerMeta".to_owned(), json!(super::metadata::MAX_PAIRS));
    let mut unlimited = vec!["maxTotalKeypairs", "maxServerGroups", "maxServerGroupMembers"];
    if version < Microversion(36) {
        let of_network = ["floatingip", "security_group"];
        let limits = NETWORK.into_iter().filter(|limit| of_network.contains(&limit.name));
        let limits: Vec<Limit> = limits.collect();
        let used = quota::read(&session, &namespace, &limits).await?;
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
        unlimited.extend(["maxPersonality", "maxPersonalitySize"]);
    }
    absolute.extend(unlimited.into_iter().map(|name| (name.to_owned(), json!(UNLIMITED))));
    absolute.insert("totalServerGroupsUsed".into(), json!(0));
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
        assert!(set(json!({"key_pairs": 10})).is_err());
        assert!(wanted(Microversion(1), json!({"floating_ips": -1}).as_object().unwrap()).is_ok());
    }
}
