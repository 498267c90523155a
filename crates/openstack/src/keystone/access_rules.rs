//! Access rules: which requests the tokens of an application credential are good for. They are made with a credential and stay when it is
//! gone, for others of their user's. Each is a ConfigMap in the cloud's own namespace; what holds is in the ApplicationCredential.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::iam::{AccessRule, ApplicationCredential};
use yunfan_resources::names;

use super::application_credentials::{may_read, only_own};
use super::collection;
use super::delegated::refuse_delegated;
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::versions::ok;
use crate::{Ctx, ids};

/// Label of the ConfigMaps, and what their names begin with.
const LABEL: &str = "iam.yunfan.io/access-rule";
const PREFIX: &str = "access-rule-";
/// Rules of one credential, and of one user.
const MAX: usize = 100;
const MAX_OF_USER: usize = 1000;
/// Characters of a path.
const MAX_PATH: usize = 255;

/// A rule as a request writes it: a new one, or one that there is by its id.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    path: Option<String>,
}

fn rules(door: &Ctx) -> Api<ConfigMap> {
    Api::namespaced(door.system.clone(), names::SYSTEM_NAMESPACE)
}

fn read(kept: &ConfigMap) -> AccessRule {
    let of = |key: &str| kept.data.as_ref().and_then(|data| data.get(key)).cloned().unwrap_or_default();
    let id = ids::name(kept).trim_start_matches(PREFIX).to_owned();
    AccessRule { id, service: of("service"), method: of("method"), path: of("path") }
}

/// The rules of a user.
async fn of_user(door: &Ctx, user: &str) -> Result<Vec<AccessRule>, Fault> {
    let wanted =
        ListParams::default().labels(&format!("{LABEL}=true,{}={user}", names::CREDENTIAL_USER_LABEL));
    Ok(rules(door).list(&wanted).await?.items.iter().map(read).collect())
}

/// A rule as Keystone shows it with its credential.
pub(super) fn brief(rule: &AccessRule) -> Value {
    json!({"id": rule.id, "service": rule.service, "method": rule.method, "path": rule.path})
}

fn view(session: &Session, user: &str, rule: &AccessRule) -> Value {
    let mut view = brief(rule);
    let endpoint = &session.door.endpoint;
    view["links"] = json!({"self": format!("{endpoint}/identity/v3/users/{user}/access_rules/{}", rule.id)});
    view
}

/// What a request says of a new rule.
fn new(raw: &RawRule) -> Result<AccessRule, Fault> {
    let wrong = |field: &str, why: &str| {
        Fault::bad(format!("Invalid input for field/attribute access_rules. {field} {why}."))
    };
    let given = |field: &str, text: &Option<String>| text.clone().ok_or_else(|| wrong(field, "is missing"));
    let (service, method, path) =
        (given("service", &raw.service)?, given("method", &raw.method)?, given("path", &raw.path)?);
    let word =
        |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_".contains(letter));
    if service.is_empty() || service.len() > 64 || !word(&service) {
        return Err(wrong("service", "is the type of a service, e.g. compute"));
    }
    if method.is_empty() || method.len() > 16 || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Err(wrong("method", "is one of HTTP's, e.g. GET"));
    }
    if !path.starts_with('/') || path.chars().count() > MAX_PATH || path.chars().any(char::is_control) {
        return Err(wrong("path", &format!("begins with a slash and has at most {MAX_PATH} characters")));
    }
    Ok(AccessRule { id: ids::plain(), service, method, path })
}

