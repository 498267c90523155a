//! What a token is for: a project, a domain, the whole cloud, what a trust or an application credential says, or nothing yet.

use std::sync::Arc;

use serde_json::Value;
use yunfan_identity::token::{AppCredential, Claims, Limit, Scope, Trust};
use yunfan_resources::Identified;
use yunfan_resources::iam::{ApplicationCredential, Project, User};

use super::delegated;
use super::signin::{Proven, RawDomain, RawReference, domain, is_enabled, reference};
use crate::directory::{Place, Principal, Role, home};
use crate::error::Fault;
use crate::{Ctx, ids};

/// The scope that a request asks for.
enum Wanted {
    /// It asks for none: the default project, or that of the application credential.
    Default,
    Unscoped,
    Project(RawReference),
    Domain(RawDomain),
    System,
    Trust(String),
}

fn wanted(scope: Option<&Value>) -> Result<Wanted, Fault> {
    match scope {
        None | Some(Value::Null) => Ok(Wanted::Default),
        Some(Value::String(text)) if text == "unscoped" => Ok(Wanted::Unscoped),
        Some(Value::Object(members)) => {
            let kinds = ["project", "domain", "system", "OS-TRUST:trust", "unscoped"];
            let named: Vec<&str> = kinds.into_iter().filter(|kind| members.contains_key(*kind)).collect();
            let [kind] = named[..] else {
                return Err(Fault::bad(
                    "scope must name one of project, domain, system, OS-TRUST:trust and unscoped.",
                ));
            };
            let value = members.get(kind).cloned().unwrap_or_default();
            Ok(match kind {
                "project" => Wanted::Project(crate::body::parse_value(value)?),
                "domain" => Wanted::Domain(crate::body::parse_value(value)?),
                "system" if value["all"] == true => Wanted::System,
                "system" => return Err(Fault::bad("scope.system must be {\"all\": true}.")),
                "OS-TRUST:trust" => {
                    let id = value["id"]
                        .as_str()
                        .ok_or_else(|| Fault::bad("scope.OS-TRUST:trust must have an id."))?;
                    Wanted::Trust(id.to_owned())
                }
                _ => Wanted::Unscoped,
            })
        }
        Some(_) => Err(Fault::bad("scope must be an object or \"unscoped\".")),
    }
}

/// Writes into `claims` what the token is for, and which roles its user has there. No role there is no token.
pub(super) async fn apply(
    door: &Ctx,
    proven: &Proven,
    scope: Option<&Value>,
    claims: &mut Claims,
) -> Result<(), Fault> {
    let who = door.directory.principal(&proven.user).await?;
    claims.groups.clone_from(&who.groups);
    let wanted = wanted(scope)?;
    if let Some(credential) = &proven.credential {
        if !matches!(wanted, Wanted::Default) {
            return Err(Fault::new(
                axum::http::StatusCode::UNAUTHORIZED,
                "Error authenticating with application credential: Application credentials cannot request a scope.",
            ));
        }
        return by_credential(door, &who, credential, claims).await;
    }
    match wanted {
        Wanted::Unscoped => Ok(()),
        Wanted::Default => {
            // Only a password signs in to the default project; a token without a scope gives an unscoped one.
            let default = proven.user.spec.default_project.as_deref().filter(|_| proven.from.is_none());
            let Some(name) = default else { return Ok(()) };
            let Some(project) = door.directory.project_named(name).await? else { return Ok(()) };
            let roles = roles_on(door, &who, &project).await?;
            if !roles.is_empty() {
                to_project(door, &project, &roles, claims).await?;
            }
            Ok(())
        }
        Wanted::Project(raw) => {
            let wanted = reference(door, &raw, "project").await?.ok_or_else(Fault::unauthorized)?;
            let project = door.directory.project(&wanted).await?.ok_or_else(Fault::unauthorized)?;
            let roles = roles_on(door, &who, &project).await?;
            if roles.is_empty() {
                return Err(Fault::unauthorized());
            }
            to_project(door, &project, &roles, claims).await
        }
        Wanted::Domain(raw) => {
            if raw.is_empty() {
                return Err(Fault::bad("Expecting to find id or name in domain."));
            }
            let (named, enabled) = domain(door, &raw).await?.ok_or_else(Fault::unauthorized)?;
            let place = Place::Domain(door.directory.domain_object(&named.id).await?);
            let roles = shown(door.directory.roles_in(&who, &place).await?);
            if roles.is_empty() || !enabled {
                return Err(Fault::unauthorized());
            }
            claims.domain = Some(Scope { id: named.id, name: named.name });
            claims.roles = names_of(&roles);
            Ok(())
        }
        Wanted::System => {
            let roles = shown(door.directory.roles_in(&who, &Place::System).await?);
            if roles.is_empty() {
                return Err(Fault::unauthorized());
            }
            claims.system = true;
            claims.roles = names_of(&roles);
            Ok(())
        }
        Wanted::Trust(id) => by_trust(door, proven, &id, claims).await,
    }
}

fn names_of(roles: &[Role]) -> Vec<String> {
    roles.iter().map(|role| role.name.clone()).collect()
}

/// Roles of a domain's own are not in tokens: what they imply is.
fn shown(mut roles: Vec<Role>) -> Vec<Role> {
    roles.retain(|role| role.domain.is_none());
    roles
}

