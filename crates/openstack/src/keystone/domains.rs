//! Domains: Domain objects. What is in one goes with it, once it is disabled.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::iam::{Domain, DomainSpec, Group, Project, RoleGrant, User};

use super::named::{extra, extra_change, immutable_option, options_view, refuse_immutable, show_extra};
use super::{collection, groups, name_matches, projects, roles, tags, users};
use crate::auth::Session;
use crate::body::{Json, Params, explicit};
use crate::change::Changes;
use crate::directory::{DEFAULT_DOMAIN, domain_named};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::revocation::{self, Holder};
use crate::versions::{json_response, ok};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    domain: Fields,
}

/// What a request says of a domain.
#[derive(Deserialize)]
pub(super) struct Fields {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    pub(super) description: Option<Option<String>>,
    #[serde(default)]
    pub(super) enabled: Option<bool>,
    #[serde(default)]
    pub(super) tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) options: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) explicit_domain_id: Option<String>,
    #[serde(flatten)]
    pub(super) extra: Map<String, Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        if let Some(name) = &self.name {
            super::check_name(name, 64)?;
        }
        tags::check(self.tags.as_deref().unwrap_or_default())
    }
}

/// The domain with this id, as the caller may see it; one's own, and that of the token, everybody may.
pub(super) async fn find(session: &Session, id: &str) -> Result<Domain, Fault> {
    let missing = || Fault::not_found("Could not find domain:", id);
    let own =
        [&session.claims.domain, &session.claims.user_domain].into_iter().flatten().any(|own| own.id == id);
    let found = if own {
        let all = session.door.directory.all::<Domain>().await?.list();
        all.iter().find(|domain| domain_named(domain).id == id).map(|domain| (**domain).clone())
    } else {
        let all = ids::list(&session.global::<Domain>()).await?;
        all.into_iter().find(|domain| domain_named(domain).id == id)
    };
    found.ok_or_else(missing)
}

pub(super) fn view(session: &Session, domain: &Domain) -> Value {
    let named = domain_named(domain);
    let mut view = json!({
        "id": named.id, "name": named.name, "enabled": domain.spec.enabled,
        "description": domain.spec.description.as_deref().unwrap_or_default(),
        "tags": domain.spec.tags, "options": options_view(domain.spec.immutable),
        "links": {"self": format!("{}/identity/v3/domains/{}", session.door.endpoint, named.id)},
    });
    show_extra(&mut view, &domain.spec.extra);
    view
}

/// A domain as one of Keystone's projects: each domain is one, which acts as it.
pub(super) fn project_view(session: &Session, domain: &Domain) -> Value {
    let mut view = view(session, domain);
    let id = view["id"].as_str().unwrap_or_default().to_owned();
    view["is_domain"] = json!(true);
    view["domain_id"] = Value::Null;
    view["parent_id"] = Value::Null;
    view["links"] = json!({"self": format!("{}/identity/v3/projects/{id}", session.door.endpoint)});
    view
}

/// Those that pass the filters of a list: name, and whether they are switched on.
pub(super) async fn filtered(session: &Session, params: &Params) -> Result<Vec<Domain>, Fault> {
    let enabled = params.flag("enabled")?;
    let mut all = ids::list(&session.global::<Domain>()).await?;
    all.retain(|domain| {
        name_matches(params, &domain_named(domain).name) && enabled.is_none_or(|it| it == domain.spec.enabled)
    });
    Ok(all)
}

/// `GET /domains`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let all = filtered(&session, &params).await?;
    let views = all.iter().map(|domain| view(&session, domain)).collect();
    Ok(collection(&session, "domains", "domains", views))
}

/// `GET /domains/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"domain": view(&session, &find(&session, &id).await?)})))
}

async fn refuse_taken(session: &Session, name: &str, except: Option<&str>) -> Result<(), Fault> {
    let all = ids::list(&session.global::<Domain>()).await?;
    let taken = all.iter().map(domain_named).any(|it| it.name == name && Some(it.id.as_str()) != except);
    if taken {
        return Err(Fault::conflict(format!(
            "Conflict occurred attempting to store domain - Duplicate entry found with name {name}."
        )));
    }
    Ok(())
}

/// `POST /domains`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let made = make(&session, body.domain).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"domain": view(&session, &made)})))
}

