//! Roles: ClusterRoles. The four of every cloud stay as they are; others can be made, and mean what they imply. Admins see them, and
//! readers of the whole cloud (Keystone's default policies).

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_identity::bootstrap::AGGREGATE_TO_MANAGER;
use yunfan_resources::iam::RoleGrant;
use yunfan_resources::names;

use super::named::{extra, immutable_option, options_view, refuse_immutable, show_extra};
use super::{collection, domains, name_matches};
use crate::auth::Session;
use crate::body::{Json, Params, explicit};
use crate::directory::{
    DESCRIPTION, DOMAIN, EXTRA, IMMUTABLE, NAME, Role, implied_label, implied_system_label, with_implied,
};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    role: Fields,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(default)]
    options: Option<Map<String, Value>>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

fn link(session: &Session, id: &str) -> Value {
    json!({"self": format!("{}/identity/v3/roles/{id}", session.door.endpoint)})
}

/// A role as Keystone shows it.
pub(super) fn view(session: &Session, role: &Role) -> Value {
    let mut view = json!({
        "id": role.id, "name": role.name, "domain_id": role.domain, "description": role.description,
        "options": options_view(role.immutable), "links": link(session, &role.id),
    });
    show_extra(&mut view, &role.extra);
    view
}

/// `GET /roles`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    super::for_readers::<ClusterRole>(&session).await?;
    let domain = params.get("domain_id").filter(|id| !id.is_empty());
    let mut roles = session.door.directory.roles().await?;
    roles.retain(|role| name_matches(&params, &role.name) && role.domain.as_deref() == domain);
    let views = roles.iter().map(|role| view(&session, role)).collect();
    Ok(collection(&session, "roles", "roles", views))
}

/// `GET /roles/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    super::for_readers::<ClusterRole>(&session).await?;
    let role = session.door.directory.role(&id).await?;
    Ok(ok(&json!({"role": view(&session, &role)})))
}

async fn refuse_taken(
    session: &Session,
    name: &str,
    domain: Option<&str>,
    except: Option<&str>,
) -> Result<(), Fault> {
    let roles = session.door.directory.roles().await?;
    let same = |role: &&Role| role.name == name && role.domain.as_deref() == domain;
    match roles.iter().find(same).filter(|role| Some(role.id.as_str()) != except) {
        Some(_) => Err(Fault::conflict(format!(
            "Conflict occurred attempting to store role - Duplicate entry found with name {name}."
        ))),
        None => Ok(()),
    }
}

fn annotations(role: &Role) -> BTreeMap<String, Value> {
    let text = |value: &Option<String>| value.as_ref().map_or(Value::Null, |value| json!(value));
    [
        (NAME.to_owned(), json!(role.name)),
        (DESCRIPTION.to_owned(), text(&role.description)),
        (DOMAIN.to_owned(), text(&role.domain)),
        (IMMUTABLE.to_owned(), if role.immutable { json!("true") } else { Value::Null }),
        (
            EXTRA.to_owned(),
            if role.extra.is_empty() { Value::Null } else { json!(json!(role.extra).to_string()) },
        ),
    ]
    .into()
}

/// `POST /roles`. The role has no rights but those of the roles that it implies.
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.role;
    let name = fields.name.ok_or_else(|| Fault::bad("'name' is a required property"))?;
    super::check_name(&name, 255)?;
    let domain = fields.domain_id;
    if let Some(domain) = &domain {
        domains::find(&session, domain).await?;
    }
    refuse_taken(&session, &name, domain.as_deref(), None).await?;
    let id = ids::plain();
    let description = fields.description.flatten();
    let immutable = immutable_option(fields.options.as_ref())?.unwrap_or(false);
    let mut role = Role::own(id, name, description, domain, immutable);
    role.extra = extra(&fields.extra)?;
    let said: BTreeMap<String, Value> =
        annotations(&role).into_iter().filter(|(_, value)| !value.is_null()).collect();
    let object = json!({
        "metadata": {"name": role.cluster_role, "labels": {names::ROLE_ID_LABEL: role.id}, "annotations": said},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {implied_label(&role.id): "true"}}]},
    });
    let object: ClusterRole = crate::body::parse_value(object)?;
    let made = session.global::<ClusterRole>().create(&PostParams::default(), &object).await?;
    session.door.directory.saw(&made).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"role": view(&session, &role)})))
}

