//! `/os-server-groups`: ServerGroup objects. A group's members are the machines that name it.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{GroupPolicy, ServerGroup, ServerGroupSpec, VirtualMachine};
use yunfan_resources::iam::Project;

use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{directory, ids};

const PAGE: Limits = Limits { default: 1000, max: 1000 };
/// The policies in Nova's words, and since when they are known.
const POLICIES: [(GroupPolicy, &str, u32); 4] = [
    (GroupPolicy::Affinity, "affinity", 0),
    (GroupPolicy::AntiAffinity, "anti-affinity", 0),
    (GroupPolicy::SoftAffinity, "soft-affinity", 15),
    (GroupPolicy::SoftAntiAffinity, "soft-anti-affinity", 15),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    server_group: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default)]
    policies: Option<Vec<String>>,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    rules: Option<Rules>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    #[serde(default)]
    max_server_per_host: Option<Value>,
}

fn spec(version: Microversion, fields: &Fields, user: &str) -> Result<ServerGroupSpec, Fault> {
    ids::check_name("name", &fields.name, false)?;
    let named = Microversion(64);
    let unexpected = if version >= named {
        fields.policies.as_ref().map(|_| "policies")
    } else {
        fields.policy.as_ref().map(|_| "policy").or(fields.rules.as_ref().map(|_| "rules"))
    };
    if let Some(field) = unexpected {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute server_group. Additional properties are not allowed ('{field}' was unexpected)"
        )));
    }
    let word = match (&fields.policy, fields.policies.as_deref()) {
        (Some(word), _) => word,
        (None, Some([word])) => word,
        _ => {
            return Err(Fault::bad(
                "Invalid input for field/attribute server_group. It needs exactly one policy.",
            ));
        }
    };
    let known = POLICIES.iter().find(|(_, known, since)| known == word && version >= Microversion(*since));
    let (policy, ..) = known.ok_or_else(|| {
        Fault::bad(format!(
            "Invalid input for field/attribute policy. {word:?} is none of the policies of this version."
        ))
    })?;
    let most = fields.rules.as_ref().and_then(|rules| rules.max_server_per_host.as_ref());
    let max_per_node = match most {
        None => None,
        Some(_) if *policy != GroupPolicy::AntiAffinity => {
            return Err(Fault::bad("Only anti-affinity policy supports rules."));
        }
        Some(value) => {
            let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
            let number = number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
            Some(number.ok_or_else(|| {
                Fault::bad("Invalid input for field/attribute max_server_per_host. It must be a number of at least 1.")
            })?)
        }
    };
    Ok(ServerGroupSpec {
        display_name: Some(fields.name.clone()),
        policy: *policy,
        max_per_node,
        user: Some(user.to_owned()),
        ..ServerGroupSpec::default()
    })
}

fn view(version: Microversion, group: &ServerGroup, machines: &[VirtualMachine], project: &str) -> Value {
    let name = ids::name(group);
    let members: Vec<String> = machines
        .iter()
        .filter(|vm| ids::namespace(*vm) == ids::namespace(group))
        .filter(|vm| vm.metadata.deletion_timestamp.is_none())
        .filter(|vm| {
            vm.spec.placement.as_ref().is_some_and(|placement| placement.group.as_deref() == Some(name))
        })
        .map(Identified::id)
        .collect();
    let word =
        POLICIES.iter().find(|(policy, ..)| *policy == group.spec.policy).map_or("", |(_, word, _)| word);
    let mut view = json!({"id": group.id(), "name": group.display_name(), "members": members});
    if version >= Microversion(13) {
        view["project_id"] = json!(project);
        view["user_id"] = json!(group.spec.user.clone().unwrap_or_default());
    }
    if version >= Microversion(64) {
        view["policy"] = json!(word);
        view["rules"] =
            group.spec.max_per_node.map_or(json!({}), |most| json!({"max_server_per_host": most}));
    } else {
        view["policies"] = json!([word]);
        view["metadata"] = json!({});
    }
    view
}

async fn find(session: &Session, id: &str) -> Result<ServerGroup, Fault> {
    session
        .find_anywhere(id)
        .await?
        .ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("Instance group {id} could not be found.")))
}

/// `GET /os-server-groups`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    let all = params.get("all_projects").is_some() && session.is_admin();
    let (groups, machines) = if all {
        (session.everywhere::<ServerGroup>(), session.everywhere::<VirtualMachine>())
    } else {
        (session.own::<ServerGroup>()?, session.own::<VirtualMachine>()?)
    };
    let (groups, machines) = tokio::try_join!(ids::list(&groups), ids::list(&machines))?;
    let projects = if all { ids::list(&session.global::<Project>()).await? } else { Vec::new() };
    let project = |group: &ServerGroup| {
        let owner = projects.iter().find(|project| directory::home(project) == Some(ids::namespace(group)));
        owner.map_or_else(|| session.project_id().to_owned(), Identified::id)
    };
    let (groups, _) = page::cut(&params, PAGE, page::offset(&params, groups)?, Identified::id)?;
    let views: Vec<Value> =
        groups.iter().map(|group| view(version, group, &machines, &project(group))).collect();
    Ok(ok(&json!({"server_groups": views})))
}

/// `GET /os-server-groups/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let group = find(&session, &id).await?;
    let machines = ids::list(&session.within::<VirtualMachine>(ids::namespace(&group))).await?;
    Ok(ok(&json!({"server_group": view(version, &group, &machines, session.project_id())})))
}

/// `POST /os-server-groups`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    let spec = spec(version, &body.server_group, &session.claims.uid)?;
    let groups = session.own::<ServerGroup>()?;
    let group = ids::create(&groups, ServerGroup::new("", spec), &body.server_group.name).await?;
    Ok(ok(&json!({"server_group": view(version, &group, &[], session.project_id())})))
}

/// `DELETE /os-server-groups/{id}`. Machines stay, and keep to the policy among themselves.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let group = find(&session, &id).await?;
    let groups = session.within::<ServerGroup>(ids::namespace(&group));
    groups.delete(ids::name(&group), &DeleteParams::default()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    fn made(version: u32, text: &str) -> Result<ServerGroupSpec, Fault> {
        spec(Microversion(version), &parse::<Body>(text.as_bytes())?.server_group, "u")
    }

    #[test]
    fn policies_follow_the_microversion() {
        let old = r#"{"server_group": {"name": "g", "policies": ["soft-affinity"]}}"#;
        assert!(made(14, old).is_err());
        assert_eq!(made(15, old).unwrap().policy, GroupPolicy::SoftAffinity);
        assert!(made(64, old).is_err());
        let new = r#"{"server_group": {"name": "g", "policy": "anti-affinity", "rules": {"max_server_per_host": 3}}}"#;
        assert_eq!(made(64, new).unwrap().max_per_node, Some(3));
        assert!(made(63, new).is_err());
        let wrong =
            r#"{"server_group": {"name": "g", "policy": "affinity", "rules": {"max_server_per_host": 3}}}"#;
        assert!(made(64, wrong).is_err());
        assert!(made(1, r#"{"server_group": {"name": "g", "policies": []}}"#).is_err());
    }
}