/// The rules that a new credential is to have; those that its user does not have yet are made.
pub(super) async fn made(session: &Session, user: &str, given: &[RawRule]) -> Result<Vec<AccessRule>, Fault> {
    if given.len() > MAX {
        return Err(Fault::bad(format!("An application credential has at most {MAX} access rules.")));
    }
    if given.is_empty() {
        return Ok(Vec::new());
    }
    let door = &session.door;
    let mut known = of_user(door, user).await?;
    let mut wanted = Vec::with_capacity(given.len());
    for raw in given {
        if let Some(id) = &raw.id {
            let found = known.iter().find(|rule| rule.id == *id).cloned();
            wanted.push(found.ok_or_else(|| Fault::not_found("Could not find Access Rule:", id))?);
            continue;
        }
        let rule = new(raw)?;
        let same = known
            .iter()
            .find(|own| (&own.service, &own.method, &own.path) == (&rule.service, &rule.method, &rule.path));
        if let Some(same) = same {
            wanted.push(same.clone());
            continue;
        }
        if known.len() >= MAX_OF_USER {
            return Err(Fault::forbidden(format!("A user has at most {MAX_OF_USER} access rules.")));
        }
        keep(door, user, &rule).await?;
        known.push(rule.clone());
        wanted.push(rule);
    }
    Ok(wanted)
}

async fn keep(door: &Ctx, user: &str, rule: &AccessRule) -> Result<(), Fault> {
    let data = [("service", &rule.service), ("method", &rule.method), ("path", &rule.path)];
    let mut kept = ConfigMap {
        data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()),
        ..ConfigMap::default()
    };
    kept.metadata.name = Some(format!("{PREFIX}{}", rule.id));
    let labels = [(LABEL, "true"), (names::CREDENTIAL_USER_LABEL, user)];
    kept.metadata.labels =
        Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
    rules(door).create(&PostParams::default(), &kept).await?;
    Ok(())
}

/// Deletes the rules of users who are gone.
pub(super) async fn forget(door: &Ctx, user: &str) -> Result<(), Fault> {
    for rule in of_user(door, user).await? {
        remove(door, &rule).await?;
    }
    Ok(())
}

async fn remove(door: &Ctx, rule: &AccessRule) -> Result<(), Fault> {
    let name = format!("{PREFIX}{}", rule.id);
    super::gone(rules(door).delete(&name, &DeleteParams::default()).await)
}

async fn find(session: &Session, user: &str, id: &str) -> Result<AccessRule, Fault> {
    may_read(session, user).await?;
    let found = of_user(&session.door, user).await?.into_iter().find(|rule| rule.id == id);
    found.ok_or_else(|| Fault::not_found("Could not find Access Rule:", id))
}

/// `GET /users/{user}/access_rules`
pub(super) async fn list(session: Session, Path(user): Path<String>, params: Params) -> Answer {
    may_read(&session, &user).await?;
    let mut all = of_user(&session.door, &user).await?;
    let is = |key: &str, own: &str| params.get(key).is_none_or(|wanted| wanted == own);
    all.retain(|rule| is("service", &rule.service) && is("method", &rule.method) && is("path", &rule.path));
    let views = all.iter().map(|rule| view(&session, &user, rule)).collect();
    Ok(collection(&session, "access_rules", &format!("users/{user}/access_rules"), views))
}

/// `GET /users/{user}/access_rules/{id}`
pub(super) async fn show(session: Session, Path((user, id)): Path<(String, String)>) -> Answer {
    let rule = find(&session, &user, &id).await?;
    Ok(ok(&json!({"access_rule": view(&session, &user, &rule)})))
}

/// `DELETE /users/{user}/access_rules/{id}`: not while a credential has it. The cloud's admin deletes others' as well.
pub(super) async fn delete(session: Session, Path((user, id)): Path<(String, String)>) -> Answer {
    refuse_delegated(&session)?;
    let rule = find(&session, &user, &id).await?;
    if !session.door.directory.is_cluster_admin(&session.claims.sub).await? {
        only_own(&session, &user)?;
    }
    let credentials = session.door.directory.all::<ApplicationCredential>().await?.list();
    if credentials.iter().any(|one| one.spec.access_rules.iter().any(|own| own.id == id)) {
        return Err(Fault::forbidden(format!(
            "You are not authorized to perform the requested action: access rule {id} is in use by an application credential."
        )));
    }
    remove(&session.door, &rule).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
