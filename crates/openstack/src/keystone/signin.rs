//! Proving who one is: the methods of signing in.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use yunfan_identity::password::{self, PasswordError};
use yunfan_identity::throttle::Try;
use yunfan_identity::token::Claims;
use yunfan_resources::iam::{ApplicationCredential, User};
use yunfan_resources::{Identified, names};

use super::delegated;
use crate::directory::{Named, Reference};
use crate::error::Fault;
use crate::{Ctx, ids};

// Keystone takes unknown members in these, and clients send some; so they are not refused.
#[derive(Deserialize)]
pub(super) struct AuthBody {
    pub(super) auth: Auth,
}

#[derive(Deserialize)]
pub(super) struct Auth {
    pub(super) identity: Identity,
    #[serde(default)]
    pub(super) scope: Option<Value>,
}

#[derive(Deserialize)]
pub(super) struct Identity {
    pub(super) methods: Vec<String>,
    #[serde(default)]
    password: Option<PasswordMethod>,
    #[serde(default)]
    token: Option<TokenMethod>,
    #[serde(default)]
    application_credential: Option<CredentialMethod>,
}

#[derive(Deserialize)]
struct PasswordMethod {
    user: PasswordUser,
}

#[derive(Deserialize)]
struct PasswordUser {
    #[serde(flatten)]
    reference: RawReference,
    password: String,
}

#[derive(Deserialize)]
struct TokenMethod {
    id: String,
}

#[derive(Deserialize)]
struct CredentialMethod {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    secret: String,
    #[serde(default)]
    user: Option<RawReference>,
}

/// A user or project by id, or by name and domain.
#[derive(Deserialize)]
pub(super) struct RawReference {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    domain: Option<RawDomain>,
}

#[derive(Deserialize)]
pub(super) struct RawDomain {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

impl RawDomain {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.id.is_none() && self.name.is_none()
    }
}

/// Somebody who proved who they are.
pub(super) struct Proven {
    pub(super) user: Arc<User>,
    pub(super) methods: Vec<String>,
    /// The token that proved it, whose expiry the new one keeps.
    pub(super) from: Option<Claims>,
    /// What proved it, where that was an application credential.
    pub(super) credential: Option<Arc<ApplicationCredential>>,
}

/// What one method says.
struct Said {
    user: Arc<User>,
    from: Option<Claims>,
    credential: Option<Arc<ApplicationCredential>>,
}

/// Checks every method that is named. All that goes wrong is one 401, so that it tells nothing of who exists.
pub(super) async fn prove(door: &Ctx, identity: &Identity, address: Option<IpAddr>) -> Result<Proven, Fault> {
    let mut proven: Option<Proven> = None;
    let repeated = |(at, method): (usize, &String)| identity.methods[..at].contains(method);
    if identity.methods.len() > 3 || identity.methods.iter().enumerate().any(repeated) {
        return Err(Fault::bad("identity.methods must name each method once."));
    }
    for method in &identity.methods {
        let missing = || Fault::bad(format!("Expecting to find {method} in identity."));
        let said = match method.as_str() {
            "password" => {
                let given = identity.password.as_ref().ok_or_else(missing)?;
                Said { user: by_password(door, given, address).await?, from: None, credential: None }
            }
            "token" => {
                let given = identity.token.as_ref().ok_or_else(missing)?;
                by_token(door, &given.id).await?
            }
            "application_credential" => {
                let given = identity.application_credential.as_ref().ok_or_else(missing)?;
                by_credential(door, given, address).await?
            }
            _ => {
                tracing::debug!(method, "a method of signing in that is not served");
                return Err(Fault::unauthorized());
            }
        };
        let user = &said.user;
        if !is_enabled(door, user).await? || proven.as_ref().is_some_and(|other| other.user.id() != user.id())
        {
            return Err(Fault::unauthorized());
        }
        let from = said.from.or_else(|| proven.as_mut().and_then(|proven| proven.from.take()));
        let credential =
            said.credential.or_else(|| proven.as_mut().and_then(|proven| proven.credential.take()));
        proven = Some(Proven { user: said.user, methods: identity.methods.clone(), from, credential });
    }
    let mut proven = proven.ok_or_else(|| Fault::bad("identity.methods must name a method."))?;
    for method in proven.from.iter().flat_map(|from| &from.methods) {
        if !proven.methods.contains(method) {
            proven.methods.push(method.clone());
        }
    }
    Ok(proven)
}

/// Whether somebody may sign in: they, and their domain, are enabled.
pub(super) async fn is_enabled(door: &Ctx, user: &User) -> Result<bool, Fault> {
    Ok(user.spec.enabled && door.directory.domain_state(user.spec.domain.as_deref()).await?.1)
}

async fn by_token(door: &Ctx, token: &str) -> Result<Said, Fault> {
    // As Keystone: a token that is not good is one that there is not.
    let gone = |_| Fault::new(StatusCode::NOT_FOUND, "Could not find token.");
    let claims = door.tokens.verify(token.trim()).map_err(gone)?;
    if claims.app_credential.is_some() || claims.trust.is_some() {
        // It would get all that its user has, or the same once more.
        return Err(Fault::forbidden(
            "A token that was got with an application credential or by a trust cannot be used to get another one.",
        ));
    }
    let user = door.directory.user_named(&claims.sub).await?;
    let user = user.filter(|user| user.id() == claims.uid).ok_or_else(Fault::unauthorized)?;
    Ok(Said { user, from: Some(claims), credential: None })
}

