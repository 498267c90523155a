//! What application credentials and trusts have in common. Their objects are written with the cloud's own client, for the users whose they
//! are: they are a part of signing in.

use std::sync::Arc;

use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_identity::token::now_ms;
use yunfan_resources::iam::{ApplicationCredential, Trust};
use yunfan_resources::{Identified, names};

use super::scope;
use crate::auth::Session;
use crate::directory::Role;
use crate::error::Fault;
use crate::{Ctx, ids, revocation};

/// How often the count of a trust's uses is tried again that another use was faster than.
const ATTEMPTS: usize = 50;

/// Whether a moment (microseconds since 1970) has come.
pub(super) fn is_over(at: Option<u64>) -> bool {
    at.is_some_and(|at| at <= now_ms().saturating_mul(1000))
}

/// A user's application credential with this name.
pub(super) async fn credential_named(
    door: &Ctx,
    user: &str,
    name: &str,
) -> Result<Option<Arc<ApplicationCredential>>, Fault> {
    let all = door.directory.all::<ApplicationCredential>().await?.list();
    Ok(all.into_iter().find(|one| one.spec.user_id == user && one.display_name() == name))
}

/// A trust that still holds.
pub(super) async fn trust(door: &Ctx, id: &str) -> Result<Option<Arc<Trust>>, Fault> {
    let found = door.directory.with_id::<Trust>(id).await?;
    Ok(found.filter(|trust| !is_over(trust.spec.expires_at)))
}

/// Counts one use of a trust, exactly: each is written before the token is given.
pub(super) async fn use_up(door: &Ctx, trust: &Trust) -> Result<(), Fault> {
    let trusts = Api::<Trust>::all(door.system.clone());
    let name = ids::name(trust);
    for _ in 0..ATTEMPTS {
        let now = trusts.get_opt(name).await?.ok_or_else(Fault::unauthorized)?;
        let Some(left) = now.spec.remaining_uses else { return Ok(()) };
        if left == 0 {
            return Err(Fault::unauthorized());
        }
        let patch = json!({
            "metadata": {"resourceVersion": now.metadata.resource_version}, "spec": {"remainingUses": left - 1},
        });
        match trusts.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return door.directory.saw(&other?).await,
        }
    }
    Err(Fault::conflict("The trust is being used by many at this moment; try again."))
}

/// Deletes those that have to do with somebody, or a project, who is gone: `gone` is told the ids of user and project.
pub(super) async fn forget(session: &Session, gone: impl Fn(&str, &str) -> bool) -> Result<(), Fault> {
    let door = &session.door;
    for credential in door.directory.all::<ApplicationCredential>().await?.list() {
        if gone(&credential.spec.user_id, &credential.spec.project_id) {
            remove_credential(door, &credential).await?;
        }
    }
    for trust in door.directory.all::<Trust>().await?.list() {
        let spec = &trust.spec;
        if gone(&spec.trustor_id, &spec.project_id) || gone(&spec.trustee_id, &spec.project_id) {
            remove_trust(door, &trust).await?;
        }
    }
    Ok(())
}

/// Deletes an application credential, and what it was used for.
pub(super) async fn remove_credential(door: &Ctx, credential: &ApplicationCredential) -> Result<(), Fault> {
    let name = ids::name(credential);
    let params = DeleteParams::default();
    // The object goes last, so that what failed can be asked for again.
    revocation::revoke_by(&door.system, &door.tokens, &credential.id(), &credential.spec.user).await?;
    let secrets =
        Api::<k8s_openapi::api::core::v1::Secret>::namespaced(door.system.clone(), names::SYSTEM_NAMESPACE);
    super::gone(secrets.delete(&names::app_credential_secret(name), &params).await)?;
    super::gone(Api::<ApplicationCredential>::all(door.system.clone()).delete(name, &params).await)?;
    door.directory.saw_gone(credential).await
}

/// Deletes a trust, and the tokens that were got by it.
pub(super) async fn remove_trust(door: &Ctx, trust: &Trust) -> Result<(), Fault> {
    revocation::revoke_by(&door.system, &door.tokens, &trust.id(), &trust.spec.trustor).await?;
    let trusts = Api::<Trust>::all(door.system.clone());
    super::gone(trusts.delete(ids::name(trust), &DeleteParams::default()).await)?;
    door.directory.saw_gone(trust).await
}

