//! Users: User objects, and the Secrets with their passwords' hashes.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_identity::password::{self, PasswordError};
use yunfan_identity::{Caller, UserInfo};
use yunfan_resources::iam::{User, UserSpec};
use yunfan_resources::{Identified, names};
use yunfan_serve::PeerAddress;

use super::named::{extra, extra_change, filtered, refuse_taken, show_extra};
use super::{access_rules, assignments, collection, credentials, delegated, domains, signin};
use crate::auth::Session;
use crate::body::{Json, Params, explicit};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::revocation::{self, Holder};
use crate::versions::{json_response, ok};
use crate::{Ctx, ids};

/// Options of users that say what is true here of everybody anyway, and the one that forbids to change one's own password.
const OPTIONS: [&str; 4] = [
    LOCK_PASSWORD,
    "ignore_change_password_upon_first_use",
    "ignore_password_expiry",
    "ignore_user_inactivity",
];
const LOCK_PASSWORD: &str = "lock_password";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    user: Fields,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    password: Option<Option<String>>,
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
    options: Option<Map<String, Value>>,
    /// Users of other identity providers.
    #[serde(default)]
    federated: Option<Value>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        if let Some(name) = &self.name {
            super::check_name(name, 255)?;
        }
        if matches!(&self.password, Some(Some(password)) if password.is_empty()) {
            return Err(Fault::bad("Invalid input for field/attribute password. It must not be empty."));
        }
        crate::body::only("federated", self.federated.as_ref(), &[json!([])], "users sign in here alone")?;
        for (name, value) in self.options.iter().flatten() {
            if !OPTIONS.contains(&name.as_str()) || !(value.is_boolean() || value.is_null()) {
                return Err(Fault::bad(format!(
                    "Invalid input for field/attribute options. {name}={value} is not supported; there are {}, true or false.",
                    OPTIONS.join(", ")
                )));
            }
        }
        Ok(())
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

    /// The options as they are kept, and as a change of what is.
    fn options(&self) -> (BTreeMap<String, String>, Option<Value>) {
        let given = || self.options.iter().flatten();
        let kept = given().filter(|(_, value)| !value.is_null());
        let change = given().map(|(name, value)| {
            (name.clone(), if value.is_null() { Value::Null } else { json!(value.to_string()) })
        });
        let change: Map<String, Value> = change.collect();
        (
            kept.map(|(name, value)| (name.clone(), value.to_string())).collect(),
            (!change.is_empty()).then_some(Value::Object(change)),
        )
    }
}

/// The user with this id. Oneself, everybody may read.
pub(super) async fn find(session: &Session, id: &str) -> Result<User, Fault> {
    let found = if session.claims.uid == id {
        session.door.directory.user_named(&session.claims.sub).await?.map(|user| (*user).clone())
    } else {
        session.find(&session.global::<User>(), id).await?
    };
    found.ok_or_else(|| Fault::not_found("Could not find user:", id))
}

pub(super) async fn view(session: &Session, user: &User) -> Result<Value, Fault> {
    let id = user.id();
    let domain = session.door.directory.domain_of(user.spec.domain.as_deref()).await?;
    let mut view = json!({
        "id": id, "name": user.display_name(), "domain_id": domain.id, "enabled": user.spec.enabled,
        "password_expires_at": null, "options": {},
        "links": {"self": format!("{}/identity/v3/users/{id}", session.door.endpoint)},
    });
    for (name, value) in &user.spec.options {
        view["options"][name] = serde_json::from_str(value).unwrap_or_default();
    }
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
    show_extra(&mut view, &user.spec.extra);
    Ok(view)
}

/// `GET /users`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    // No password expires, and nobody comes from another provider.
    let none = ["password_expires_at", "idp_id", "protocol_id", "unique_id"];
    let mut views = Vec::new();
    for user in filtered(&session, &params, &session.global::<User>()).await? {
        if none.iter().all(|key| params.get(key).is_none()) {
            views.push(view(&session, &user).await?);
        }
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
    let who = session.door.directory.principal(&user).await?;
    for project in session.door.directory.projects_for(&who).await? {
        if session.claims.limit.is_some() && session.project_id() != project.id() {
            continue;
        }
        views.push(super::projects::view(&session, &project).await?);
    }
    Ok(collection(&session, "projects", &format!("users/{id}/projects"), views))
}

/// `GET /users/{id}/groups`
pub(super) async fn groups(session: Session, Path(id): Path<String>) -> Answer {
    delegated::refuse_trusted(&session)?;
    let user = find(&session, &id).await?;
    let mut views = Vec::new();
    for group in session.door.directory.groups_of(ids::name(&user)).await? {
        views.push(super::groups::view(&session, &group).await?);
    }
    Ok(collection(&session, "groups", &format!("users/{id}/groups"), views))
}

/// `POST /users`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.user;
    fields.check()?;
    let default_project = fields.default_project(&session).await?.flatten();
    let (options, _) = fields.options();
    let name = fields.name.ok_or_else(|| Fault::bad("'name' is a required property"))?;
    let domain = domains::name_of(&session, fields.domain_id.as_deref()).await?;
    let users = session.global::<User>();
    refuse_taken(&users, &name, domain.as_deref(), None).await?;
    // Before anything is written: a password that can't be hashed must not leave a user behind.
    let hash = match fields.password.flatten() {
        Some(password) => Some(hash(&password).await?),
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
        options,
        extra: extra(&fields.extra)?,
    };
    let user = ids::create(&users, User::new("", spec), &name).await?;
    let stored = match hash {
        Some(hash) => store_hash(session.client.clone(), ids::name(&user), hash).await,
        // One that a user of that name left behind.
        None => forget_hash(&session, ids::name(&user)).await,
    };
    if let Err(fault) = stored {
        if let Err(error) = users.delete(ids::name(&user), &DeleteParams::default()).await {
            tracing::warn!(%error, user = ids::name(&user), "a user whose password could not be stored is left behind");
        }
        return Err(fault);
    }
    session.door.directory.saw(&user).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"user": view(&session, &user).await?})))
}