/// Begins to check a password, unless too many were wrong.
pub(super) async fn try_password<'a>(door: &'a Ctx, who: (&str, Option<IpAddr>)) -> Result<Try<'a>, Fault> {
    door.guesses.enter(who).await.map_err(|wait| {
        let seconds = wait.as_secs() + 1;
        let why = format!("Too many wrong passwords were given; try again in {seconds} s.");
        Fault::too_many(why, seconds)
    })
}

/// Whom a request means, in its own words: whether there is such a user must make no difference to who is slowed down.
fn asked(wanted: Option<&Reference>) -> String {
    match wanted {
        Some(Reference::Id(id)) => id.clone(),
        Some(Reference::Name { name, domain }) => format!("{}/{name}", domain.id),
        None => String::new(),
    }
}

async fn by_password(
    door: &Ctx,
    given: &PasswordMethod,
    address: Option<IpAddr>,
) -> Result<Arc<User>, Fault> {
    let wanted = reference(door, &given.user.reference, "user").await?;
    let user = match &wanted {
        Some(wanted) => door.directory.user(wanted).await?,
        None => None,
    };
    // One who is there is one, however they are named.
    let asked = user.as_ref().map_or_else(|| asked(wanted.as_ref()), |user| user.id());
    let tried = try_password(door, (&asked, address)).await?;
    let hash = match &user {
        Some(user) => door.directory.password_hash(user).await?,
        None => None,
    };
    // Also where there is no such user: it takes the same time.
    if !check_password(&given.user.password, hash.as_deref()).await? {
        tried.failed();
        return Err(Fault::unauthorized());
    }
    tried.passed();
    user.ok_or_else(Fault::unauthorized)
}

/// Compares a password with a stored hash.
pub(super) async fn check_password(given: &str, hash: Option<&str>) -> Result<bool, Fault> {
    match password::verify(given, hash).await {
        Ok(right) => Ok(right),
        Err(error @ PasswordError::Busy) => {
            Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))
        }
        Err(error) => {
            tracing::error!(%error, "a password could not be checked");
            Ok(false)
        }
    }
}

async fn by_credential(door: &Ctx, given: &CredentialMethod, address: Option<IpAddr>) -> Result<Said, Fault> {
    let found = match (&given.id, &given.name, &given.user) {
        (Some(id), _, _) => door.directory.with_id::<ApplicationCredential>(id).await?,
        (None, Some(name), Some(user)) => match reference(door, user, "user").await? {
            Some(wanted) => match door.directory.user(&wanted).await? {
                Some(user) => delegated::credential_named(door, &user.id(), name).await?,
                None => None,
            },
            None => None,
        },
        _ => {
            return Err(Fault::bad("Expecting to find id, or name and user, in application_credential."));
        }
    };
    let whose = match &given.user {
        Some(user) => asked(reference(door, user, "user").await?.as_ref()),
        None => String::new(),
    };
    let name = given.id.as_ref().or(given.name.as_ref()).map(String::as_str).unwrap_or_default();
    let asked = format!("{whose}/{name}");
    let tried = try_password(door, (&asked, address)).await?;
    let hash = match &found {
        Some(credential) => {
            let name = names::app_credential_secret(ids::name(&**credential));
            door.directory.hash_in(&name, names::APP_CREDENTIAL_SECRET_TYPE).await?
        }
        None => None,
    };
    if !check_password(&given.secret, hash.as_deref()).await? {
        tried.failed();
        return Err(Fault::unauthorized());
    }
    tried.passed();
    let credential = found.ok_or_else(Fault::unauthorized)?;
    let user = door.directory.user_named(&credential.spec.user).await?;
    let user = user.filter(|user| user.id() == credential.spec.user_id).ok_or_else(Fault::unauthorized)?;
    if delegated::is_over(credential.spec.expires_at) {
        return Err(Fault::unauthorized());
    }
    Ok(Said { user, from: None, credential: Some(credential) })
}

/// The domain that a request names, if there is one.
pub(super) async fn domain(door: &Ctx, raw: &RawDomain) -> Result<Option<(Named, bool)>, Fault> {
    let all = door.directory.domains().await?;
    Ok(all.into_iter().find(|(known, _)| match (&raw.id, &raw.name) {
        (Some(id), _) => *id == known.id,
        (None, Some(name)) => name.eq_ignore_ascii_case(&known.name),
        (None, None) => false,
    }))
}

/// `None` names something in a domain that there is not.
pub(super) async fn reference(
    door: &Ctx,
    raw: &RawReference,
    what: &str,
) -> Result<Option<Reference>, Fault> {
    match (&raw.id, &raw.name) {
        (Some(id), _) => Ok(Some(Reference::Id(id.clone()))),
        (None, Some(name)) => {
            let given = raw.domain.as_ref().filter(|domain| domain.id.is_some() || domain.name.is_some());
            let given = given.ok_or_else(|| {
                Fault::bad(format!(
                    "Expecting to find domain in {what}: a name alone does not say which {what} is meant."
                ))
            })?;
            let found = domain(door, given).await?;
            Ok(found.map(|(domain, _)| Reference::Name { name: name.clone(), domain }))
        }
        (None, None) => Err(Fault::bad(format!("Expecting to find id or name in {what}."))),
    }
}
