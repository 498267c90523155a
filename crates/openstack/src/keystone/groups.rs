//! Groups: Group objects. A token of a member says that its user is in the group, so that RBAC's bindings to groups hold.

use std::sync::Arc;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::{Group, GroupSpec};

use super::named::{extra, extra_change, filtered, refuse_taken, show_extra};
use super::{assignments, collection, domains, name_matches, users};
use crate::auth::Session;
use crate::body::{Json, Params, explicit};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

/// Members of one group.
const MAX_MEMBERS: usize = 5000;
/// How often a change of members is tried again that another change was faster than.
const ATTEMPTS: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    group: Fields,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// The group with this id, as the caller may see it.
pub(super) async fn find(session: &Session, id: &str) -> Result<Group, Fault> {
    let found = session.find(&session.global::<Group>(), id).await?;
    found.ok_or_else(|| Fault::not_found("Could not find group:", id))
}

pub(super) async fn view(session: &Session, group: &Group) -> Result<Value, Fault> {
    let id = group.id();
    let domain = session.door.directory.domain_of(group.spec.domain.as_deref()).await?;
    let mut view = json!({
        "id": id, "name": group.display_name(), "domain_id": domain.id,
        "description": group.spec.description.as_deref().unwrap_or_default(),
        "links": {"self": format!("{}/identity/v3/groups/{id}", session.door.endpoint)},
    });
    show_extra(&mut view, &group.spec.extra);
    Ok(view)
}

/// `GET /groups`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let mut views = Vec::new();
    for group in filtered(&session, &params, &session.global::<Group>()).await? {
        views.push(view(&session, &group).await?);
    }
    Ok(collection(&session, "groups", "groups", views))
}

/// `GET /groups/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    let group = find(&session, &id).await?;
    Ok(ok(&json!({"group": view(&session, &group).await?})))
}

/// `POST /groups`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.group;
    let name = fields.name.ok_or_else(|| Fault::bad("'name' is a required property"))?;
    super::check_name(&name, 64)?;
    let domain = domains::name_of(&session, fields.domain_id.as_deref()).await?;
    let groups = session.global::<Group>();
    refuse_taken(&groups, &name, domain.as_deref(), None).await?;
    let spec = GroupSpec {
        id: Some(ids::plain()),
        display_name: Some(name.clone()),
        description: fields.description.flatten(),
        domain,
        members: Vec::new(),
        extra: extra(&fields.extra)?,
    };
    let made = ids::create(&groups, Group::new("", spec), &name).await?;
    session.door.directory.saw(&made).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"group": view(&session, &made).await?})))
}

/// `PATCH /groups/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.group;
    let groups = session.global::<Group>();
    let group = find(&session, &id).await?;
    let domain = session.door.directory.domain_of(group.spec.domain.as_deref()).await?;
    if fields.domain_id.as_ref().is_some_and(|given| *given != domain.id) {
        return Err(Fault::bad("Domain ID cannot be changed."));
    }
    if let Some(name) = &fields.name {
        super::check_name(name, 64)?;
        refuse_taken(&groups, name, group.spec.domain.as_deref(), Some(&id)).await?;
    }
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("extra", extra_change(&fields.extra)?);
    let group = changes.apply(&groups, &group).await?;
    session.door.directory.saw(&group).await?;
    Ok(ok(&json!({"group": view(&session, &group).await?})))
}

/// `DELETE /groups/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let group = find(&session, &id).await?;
    remove(&session, &group).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Deletes a group, and the roles that it has. What its members' tokens say of it is refused from then on.
pub(super) async fn remove(session: &Session, group: &Group) -> Result<(), Fault> {
    let name = ids::name(group);
    // The object goes last: while it is there, no other group gets the name.
    write_members(session, &Arc::new(group.clone()), Vec::clear).await?;
    assignments::forget(session, "Group", name).await?;
    for member in &group.spec.members {
        users::revoke_tokens(session, member).await?;
    }
    super::gone(session.global::<Group>().delete(name, &DeleteParams::default()).await)?;
    session.door.directory.saw_gone(group).await
}

/// `GET /groups/{id}/users`
pub(super) async fn members(session: Session, Path(id): Path<String>, params: Params) -> Answer {
    let group = find(&session, &id).await?;
    let mut views = Vec::new();
    for member in &group.spec.members {
        if let Some(user) = session.door.directory.user_named(member).await?
            && name_matches(&params, &user.display_name())
        {
            views.push(users::view(&session, &user).await?);
        }
    }
    Ok(collection(&session, "users", &format!("groups/{id}/users"), views))
}

/// Changes who is in a group, whatever others change at the same time.
pub(super) async fn write_members(
    session: &Session,
    group: &Arc<Group>,
    change: impl Fn(&mut Vec<String>),
) -> Result<(), Fault> {
    let groups = session.global::<Group>();
    for _ in 0..ATTEMPTS {
        let Some(now) = groups.get_opt(ids::name(&**group)).await? else { return Ok(()) };
        let mut members = now.spec.members.clone();
        change(&mut members);
        if members == now.spec.members {
            return Ok(());
        }
        if members.len() > MAX_MEMBERS {
            return Err(Fault::forbidden(format!("A group has at most {MAX_MEMBERS} members.")));
        }
        let patch = json!({
            "metadata": {"resourceVersion": now.metadata.resource_version}, "spec": {"members": members},
        });
        match groups.patch(ids::name(&now), &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return session.door.directory.saw(&other?).await,
        }
    }
    Err(Fault::conflict("The group's members are being changed by others; try again."))
}

fn not_in(user: &str, group: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("User '{user}' not found in group '{group}'."))
}

/// `PUT /groups/{group}/users/{user}`
pub(super) async fn add(session: Session, Path((group, user)): Path<(String, String)>) -> Answer {
    let (group, user) = (find(&session, &group).await?, users::find(&session, &user).await?);
    let name = ids::name(&user).to_owned();
    write_members(&session, &Arc::new(group), |members| {
        if !members.contains(&name) {
            members.push(name.clone());
        }
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET` and `HEAD /groups/{group}/users/{user}`
pub(super) async fn check(session: Session, Path((group, user)): Path<(String, String)>) -> Answer {
    let (found, member) = (find(&session, &group).await?, users::find(&session, &user).await?);
    if !found.spec.members.iter().any(|name| name == ids::name(&member)) {
        return Err(not_in(&user, &group));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /groups/{group}/users/{user}`. The user's tokens say that they are in it, and are refused from then on.
pub(super) async fn take_out(session: Session, Path((group, user)): Path<(String, String)>) -> Answer {
    let (found, member) = (find(&session, &group).await?, users::find(&session, &user).await?);
    let name = ids::name(&member).to_owned();
    if !found.spec.members.contains(&name) {
        return Err(not_in(&user, &group));
    }
    write_members(&session, &Arc::new(found), |members| members.retain(|own| *own != name)).await?;
    users::revoke_tokens(&session, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
