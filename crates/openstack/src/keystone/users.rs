//! Users: User objects, and the Secrets with their passwords' hashes.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_identity::password::{self, PasswordError};
use yunfan_resources::iam::{User, UserSpec};
use yunfan_resources::{Identified, names};

use super::domains::{filtered, refuse_taken};
use super::{collection, domain_name, tokens};
use crate::auth::Session;
use crate::body::{Json, Params, explicit, only};
use crate::change::Changes;
use crate::directory;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::revocation::{self, Holder};
use crate::versions::{json_response, ok};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    user: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    email: Option<Option<String>>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    domain_id: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    default_project_id: Option<Option<String>>,
    #[serde(default)]
    options: Option<Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        if let Some(name) = &self.name {
            ids::check_name("name", name, false)?;
        }
        if self.password.as_deref() == Some("") {
            return Err(Fault::bad("Invalid input for field/attribute password. It must not be empty."));
        }
        only("options", self.options.as_ref(), &[json!({})], "users have no options")
    }

    /// The `metadata.name` of the default project, which must exist.
    async fn default_project(&self, session: &Session) -> Result<Option<Option<String>>, Fault> {
        match &self.default_project_id {
            None => Ok(None),
            Some(None) => Ok(Some(None)),
            Some(Some(id)) => {
                let project = super::projects::find(session, id).await?;
                Ok(Some(Some(ids::name(&project).to_owned())))
            }
        }
    }
}

/// The user with this id. Oneself, everybody may read.
pub(super) async fn find(session: &Session, id: &str) -> Result<User, Fault> {
    let found = if session.claims.uid == id {
        session.door.directory.user_named(&session.claims.sub).await?
    } else {
        session.find(&session.global::<User>(), id).await?
    };
    found.ok_or_else(|| Fault::not_found("Could not find user:", id))
}

async fn view(session: &Session, user: &User) -> Result<Value, Fault> {
    let id = user.id();
    let domain = session.door.directory.domain_of(user.spec.domain.as_deref()).await?;
    let mut view = json!({
        "id": id, "name": user.display_name(), "domain_id": domain.id, "enabled": user.spec.enabled,
        "password_expires_at": null, "options": {},
        "links": {"self": format!("{}/identity/v3/users/{id}", session.door.endpoint)},
    });
    if let Some(email) = &user.spec.email {
        view["email"] = json!(email);
    }
    if let Some(description) = &user.spec.description {
        view["description"] = json!(description);
    }
    if let Some(project) = &user.spec.default_project
        && let Some(project) = session.door.directory.project_named(project).await?
    {
        view["default_project_id"] = json!(project.id());
    }
    Ok(view)
}

/// `GET /users`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let mut views = Vec::new();
    for user in filtered(&session, &params, &session.global::<User>()).await? {
        views.push(view(&session, &user).await?);
    }
    Ok(collection(&session, "users", "users", views))
}

/// `GET /users/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    let user = find(&session, &id).await?;
    Ok(ok(&json!({"user": view(&session, &user).await?})))
}

/// `GET /users/{id}/projects`
pub(super) async fn projects(session: Session, Path(id): Path<String>) -> Answer {
    let user = find(&session, &id).await?;
    let mut views = Vec::new();
    for project in session.door.directory.projects_of(ids::name(&user)).await? {
        views.push(super::projects::view(&session, &project).await?);
    }
    Ok(collection(&session, "projects", &format!("users/{id}/projects"), views))
}

/// `POST /users`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.user;
    fields.check()?;
    let default_project = fields.default_project(&session).await?.flatten();
    let name =
        fields.name.ok_or_else(|| Fault::bad("Invalid input for field/attribute name. It is required."))?;
    let domain = domain_name(&session, fields.domain_id.as_deref()).await?;
    let users = session.global::<User>();
    refuse_taken(&users, &name, domain.as_deref(), None).await?;
    // Before anything is written: a password that can't be hashed must not leave a user behind.
    let hash = match &fields.password {
        Some(password) => Some(hash(password).await?),
        None => None,
    };
    let spec = UserSpec {
        id: Some(ids::plain()),
        display_name: Some(name.clone()),
        description: fields.description.flatten(),
        email: fields.email.flatten(),
        domain,
        default_project,
        enabled: fields.enabled.unwrap_or(true),
    };
    let user = ids::create(&users, User::new("", spec), &name).await?;
    if let Some(hash) = hash
        && let Err(fault) = store_hash(session.client.clone(), ids::name(&user), hash).await
    {
        if let Err(error) = users.delete(ids::name(&user), &DeleteParams::default()).await {
            tracing::warn!(%error, user = ids::name(&user), "a user whose password could not be stored is left behind");
        }
        return Err(fault);
    }
    Ok(json_response(StatusCode::CREATED, &json!({"user": view(&session, &user).await?})))
}

