//! Tokens for requests that were signed with EC2's keys, for services that get such requests: `/ec2tokens` and `/s3tokens`. Only the cloud's
//! admin may ask, since whoever may asks for a token of somebody else's.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::Deserialize;
use yunfan_identity::signature::{
    SignatureError, SignedRequest, check_request, check_string, string_to_sign,
};
use yunfan_identity::token::{Claims, Scope, now_ms};
use yunfan_resources::Identified;
use yunfan_resources::iam::User;

use super::{credentials, scope, signin, tokens};
use crate::auth::Session;
use crate::body::Json;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::revocation::LIFETIME;

#[derive(Deserialize)]
pub(super) struct Ec2Body {
    #[serde(alias = "ec2Credentials")]
    credentials: Ec2Request,
}

#[derive(Deserialize)]
struct Ec2Request {
    access: String,
    signature: String,
    #[serde(default)]
    host: String,
    verb: String,
    path: String,
    #[serde(default)]
    params: BTreeMap<String, String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body_hash: String,
}

#[derive(Deserialize)]
pub(super) struct S3Body {
    credentials: S3Request,
}

#[derive(Deserialize)]
struct S3Request {
    access: String,
    signature: String,
    /// What was signed, in base64.
    token: String,
}

fn wrong(error: SignatureError) -> Fault {
    Fault::new(StatusCode::UNAUTHORIZED, format!("The EC2 signature supplied is not valid: {error}."))
}

async fn only_admin(session: &Session) -> Result<(), Fault> {
    let whole = session.claims.limit.is_none();
    if whole && session.door.directory.is_cluster_admin(&session.claims.sub).await? {
        return Ok(());
    }
    Err(Fault::forbidden(
        "You are not authorized to perform the requested action: the cloud's admin asks whose a signature is.",
    ))
}

/// The seconds since 1970.
fn now() -> i64 {
    i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX)
}

/// Whose an access key is; who is not there has a secret that nobody knows.
async fn of_access(session: &Session, access: &str) -> Result<(credentials::Credential, String), Fault> {
    let found = credentials::with_access(&session.door, access).await?.ok_or_else(Fault::unauthorized)?;
    let (_, secret) = found.keys().ok_or_else(Fault::unauthorized)?;
    Ok((found, secret))
}

/// `POST /ec2tokens`
pub(super) async fn ec2(session: Session, Json(body): Json<Ec2Body>) -> Answer {
    only_admin(&session).await?;
    let given = body.credentials;
    let (credential, secret) = of_access(&session, &given.access).await?;
    let request = SignedRequest {
        verb: given.verb,
        path: given.path,
        host: given.host,
        params: given.params.into_iter().collect(),
        headers: given.headers.into_iter().collect(),
        body_hash: given.body_hash,
    };
    let (_, access) = string_to_sign(&request).ok_or_else(|| wrong(SignatureError::Form))?;
    if access != given.access {
        return Err(wrong(SignatureError::Wrong));
    }
    check_request(&secret, &request, &given.signature, now()).map_err(wrong)?;
    give(&session, &credential).await
}

/// `POST /s3tokens`
pub(super) async fn s3(session: Session, Json(body): Json<S3Body>) -> Answer {
    only_admin(&session).await?;
    let given = body.credentials;
    let (credential, secret) = of_access(&session, &given.access).await?;
    let bytes = STANDARD.decode(&given.token).or_else(|_| URL_SAFE.decode(&given.token));
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| wrong(SignatureError::Form))?;
    check_string(&secret, &text, &given.signature, now()).map_err(wrong)?;
    give(&session, &credential).await
}

/// A token of the user whose the key pair is, for its project.
async fn give(session: &Session, credential: &credentials::Credential) -> Answer {
    let door = &session.door;
    let user = door.directory.with_id::<User>(&credential.user).await?.ok_or_else(Fault::unauthorized)?;
    if !signin::is_enabled(door, &user).await? {
        return Err(Fault::unauthorized());
    }
    let mut claims = Claims::new(ids::name(&*user), user.id(), LIFETIME);
    claims.methods = vec!["ec2credential".to_owned()];
    let domain = door.directory.domain_of(user.spec.domain.as_deref()).await?;
    claims.user_domain = Some(Scope { id: domain.id, name: domain.name });
    let project = credential.project.clone().ok_or_else(Fault::unauthorized)?;
    scope::to_project_of(door, &user, &project, &mut claims).await?;
    let mut answer = tokens::give(door, &claims, true).await?;
    *answer.status_mut() = StatusCode::OK;
    Ok(answer)
}
