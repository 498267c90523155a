//! Trusts: Trust objects. The trustee gets tokens that act as the trustor, with some of the trustor's roles on one project. Without
//! impersonation they name the trustee as their user; what they may do, the API server still judges by the trustor's roles.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::{Api, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::{Project, Trust, TrustSpec, User};

use super::collection;
use super::delegated::{RawRole, expiry, is_over, refuse_delegated, remove_trust, roles_of};
use super::named::InDomain;
use crate::auth::Session;
use crate::body::{Json, Params, only};
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};
use crate::{ids, stamp};

/// Trusts of one trustor.
const MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    trust: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    trustor_user_id: String,
    trustee_user_id: String,
    impersonation: bool,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    roles: Vec<RawRole>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    remaining_uses: Option<u64>,
    #[serde(default)]
    allow_redelegation: Option<bool>,
    #[serde(default)]
    redelegation_count: Option<Value>,
    #[serde(default)]
    redelegated_trust_id: Option<Value>,
}

async fn view(session: &Session, trust: &Trust, with_roles: bool) -> Result<Value, Fault> {
    let (spec, id) = (&trust.spec, trust.id());
    let base = format!("{}/identity/v3/OS-TRUST/trusts/{id}", session.door.endpoint);
    let mut view = json!({
        "id": id, "trustor_user_id": spec.trustor_id, "trustee_user_id": spec.trustee_id, "impersonation": spec.impersonation.unwrap_or(true),
        "project_id": spec.project_id, "expires_at": spec.expires_at.map(stamp::exactly), "deleted_at": null,
        "remaining_uses": spec.remaining_uses, "redelegation_count": 0, "redelegated_trust_id": null,
        "links": {"self": base},
    });
    if with_roles {
        let roles = role_views(session, trust).await?;
        view["roles"] = Value::Array(roles);
        view["roles_links"] = json!({"self": format!("{base}/roles"), "previous": null, "next": null});
    }
    Ok(view)
}

async fn role_views(session: &Session, trust: &Trust) -> Result<Vec<Value>, Fault> {
    let all = session.door.directory.roles().await?;
    let own = all.iter().filter(|role| trust.spec.roles.contains(&role.id));
    Ok(own.map(|role| super::roles::view(session, role)).collect())
}

async fn is_admin(session: &Session) -> Result<bool, Fault> {
    Ok(session.claims.limit.is_none() && session.door.directory.is_cluster_admin(&session.claims.sub).await?)
}

/// `POST /OS-TRUST/trusts`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.trust;
    refuse_delegated(&session)?;
    if fields.trustor_user_id != session.claims.uid {
        return Err(Fault::forbidden("The authenticated user should match the trustor."));
    }
    if fields.allow_redelegation == Some(true) {
        return Err(Fault::bad(
            "allow_redelegation=true is not supported: a trustee trusts nobody in the trustor's name.",
        ));
    }
    only(
        "redelegation_count",
        fields.redelegation_count.as_ref(),
        &[json!(0)],
        "trusts are not redelegated",
    )?;
    only("redelegated_trust_id", fields.redelegated_trust_id.as_ref(), &[], "trusts are not redelegated")?;
    if fields.remaining_uses == Some(0) {
        return Err(Fault::bad("Invalid input for field/attribute remaining_uses. It must be at least 1."));
    }
    let expires_at = expiry(fields.expires_at.as_deref())?;
    // Any project in which the trustor has the roles, whatever the token is for.
    let project = session.door.directory.with_id::<Project>(fields.project_id.as_deref().unwrap_or_default());
    let Some(project) = project.await?.filter(|project| project.enabled()) else {
        return Err(Fault::forbidden("project_id must be a project in which the trustor has roles."));
    };
    if fields.roles.is_empty() {
        return Err(Fault::forbidden("At least one role should be specified."));
    }
    let roles =
        roles_of(&session, &project.id(), &fields.roles).await.map_err(|fault| match fault.status {
            StatusCode::BAD_REQUEST => Fault::forbidden(fault.message),
            _ => fault,
        })?;
    let directory = &session.door.directory;
    let trustee = directory.with_id::<User>(&fields.trustee_user_id).await?;
    let trustee = trustee.ok_or_else(|| Fault::not_found("Could not find user:", &fields.trustee_user_id))?;
    let mut own = directory.all::<Trust>().await?.list();
    own.retain(|trust| trust.spec.trustor_id == session.claims.uid);
    if own.len() >= MAX {
        // Those that hold no more are nobody's any more.
        for trust in own.iter().filter(|trust| is_dead(trust)) {
            remove_trust(&session.door, trust).await?;
        }
        own.retain(|trust| !is_dead(trust));
    }
    if own.len() >= MAX {
        return Err(Fault::forbidden(format!("A user has at most {MAX} trusts; delete some first.")));
    }
    let id = ids::plain();
    let spec = TrustSpec {
        id: Some(id.clone()),
        display_name: None,
        trustor: session.claims.sub.clone(),
        trustor_id: session.claims.uid.clone(),
        trustee: ids::name(&*trustee).to_owned(),
        trustee_id: trustee.id(),
        project: ids::name(&*project).to_owned(),
        project_id: project.id(),
        roles,
        impersonation: Some(fields.impersonation),
        expires_at,
        remaining_uses: fields.remaining_uses,
    };
    let trusts = Api::<Trust>::all(session.door.system.clone());
    let made = trusts.create(&PostParams::default(), &Trust::new(&format!("trust-{id}"), spec)).await?;
    directory.saw(&made).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"trust": view(&session, &made, true).await?})))
}

