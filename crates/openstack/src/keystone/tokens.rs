//! Tokens: issuing, showing and revoking them; and what one can have a token for.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use yunfan_identity::Caller;
use yunfan_identity::token::{Claims, Scope, random_id};
use yunfan_resources::Identified;
use yunfan_resources::iam::{ApplicationCredential, Domain};
use yunfan_serve::PeerAddress;

use super::signin::{AuthBody, prove};
use super::{access_rules, catalog, collection, domains, scope};
use crate::auth::{self, Session};
use crate::body::{Json, Params};
use crate::directory::{self, Place, Principal};
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};
use crate::{Ctx, ids, revocation, stamp};

/// The header that carries the token that a request is about.
const SUBJECT: &str = "x-subject-token";

/// `POST /auth/tokens`
pub(super) async fn issue(
    State(door): State<Ctx>,
    from: Option<Extension<PeerAddress>>,
    params: Params,
    Json(body): Json<AuthBody>,
) -> Answer {
    let address = from.map(|from| from.0.0.ip());
    let proven = prove(&door, &body.auth.identity, address).await?;
    let mut claims = Claims::new(ids::name(&*proven.user), proven.user.id(), revocation::LIFETIME);
    claims.methods.clone_from(&proven.methods);
    if let Some(from) = &proven.from {
        claims.exp = from.exp;
        let first = from.audit_ids.last().cloned().unwrap_or_else(random_id);
        claims.audit_ids.push(first);
    }
    let domain = door.directory.domain_of(proven.user.spec.domain.as_deref()).await?;
    claims.user_domain = Some(Scope { id: domain.id, name: domain.name });
    scope::apply(&door, &proven, body.auth.scope.as_ref(), &mut claims).await?;
    give(&door, &claims, with_catalog(&params)).await
}

fn with_catalog(params: &Params) -> bool {
    !params.0.iter().any(|(name, _)| name == "nocatalog")
}

/// Signs a token, and answers with it.
pub(super) async fn give(door: &Ctx, claims: &Claims, with_catalog: bool) -> Answer {
    let token = door.tokens.issue(claims).map_err(|error| {
        tracing::error!(%error, user = claims.sub, "a token could not be issued");
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "The token could not be issued.")
    })?;
    let document = document(door, claims, with_catalog).await?;
    let mut response = json_response(StatusCode::CREATED, &document);
    set_subject(&mut response, &token);
    // The audit log is told who it was.
    response.extensions_mut().insert(Caller(claims.user()));
    Ok(response)
}

fn set_subject(response: &mut Response, token: &str) {
    response.headers_mut().insert("vary", HeaderValue::from_static("X-Auth-Token"));
    if let Ok(value) = HeaderValue::from_str(token) {
        response.headers_mut().insert(SUBJECT, value);
    }
}

