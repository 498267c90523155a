//! Signing in: issuing, showing and revoking tokens.

use std::net::IpAddr;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_identity::password::{self, PasswordError};
use yunfan_identity::token::{Claims, Scope, random_id};
use yunfan_resources::Identified;
use yunfan_resources::iam::{Project, User};
use yunfan_serve::PeerAddress;

use super::{catalog, collection, roles};
use crate::auth::{self, Session};
use crate::body::{Json, Params};
use crate::directory::{self, Named, Reference};
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};
use crate::{Ctx, ids, revocation, stamp};

/// How long a token is valid, seconds.
const LIFETIME: u64 = 3600;
/// The header that carries the token that a request is about.
const SUBJECT: &str = "x-subject-token";

// Keystone takes unknown members in these, and clients send some; so they are not refused.
#[derive(Deserialize)]
pub(super) struct AuthBody {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    identity: Identity,
    #[serde(default)]
    scope: Option<Value>,
}

#[derive(Deserialize)]
struct Identity {
    methods: Vec<String>,
    #[serde(default)]
    password: Option<PasswordMethod>,
    #[serde(default)]
    token: Option<TokenMethod>,
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

/// A user or project by id, or by name and domain.
#[derive(Deserialize)]
struct RawReference {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    domain: Option<RawDomain>,
}

#[derive(Deserialize)]
struct RawDomain {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

/// Somebody who proved who they are.
struct Proven {
    user: User,
    methods: Vec<String>,
    /// The token that proved it, whose expiry the new one keeps.
    from: Option<Claims>,
}

/// `POST /auth/tokens`
pub(super) async fn issue(
    State(door): State<Ctx>,
    from: Option<Extension<PeerAddress>>,
    params: Params,
    Json(body): Json<AuthBody>,
) -> Answer {
    let address = from.map(|from| from.0.0.ip());
    let proven = prove(&door, &body.auth.identity, address).await?;
    let scope = scope(&door, &proven, body.auth.scope.as_ref()).await?;
    let mut claims = Claims::new(ids::name(&proven.user), proven.user.id(), LIFETIME);
    claims.methods = proven.methods;
    if let Some(from) = &proven.from {
        claims.exp = from.exp;
        let first = from.audit_ids.last().cloned().unwrap_or_else(random_id);
        claims.audit_ids.push(first);
    }
    let domain = door.directory.domain_of(proven.user.spec.domain.as_deref()).await?;
    claims.user_domain = Some(Scope { id: domain.id, name: domain.name });
    if let Some((project, roles)) = scope {
        let domain = door.directory.domain_of(project.spec.domain.as_deref()).await?;
        claims.domain = Some(Scope { id: domain.id, name: domain.name });
        claims.project = Some(Scope { id: project.id(), name: ids::name(&project).to_owned() });
        claims.roles = roles.into_iter().map(str::to_owned).collect();
    }
    let token = door.tokens.issue(&claims).map_err(|error| {
        tracing::error!(%error, user = claims.sub, "a token could not be issued");
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "The token could not be issued.")
    })?;
    let document = document(&door, &claims, !params.0.iter().any(|(name, _)| name == "nocatalog")).await?;
    let mut response = json_response(StatusCode::CREATED, &document);
    set_subject(&mut response, &token);
    Ok(response)
}

fn set_subject(response: &mut Response, token: &str) {
    response.headers_mut().insert("vary", HeaderValue::from_static("X-Auth-Token"));
    if let Ok(value) = HeaderValue::from_str(token) {
        response.headers_mut().insert(SUBJECT, value);
    }
}

/// Checks every method that is named. All that goes wrong is one 401, so that it tells nothing of who exists.
async fn prove(door: &Ctx, identity: &Identity, address: Option<IpAddr>) -> Result<Proven, Fault> {
    let mut proven: Option<Proven> = None;
    for method in &identity.methods {
        let missing = || Fault::bad(format!("Expecting to find {method} in identity."));
        let (user, from) = match method.as_str() {
            "password" => {
                let given = identity.password.as_ref().ok_or_else(missing)?;
                (by_password(door, given, address).await?, None)
            }
            "token" => {
                let given = identity.token.as_ref().ok_or_else(missing)?;
                let claims = door.tokens.verify(&given.id).map_err(|_| Fault::unauthorized())?;
                let user = door.directory.user_named(&claims.sub).await?;
                let user = user.filter(|user| user.id() == claims.uid);
                (user.ok_or_else(Fault::unauthorized)?, Some(claims))
            }
            _ => {
                tracing::debug!(method, "a method of signing in that is not served");
                return Err(Fault::unauthorized());
            }
        };
        if !user.spec.enabled || proven.as_ref().is_some_and(|other| other.user.id() != user.id()) {
            return Err(Fault::unauthorized());
        }
        let from = from.or_else(|| proven.as_mut().and_then(|proven| proven.from.take()));
        proven = Some(Proven { user, methods: identity.methods.clone(), from });
    }
    let mut proven = proven.ok_or_else(|| Fault::bad("identity.methods must name a method."))?;
    for method in proven.from.iter().flat_map(|from| &from.methods) {
        if !proven.methods.contains(method) {
            proven.methods.push(method.clone());
        }
    }
    Ok(proven)
}

async fn by_password(door: &Ctx, given: &PasswordMethod, address: Option<IpAddr>) -> Result<User, Fault> {
    let wanted = reference(door, &given.user.reference, "user").await?;
    let user = match &wanted {
        Some(wanted) => door.directory.user(wanted).await?,
        None => None,
    };
    let hash = match &user {
        Some(user) => door.directory.password_hash(user).await?,
        None => None,
    };
    let asked = match (&user, &wanted) {
        (Some(user), _) => user.id(),
        (None, Some(Reference::Id(id))) => id.clone(),
        (None, Some(Reference::Name { name, .. })) => name.clone(),
        (None, None) => String::new(),
    };
    let who = (asked.as_str(), address);
    door.guesses.check(who).map_err(|wait| {
        let seconds = wait.as_secs() + 1;
        let why = format!("Too many wrong passwords were given; try again in {seconds} s.");
        Fault::new(StatusCode::TOO_MANY_REQUESTS, why)
    })?;
    // Also where there is no such user: it takes the same time.
    if !check_password(&given.user.password, hash.as_deref()).await? {
        door.guesses.failed(who);
        return Err(Fault::unauthorized());
    }
    door.guesses.passed(who);
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

/// `None` names something in a domain that there is not.
async fn reference(door: &Ctx, raw: &RawReference, what: &str) -> Result<Option<Reference>, Fault> {
    match (&raw.id, &raw.name) {
        (Some(id), _) => Ok(Some(Reference::Id(id.clone()))),
        (None, Some(name)) => {
            let domain = raw.domain.as_ref().filter(|domain| domain.id.is_some() || domain.name.is_some());
            let domain = domain.ok_or_else(|| {
                Fault::bad(format!(
                    "Expecting to find domain in {what}: a name alone does not say which {what} is meant."
                ))
            })?;
            let found = door.directory.domains().await?.into_iter().find(|known: &Named| {
                match (&domain.id, &domain.name) {
                    (Some(id), _) => *id == known.id,
                    (None, Some(name)) => name.eq_ignore_ascii_case(&known.name),
                    (None, None) => false,
                }
            });
            Ok(found.map(|domain| Reference::Name { name: name.clone(), domain }))
        }
        (None, None) => Err(Fault::bad(format!("Expecting to find id or name in {what}."))),
    }
}

/// The project that the token is for, and the user's roles there.
async fn scope(
    door: &Ctx,
    proven: &Proven,
    wanted: Option<&Value>,
) -> Result<Option<(Project, Vec<&'static str>)>, Fault> {
    let user = ids::name(&proven.user);
    match wanted {
        None | Some(Value::Null) => {
            // Only a password signs in to the default project; a token without a scope gives an unscoped one.
            let Some(name) = proven.user.spec.default_project.as_deref().filter(|_| proven.from.is_none())
            else {
                return Ok(None);
            };
            let Some(project) = door.directory.project_named(name).await? else { return Ok(None) };
            Ok(with_roles(door, user, project).await?.filter(|(_, roles)| !roles.is_empty()))
        }
        Some(Value::String(text)) if text == "unscoped" => Ok(None),
        Some(Value::Object(members)) if members.contains_key("unscoped") => Ok(None),
        Some(Value::Object(members)) => {
            let Some(project) = members.get("project") else {
                return Err(Fault::unsupported(
                    "Only tokens for a project are issued: scope.project is missing (domain, system and trust scopes are not served).",
                ));
            };
            let raw: RawReference = crate::body::parse_value(project.clone())?;
            let wanted = reference(door, &raw, "project").await?.ok_or_else(Fault::unauthorized)?;
            let project = door.directory.project(&wanted).await?.ok_or_else(Fault::unauthorized)?;
            match with_roles(door, user, project).await? {
                Some((project, roles)) if !roles.is_empty() => Ok(Some((project, roles))),
                _ => Err(Fault::unauthorized()),
            }
        }
        Some(_) => Err(Fault::bad("scope must be an object or \"unscoped\".")),
    }
}

async fn with_roles(
    door: &Ctx,
    user: &str,
    project: Project,
) -> Result<Option<(Project, Vec<&'static str>)>, Fault> {
    if !project.spec.enabled {
        return Ok(None);
    }
    let roles = match directory::home(&project) {
        Some(namespace) => door.directory.roles(user, namespace).await?,
        None => Vec::new(),
    };
    Ok(Some((project, roles)))
}

/// What a token says, as Keystone shows it.
async fn document(door: &Ctx, claims: &Claims, with_catalog: bool) -> Result<Value, Fault> {
    let user = door.directory.user_named(&claims.sub).await?;
    let named = |scope: &Option<Scope>| match scope {
        Some(scope) => json!({"id": scope.id, "name": scope.name}),
        None => json!({"id": directory::DEFAULT_DOMAIN, "name": "Default"}),
    };
    let mut token = json!({
        "methods": claims.methods,
        "user": {
            "id": claims.uid,
            "name": user.map_or_else(|| claims.sub.clone(), |user| user.display_name()),
            "domain": named(&claims.user_domain),
            "password_expires_at": null,
        },
        "audit_ids": claims.audit_ids,
        "issued_at": stamp::micros(claims.iat),
        "expires_at": stamp::micros(claims.exp),
    });
    if let Some(project) = &claims.project {
        let display = door.directory.project_named(&project.name).await?;
        let name = display.map_or_else(|| project.name.clone(), |project| project.display_name());
        token["project"] = json!({"id": project.id, "name": name, "domain": named(&claims.domain)});
        token["is_domain"] = json!(false);
        token["roles"] =
            claims.roles.iter().map(|role| json!({"id": roles::id(role), "name": role})).collect();
        if with_catalog {
            token["catalog"] = catalog::catalog(&door.endpoint);
        }
    }
    Ok(json!({"token": token}))
}

/// The token that a request is about. It must be the caller's own, unless the caller is admin.
async fn subject(session: &Session, headers: &HeaderMap) -> Result<Claims, Fault> {
    let missing =
        || Fault::bad("The header X-Subject-Token, with the token that is asked about, is missing.");
    let gone = || Fault::new(StatusCode::NOT_FOUND, "Could not find token.");
    let claims = auth::claims(&session.door, headers, SUBJECT).map_err(|_| gone())?.ok_or_else(missing)?;
    if claims.uid != session.claims.uid
        && !session.door.directory.is_cluster_admin(&session.claims.sub).await?
    {
        return Err(Fault::forbidden("You are not authorized to ask about another user's token."));
    }
    Ok(claims)
}

/// `GET` and `HEAD /auth/tokens`
pub(super) async fn validate(session: Session, params: Params, headers: HeaderMap) -> Answer {
    let claims = subject(&session, &headers).await?;
    let with_catalog = !params.0.iter().any(|(name, _)| name == "nocatalog");
    let mut response = ok(&document(&session.door, &claims, with_catalog).await?);
    let token = headers.get(SUBJECT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    set_subject(&mut response, token);
    Ok(response)
}

/// `DELETE /auth/tokens`
pub(super) async fn revoke(session: Session, headers: HeaderMap) -> Answer {
    let claims = subject(&session, &headers).await?;
    revocation::revoke(&session.door.system, &session.door.tokens, &claims).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /auth/projects`: the projects that the caller can have a token for.
pub(super) async fn projects(session: Session) -> Answer {
    let projects = session.door.directory.projects_of(&session.claims.sub).await?;
    let mut views = Vec::with_capacity(projects.len());
    for project in projects.iter().filter(|project| project.spec.enabled) {
        views.push(super::projects::view(&session, project).await?);
    }
    Ok(collection(&session, "projects", "auth/projects", views))
}

/// `GET /auth/domains`: no tokens are issued for a domain.
pub(super) async fn domains(session: Session) -> Response {
    collection(&session, "domains", "auth/domains", Vec::new())
}