/// Makes a domain.
pub(super) async fn make(session: &Session, fields: Fields) -> Result<Domain, Fault> {
    fields.check()?;
    let name = fields.name.ok_or_else(|| Fault::bad("'name' is a required property"))?;
    let id = match fields.explicit_domain_id {
        Some(id) if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => id,
        Some(_) => return Err(Fault::bad("explicit_domain_id must have 32 hexadecimal digits.")),
        None => ids::plain(),
    };
    refuse_taken(session, &name, None).await?;
    if session.door.directory.domains().await?.iter().any(|(domain, _)| domain.id == id) {
        return Err(Fault::conflict(format!(
            "Conflict occurred attempting to store domain - Duplicate ID, {id}."
        )));
    }
    let spec = DomainSpec {
        id: Some(id),
        display_name: Some(name.clone()),
        description: fields.description.flatten(),
        enabled: fields.enabled.unwrap_or(true),
        immutable: immutable_option(fields.options.as_ref())?.unwrap_or(false),
        tags: fields.tags.unwrap_or_default(),
        extra: extra(&fields.extra)?,
    };
    let made = ids::create(&session.global::<Domain>(), Domain::new("", spec), &name).await?;
    session.door.directory.saw(&made).await?;
    Ok(made)
}

/// `PATCH /domains/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let domain = change(&session, &id, body.domain).await?;
    Ok(ok(&json!({"domain": view(&session, &domain)})))
}

/// Changes the domain with this id.
pub(super) async fn change(session: &Session, id: &str, fields: Fields) -> Result<Domain, Fault> {
    fields.check()?;
    let domain = find(session, id).await?;
    let immutable = immutable_option(fields.options.as_ref())?;
    refuse_immutable("domain", id, domain.spec.immutable && immutable != Some(false))?;
    if let Some(name) = &fields.name {
        refuse_taken(session, name, Some(id)).await?;
    }
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("enabled", fields.enabled)
        .set("immutable", immutable)
        .set("tags", fields.tags)
        .set("extra", extra_change(&fields.extra)?);
    let domain = changes.apply(&session.global::<Domain>(), &domain).await?;
    session.door.directory.saw(&domain).await?;
    if fields.enabled == Some(false) {
        let door = &session.door;
        revocation::revoke_all(&door.system, &door.tokens, &Holder::Domain(id.to_owned())).await?;
    }
    Ok(domain)
}

/// `DELETE /domains/{id}`: of one that is disabled, with the users, groups, projects and roles in it. A project with anything in it that a
/// tenant made refuses that, before anything is gone.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let domain = find(&session, &id).await?;
    refuse_immutable("domain", &id, domain.spec.immutable)?;
    if id == DEFAULT_DOMAIN {
        return Err(Fault::forbidden("The default domain cannot be deleted."));
    }
    if domain.spec.enabled {
        return Err(Fault::forbidden("Cannot delete a domain that is enabled, please disable it first."));
    }
    let name = ids::name(&domain);
    let mut within = ids::list(&session.global::<Project>()).await?;
    within.retain(|project| project.spec.domain.as_deref() == Some(name));
    for project in &within {
        projects::refuse_if_in_use(&session, project).await?;
    }
    for user in ids::list(&session.global::<User>()).await? {
        if user.spec.domain.as_deref() == Some(name) {
            users::remove(&session, &user).await?;
        }
    }
    for group in ids::list(&session.global::<Group>()).await? {
        if group.spec.domain.as_deref() == Some(name) {
            groups::remove(&session, &group).await?;
        }
    }
    for project in &within {
        projects::remove(&session, project).await?;
    }
    for role in session.door.directory.roles().await? {
        if role.domain.as_deref() == Some(id.as_str()) {
            roles::remove(&session, &role).await?;
        }
    }
    let grants = session.global::<RoleGrant>();
    for grant in ids::list(&grants).await? {
        if grant.spec.domain.as_deref() == Some(name) {
            grants.delete(ids::name(&grant), &DeleteParams::default()).await?;
        }
    }
    session.global::<Domain>().delete(name, &DeleteParams::default()).await?;
    session.door.directory.saw_gone(&domain).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Refuses a domain other than one that there is; answers the `metadata.name` to store, `None` for the default one.
pub(super) async fn name_of(session: &Session, id: Option<&str>) -> Result<Option<String>, Fault> {
    match id {
        // As Keystone: who signed in to a domain means that one.
        None => match (&session.claims.project, &session.claims.domain) {
            (None, Some(domain)) if domain.id != DEFAULT_DOMAIN => {
                Ok(Some(ids::name(&find(session, &domain.id).await?).to_owned()))
            }
            _ => Ok(None),
        },
        Some(DEFAULT_DOMAIN) => Ok(None),
        Some(id) => Ok(Some(ids::name(&find(session, id).await?).to_owned())),
    }
}
