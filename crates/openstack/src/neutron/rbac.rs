//! RBAC policies: which other projects may use what is one project's: networks, subnet pools, address scopes and QoS policies. A policy here is an entry of the object that
//! it shares; of what is not shared, nothing is accepted.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::NamespaceResourceScope;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{AddressScope, Network, QosPolicy, Share, Shared, SubnetPool};

use super::view::{collection, with_fields};
use super::{address_scopes, networks, qos, subnetpools};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids::Kind;
use crate::versions::{json_response, ok};
use crate::{ids, lent};

const QOS: &str = "qos_policy";
const NETWORK: &str = "network";
const POOL: &str = "subnetpool";
const SCOPE: &str = "address_scope";
const SHARED: &str = "access_as_shared";
const EXTERNAL: &str = "access_as_external";

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

/// What is shared, and the id of the project whose it is.
enum Object {
    Qos(QosPolicy),
    Network(Network, String),
    Pool(SubnetPool, String),
    Scope(AddressScope, String),
}

impl Object {
    fn shares(&self) -> &[Share] {
        match self {
            Self::Qos(policy) => &policy.spec.shared_with,
            Self::Network(network, _) => network.shared_with(),
            Self::Pool(pool, _) => pool.shared_with(),
            Self::Scope(scope, _) => scope.shared_with(),
        }
    }

    fn project(&self) -> &str {
        match self {
            Self::Qos(policy) => policy.spec.project.as_deref().unwrap_or_default(),
            Self::Network(_, project) | Self::Pool(_, project) | Self::Scope(_, project) => project,
        }
    }

    fn view(&self, share: &Share) -> Value {
        let (kind, id) = match self {
            Self::Qos(policy) => (QOS, policy.id()),
            Self::Network(network, _) => (NETWORK, network.id()),
            Self::Pool(pool, _) => (POOL, pool.id()),
            Self::Scope(scope, _) => (SCOPE, scope.id()),
        };
        let project = self.project();
        json!({"id": share.id, "object_type": kind, "object_id": id, "action": SHARED,
            "target_tenant": share.project, "project_id": project, "tenant_id": project})
    }

    /// The share for a project, as it was written.
    fn share_for(&self, project: &str) -> Result<&Share, Fault> {
        self.shares().iter().find(|share| share.project == project).ok_or_else(|| missing(project))
    }
}

/// What the caller may share: what is its own project's, or all.
async fn owned(session: &Session) -> Result<Vec<Object>, Fault> {
    let policies = ids::list(&session.global::<QosPolicy>()).await?;
    let mut all: Vec<Object> = policies.into_iter().map(Object::Qos).collect();
    all.retain(|object| is_owned(session, object));
    let owners = lent::owners(session).await?;
    let owner = |namespace: &str| owners.get(namespace).cloned().unwrap_or_default();
    let networks = own::<Network>(session).await?.into_iter();
    all.extend(
        networks.map(|it| (owner(ids::namespace(&it)), it)).map(|(owner, it)| Object::Network(it, owner)),
    );
    let pools = own::<SubnetPool>(session).await?.into_iter();
    all.extend(pools.map(|it| (owner(ids::namespace(&it)), it)).map(|(owner, it)| Object::Pool(it, owner)));
    let scopes = own::<AddressScope>(session).await?.into_iter();
    all.extend(scopes.map(|it| (owner(ids::namespace(&it)), it)).map(|(owner, it)| Object::Scope(it, owner)));
    Ok(all)
}

/// What the caller's project has of a kind, or all projects.
async fn own<K>(session: &Session) -> Result<Vec<K>, Fault>
where
    K: Kind + kube::Resource<Scope = NamespaceResourceScope>,
{
    if session.is_admin() {
        match ids::list(&session.everywhere::<K>()).await {
            // Admin of a project, but not of the cloud.
            Err(fault) if fault.status == StatusCode::FORBIDDEN => {}
            all => return all,
        }
    }
    ids::list(&session.own::<K>()?).await
}

fn is_owned(session: &Session, object: &Object) -> bool {
    session.is_admin() || object.project() == session.project_id()
}

async fn find(session: &Session, id: &str) -> Result<(Object, Share), Fault> {
    let all = owned(session).await?;
    let mut found = all.into_iter().filter_map(|object| {
        let share = object.shares().iter().find(|share| share.id.as_deref() == Some(id))?.clone();
        Some((object, share))
    });
    found.next().ok_or_else(|| missing(id))
}

