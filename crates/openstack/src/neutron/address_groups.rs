//! Address groups: named sets of addresses that rules of security groups speak of.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ipnet::IpNet;
use kube::api::Api;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{AddressGroup, AddressGroupSpec};

use super::networks::target;
use super::view::{Context, collection, wants_all, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    address_group: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    addresses: Option<Vec<String>>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("name", self.name.as_deref().unwrap_or_default(), true)?;
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)
    }
}

/// Addresses that are to be added, or taken away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Addresses {
    addresses: Vec<String>,
}

/// Clients write the addresses of a change with the group around them, or without.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum AddressesBody {
    Within { address_group: Addresses },
    Plain(Addresses),
}

impl AddressesBody {
    fn addresses(self) -> Vec<String> {
        match self {
            Self::Within { address_group } => address_group.addresses,
            Self::Plain(addresses) => addresses.addresses,
        }
    }
}

/// The ranges that are meant, each once, as Neutron shows them.
fn ranges(given: &[String]) -> Result<Vec<String>, Fault> {
    let mut all: Vec<String> = Vec::with_capacity(given.len());
    for text in given {
        let range: IpNet = text.parse().map_err(|_| {
            Fault::bad(format!("Invalid input for addresses. '{text}' is not a valid range of addresses."))
        })?;
        let range = range.trunc().to_string();
        if !all.contains(&range) {
            all.push(range);
        }
    }
    Ok(all)
}

async fn find(session: &Session, id: &str) -> Result<AddressGroup, Fault> {
    let missing = || Fault::not_found("Address group", id).named("AddressGroupNotFound");
    session.find_anywhere::<AddressGroup>(id).await?.ok_or_else(missing)
}

/// The name of the group with this id, for a rule of a namespace.
pub(super) async fn name_in(session: &Session, namespace: &str, id: &str) -> Result<String, Fault> {
    let group = find(session, id).await?;
    if ids::namespace(&group) != namespace {
        return Err(Fault::not_found("Address group", id).named("AddressGroupNotFound"));
    }
    Ok(ids::name(&group).to_owned())
}

async fn shown(session: &Session, group: &AddressGroup) -> Result<Value, Fault> {
    let elsewhere = ids::namespace(group) != session.namespace()?;
    Ok(Context::load(session, elsewhere).await?.address_group_view(group))
}

/// `GET /address-groups`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let all = wants_all(&session, &params);
    let groups = if all { session.everywhere::<AddressGroup>() } else { session.own()? };
    let (groups, context) = tokio::try_join!(ids::list(&groups), Context::load(&session, all))?;
    let views = groups.iter().map(|group| context.address_group_view(group)).collect();
    collection(&session, &params, "address_groups", views)
}

/// `GET /address-groups/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let group = find(&session, &id).await?;
    Ok(ok(&json!({"address_group": with_fields(&params, shown(&session, &group).await?)})))
}

/// `POST /address-groups`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.address_group;
    fields.check()?;
    let namespace = target(&session, [fields.project_id.as_deref(), fields.tenant_id.as_deref()]).await?;
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let name = some(fields.name);
    let spec = AddressGroupSpec {
        display_name: name.clone(),
        description: some(fields.description),
        addresses: ranges(fields.addresses.as_deref().unwrap_or_default())?,
        ..AddressGroupSpec::default()
    };
    let groups = session.within::<AddressGroup>(&namespace);
    let display = name.unwrap_or_else(|| "addresses".to_owned());
    let group = ids::create(&groups, AddressGroup::new("", spec), &display).await?;
    Ok(json_response(StatusCode::CREATED, &json!({"address_group": shown(&session, &group).await?})))
}

