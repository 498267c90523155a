//! Credentials: Secrets in the cloud's own namespace, so that they are kept encrypted. They are written with the cloud's own client for
//! the users whose they are; EC2's key pairs are among them, found by their access key.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use yunfan_identity::token::random_id;
use yunfan_resources::names;

use super::delegated::refuse_delegated;
use super::{collection, projects, users};
use crate::auth::Session;
use crate::body::{Json, Params, explicit};
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};
use crate::{Ctx, ids};

/// The type of EC2's key pairs.
const EC2: &str = "ec2";
/// Label with the hash of the access key of a key pair.
const ACCESS_LABEL: &str = names::CREDENTIAL_ACCESS_LABEL;
/// Credentials of one user, and bytes of one.
const MAX: usize = 100;
const MAX_BLOB: usize = 64 * 1024;

/// What Keystone calls a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Credential {
    pub(super) id: String,
    kind: String,
    blob: String,
    /// Ids.
    pub(super) user: String,
    pub(super) project: Option<String>,
}

impl Credential {
    fn of(secret: &Secret) -> Option<Self> {
        if secret.type_.as_deref() != Some(names::CREDENTIAL_SECRET_TYPE) {
            return None;
        }
        let data = secret.data.as_ref()?;
        let text = |key: &str| data.get(key).and_then(|value| String::from_utf8(value.0.clone()).ok());
        Some(Self {
            id: secret.name_any().strip_prefix("credential-")?.to_owned(),
            kind: text("type")?,
            blob: text("blob")?,
            user: text("user")?,
            project: text("project").filter(|project| !project.is_empty()),
        })
    }

    fn data(&self) -> BTreeMap<String, ByteString> {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        [
            ("type".to_owned(), bytes(&self.kind)),
            ("blob".to_owned(), bytes(&self.blob)),
            ("user".to_owned(), bytes(&self.user)),
            ("project".to_owned(), bytes(self.project.as_deref().unwrap_or_default())),
        ]
        .into()
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let user = (names::CREDENTIAL_USER_LABEL.to_owned(), self.user.clone());
        let access = self.keys().map(|(access, _)| (ACCESS_LABEL.to_owned(), hashed(&access)));
        std::iter::once(user).chain(access).collect()
    }

    /// The access key and the secret one.
    pub(super) fn keys(&self) -> Option<(String, String)> {
        if self.kind != EC2 {
            return None;
        }
        let blob: Value = serde_json::from_str(&self.blob).ok()?;
        Some((blob["access"].as_str()?.to_owned(), blob["secret"].as_str()?.to_owned()))
    }

    fn check(&self) -> Result<(), Fault> {
        if self.kind.is_empty() || self.kind.len() > 255 {
            return Err(Fault::bad(
                "Invalid input for field/attribute type. It must have 1 to 255 characters.",
            ));
        }
        if self.blob.len() > MAX_BLOB {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute blob. It may have {MAX_BLOB} bytes."
            )));
        }
        if self.kind == EC2 && self.keys().is_none() {
            return Err(Fault::bad(
                "Invalid blob in credential: of type ec2 it is JSON with access and secret.",
            ));
        }
        if self.kind == EC2 && self.project.is_none() {
            return Err(Fault::bad(
                "Missing required attribute project_id: a credential of type ec2 is for a project.",
            ));
        }
        Ok(())
    }

    fn view(&self, session: &Session) -> Value {
        let link = format!("{}/identity/v3/credentials/{}", session.door.endpoint, self.id);
        json!({
            "id": self.id, "type": self.kind, "blob": self.blob, "user_id": self.user, "project_id": self.project,
            "links": {"self": link},
        })
    }

    fn ec2_view(&self, session: &Session) -> Value {
        let (access, secret) = self.keys().unwrap_or_default();
        let user = &self.user;
        let link = format!("{}/identity/v3/users/{user}/credentials/OS-EC2/{access}", session.door.endpoint);
        json!({
            "access": access, "secret": secret, "user_id": user, "tenant_id": self.project, "trust_id": null,
            "links": {"self": link},
        })
    }
}

/// Of an access key, in a label's alphabet and length.
fn hashed(access: &str) -> String {
    ids::hex(&Sha256::digest(access.as_bytes())[..24])
}

fn secrets(door: &Ctx) -> Api<Secret> {
    Api::namespaced(door.system.clone(), names::SYSTEM_NAMESPACE)
}