/// The roles that somebody has on a project; none where that, or its domain, is disabled.
async fn roles_on(door: &Ctx, who: &Principal, project: &Arc<Project>) -> Result<Vec<Role>, Fault> {
    let enabled = door.directory.domain_state(project.spec.domain.as_deref()).await?.1;
    if !project.spec.enabled || !enabled || home(project).is_none() {
        return Ok(Vec::new());
    }
    Ok(shown(door.directory.roles_in(who, &Place::Project(project.clone())).await?))
}

async fn to_project(door: &Ctx, project: &Project, roles: &[Role], claims: &mut Claims) -> Result<(), Fault> {
    let domain = door.directory.domain_of(project.spec.domain.as_deref()).await?;
    claims.domain = Some(Scope { id: domain.id, name: domain.name });
    claims.project = Some(Scope { id: project.id(), name: ids::name(project).to_owned() });
    claims.roles = names_of(roles);
    Ok(())
}

/// Writes into `claims` the project with this id, and the roles that a user has there.
pub(super) async fn to_project_of(
    door: &Ctx,
    user: &User,
    id: &str,
    claims: &mut Claims,
) -> Result<(), Fault> {
    let who = door.directory.principal(user).await?;
    let project = door.directory.with_id::<Project>(id).await?.ok_or_else(Fault::unauthorized)?;
    let roles = roles_on(door, &who, &project).await?;
    if roles.is_empty() {
        return Err(Fault::unauthorized());
    }
    claims.groups = who.groups;
    to_project(door, &project, &roles, claims).await
}

/// The roles that a user has on a project at this moment, whatever their token says.
pub(super) async fn held(door: &Ctx, user: &str, project: &str) -> Result<Vec<Role>, Fault> {
    let user = door.directory.with_id::<User>(user).await?;
    let project = door.directory.with_id::<Project>(project).await?;
    match (user, project) {
        (Some(user), Some(project)) => {
            roles_on(door, &door.directory.principal(&user).await?, &project).await
        }
        _ => Ok(Vec::new()),
    }
}

/// The project and the roles that somebody let others have, as long as they have these themselves.
async fn let_have(
    door: &Ctx,
    who: &Principal,
    (project, id): (&str, &str),
    ids: &[String],
) -> Result<(Arc<Project>, Vec<Role>), Fault> {
    let project = door.directory.project_named(project).await?.filter(|project| project.id() == id);
    let project = project.ok_or_else(Fault::unauthorized)?;
    let own = roles_on(door, who, &project).await?;
    if ids.is_empty() || !ids.iter().all(|id| own.iter().any(|role| role.id == *id)) {
        return Err(Fault::unauthorized());
    }
    let roles = shown(door.directory.expanded(ids.iter().cloned().collect()).await?);
    Ok((project, roles))
}

fn limit(project: &Project, roles: &[Role]) -> Option<Limit> {
    Some(Limit {
        namespace: home(project).unwrap_or_default().to_owned(),
        roles: roles.iter().map(|role| role.cluster_role.clone()).collect(),
    })
}

async fn by_credential(
    door: &Ctx,
    who: &Principal,
    credential: &ApplicationCredential,
    claims: &mut Claims,
) -> Result<(), Fault> {
    let spec = &credential.spec;
    let (project, roles) = let_have(door, who, (&spec.project, &spec.project_id), &spec.roles).await?;
    to_project(door, &project, &roles, claims).await?;
    claims.limit = limit(&project, &roles);
    claims.app_credential = Some(AppCredential {
        id: credential.id(),
        name: credential.display_name(),
        restricted: !spec.unrestricted,
        ruled: !spec.access_rules.is_empty(),
    });
    claims.exp = claims.exp.min(spec.expires_at.map_or(u64::MAX, |at| at / 1_000_000));
    Ok(())
}

async fn by_trust(door: &Ctx, proven: &Proven, id: &str, claims: &mut Claims) -> Result<(), Fault> {
    let trust = delegated::trust(door, id).await?.ok_or_else(Fault::unauthorized)?;
    let spec = &trust.spec;
    if spec.trustee_id != proven.user.id() {
        return Err(Fault::forbidden("User is not a trustee."));
    }
    let trustor = door.directory.user_named(&spec.trustor).await?;
    let trustor = trustor.filter(|user| user.id() == spec.trustor_id);
    let Some(trustor) = trustor else { return Err(Fault::forbidden("The trustor is gone.")) };
    if !is_enabled(door, &trustor).await? {
        return Err(Fault::forbidden("The trustor is disabled."));
    }
    let who = door.directory.principal(&trustor).await?;
    let allowed = let_have(door, &who, (&spec.project, &spec.project_id), &spec.roles).await;
    let (project, roles) = allowed
        .map_err(|_| Fault::forbidden("The trustor has no longer the roles, or the project is disabled."))?;
    delegated::use_up(door, &trust).await?;
    to_project(door, &project, &roles, claims).await?;
    claims.limit = limit(&project, &roles);
    claims.trust = Some(Trust {
        id: id.to_owned(),
        trustor: spec.trustor_id.clone(),
        trustee: spec.trustee_id.clone(),
        trustee_name: claims.sub.clone(),
        names_trustee: spec.impersonation == Some(false),
        trustee_domain: claims.user_domain.take().map(|domain| domain.id).unwrap_or_default(),
    });
    // It acts as who trusts.
    claims.sub = ids::name(&*trustor).to_owned();
    claims.uid = trustor.id();
    claims.groups = who.groups;
    let domain = door.directory.domain_of(trustor.spec.domain.as_deref()).await?;
    claims.user_domain = Some(Scope { id: domain.id, name: domain.name });
    claims.exp = claims.exp.min(spec.expires_at.map_or(u64::MAX, |at| at / 1_000_000));
    Ok(())
}