/// `PUT /address-groups/{id}`: its name and description; addresses are added and taken away.
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.address_group;
    fields.check()?;
    if fields.addresses.is_some() {
        return Err(Fault::bad("Cannot update read-only attribute addresses"));
    }
    let group = find(&session, &id).await?;
    let changes = Changes::default().set("displayName", fields.name).set("description", fields.description);
    let group = changes.apply(&session.within(ids::namespace(&group)), &group).await?;
    Ok(ok(&json!({"address_group": shown(&session, &group).await?})))
}

/// `DELETE /address-groups/{id}`: not while a rule speaks of it.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let group = find(&session, &id).await?;
    let groups = session.within::<AddressGroup>(ids::namespace(&group));
    match groups.delete(ids::name(&group), &change::deletion(&group)?).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let text = format!("Address group {id} is in use: {}", status.message);
            Err(Fault::conflict(text).named("AddressGroupInUse"))
        }
        other => {
            other?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}

/// Changes a group's addresses as they are now, however many do that at once.
async fn change(session: &Session, id: &str, edit: impl Fn(&mut Vec<String>) -> Result<(), Fault>) -> Answer {
    let group = find(session, id).await?;
    let groups: Api<AddressGroup> = session.within(ids::namespace(&group));
    let group = change::edit(&groups, group, |group| {
        let mut addresses = group.spec.addresses.clone();
        edit(&mut addresses)?;
        Ok(Changes::default().set("addresses", Some(json!(addresses))))
    })
    .await?;
    Ok(ok(&json!({"address_group": shown(session, &group).await?})))
}

/// `PUT /address-groups/{id}/add_addresses`
pub(super) async fn add(session: Session, Path(id): Path<String>, Json(body): Json<AddressesBody>) -> Answer {
    let more = ranges(&body.addresses())?;
    change(&session, &id, |addresses| {
        addresses
            .extend(more.iter().filter(|range| !addresses.contains(*range)).cloned().collect::<Vec<_>>());
        Ok(())
    })
    .await
}

/// `PUT /address-groups/{id}/remove_addresses`
pub(super) async fn remove(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<AddressesBody>,
) -> Answer {
    let given = body.addresses();
    // As in Neutron, an address alone is none that a group has.
    let gone: Vec<String> = given
        .iter()
        .map(|text| match text.parse::<std::net::IpAddr>() {
            Ok(_) => Ok(text.clone()),
            Err(_) => Ok(ranges(std::slice::from_ref(text))?.remove(0)),
        })
        .collect::<Result<_, Fault>>()?;
    change(&session, &id, |addresses| {
        if let Some(other) = gone.iter().find(|range| !addresses.contains(range)) {
            let text = format!("Address group {id} does not have the addresses {other}.");
            return Err(Fault::new(StatusCode::NOT_FOUND, text).named("AddressGroupAddressesNotFound"));
        }
        addresses.retain(|range| !gone.contains(range));
        Ok(())
    })
    .await
}

impl Context {
    /// An address group as Neutron shows it.
    fn address_group_view(&self, group: &AddressGroup) -> Value {
        let description = group.spec.description.as_deref().unwrap_or_default();
        let view = json!({"description": description, "addresses": group.spec.addresses, "shared": false});
        let mut view = self.with_base(group, view);
        view["name"] = json!(group.spec.display_name.as_deref().unwrap_or_default());
        view
    }

    /// The id of a project's address group.
    pub(super) fn address_group_id(&self, namespace: &str, name: &str) -> Option<String> {
        let mut all = self.address_groups().iter();
        all.find(|it| ids::name(*it) == name && ids::namespace(*it) == namespace).map(Identified::id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ranges_without_host_bits() {
        let ranges = |all: &[&str]| ranges(&all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let good = ranges(&["10.10.10.3/32", "192.168.0.10/24", "2001:db8::f00/64", "192.168.0.0/24"]);
        assert_eq!(good.unwrap(), ["10.10.10.3/32", "192.168.0.0/24", "2001:db8::/64"]);
        assert!(ranges(&["10.20.30.40"]).is_err() && ranges(&["bad"]).is_err());
    }
}