async fn labelled(door: &Ctx, label: &str, value: &str) -> Result<Vec<Credential>, Fault> {
    let wanted = ListParams::default().labels(&format!("{label}={value}"));
    Ok(secrets(door).list(&wanted).await?.items.iter().filter_map(Credential::of).collect())
}

/// The credential of an access key.
pub(super) async fn with_access(door: &Ctx, access: &str) -> Result<Option<Credential>, Fault> {
    let found = labelled(door, ACCESS_LABEL, &hashed(access)).await?;
    Ok(found.into_iter().find(|one| one.keys().is_some_and(|(own, _)| own == access)))
}

/// Deletes the credentials of a user who is gone.
pub(super) async fn forget(door: &Ctx, user: &str) -> Result<(), Fault> {
    for credential in labelled(door, names::CREDENTIAL_USER_LABEL, user).await? {
        remove(door, &credential).await?;
    }
    Ok(())
}

async fn remove(door: &Ctx, credential: &Credential) -> Result<(), Fault> {
    super::gone(
        secrets(door).delete(&format!("credential-{}", credential.id), &DeleteParams::default()).await,
    )
}

/// Refuses who is neither the user whose credentials a request is about nor admin.
async fn only_own(session: &Session, user: &str) -> Result<(), Fault> {
    refuse_delegated(session)?;
    if session.claims.limit.is_none()
        && (session.claims.uid == user
            || session.door.directory.is_cluster_admin(&session.claims.sub).await?)
    {
        return Ok(());
    }
    Err(Fault::forbidden(
        "You are not authorized to perform the requested action: credentials are their user's own.",
    ))
}

async fn store(session: &Session, credential: &Credential) -> Result<(), Fault> {
    credential.check()?;
    let door = &session.door;
    if labelled(door, names::CREDENTIAL_USER_LABEL, &credential.user).await?.len() >= MAX {
        return Err(Fault::forbidden(format!("Unable to create additional credentials, maximum of {MAX}.")));
    }
    if let Some((access, _)) = credential.keys()
        && with_access(door, &access).await?.is_some()
    {
        return Err(Fault::conflict(
            "Conflict occurred attempting to store credential - the access key is taken.",
        ));
    }
    let mut secret = Secret {
        type_: Some(names::CREDENTIAL_SECRET_TYPE.to_owned()),
        data: Some(credential.data()),
        ..Secret::default()
    };
    secret.metadata.name = Some(format!("credential-{}", credential.id));
    secret.metadata.labels = Some(credential.labels());
    secrets(door).create(&PostParams::default(), &secret).await?;
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    credential: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    blob: Option<String>,
    #[serde(default)]
    user_id: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    project_id: Option<Option<String>>,
}

/// `POST /credentials`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.credential;
    let missing = |name: &str| Fault::bad(format!("'{name}' is a required property"));
    let user = fields.user_id.unwrap_or_else(|| session.claims.uid.clone());
    only_own(&session, &user).await?;
    users::find(&session, &user).await?;
    let mut credential = Credential {
        id: ids::plain(),
        kind: fields.kind.ok_or_else(|| missing("type"))?,
        blob: fields.blob.ok_or_else(|| missing("blob"))?,
        user,
        project: fields.project_id.flatten(),
    };
    if let Some((access, _)) = credential.keys() {
        // As Keystone: so it is found without being looked for.
        credential.id = ids::hex(&Sha256::digest(access.as_bytes()));
    }
    store(&session, &credential).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"credential": credential.view(&session)})))
}

async fn find(session: &Session, id: &str) -> Result<Credential, Fault> {
    let missing = || Fault::not_found("Could not find credential:", id);
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(missing());
    }
    let secret = secrets(&session.door).get_opt(&format!("credential-{id}")).await?;
    let found = secret.as_ref().and_then(Credential::of).ok_or_else(missing)?;
    only_own(session, &found.user).await?;
    Ok(found)
}