async fn hash(given: &str) -> Result<String, Fault> {
    password::hash(given).await.map_err(|error| match error {
        PasswordError::TooLong => Fault::bad(error.to_string()),
        error => Fault::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })
}

/// Writes the Secret with a user's password hash.
async fn store_hash(client: Client, user: &str, hash: String) -> Result<(), Fault> {
    let secrets = Api::<Secret>::namespaced(client, names::SYSTEM_NAMESPACE);
    let name = names::password_secret(user);
    let data: BTreeMap<String, ByteString> = [("hash".to_owned(), ByteString(hash.into_bytes()))].into();
    if secrets.get_opt(&name).await?.is_some() {
        secrets.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await?;
        return Ok(());
    }
    let mut secret =
        Secret { type_: Some(names::PASSWORD_SECRET_TYPE.to_owned()), data: Some(data), ..Secret::default() };
    secret.metadata.name = Some(name);
    secrets.create(&PostParams::default(), &secret).await?;
    Ok(())
}

/// Revokes every token that was issued to a user until now.
async fn revoke_tokens(session: &Session, user: &str) -> Result<(), Fault> {
    let door = &session.door;
    revocation::revoke_all(&door.system, &door.tokens, &Holder::User(user.to_owned())).await
}

/// `PATCH /users/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.user;
    fields.check()?;
    if fields.domain_id.is_some() {
        return Err(Fault::bad("domain_id cannot be changed."));
    }
    let users = session.global::<User>();
    let user = find(&session, &id).await?;
    let default_project = fields.default_project(&session).await?;
    if let Some(name) = &fields.name {
        refuse_taken(&users, name, user.spec.domain.as_deref(), Some(&id)).await?;
    }
    let hash = match &fields.password {
        Some(password) => Some(hash(password).await?),
        None => None,
    };
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("email", fields.email)
        .set("description", fields.description)
        .set("enabled", fields.enabled)
        .set("defaultProject", default_project);
    let name = ids::name(&user).to_owned();
    let user = changes.apply(&users, &user).await?;
    if let Some(hash) = hash {
        store_hash(session.client.clone(), &name, hash).await?;
    }
    if fields.password.is_some() || fields.enabled == Some(false) {
        revoke_tokens(&session, &name).await?;
    }
    Ok(ok(&json!({"user": view(&session, &user).await?})))
}

/// `DELETE /users/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let user = find(&session, &id).await?;
    let name = ids::name(&user);
    session.global::<User>().delete(name, &DeleteParams::default()).await?;
    let secrets = session.within::<Secret>(names::SYSTEM_NAMESPACE);
    match secrets.delete(&names::password_secret(name), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other?),
    }
    // A later user of the same name must not come into these.
    for binding in ids::list(&session.everywhere::<k8s_openapi::api::rbac::v1::RoleBinding>()).await? {
        let alone = binding.subjects.as_ref().is_some_and(|subjects| subjects.len() == 1);
        if alone && directory::is_about(binding.subjects.as_ref(), name) {
            let bindings =
                session.within::<k8s_openapi::api::rbac::v1::RoleBinding>(ids::namespace(&binding));
            bindings.delete(ids::name(&binding), &DeleteParams::default()).await?;
        }
    }
    revoke_tokens(&session, name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PasswordBody {
    user: PasswordFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PasswordFields {
    password: String,
    original_password: String,
}

/// `POST /users/{id}/password`: a user changes their own password, and proves to be themselves by the old one. That is
/// signing in once more, so it is done with the cloud's own client: a user may not write Secrets in `kube-system`.
pub(super) async fn change_password(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<PasswordBody>,
) -> Answer {
    if session.claims.uid != id {
        return Err(Fault::forbidden(
            "Only users themselves change their password here; an admin uses PATCH /v3/users/ID.",
        ));
    }
    let fields = body.user;
    if fields.password.is_empty() {
        return Err(Fault::bad("Invalid input for field/attribute password. It must not be empty."));
    }
    let user = find(&session, &id).await?;
    let stored = session.door.directory.password_hash(&user).await?;
    if !tokens::check_password(&fields.original_password, stored.as_deref()).await? {
        return Err(Fault::unauthorized());
    }
    let name = ids::name(&user);
    store_hash(session.door.system.clone(), name, hash(&fields.password).await?).await?;
    revoke_tokens(&session, name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