/// What a token says, as Keystone shows it.
async fn document(door: &Ctx, claims: &Claims, with_catalog: bool) -> Result<Value, Fault> {
    let trustee = claims.trust.as_ref().filter(|trust| trust.names_trustee);
    let user = door.directory.user_named(trustee.map_or(&claims.sub, |trust| &trust.trustee_name)).await?;
    let own_domain = match (trustee, &user) {
        (Some(_), Some(user)) => {
            let domain = door.directory.domain_of(user.spec.domain.as_deref()).await?;
            Some(Scope { id: domain.id, name: domain.name })
        }
        _ => claims.user_domain.clone(),
    };
    let named = |scope: &Option<Scope>| match scope {
        Some(scope) => json!({"id": scope.id, "name": scope.name}),
        None => json!({"id": directory::DEFAULT_DOMAIN, "name": "Default"}),
    };
    let mut token = json!({
        "methods": claims.methods,
        "user": {
            "id": trustee.map_or(&claims.uid, |trust| &trust.trustee),
            "name": user.map_or_else(|| claims.sub.clone(), |user| user.display_name()),
            "domain": named(&own_domain),
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
    } else if let Some(domain) = &claims.domain {
        token["domain"] = json!({"id": domain.id, "name": domain.name});
    } else if claims.system {
        token["system"] = json!({"all": true});
    } else {
        return Ok(json!({"token": token}));
    }
    // Of several with a name, the token has that of no domain.
    let mut roles = door.directory.roles().await?;
    roles.retain(|role| role.domain.is_none() && claims.roles.contains(&role.name));
    token["roles"] = roles.iter().map(|role| json!({"id": role.id, "name": role.name})).collect();
    if with_catalog {
        token["catalog"] =
            catalog::catalog(door, claims.project.as_ref().map(|project| project.id.as_str())).await?;
    }
    if let Some(credential) = &claims.app_credential {
        token["application_credential"] =
            json!({"id": credential.id, "name": credential.name, "restricted": credential.restricted});
        if credential.ruled {
            let found = door.directory.with_id::<ApplicationCredential>(&credential.id).await?;
            let rules = found.iter().flat_map(|found| &found.spec.access_rules);
            token["application_credential"]["access_rules"] = rules.map(access_rules::brief).collect();
        }
    }
    if let Some(trust) = &claims.trust {
        token["OS-TRUST:trust"] = json!({
            "id": trust.id, "impersonation": !trust.names_trustee,
            "trustor_user": {"id": trust.trustor}, "trustee_user": {"id": trust.trustee},
        });
    }
    Ok(json!({"token": token}))
}

/// The token that a request is about. It must be the caller's own, unless the caller is admin.
async fn subject(session: &Session, headers: &HeaderMap) -> Result<Claims, Fault> {
    let missing =
        || Fault::bad("The header X-Subject-Token, with the token that is asked about, is missing.");
    let gone = || Fault::new(StatusCode::NOT_FOUND, "Could not find token.");
    let claims = auth::claims(&session.door, headers, SUBJECT).map_err(|_| gone())?.ok_or_else(missing)?;
    if claims.uid != session.claims.uid {
        let limited = session.claims.limit.is_some();
        if limited || !session.door.directory.is_cluster_admin(&session.claims.sub).await? {
            return Err(Fault::forbidden("You are not authorized to ask about another user's token."));
        }
    }
    Ok(claims)
}

/// `GET` and `HEAD /auth/tokens`
pub(super) async fn validate(session: Session, params: Params, headers: HeaderMap) -> Answer {
    let claims = subject(&session, &headers).await?;
    let mut response = ok(&document(&session.door, &claims, with_catalog(&params)).await?);
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

/// Who asks, with the groups that they are in by now: where they can have tokens does not depend on when they got this one. Nobody else than
/// the project of a limited token is theirs.
async fn principal(session: &Session) -> Result<Principal, Fault> {
    let user = session.door.directory.user_named(&session.claims.sub).await?;
    session.door.directory.principal(&*user.ok_or_else(Fault::unauthorized)?).await
}

/// `GET /auth/projects`: the projects that the caller can have a token for.
pub(super) async fn projects(session: Session) -> Answer {
    let all = session.door.directory.projects_for(&principal(&session).await?).await?;
    let own = |id: &str| {
        session.claims.limit.is_none()
            || session.claims.project.as_ref().is_some_and(|project| project.id == id)
    };
    let mut views = Vec::with_capacity(all.len());
    for project in all.iter().filter(|project| project.spec.enabled && own(&project.id())) {
        if session.door.directory.domain_state(project.spec.domain.as_deref()).await?.1 {
            views.push(super::projects::view(&session, project).await?);
        }
    }
    Ok(collection(&session, "projects", "auth/projects", views))
}

/// `GET /auth/domains`: the domains that the caller can have a token for.
pub(super) async fn domains(session: Session) -> Answer {
    let who = principal(&session).await?;
    let mut views = Vec::new();
    for domain in session.door.directory.all::<Domain>().await?.list() {
        let place = Place::Domain(ids::name(&*domain).to_owned());
        if session.claims.limit.is_none()
            && domain.spec.enabled
            && !session.door.directory.roles_in(&who, &place).await?.is_empty()
        {
            views.push(domains::view(&session, &domain));
        }
    }
    Ok(collection(&session, "domains", "auth/domains", views))
}

/// `GET /auth/system`: whether the caller can have a token for the whole cloud.
pub(super) async fn system(session: Session) -> Answer {
    let roles = session.door.directory.roles_in(&principal(&session).await?, &Place::System).await?;
    let whole = !roles.is_empty() && session.claims.limit.is_none();
    let views = if whole { vec![json!({"all": true})] } else { Vec::new() };
    Ok(collection(&session, "system", "auth/system", views))
}