/// Makes what a role of one's own is on the system, where it is not there yet: what the roles that it implies are there, and no more.
pub(super) async fn make_system(session: &Session, role: &Role) -> Result<(), Fault> {
    let roles = session.global::<ClusterRole>();
    if role.is_builtin() || roles.get_opt(&role.system_role).await?.is_some() {
        return Ok(());
    }
    let object = json!({
        "metadata": {"name": role.system_role},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {implied_system_label(&role.id): "true"}}]},
    });
    let object: ClusterRole = crate::body::parse_value(object)?;
    match roles.create(&PostParams::default(), &object).await {
        // Somebody gave it at the same time.
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
        made => session.door.directory.saw(&made?).await?,
    }
    let all = session.door.directory.roles().await?;
    for (_, implied) in
        session.door.directory.inferences().await?.iter().filter(|(prior, _)| *prior == role.id)
    {
        if let Some(implied) = all.iter().find(|other| other.id == *implied) {
            imply_on_system(session, role, implied, &json!("true")).await?;
        }
    }
    Ok(())
}

/// Lets a role of one's own have on the system what one that it implies has there, or no more. One that was never given there needs
/// nothing yet.
async fn imply_on_system(
    session: &Session,
    prior: &Role,
    implied: &Role,
    value: &Value,
) -> Result<(), Fault> {
    let roles = session.global::<ClusterRole>();
    if prior.is_builtin() || prior.system_role.is_empty() || implied.system_role.is_empty() {
        return Ok(());
    }
    if roles.get_opt(&prior.system_role).await?.is_none() {
        return Ok(());
    }
    if *value != Value::Null {
        Box::pin(make_system(session, implied)).await?;
    }
    let patch = json!({"metadata": {"labels": {implied_system_label(&prior.id): value}}});
    match label(session, &implied.system_role, patch).await {
        Err(fault) if fault.status == StatusCode::NOT_FOUND => Ok(()),
        other => other,
    }
}

/// Refuses to change what every cloud has.
fn refuse_builtin(role: &Role) -> Result<(), Fault> {
    if role.is_builtin() {
        return Err(Fault::forbidden(format!(
            "Unable to update or delete immutable role resource: {}. The role {} is the cloud's own.",
            role.id, role.name
        )));
    }
    Ok(())
}

/// `PATCH /roles/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let mut role = session.door.directory.role(&id).await?;
    refuse_builtin(&role)?;
    let fields = body.role;
    if fields.domain_id.is_some() && fields.domain_id != role.domain {
        return Err(Fault::bad("Domain ID cannot be changed."));
    }
    let immutable = immutable_option(fields.options.as_ref())?;
    refuse_immutable("role", &id, role.immutable && immutable != Some(false))?;
    if let Some(name) = fields.name {
        super::check_name(&name, 255)?;
        refuse_taken(&session, &name, role.domain.as_deref(), Some(&id)).await?;
        role.name = name;
    }
    if let Some(description) = fields.description {
        role.description = description;
    }
    role.immutable = immutable.unwrap_or(role.immutable);
    role.extra.extend(extra(&fields.extra)?);
    role.extra.retain(|_, text| text != "null");
    let patch = json!({"metadata": {"annotations": annotations(&role)}});
    label(&session, &role.cluster_role, patch).await?;
    Ok(ok(&json!({"role": view(&session, &role)})))
}

async fn label(session: &Session, cluster_role: &str, patch: Value) -> Result<(), Fault> {
    let roles = session.global::<ClusterRole>();
    let written = roles.patch(cluster_role, &PatchParams::default(), &Patch::Merge(patch)).await?;
    session.door.directory.saw(&written).await
}

/// `DELETE /roles/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let role = session.door.directory.role(&id).await?;
    refuse_builtin(&role)?;
    refuse_immutable("role", &id, role.immutable)?;
    remove(&session, &role).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Deletes a role, and takes it from all who have it.
