//! Address scopes: subnet pools whose addresses are told apart, and between whose networks routers lead.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{
    AddressScope, AddressScopeSpec, EVERY_PROJECT, IpVersion, Share, SubnetPool, network_place,
};

use super::networks::target;
use super::view::{Context, collection, wants_all, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params, boolean};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};
use crate::{ids, lent};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    address_scope: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    ip_version: Option<Value>,
    #[serde(default)]
    shared: Option<Value>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
}

impl Fields {
    fn version(&self) -> Result<IpVersion, Fault> {
        let Some(given) = &self.ip_version else {
            return Err(Fault::bad("Failed to parse request. Required attribute 'ip_version' not specified"));
        };
        match given.as_u64().or_else(|| given.as_str()?.parse().ok()) {
            Some(4) => Ok(IpVersion::V4),
            Some(6) => Ok(IpVersion::V6),
            _ => Err(Fault::bad(format!("Invalid input for ip_version. Reason: {given} is not in [4, 6]."))),
        }
    }
}

/// The scope with this id, where the caller may see or use it.
pub(super) async fn find(session: &Session, id: &str) -> Result<AddressScope, Fault> {
    let missing = || Fault::not_found("Address scope", id).named("AddressScopeNotFound");
    lent::find::<AddressScope>(session, id).await?.ok_or_else(missing)
}

/// The id of the scope that a pool is in, if it is among these.
pub(super) fn scope_id(pool: &SubnetPool, scopes: &[AddressScope]) -> Option<String> {
    let (owner, name) = network_place(ids::namespace(pool), pool.spec.address_scope.as_deref()?);
    scopes.iter().find(|it| ids::namespace(*it) == owner && ids::name(*it) == name).map(Identified::id)
}

async fn shown(session: &Session, scope: &AddressScope) -> Result<Value, Fault> {
    Ok(Context::with_owners(session, false).await?.scope_view(scope))
}

/// `GET /address-scopes`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let all = wants_all(&session, &params);
    let scopes = lent::visible::<AddressScope>(&session, all).await?;
    let context = Context::with_owners(&session, all).await?;
    let views = scopes.iter().map(|scope| context.scope_view(scope)).collect();
    collection(&session, &params, "address_scopes", views)
}

/// `GET /address-scopes/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let scope = find(&session, &id).await?;
    Ok(ok(&json!({"address_scope": with_fields(&params, shown(&session, &scope).await?)})))
}

/// `POST /address-scopes`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.address_scope;
    ids::check_name("name", fields.name.as_deref().unwrap_or_default(), true)?;
    let namespace = target(&session, [fields.project_id.as_deref(), fields.tenant_id.as_deref()]).await?;
    let shared = boolean("shared", fields.shared.as_ref())?.unwrap_or_default();
    let everybody = Share { id: None, project: EVERY_PROJECT.to_owned() };
    let spec = AddressScopeSpec {
        ip_version: fields.version()?,
        shared_with: shared.then_some(everybody).into_iter().collect(),
        display_name: fields.name.filter(|name| !name.is_empty()),
        ..AddressScopeSpec::default()
    };
    let display = spec.display_name.clone().unwrap_or_else(|| "scope".to_owned());
    let scopes = session.within::<AddressScope>(&namespace);
    let scope = ids::create(&scopes, AddressScope::new("", spec), &display).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"address_scope": shown(&session, &scope).await?})))
}

/// `PUT /address-scopes/{id}`: what is shared with all stays so, as in Neutron.
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.address_scope;
    ids::check_name("name", fields.name.as_deref().unwrap_or_default(), true)?;
    if fields.ip_version.is_some() || fields.project_id.is_some() || fields.tenant_id.is_some() {
        return Err(Fault::bad("Cannot update read-only attribute ip_version or project_id."));
    }
    let scope = find(&session, &id).await?;
    let mut shares = scope.spec.shared_with.clone();
    let is = shares.iter().any(|share| share.project == EVERY_PROJECT);
    let shared = match boolean("shared", fields.shared.as_ref())? {
        Some(false) if is => {
            let text =
                format!("Unable to update address scope {id} : Shared address scope can't be unshared.");
            return Err(Fault::bad(text).named("AddressScopeUpdateError"));
        }
        Some(true) if !is => {
            shares.push(Share { id: None, project: EVERY_PROJECT.to_owned() });
            Some(json!(shares))
        }
        _ => None,
    };
    let changes = Changes::default().set("displayName", fields.name).set("sharedWith", shared);
    let scope = changes.apply(&session.within(ids::namespace(&scope)), &scope).await?;
    Ok(ok(&json!({"address_scope": shown(&session, &scope).await?})))
}

/// `DELETE /address-scopes/{id}`: not while subnet pools are in it.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let scope = find(&session, &id).await?;
    let scopes = session.within::<AddressScope>(ids::namespace(&scope));
    match scopes.delete(ids::name(&scope), &change::deletion(&scope)?).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let text = format!(
                "Unable to complete operation on address scope {id}. There are one or more subnet pools in use on the address scope."
            );
            Err(Fault::conflict(text).named("AddressScopeInUse"))
        }
        other => {
            other?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}

impl Context {
    /// A scope as Neutron shows it, which keeps no more of it.
    fn scope_view(&self, scope: &AddressScope) -> Value {
        let project = self.project_of(scope);
        json!({"id": scope.id(), "name": scope.spec.display_name.as_deref().unwrap_or_default(),
            "ip_version": if scope.spec.ip_version == IpVersion::V6 { 6 } else { 4 },
            "shared": self.is_for_caller(scope), "project_id": project, "tenant_id": project})
    }
}