/// `GET /credentials`: one's own; the admin's list has all.
pub(super) async fn list(session: Session, params: Params) -> Answer {
    refuse_delegated(&session)?;
    let door = &session.door;
    let admin =
        session.claims.limit.is_none() && door.directory.is_cluster_admin(&session.claims.sub).await?;
    let mut found = match (params.get("user_id"), admin) {
        (Some(user), true) => labelled(door, names::CREDENTIAL_USER_LABEL, user).await?,
        (None, true) => {
            let all = ListParams::default().labels(names::CREDENTIAL_USER_LABEL);
            secrets(door).list(&all).await?.items.iter().filter_map(Credential::of).collect()
        }
        (_, false) => labelled(door, names::CREDENTIAL_USER_LABEL, &session.claims.uid).await?,
    };
    found.retain(|one| {
        params.get("type").is_none_or(|kind| kind == one.kind)
            && params.get("user_id").is_none_or(|user| user == one.user)
    });
    let views = found.iter().map(|one| one.view(&session)).collect();
    Ok(collection(&session, "credentials", "credentials", views))
}

/// `GET /credentials/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    let credential = find(&session, &id).await?;
    Ok(ok(&json!({"credential": credential.view(&session)})))
}

/// `PATCH /credentials/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let mut credential = find(&session, &id).await?;
    let fields = body.credential;
    if let Some(user) = fields.user_id {
        only_own(&session, &user).await?;
        users::find(&session, &user).await?;
        credential.user = user;
    }
    credential.kind = fields.kind.unwrap_or(credential.kind);
    credential.blob = fields.blob.unwrap_or(credential.blob);
    credential.project = fields.project_id.unwrap_or(credential.project);
    credential.check()?;
    if let Some((access, _)) = credential.keys()
        && with_access(&session.door, &access).await?.is_some_and(|other| other.id != id)
    {
        return Err(Fault::conflict(
            "Conflict occurred attempting to store credential - the access key is taken.",
        ));
    }
    let labels = credential.labels();
    let mut labels = json!(labels);
    if labels.get(ACCESS_LABEL).is_none() {
        labels[ACCESS_LABEL] = Value::Null;
    }
    let patch = json!({"metadata": {"labels": labels}, "data": credential.data()});
    secrets(&session.door)
        .patch(&format!("credential-{id}"), &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(ok(&json!({"credential": credential.view(&session)})))
}

/// `DELETE /credentials/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let credential = find(&session, &id).await?;
    remove(&session.door, &credential).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ec2Body {
    tenant_id: String,
}

/// `POST /users/{user}/credentials/OS-EC2`
pub(super) async fn create_ec2(
    session: Session,
    Path(user): Path<String>,
    Json(body): Json<Ec2Body>,
) -> Answer {
    only_own(&session, &user).await?;
    users::find(&session, &user).await?;
    projects::find(&session, &body.tenant_id).await?;
    let access = random_id();
    let blob = json!({"access": access, "secret": random_id(), "trust_id": null}).to_string();
    let id = ids::hex(&Sha256::digest(access.as_bytes()));
    let credential = Credential { id, kind: EC2.to_owned(), blob, user, project: Some(body.tenant_id) };
    store(&session, &credential).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"credential": credential.ec2_view(&session)})))
}

/// `GET /users/{user}/credentials/OS-EC2`
pub(super) async fn list_ec2(session: Session, Path(user): Path<String>) -> Answer {
    only_own(&session, &user).await?;
    let all = labelled(&session.door, names::CREDENTIAL_USER_LABEL, &user).await?;
    let views = all.iter().filter(|one| one.keys().is_some()).map(|one| one.ec2_view(&session)).collect();
    Ok(collection(&session, "credentials", &format!("users/{user}/credentials/OS-EC2"), views))
}

async fn find_ec2(session: &Session, user: &str, access: &str) -> Result<Credential, Fault> {
    only_own(session, user).await?;
    let found = with_access(&session.door, access).await?.filter(|one| one.user == user);
    found.ok_or_else(|| Fault::not_found("Could not find credential:", access))
}

/// `GET /users/{user}/credentials/OS-EC2/{access}`
pub(super) async fn show_ec2(session: Session, Path((user, access)): Path<(String, String)>) -> Answer {
    let credential = find_ec2(&session, &user, &access).await?;
    Ok(ok(&json!({"credential": credential.ec2_view(&session)})))
}

/// `DELETE /users/{user}/credentials/OS-EC2/{access}`
pub(super) async fn delete_ec2(session: Session, Path((user, access)): Path<(String, String)>) -> Answer {
    let credential = find_ec2(&session, &user, &access).await?;
    remove(&session.door, &credential).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