pub(super) async fn remove(session: &Session, role: &Role) -> Result<(), Fault> {
    let directory = &session.door.directory;
    let all = directory.roles().await?;
    for (_, implied) in directory.inferences().await?.iter().filter(|(prior, _)| *prior == role.id) {
        if let Some(implied) = all.iter().find(|other| other.id == *implied) {
            let patch = json!({"metadata": {"labels": {implied_label(&role.id): null}}});
            label(session, &implied.cluster_role, patch).await?;
            imply_on_system(session, role, implied, &Value::Null).await?;
        }
    }
    for binding in ids::list(&session.everywhere::<RoleBinding>()).await? {
        if binding.role_ref.name == role.cluster_role && binding.role_ref.kind == "ClusterRole" {
            let within = session.within::<RoleBinding>(ids::namespace(&binding));
            super::gone(within.delete(ids::name(&binding), &DeleteParams::default()).await)?;
        }
    }
    let wide = session.global::<ClusterRoleBinding>();
    for binding in ids::list(&wide).await? {
        if [&role.cluster_role, &role.system_role].contains(&&binding.role_ref.name) {
            super::gone(wide.delete(ids::name(&binding), &DeleteParams::default()).await)?;
        }
    }
    let grants = session.global::<RoleGrant>();
    for grant in ids::list(&grants).await? {
        if grant.spec.cluster_role == role.cluster_role {
            super::gone(grants.delete(ids::name(&grant), &DeleteParams::default()).await)?;
        }
    }
    let roles = session.global::<ClusterRole>();
    if !role.system_role.is_empty() {
        super::gone(roles.delete(&role.system_role, &DeleteParams::default()).await)?;
    }
    let Some(object) = roles.get_opt(&role.cluster_role).await? else { return Ok(()) };
    super::gone(roles.delete(&role.cluster_role, &DeleteParams::default()).await)?;
    directory.saw_gone(&object).await
}

/// The labels on the implied role's ClusterRole that let another role have what it has.
fn labels(prior: &Role, value: &Value) -> Value {
    let mut labels = json!({implied_label(&prior.id): value});
    // How ClusterRoles that are no role of a client's own select others.
    let aggregate = match prior.name.as_str() {
        _ if !prior.is_builtin() => return labels,
        // It allows all as it is.
        "admin" => return labels,
        "manager" => AGGREGATE_TO_MANAGER.to_owned(),
        _ => format!("rbac.authorization.k8s.io/aggregate-to-{}", prior.cluster_role),
    };
    labels[aggregate] = value.clone();
    labels
}

fn inference(session: &Session, prior: &Role, implied: &Role) -> Value {
    let short = |role: &Role| json!({"id": role.id, "name": role.name, "links": link(session, &role.id)});
    let path = format!("{}/identity/v3/roles/{}/implies/{}", session.door.endpoint, prior.id, implied.id);
    json!({
        "role_inference": {"prior_role": short(prior), "implies": short(implied)}, "links": {"self": path},
    })
}

async fn pair(session: &Session, prior: &str, implied: &str) -> Result<(Role, Role, bool), Fault> {
    let directory = &session.door.directory;
    let (prior, implied) = (directory.role(prior).await?, directory.role(implied).await?);
    let there = directory.inferences().await?.iter().any(|(a, b)| *a == prior.id && *b == implied.id);
    Ok((prior, implied, there))
}

/// `PUT /roles/{prior}/implies/{implied}`
pub(super) async fn imply(session: Session, Path((prior, implied)): Path<(String, String)>) -> Answer {
    let (prior, implied, there) = pair(&session, &prior, &implied).await?;
    if implied.name == "admin" && implied.is_builtin() {
        return Err(Fault::forbidden("The role admin cannot be implied by another."));
    }
    if implied.domain.is_some() && prior.domain.is_none() {
        return Err(Fault::forbidden(format!(
            "The role {} is of one domain: a role of no domain cannot imply it.",
            implied.name
        )));
    }
    let inferences = session.door.directory.inferences().await?;
    if prior.id == implied.id || with_implied([implied.id.clone()].into(), &inferences).contains(&prior.id) {
        return Err(Fault::forbidden(format!("{} would imply itself.", prior.name)));
    }
    if !there {
        let patch = json!({"metadata": {"labels": labels(&prior, &json!("true"))}});
        label(&session, &implied.cluster_role, patch).await?;
        imply_on_system(&session, &prior, &implied, &json!("true")).await?;
    }
    Ok(json_response(StatusCode::CREATED, &inference(&session, &prior, &implied)))
}