/// Whether no token can be got by it any more.
fn is_dead(trust: &Trust) -> bool {
    is_over(trust.spec.expires_at) || trust.spec.remaining_uses == Some(0)
}

/// `GET /OS-TRUST/trusts`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let own = &session.claims.uid;
    let (trustor, trustee) = (params.get("trustor_user_id"), params.get("trustee_user_id"));
    let about_oneself = trustor == Some(own.as_str()) || trustee == Some(own.as_str());
    if !about_oneself && !is_admin(&session).await? {
        return Err(Fault::forbidden(
            "You are not authorized to perform the requested action: identity:list_trusts.",
        ));
    }
    let mut views = Vec::new();
    for trust in session.door.directory.all::<Trust>().await?.list() {
        let spec = &trust.spec;
        let is = |wanted: Option<&str>, id: &str| wanted.is_none_or(|wanted| wanted == id);
        // By a trust, one sees that one.
        let by = session.claims.trust.as_ref();
        let shown = |trust: &Trust| by.is_none_or(|by| by.id == trust.id());
        if is(trustor, &spec.trustor_id) && is(trustee, &spec.trustee_id) && !is_dead(&trust) && shown(&trust)
        {
            views.push(view(&session, &trust, false).await?);
        }
    }
    Ok(collection(&session, "trusts", "OS-TRUST/trusts", views))
}

/// A trust that the caller may see: one's own, and of those who trust one.
async fn find(session: &Session, id: &str) -> Result<Trust, Fault> {
    let missing = || Fault::not_found("Could not find trust:", id);
    let trust = session.door.directory.with_id::<Trust>(id).await?.ok_or_else(missing)?;
    let own = &session.claims.uid;
    if trust.spec.trustor_id != *own && trust.spec.trustee_id != *own && !is_admin(session).await? {
        return Err(Fault::forbidden(
            "You are not authorized to perform the requested action: identity:get_trust.",
        ));
    }
    if is_dead(&trust) {
        return Err(missing());
    }
    Ok((*trust).clone())
}

/// `GET /OS-TRUST/trusts/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    let trust = find(&session, &id).await?;
    Ok(ok(&json!({"trust": view(&session, &trust, true).await?})))
}

/// `DELETE /OS-TRUST/trusts/{id}`, and the tokens that were got by it.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    refuse_delegated(&session)?;
    let missing = || Fault::not_found("Could not find trust:", &id);
    let trust = session.door.directory.with_id::<Trust>(&id).await?.ok_or_else(missing)?;
    if trust.spec.trustor_id != session.claims.uid && !is_admin(&session).await? {
        return Err(Fault::forbidden("Only admin or trustor can delete a trust."));
    }
    remove_trust(&session.door, &trust).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /OS-TRUST/trusts/{id}/roles`
pub(super) async fn roles(session: Session, Path(id): Path<String>) -> Answer {
    let trust = find(&session, &id).await?;
    let views = role_views(&session, &trust).await?;
    Ok(collection(&session, "roles", &format!("OS-TRUST/trusts/{id}/roles"), views))
}

/// `GET /OS-TRUST/trusts/{id}/roles/{role}`
pub(super) async fn role(session: Session, Path((id, role)): Path<(String, String)>) -> Answer {
    let trust = find(&session, &id).await?;
    let all = session.door.directory.roles().await?;
    let found = all.iter().find(|own| own.id == role && trust.spec.roles.contains(&own.id));
    let found = found.ok_or_else(|| Fault::not_found("Could not find role:", &role))?;
    Ok(ok(&json!({"role": super::roles::view(&session, found)})))
}

/// `HEAD /OS-TRUST/trusts/{id}/roles/{role}`
pub(super) async fn check_role(session: Session, path: Path<(String, String)>) -> Answer {
    role(session, path).await
}
