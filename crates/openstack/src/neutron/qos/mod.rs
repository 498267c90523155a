//! QoS policies: how much ports take and send. The cloud's admin makes them; who may use them is in `rbac`.

mod rules;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::Project;
use yunfan_resources::network::{EVERY_PROJECT, QosPolicy, QosPolicySpec, Share};

use super::view::{collection, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params, boolean, explicit};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};
use crate::{Ctx, ids, stamp};

/// Everything below `/qos`.
pub(super) fn routes() -> Router<Ctx> {
    Router::new()
        .route("/policies", get(list).post(create))
        .route("/policies/{id}", get(show).put(update).delete(delete))
        .merge(rules::routes())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    policy: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    shared: Option<Value>,
    #[serde(default)]
    is_default: Option<Value>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("name", self.name.as_deref().unwrap_or("x"), false)?;
        let description = self.description.as_ref().and_then(|text| text.as_deref());
        ids::check_name("description", description.unwrap_or_default(), true)
    }
}

/// Whether the caller may see a policy: its own project's, or one that its project may use. The cloud's admin sees all.
fn is_visible(session: &Session, policy: &QosPolicy) -> bool {
    session.is_admin() || policy.spec.is_for(session.project_id())
}

/// The policy with this id, where the caller may see it.
pub(super) async fn find(session: &Session, id: &str) -> Result<QosPolicy, Fault> {
    let found = session.find(&session.global::<QosPolicy>(), id).await?;
    found
        .filter(|policy| is_visible(session, policy))
        .ok_or_else(|| Fault::not_found("QoS policy", id).named("QosPolicyNotFound"))
}

/// What a request's `qos_policy_id` makes of a `spec.qosPolicy`: nothing where it is not given, and an empty name for none.
pub(super) async fn chosen(
    session: &Session,
    given: Option<&Option<String>>,
) -> Result<Option<String>, Fault> {
    match given {
        None => Ok(None),
        Some(None) => Ok(Some(String::new())),
        Some(Some(id)) if id.is_empty() => Ok(Some(String::new())),
        Some(Some(id)) => Ok(Some(ids::name(&find(session, id).await?).to_owned())),
    }
}

/// All policies that the caller may see.
pub(super) async fn all(session: &Session) -> Result<Vec<QosPolicy>, Fault> {
    let mut all = ids::list(&session.global::<QosPolicy>()).await?;
    all.retain(|policy| is_visible(session, policy));
    Ok(all)
}

/// A policy as Neutron shows it.
fn view(session: &Session, policy: &QosPolicy) -> Value {
    let spec = &policy.spec;
    let project = spec.project.as_deref().unwrap_or_default();
    let asks = session.project_id();
    let shared = spec.shared_with.iter().any(|share| share.project == EVERY_PROJECT || share.project == asks);
    let created = stamp::seconds(stamp::created(policy));
    let rules: Vec<Value> = spec.rules.iter().map(|rule| rules::whole(policy, rule)).collect();
    json!({
        "id": policy.id(), "name": policy.display_name(), "description": spec.description.as_deref().unwrap_or_default(),
        "project_id": project, "tenant_id": project, "shared": shared, "is_default": spec.project_default, "rules": rules,
        "created_at": created, "updated_at": stamp::seconds(stamp::updated(policy)), "revision_number": policy.metadata.generation.unwrap_or(1),
        "tags": spec.tags,
    })
}

/// `GET /qos/policies`
async fn list(session: Session, params: Params) -> Answer {
    let views = all(&session).await?.iter().map(|policy| view(&session, policy)).collect();
    collection(&session, &params, "policies", views)
}

/// `GET /qos/policies/{id}`
async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let policy = find(&session, &id).await?;
    Ok(ok(&json!({"policy": with_fields(&params, view(&session, &policy))})))
}

/// The names by which Neutron's clients know the faults.
fn fault(fault: Fault) -> Fault {
    match fault.status {
        StatusCode::CONFLICT if fault.message.contains("default QosPolicy") => {
            fault.named("QoSPolicyDefaultAlreadyExists")
        }
        StatusCode::CONFLICT => fault.named("QosPolicyInUse"),
        _ => fault,
    }
}

/// `POST /qos/policies`
async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.policy;
    fields.check()?;
    let name = fields
        .name
        .clone()
        .ok_or_else(|| Fault::bad("Failed to parse request. Required attribute 'name' not specified"))?;
    let named = [fields.project_id.as_deref(), fields.tenant_id.as_deref()];
    let owner = named.into_iter().flatten().next().unwrap_or(session.project_id()).to_owned();
    ids::check_name("project_id", &owner, false)?;
    if owner != session.project_id() && session.find(&session.global::<Project>(), &owner).await?.is_none() {
        return Err(Fault::not_found("Project", &owner));
    }
    let shared = boolean("shared", fields.shared.as_ref())?.unwrap_or_default();
    let everybody = Share { id: None, project: EVERY_PROJECT.to_owned() };
    let spec = QosPolicySpec {
        display_name: Some(name.clone()),
        description: fields.description.flatten().filter(|text| !text.is_empty()),
        project: Some(owner),
        project_default: boolean("is_default", fields.is_default.as_ref())?.unwrap_or_default(),
        shared_with: shared.then_some(everybody).into_iter().collect(),
        ..QosPolicySpec::default()
    };
    let policies = session.global::<QosPolicy>();
    let policy = ids::create(&policies, QosPolicy::new("", spec), &name).await.map_err(fault)?;
    Ok(json_response(StatusCode::CREATED, &json!({"policy": view(&session, &policy)})))
}

/// `PUT /qos/policies/{id}`
async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.policy;
    fields.check()?;
    let policy = find(&session, &id).await?;
    let shared = boolean("shared", fields.shared.as_ref())?;
    let default = boolean("is_default", fields.is_default.as_ref())?;
    if [&fields.project_id, &fields.tenant_id]
        .into_iter()
        .flatten()
        .any(|to| policy.spec.project.as_ref() != Some(to))
    {
        return Err(Fault::bad("Cannot update read-only attribute project_id"));
    }
    let policy = change::edit(&session.global(), policy, |policy| {
        let shares = shared.map(|shared| {
            let mut shares = policy.spec.shared_with.clone();
            let is = shares.iter().any(|share| share.project == EVERY_PROJECT);
            if shared && !is {
                shares.push(Share { id: None, project: EVERY_PROJECT.to_owned() });
            } else if !shared {
                shares.retain(|share| share.project != EVERY_PROJECT);
            }
            json!(shares)
        });
        Ok(Changes::default()
            .set("displayName", fields.name.clone())
            .set("description", fields.description.clone().map(|text| json!(text)))
            .set("projectDefault", default)
            .set("sharedWith", shares))
    })
    .await
    .map_err(fault)?;
    Ok(ok(&json!({"policy": view(&session, &policy)})))
}

/// `DELETE /qos/policies/{id}`: with its rules, but not while a port or a network has it.
async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let policy = find(&session, &id).await?;
    let policies = session.global::<QosPolicy>();
    match policies.delete(ids::name(&policy), &change::deletion(&policy)?).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let text = format!("QoS Policy {id} is used: {}", status.message);
            Err(Fault::conflict(text).named("QosPolicyInUse"))
        }
        other => {
            other?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}
