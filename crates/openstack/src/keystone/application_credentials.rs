//! Application credentials: ApplicationCredential objects, and Secrets with the hashes of their secrets.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_identity::token::random_id;
use yunfan_resources::iam::{ApplicationCredential, ApplicationCredentialSpec};
use yunfan_resources::{Identified, names};

use super::delegated::{
    RawRole, credential_named, expiry, own_roles, refuse_delegated, refuse_trusted, remove_credential,
    roles_of,
};
use super::{access_rules, collection, name_matches, users};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};
use crate::{ids, stamp};

/// Application credentials of one user.
const MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    application_credential: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    roles: Option<Vec<RawRole>>,
    #[serde(default)]
    unrestricted: Option<bool>,
    #[serde(default)]
    access_rules: Option<Vec<access_rules::RawRule>>,
    /// That of the token; clients may say so.
    #[serde(default)]
    project_id: Option<String>,
}

/// Refuses who is not the user whose credentials a request is about.
pub(super) fn only_own(session: &Session, user: &str) -> Result<(), Fault> {
    if session.claims.uid == user {
        return Ok(());
    }
    Err(Fault::forbidden(
        "You are not authorized to perform the requested action: application credentials are their user's own.",
    ))
}

/// Others' may be read by who may read users.
pub(super) async fn may_read(session: &Session, user: &str) -> Result<(), Fault> {
    refuse_trusted(session)?;
    users::find(session, user).await.map(drop)
}

async fn view(session: &Session, credential: &ApplicationCredential) -> Result<Value, Fault> {
    let spec = &credential.spec;
    let id = credential.id();
    let all = session.door.directory.roles().await?;
    let roles: Vec<Value> = all
        .iter()
        .filter(|role| spec.roles.contains(&role.id))
        .map(|role| json!({"id": role.id, "name": role.name, "domain_id": null}))
        .collect();
    let path =
        format!("{}/identity/v3/users/{}/application_credentials/{id}", session.door.endpoint, spec.user_id);
    let mut view = json!({
        "id": id, "name": credential.display_name(), "description": spec.description,
        "project_id": spec.project_id, "user_id": spec.user_id, "roles": roles, "unrestricted": spec.unrestricted,
        "expires_at": spec.expires_at.map(|at| stamp::exactly(at).trim_end_matches('Z').to_owned()), "system": null, "links": {"self": path},
    });
    if !spec.access_rules.is_empty() {
        view["access_rules"] = spec.access_rules.iter().map(access_rules::brief).collect();
    }
    Ok(view)
}

/// `GET /users/{user}/application_credentials`
pub(super) async fn list(session: Session, Path(user): Path<String>, params: Params) -> Answer {
    may_read(&session, &user).await?;
    let mut views = Vec::new();
    for credential in session.door.directory.all::<ApplicationCredential>().await?.list() {
        if credential.spec.user_id == user && name_matches(&params, &credential.display_name()) {
            views.push(view(&session, &credential).await?);
        }
    }
    let path = format!("users/{user}/application_credentials");
    Ok(collection(&session, "application_credentials", &path, views))
}

async fn find(session: &Session, user: &str, id: &str) -> Result<ApplicationCredential, Fault> {
    may_read(session, user).await?;
    let found = session.door.directory.with_id::<ApplicationCredential>(id).await?;
    let found = found.filter(|credential| credential.spec.user_id == user);
    found
        .map(|credential| (*credential).clone())
        .ok_or_else(|| Fault::not_found("Could not find Application Credential:", id))
}

/// `GET /users/{user}/application_credentials/{id}`
pub(super) async fn show(session: Session, Path((user, id)): Path<(String, String)>) -> Answer {
    let credential = find(&session, &user, &id).await?;
    Ok(ok(&json!({"application_credential": view(&session, &credential).await?})))
}