pub(super) async fn hash(given: &str) -> Result<String, Fault> {
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
pub(super) async fn revoke_tokens(session: &Session, user: &str) -> Result<(), Fault> {
    let door = &session.door;
    revocation::revoke_all(&door.system, &door.tokens, &Holder::User(user.to_owned())).await
}

/// `PATCH /users/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.user;
    fields.check()?;
    let users = session.global::<User>();
    let user = find(&session, &id).await?;
    let domain = session.door.directory.domain_of(user.spec.domain.as_deref()).await?;
    if fields.domain_id.as_ref().is_some_and(|given| *given != domain.id) {
        return Err(Fault::bad("Domain ID cannot be changed."));
    }
    let default_project = fields.default_project(&session).await?;
    if let Some(name) = &fields.name {
        refuse_taken(&users, name, user.spec.domain.as_deref(), Some(&id)).await?;
    }
    let (_, options) = fields.options();
    let hash = match fields.password.clone().flatten() {
        Some(password) => Some(hash(&password).await?),
        None => None,
    };
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("email", fields.email)
        .set("description", fields.description)
        .set("enabled", fields.enabled)
        .set("defaultProject", default_project)
        .set("options", options)
        .set("extra", extra_change(&fields.extra)?);
    let name = ids::name(&user).to_owned();
    let user = changes.apply(&users, &user).await?;
    session.door.directory.saw(&user).await?;
    let changed = fields.password.is_some();
    match (hash, changed) {
        (Some(hash), _) => store_hash(session.client.clone(), &name, hash).await?,
        // Without one, nobody can sign in as the user.
        (None, true) => forget_hash(&session, &name).await?,
        (None, false) => {}
    }
    if changed || fields.enabled == Some(false) {
        revoke_tokens(&session, &name).await?;
    }
    Ok(ok(&json!({"user": view(&session, &user).await?})))
}

async fn forget_hash(session: &Session, name: &str) -> Result<(), Fault> {
    let secrets = session.within::<Secret>(names::SYSTEM_NAMESPACE);
    match secrets.delete(&names::password_secret(name), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// `DELETE /users/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let user = find(&session, &id).await?;
    remove(&session, &user).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Deletes a user, and what is theirs: password, memberships, roles, credentials and trusts.
pub(super) async fn remove(session: &Session, user: &User) -> Result<(), Fault> {
    let name = ids::name(user);
    let users = session.global::<User>();
    // The object goes last: while it is there, no other user gets the name, and what failed can be asked for again.
    let disabled = Changes::default().set("enabled", Some(false)).apply(&users, user).await?;
    session.door.directory.saw(&disabled).await?;
    revoke_tokens(session, name).await?;
    forget_hash(session, name).await?;
    // A later user of the same name must not come into these.
    for group in session.door.directory.groups_of(name).await? {
        super::groups::write_members(session, &group, |members| members.retain(|member| member != name))
            .await?;
    }
    assignments::forget(session, "User", name).await?;
    delegated::forget(session, |of, _| of == user.id()).await?;
    credentials::forget(&session.door, &user.id()).await?;
    access_rules::forget(&session.door, &user.id()).await?;
    super::gone(users.delete(name, &DeleteParams::default()).await)?;
    session.door.directory.saw_gone(user).await
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

/// `POST /users/{id}/password`: whoever knows a user's password gives the user another. The old one is the proof, so no token is asked for,
/// as in Keystone. That is signing in once more, so it is done with the cloud's own client: a user may not write Secrets in `kube-system`.
pub(super) async fn change_password(
    State(door): State<Ctx>,
    from: Option<Extension<PeerAddress>>,
    Path(id): Path<String>,
    Json(body): Json<PasswordBody>,
) -> Answer {
    let fields = body.user;
    if fields.password.is_empty() {
        return Err(Fault::bad("Invalid input for field/attribute password. It must not be empty."));
    }
    let user = door.directory.with_id::<User>(&id).await?;
    let stored = match &user {
        Some(user) => door.directory.password_hash(user).await?,
        None => None,
    };
    let who = (id.as_str(), from.map(|from| from.0.0.ip()));
    let tried = signin::try_password(&door, who).await?;
    // Whether there is such a user makes no difference to who does not know the password.
    let right = signin::check_password(&fields.original_password, stored.as_deref()).await?;
    let Some(user) = user.filter(|_| right) else {
        tried.failed();
        return Err(Fault::unauthorized());
    };
    tried.passed();
    if !signin::is_enabled(&door, &user).await? {
        return Err(Fault::unauthorized());
    }
    if user.spec.options.get(LOCK_PASSWORD).is_some_and(|value| value == "true") {
        return Err(Fault::bad("The account's password is locked: an admin sets it."));
    }
    if fields.password == fields.original_password {
        return Err(Fault::bad("The new password cannot be identical to the current one."));
    }
    let name = ids::name(&*user);
    store_hash(door.system.clone(), name, hash(&fields.password).await?).await?;
    revocation::revoke_all(&door.system, &door.tokens, &Holder::User(name.to_owned())).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    // For the audit log: no token tells who it was.
    let who = UserInfo { uid: user.id(), ..UserInfo::authenticated(name, [""; 0]) };
    response.extensions_mut().insert(Caller(who));
    Ok(response)
}
