//! RBAC policies: which other projects may use what is one project's. QoS policies are shared so; of what is not, networks above all,
//! nothing is accepted. A policy here is an entry of the object that it shares.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{QosPolicy, QosShare};

use super::qos;
use super::view::{collection, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

const QOS: &str = "qos_policy";
const SHARED: &str = "access_as_shared";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    rbac_policy: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    object_type: Option<String>,
    #[serde(default)]
    object_id: Option<String>,
    #[serde(default)]
    action: Option<String>,
    #[serde(default)]
    target_tenant: Option<String>,
    #[serde(default)]
    target_project: Option<String>,
    #[serde(default)]
    target_project_id: Option<String>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
}

impl Fields {
    fn target(&self) -> Option<&str> {
        let all = [&self.target_tenant, &self.target_project, &self.target_project_id];
        all.into_iter().flatten().next().map(String::as_str).filter(|target| !target.is_empty())
    }
}

fn required(field: &str) -> Fault {
    Fault::bad(format!("Failed to parse request. Required attribute '{field}' not specified"))
}

fn missing(id: &str) -> Fault {
    Fault::not_found("RBAC policy", id).named("RbacPolicyNotFound")
}

fn in_use(fault: Fault) -> Fault {
    if fault.status == StatusCode::CONFLICT { fault.named("RbacPolicyInUse") } else { fault }
}

fn view(policy: &QosPolicy, share: &QosShare) -> Value {
    let project = policy.spec.project.as_deref().unwrap_or_default();
    json!({"id": share.id, "object_type": QOS, "object_id": policy.id(), "action": SHARED,
        "target_tenant": share.project, "project_id": project, "tenant_id": project})
}

/// The QoS policies whose sharing the caller may see: its own project's, or all.
async fn owned(session: &Session) -> Result<Vec<QosPolicy>, Fault> {
    let mut all = ids::list(&session.global::<QosPolicy>()).await?;
    all.retain(|policy| is_owned(session, policy));
    Ok(all)
}

fn is_owned(session: &Session, policy: &QosPolicy) -> bool {
    session.is_admin() || policy.spec.project.as_deref() == Some(session.project_id())
}

async fn find(session: &Session, id: &str) -> Result<(QosPolicy, QosShare), Fault> {
    let all = owned(session).await?;
    let mut found = all.into_iter().filter_map(|policy| {
        let share = policy.spec.shared_with.iter().find(|share| share.id.as_deref() == Some(id))?.clone();
        Some((policy, share))
    });
    found.next().ok_or_else(|| missing(id))
}

async fn edit(
    session: &Session,
    policy: QosPolicy,
    edit: impl Fn(&mut Vec<QosShare>) -> Result<(), Fault>,
) -> Result<QosPolicy, Fault> {
    change::edit(&session.global(), policy, |policy: &QosPolicy| {
        let mut shares = policy.spec.shared_with.clone();
        edit(&mut shares)?;
        for (at, share) in shares.iter().enumerate() {
            if shares[..at].iter().any(|other| other.project == share.project) {
                let text = format!("An RBAC policy already exists with those values: {}.", share.project);
                return Err(Fault::conflict(text).named("DuplicateRbacPolicy"));
            }
        }
        Ok(Changes::default().set("sharedWith", Some(json!(shares))))
    })
    .await
}

/// `GET /rbac-policies`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let policies = owned(&session).await?;
    let views =
        policies.iter().flat_map(|policy| policy.spec.shared_with.iter().map(|share| view(policy, share)));
    collection(&session, &params, "rbac_policies", views.collect())
}

/// `GET /rbac-policies/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let (policy, share) = find(&session, &id).await?;
    Ok(ok(&json!({"rbac_policy": with_fields(&params, view(&policy, &share))})))
}

/// `POST /rbac-policies`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.rbac_policy;
    let kind = fields.object_type.as_deref().ok_or_else(|| required("object_type"))?;
    if kind != QOS {
        let text = format!(
            "object_type={kind} is not supported: of what projects have, QoS policies alone are shared."
        );
        return Err(Fault::bad(text));
    }
    let action = fields.action.as_deref().ok_or_else(|| required("action"))?;
    if action != SHARED {
        return Err(Fault::bad(format!("Invalid input for action. '{action}' is not in ['{SHARED}'].")));
    }
    let target = fields.target().ok_or_else(|| required("target_tenant"))?.to_owned();
    ids::check_name("target_tenant", &target, false)?;
    let id = fields.object_id.as_deref().ok_or_else(|| required("object_id"))?;
    let policy = qos::find(&session, id).await?;
    if !is_owned(&session, &policy) {
        let text = "Only administrators may share what is not their project's own.";
        return Err(Fault::bad(text).named("InvalidInput"));
    }
    let owners = [&fields.project_id, &fields.tenant_id];
    if owners.into_iter().flatten().any(|owner| policy.spec.project.as_ref() != Some(owner)) {
        return Err(Fault::bad("project_id is not supported: an RBAC policy is its object's project's."));
    }
    let share = QosShare { id: Some(uuid::Uuid::new_v4().to_string()), project: target };
    let policy = edit(&session, policy, |shares| {
        shares.push(share.clone());
        Ok(())
    })
    .await?;
    Ok(json_response(StatusCode::CREATED, &json!({"rbac_policy": view(&policy, &share)})))
}

/// `PUT /rbac-policies/{id}`: whom it is for; not where somebody would lose what they use.
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let (policy, share) = find(&session, &id).await?;
    let fields = body.rbac_policy;
    if fields.object_type.is_some() || fields.object_id.is_some() || fields.action.is_some() {
        return Err(Fault::bad("Of an RBAC policy, the target alone can be changed."));
    }
    let target = fields.target().unwrap_or(&share.project).to_owned();
    ids::check_name("target_tenant", &target, false)?;
    let changed = QosShare { project: target, ..share };
    let policy = edit(&session, policy, |shares| {
        let place = shares.iter_mut().find(|share| share.id.as_deref() == Some(&id));
        *place.ok_or_else(|| missing(&id))? = changed.clone();
        Ok(())
    })
    .await
    .map_err(in_use)?;
    Ok(ok(&json!({"rbac_policy": view(&policy, &changed)})))
}

/// `DELETE /rbac-policies/{id}`: not while somebody uses what it shares.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let (policy, _) = find(&session, &id).await?;
    let gone = |shares: &mut Vec<QosShare>| {
        shares.retain(|share| share.id.as_deref() != Some(&id));
        Ok(())
    };
    edit(&session, policy, gone).await.map_err(in_use)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