/// `POST /users/{user}/application_credentials`. The secret is shown this once.
pub(super) async fn create(session: Session, Path(user): Path<String>, Json(body): Json<Body>) -> Answer {
    only_own(&session, &user)?;
    refuse_delegated(&session)?;
    let fields = body.application_credential;
    super::check_name(&fields.name, 255)?;
    let Some(project) = session.claims.project.clone() else {
        return Err(Fault::bad(
            "An application credential is for the project of the token, and this one has none.",
        ));
    };
    if fields.project_id.as_ref().is_some_and(|id| *id != project.id) {
        return Err(Fault::bad("project_id must be that of the token."));
    }
    if fields.secret.as_deref() == Some("") {
        return Err(Fault::bad("Invalid input for field/attribute secret. It must not be empty."));
    }
    let roles = match &fields.roles {
        Some(roles) if !roles.is_empty() => roles_of(&session, session.project_id(), roles).await?,
        _ => own_roles(&session).await?,
    };
    let door = &session.door;
    if credential_named(door, &user, &fields.name).await?.is_some() {
        return Err(Fault::conflict(format!(
            "Conflict occurred attempting to store application_credential - Duplicate entry found with name {}.",
            fields.name
        )));
    }
    let all = door.directory.all::<ApplicationCredential>().await?.list();
    if all.iter().filter(|credential| credential.spec.user_id == user).count() >= MAX {
        return Err(Fault::forbidden(format!(
            "Unable to create additional application credentials, maximum of {MAX}."
        )));
    }
    let expires_at = expiry(fields.expires_at.as_deref())?;
    let access_rules =
        access_rules::made(&session, &user, fields.access_rules.as_deref().unwrap_or_default()).await?;
    let spec = ApplicationCredentialSpec {
        id: Some(ids::plain()),
        display_name: Some(fields.name),
        description: fields.description,
        user: session.claims.sub.clone(),
        user_id: user,
        project: project.name,
        project_id: project.id,
        roles,
        expires_at,
        unrestricted: fields.unrestricted.unwrap_or(false),
        access_rules,
    };
    // Long enough that nobody guesses it.
    let secret = fields.secret.unwrap_or_else(|| format!("{}{}", random_id(), random_id()));
    let made = store(&session, spec, &secret).await?;
    let mut view = view(&session, &made).await?;
    view["secret"] = json!(secret);
    Ok(json_response(StatusCode::CREATED, &json!({"application_credential": view})))
}

async fn store(
    session: &Session,
    spec: ApplicationCredentialSpec,
    secret: &str,
) -> Result<ApplicationCredential, Fault> {
    let system = &session.door.system;
    let hash = users::hash(secret).await?;
    let id = spec.id.clone().unwrap_or_default();
    let name = format!("credential-{id}");
    let mut kept = Secret {
        type_: Some(names::APP_CREDENTIAL_SECRET_TYPE.to_owned()),
        data: Some([("hash".to_owned(), ByteString(hash.into_bytes()))].into()),
        ..Secret::default()
    };
    kept.metadata.name = Some(names::app_credential_secret(&name));
    // First the secret: a credential without one would let nobody in, and stay.
    let secrets = Api::<Secret>::namespaced(system.clone(), names::SYSTEM_NAMESPACE);
    secrets.create(&PostParams::default(), &kept).await?;
    let credentials = Api::<ApplicationCredential>::all(system.clone());
    match credentials.create(&PostParams::default(), &ApplicationCredential::new(&name, spec)).await {
        Ok(made) => {
            session.door.directory.saw(&made).await?;
            Ok(made)
        }
        Err(error) => {
            super::gone(secrets.delete(&names::app_credential_secret(&name), &Default::default()).await)?;
            Err(error.into())
        }
    }
}

/// `DELETE /users/{user}/application_credentials/{id}`. The cloud's admin deletes others' as well.
pub(super) async fn delete(session: Session, Path((user, id)): Path<(String, String)>) -> Answer {
    refuse_delegated(&session)?;
    let credential = find(&session, &user, &id).await?;
    if session.claims.uid != user
        && (session.claims.limit.is_some()
            || !session.door.directory.is_cluster_admin(&session.claims.sub).await?)
    {
        only_own(&session, &user)?;
    }
    remove_credential(&session.door, &credential).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