/// How a request names a role: by id, or by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRole {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    /// Clients send what they were shown.
    #[serde(default, rename = "domain_id")]
    _domain: Option<Value>,
}

/// The ids of the roles that a request names: those that the caller's token has or, as in Keystone, that the caller has got on its project
/// since. A token that is limited to less than its user may has its own alone.
pub(super) async fn roles_of(
    session: &Session,
    project: &str,
    given: &[RawRole],
) -> Result<Vec<String>, Fault> {
    let all = session.door.directory.roles().await?;
    let claims = &session.claims;
    let now = match claims.limit {
        Some(_) => Vec::new(),
        None => scope::held(&session.door, &claims.uid, project).await?,
    };
    let mut found = Vec::new();
    for raw in given {
        let is = |role: &&Role| match (&raw.id, &raw.name) {
            (Some(id), _) => role.id == *id,
            (None, Some(name)) => role.name == *name && role.domain.is_none(),
            (None, None) => false,
        };
        let wanted = raw.id.as_ref().or(raw.name.as_ref());
        let wanted = wanted.ok_or_else(|| Fault::bad("A role must have an id or a name."))?;
        let role = all.iter().find(is).ok_or_else(|| Fault::not_found("Could not find role:", wanted))?;
        let by_token = project == session.project_id() && claims.roles.contains(&role.name);
        if !by_token && !now.iter().any(|own| own.id == role.id) {
            return Err(Fault::bad(format!(
                "Could not find role assignment with role: {}, user: {}, project: {}.",
                role.id, claims.uid, project
            )));
        }
        found.push(role.id.clone());
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The ids of the roles of the caller's token.
pub(super) async fn own_roles(session: &Session) -> Result<Vec<String>, Fault> {
    let all = session.door.directory.roles().await?;
    let own =
        all.into_iter().filter(|role| role.domain.is_none() && session.claims.roles.contains(&role.name));
    Ok(own.map(|role| role.id).collect())
}

/// Refuses what tokens may not that were got with a restricted application credential, or by a trust.
pub(super) fn refuse_delegated(session: &Session) -> Result<(), Fault> {
    if session.claims.trust.is_some() {
        return Err(Fault::forbidden("You are not authorized to perform the requested action by a trust."));
    }
    if session.claims.app_credential.as_ref().is_some_and(|credential| credential.restricted) {
        return Err(Fault::forbidden(
            "You are not authorized to perform the requested action with an application credential that is restricted.",
        ));
    }
    Ok(())
}

/// Refuses what a trustee need not know of who trusts them.
pub(super) fn refuse_trusted(session: &Session) -> Result<(), Fault> {
    match session.claims.trust {
        Some(_) => {
            Err(Fault::forbidden("You are not authorized to perform the requested action by a trust."))
        }
        None => Ok(()),
    }
}

/// `expires_at` of a request, in microseconds since 1970: a time to come.
pub(super) fn expiry(given: Option<&str>) -> Result<Option<u64>, Fault> {
    let Some(given) = given else { return Ok(None) };
    let wrong =
        |why: &str| Fault::bad(format!("Invalid input for field/attribute expires_at. {given} {why}."));
    // Without a zone it is UTC.
    let text =
        if given.ends_with('Z') || given.contains('+') { given.to_owned() } else { format!("{given}Z") };
    let at: jiff::Timestamp = text.parse().map_err(|_| wrong("is no time in ISO 8601's form"))?;
    let micros = u64::try_from(at.as_microsecond()).unwrap_or_default();
    if is_over(Some(micros)) {
        return Err(wrong("is over"));
    }
    Ok(Some(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_must_be_to_come() {
        assert_eq!(expiry(None).unwrap(), None);
        for text in
            ["2999-01-01T00:00:00.000007Z", "2999-01-01T01:00:00.000007+01:00", "2999-01-01T00:00:00.000007"]
        {
            assert_eq!(expiry(Some(text)).unwrap(), Some(32_472_144_000_000_007), "{text}");
        }
        assert!(expiry(Some("2001-01-01T00:00:00Z")).is_err());
        assert!(expiry(Some("tomorrow")).is_err());
    }
}