fn no_inference(prior: &Role, implied: &Role) -> Fault {
    Fault::new(
        StatusCode::NOT_FOUND,
        format!("Could not find role inference of {} for {}.", implied.name, prior.name),
    )
}

/// `GET /roles/{prior}/implies/{implied}`
pub(super) async fn implied(session: Session, Path((prior, implied)): Path<(String, String)>) -> Answer {
    super::for_readers::<ClusterRole>(&session).await?;
    let (prior, implied, there) = pair(&session, &prior, &implied).await?;
    if !there {
        return Err(no_inference(&prior, &implied));
    }
    Ok(ok(&inference(&session, &prior, &implied)))
}

/// `HEAD /roles/{prior}/implies/{implied}`
pub(super) async fn check_implied(session: Session, path: Path<(String, String)>) -> Answer {
    super::for_readers::<ClusterRole>(&session).await?;
    implied(session, path).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /roles/{prior}/implies/{implied}`
pub(super) async fn unimply(session: Session, Path((prior, implied)): Path<(String, String)>) -> Answer {
    let (prior, implied, there) = pair(&session, &prior, &implied).await?;
    if !there {
        return Err(no_inference(&prior, &implied));
    }
    if prior.is_builtin() && implied.is_builtin() {
        return Err(Fault::forbidden(format!(
            "That {} implies {} is the cloud's own.",
            prior.name, implied.name
        )));
    }
    let patch = json!({"metadata": {"labels": labels(&prior, &Value::Null)}});
    label(&session, &implied.cluster_role, patch).await?;
    imply_on_system(&session, &prior, &implied, &Value::Null).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What each role implies, of those that imply any.
async fn grouped(session: &Session) -> Result<Vec<(Role, Vec<Value>)>, Fault> {
    let roles = session.door.directory.roles().await?;
    let inferences = session.door.directory.inferences().await?;
    let short = |role: &Role| json!({"id": role.id, "name": role.name, "links": link(session, &role.id)});
    let mut all = Vec::new();
    for prior in &roles {
        let of = inferences.iter().filter(|(from, _)| *from == prior.id);
        let implied = of.filter_map(|(_, to)| roles.iter().find(|role| role.id == *to)).map(short).collect();
        all.push((prior.clone(), implied));
    }
    Ok(all)
}

/// `GET /roles/{prior}/implies`
pub(super) async fn implies(session: Session, Path(prior): Path<String>) -> Answer {
    super::for_readers::<ClusterRole>(&session).await?;
    let prior = session.door.directory.role(&prior).await?;
    let all = grouped(&session).await?;
    let implied = all.into_iter().find(|(role, _)| role.id == prior.id).map(|(_, implied)| implied);
    let short = json!({"id": prior.id, "name": prior.name, "links": link(&session, &prior.id)});
    let path = format!("{}/identity/v3/roles/{}/implies", session.door.endpoint, prior.id);
    Ok(ok(&json!({
        "role_inference": {"prior_role": short, "implies": implied.unwrap_or_default()}, "links": {"self": path},
    })))
}

/// `GET /role_inferences`
pub(super) async fn inferences(session: Session) -> Answer {
    super::for_readers::<ClusterRole>(&session).await?;
    let all = grouped(&session).await?;
    let shown: Vec<Value> = all
        .into_iter()
        .filter(|(_, implied)| !implied.is_empty())
        .map(|(role, implied)| {
            let prior = json!({"id": role.id, "name": role.name, "links": link(&session, &role.id)});
            json!({"prior_role": prior, "implies": implied})
        })
        .collect();
    Ok(ok(&json!({
        "role_inferences": shown,
        "links": {"self": format!("{}/identity/v3/role_inferences", session.door.endpoint)},
    })))
}