/// Changes whom an object is shared with, as it is now.
async fn edit(
    session: &Session,
    object: Object,
    edit: impl Fn(&mut Vec<Share>) -> Result<(), Fault>,
) -> Result<Object, Fault> {
    let changed = |before: &[Share]| {
        let mut shares = before.to_vec();
        edit(&mut shares)?;
        for (at, share) in shares.iter().enumerate() {
            if shares[..at].iter().any(|other| other.project == share.project) {
                let text = format!("An RBAC policy already exists with those values: {}.", share.project);
                return Err(Fault::conflict(text).named("DuplicateRbacPolicy"));
            }
        }
        Ok(Changes::default().set("sharedWith", Some(json!(shares))))
    };
    Ok(match object {
        Object::Qos(policy) => {
            let policies = session.global();
            let change = |policy: &QosPolicy| changed(&policy.spec.shared_with);
            Object::Qos(change::edit(&policies, policy, change).await?)
        }
        Object::Network(network, project) => {
            let networks = session.within(ids::namespace(&network));
            let change = |network: &Network| changed(&network.spec.shared_with);
            Object::Network(change::edit(&networks, network, change).await?, project)
        }
        Object::Pool(pool, project) => {
            let pools = session.within(ids::namespace(&pool));
            let change = |pool: &SubnetPool| changed(&pool.spec.shared_with);
            Object::Pool(change::edit(&pools, pool, change).await?, project)
        }
        Object::Scope(scope, project) => {
            let scopes = session.within(ids::namespace(&scope));
            let change = |scope: &AddressScope| changed(&scope.spec.shared_with);
            Object::Scope(change::edit(&scopes, scope, change).await?, project)
        }
    })
}

/// `GET /rbac-policies`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let objects = owned(&session).await?;
    let views = objects.iter().flat_map(|object| object.shares().iter().map(|share| object.view(share)));
    collection(&session, &params, "rbac_policies", views.collect())
}

/// `GET /rbac-policies/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let (object, share) = find(&session, &id).await?;
    Ok(ok(&json!({"rbac_policy": with_fields(&params, object.view(&share))})))
}

/// What a request is about.
async fn object(session: &Session, kind: &str, id: &str) -> Result<Object, Fault> {
    if kind == QOS {
        return Ok(Object::Qos(qos::find(session, id).await?));
    }
    let owners = lent::owners(session).await?;
    let owner = |namespace: &str| owners.get(namespace).cloned().unwrap_or_default();
    if kind == POOL {
        let pool = subnetpools::find(session, id).await?;
        let project = owner(ids::namespace(&pool));
        return Ok(Object::Pool(pool, project));
    }
    if kind == SCOPE {
        let scope = address_scopes::find(session, id).await?;
        let project = owner(ids::namespace(&scope));
        return Ok(Object::Scope(scope, project));
    }
    let (network, context) = networks::find(session, id).await?;
    let project = context.project_of(&network).to_owned();
    Ok(Object::Network(network, project))
}

/// `POST /rbac-policies`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.rbac_policy;
    let kind = fields.object_type.as_deref().ok_or_else(|| required("object_type"))?;
    if ![QOS, NETWORK, POOL, SCOPE].contains(&kind) {
        let text = format!(
            "object_type={kind} is not supported: networks, subnet pools, address scopes and QoS policies are what projects share."
        );
        return Err(Fault::bad(text));
    }
    let action = fields.action.as_deref().ok_or_else(|| required("action"))?;
    if kind == NETWORK && action == EXTERNAL {
        let text =
            format!("action={EXTERNAL} is not supported: external networks are there for all projects.");
        return Err(Fault::bad(text));
    }
    if action != SHARED {
        return Err(Fault::bad(format!("Invalid input for action. '{action}' is not in ['{SHARED}'].")));
    }
    let target = fields.target().ok_or_else(|| required("target_tenant"))?.to_owned();
    ids::check_name("target_tenant", &target, false)?;
    let id = fields.object_id.as_deref().ok_or_else(|| required("object_id"))?;
    let object = object(&session, kind, id).await?;
    if !is_owned(&session, &object) {
        let text = "Only administrators may share what is not their project's own.";
        return Err(Fault::bad(text).named("InvalidInput"));
    }
    let owners = [&fields.project_id, &fields.tenant_id];
    if owners.into_iter().flatten().any(|owner| object.project() != owner) {
        return Err(Fault::bad("project_id is not supported: an RBAC policy is its object's project's."));
    }
    let share = Share { id: Some(uuid::Uuid::new_v4().to_string()), project: target };
    let object = edit(&session, object, |shares| {
        shares.push(share.clone());
        Ok(())
    })
    .await?;
    let share = object.share_for(&share.project)?;
    Ok(json_response(StatusCode::CREATED, &json!({"rbac_policy": object.view(share)})))
}

/// `PUT /rbac-policies/{id}`: whom it is for; not where somebody would lose what they use.
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let (object, share) = find(&session, &id).await?;
    let fields = body.rbac_policy;
    if fields.object_type.is_some() || fields.object_id.is_some() || fields.action.is_some() {
        return Err(Fault::bad("Of an RBAC policy, the target alone can be changed."));
    }
    let target = fields.target().unwrap_or(&share.project).to_owned();
    ids::check_name("target_tenant", &target, false)?;
    let changed = Share { project: target, ..share };
    let object = edit(&session, object, |shares| {
        let place = shares.iter_mut().find(|share| share.id.as_deref() == Some(&id));
        *place.ok_or_else(|| missing(&id))? = changed.clone();
        Ok(())
    })
    .await
    .map_err(in_use)?;
    Ok(ok(&json!({"rbac_policy": object.view(&changed)})))
}

/// `DELETE /rbac-policies/{id}`: not while somebody uses what it shares.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let (object, _) = find(&session, &id).await?;
    let gone = |shares: &mut Vec<Share>| {
        shares.retain(|share| share.id.as_deref() != Some(&id));
        Ok(())
    };
    edit(&session, object, gone).await.map_err(in_use)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
