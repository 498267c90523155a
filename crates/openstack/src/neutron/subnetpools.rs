//! Subnet pools: ranges that subnets get theirs from.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ipnet::IpNet;
use kube::api::Api;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{
    AddressScope, EVERY_PROJECT, Share, Subnet, SubnetPool, SubnetPoolSpec, network_place, network_reference,
};

use super::address_scopes;
use super::networks::target;
use super::view::{Context, collection, number, wants_all, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params, boolean, explicit};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::versions::{json_response, ok};
use crate::{ids, lent};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    subnetpool: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    prefixes: Option<Vec<String>>,
    #[serde(default)]
    default_prefixlen: Option<Length>,
    #[serde(default)]
    min_prefixlen: Option<Length>,
    #[serde(default)]
    max_prefixlen: Option<Length>,
    #[serde(default)]
    default_quota: Option<u32>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
    #[serde(default)]
    shared: Option<Value>,
    #[serde(default)]
    is_default: Option<Value>,
    #[serde(default, deserialize_with = "explicit")]
    address_scope_id: Option<Option<String>>,
}

/// Clients write the lengths of prefixes as numbers and as text.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Length(pub(super) u8);

impl TryFrom<Value> for Length {
    type Error = String;

    fn try_from(given: Value) -> Result<Self, String> {
        let number = given.as_u64().or_else(|| given.as_str()?.parse().ok());
        let length = number.and_then(|number| u8::try_from(number).ok()).filter(|length| *length <= 128);
        length.map(Self).ok_or_else(|| format!("{given} is no length of a prefix: it is from 0 to 128"))
    }
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("name", self.name.as_deref().unwrap_or_default(), true)?;
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)?;
        for prefix in self.prefixes.iter().flatten() {
            prefix.parse::<IpNet>().map_err(|_| {
                Fault::bad(format!("Invalid input for prefixes. '{prefix}' is not a valid IP subnet."))
            })?;
        }
        let six = |prefix: &&String| prefix.contains(':');
        let all = self.prefixes.as_deref().unwrap_or_default();
        let count = all.iter().filter(six).count();
        if count > 0 && count < all.len() {
            let text = "Cannot mix IPv4 and IPv6 prefixes in a subnet pool.";
            return Err(Fault::bad(text).named("PrefixVersionMismatch"));
        }
        Ok(())
    }

    /// Lengths are of prefixes of the pool's version.
    fn check_lengths(&self, six: bool) -> Result<(), Fault> {
        let most = if six { 128 } else { 32 };
        let lengths = [
            ("default_prefixlen", self.default_prefixlen),
            ("min_prefixlen", self.min_prefixlen),
            ("max_prefixlen", self.max_prefixlen),
        ];
        match lengths
            .into_iter()
            .find_map(|(field, length)| Some((field, length?.0)).filter(|it| it.1 > most))
        {
            None => Ok(()),
            Some((field, length)) => {
                let text = format!("Illegal prefix bounds: {field}={length}, ip_version_max={most}.");
                Err(Fault::bad(text).named("IllegalSubnetPoolPrefixBounds"))
            }
        }
    }
}

/// The pool with this id, where the caller may see it.
pub(super) async fn find(session: &Session, id: &str) -> Result<SubnetPool, Fault> {
    let missing = || Fault::not_found("Subnet pool", id).named("SubnetPoolNotFound");
    lent::find::<SubnetPool>(session, id).await?.ok_or_else(missing)
}

/// The pool that a new subnet is to be of: the one that is named, or the default of its version.
pub(super) async fn chosen(
    session: &Session,
    id: Option<&str>,
    default: Option<&Value>,
    six: bool,
) -> Result<Option<SubnetPool>, Fault> {
    let default = boolean("use_default_subnetpool", default)?.unwrap_or_default();
    let wrong = |why: &str| Fault::bad(format!("Bad subnets request: {why}.")).named("BadRequest");
    match id {
        Some(_) if default => Err(wrong("subnetpool_id and use_default_subnetpool cannot both be specified")),
        Some(id) => find(session, id).await.map(Some),
        None if default => {
            let pools = lent::visible::<SubnetPool>(session, false).await?;
            let found = pools.into_iter().find(|pool| pool.spec.is_default && pool.spec.is_of_ipv6() == six);
            let version = if six { 6 } else { 4 };
            found.map(Some).ok_or_else(|| wrong(&format!("No default subnetpool found for IPv{version}")))
        }
        None => Ok(None),
    }
}

/// What the API server says of scopes and defaults, in Neutron's words; `pool` and `scope` are ids.
fn in_scope(fault: Fault, pool: &str, scope: &str) -> Fault {
    let has = |text: &str| fault.message.contains(text);
    if has("unique prefixes") {
        let text = "Failed to associate address scope: subnetpools within an address scope must have unique prefixes.";
        return Fault::conflict(text).named("AddressScopePrefixConflict");
    }
    if has("same address scope") {
        let text = "Subnets of the same address family hosted on the same network must all be allocated from the same address scope.";
        return Fault::bad(text).named("NetworkAddressScopeAffinityError");
    }
    if has("that the project may use") {
        let text = format!(
            "Illegal subnetpool association: subnetpool {pool} cannot be associated with address scope {scope}."
        );
        return Fault::bad(text).named("IllegalSubnetPoolAssociationToAddressScope");
    }
    if has("is of another version of IP than the pool") {
        let text = format!(
            "Illegal subnetpool association: subnetpool {pool} cannot associate with address scope {scope} because they are of different versions of IP."
        );
        return Fault::bad(text).named("IllegalSubnetPoolIpVersionAssociationToAddressScope");
    }
    if has("A default subnetpool for this IP family") {
        let text = "Invalid input for operation: A default subnetpool for this IP family has already been set. Only one default may exist per IP family.";
        return Fault::bad(text).named("InvalidInput");
    }
    fault
}

/// What the API server says of the pools of a network's subnets, in Neutron's words.
pub(super) fn apart(fault: Fault) -> Fault {
    if fault.message.contains("quota exceeded") && fault.message.contains("SubnetPool") {
        return Fault::conflict("Per-tenant subnet pool prefix quota exceeded.")
            .named("SubnetPoolQuotaExceeded");
    }
    if fault.message.contains("allocated from the same subnet pool") {
        let text = "Subnets hosted on the same network must be allocated from the same subnet pool.";
        return Fault::bad(text).named("NetworkSubnetPoolAffinityError");
    }
    in_scope(fault, "", "")
}

/// What subnets of a namespace call a pool.
pub(super) fn named(namespace: &str, pool: &SubnetPool) -> String {
    network_reference(namespace, ids::namespace(pool), ids::name(pool))
}

/// What a pool of a namespace calls the scope with this id.
async fn scope_named(session: &Session, namespace: &str, id: &str) -> Result<String, Fault> {
    let scope = address_scopes::find(session, id).await?;
    Ok(network_reference(namespace, ids::namespace(&scope), ids::name(&scope)))
}

/// What a view needs of a pool's project.
async fn context(session: &Session, pool: &SubnetPool) -> Result<Context, Fault> {
    let elsewhere = session.is_admin() && ids::namespace(pool) != session.namespace()?;
    Context::with_owners(session, elsewhere).await
}

/// A pool as Neutron shows it.
async fn shown(session: &Session, pool: &SubnetPool) -> Result<Value, Fault> {
    let scopes = match &pool.spec.address_scope {
        None => Vec::new(),
        Some(_) => lent::visible(session, session.is_admin()).await?,
    };
    Ok(context(session, pool).await?.pool_view(pool, &scopes))
}

/// `GET /subnetpools`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let all = wants_all(&session, &params);
    let (pools, scopes, context) = tokio::try_join!(
        lent::visible::<SubnetPool>(&session, all),
        lent::visible::<AddressScope>(&session, all),
        Context::with_owners(&session, all)
    )?;
    let views = pools.iter().map(|pool| context.pool_view(pool, &scopes)).collect();
    collection(&session, &params, "subnetpools", views)
}

/// `GET /subnetpools/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let pool = find(&session, &id).await?;
    Ok(ok(&json!({"subnetpool": with_fields(&params, shown(&session, &pool).await?)})))
}

/// `POST /subnetpools`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.subnetpool;
    fields.check()?;
    let namespace = target(&session, [fields.project_id.as_deref(), fields.tenant_id.as_deref()]).await?;
    let prefixes = fields.prefixes.clone().filter(|prefixes| !prefixes.is_empty());
    let prefixes = prefixes
        .ok_or_else(|| Fault::bad("Failed to parse request. Required attribute 'prefixes' not specified"))?;
    fields.check_lengths(prefixes.iter().any(|prefix| prefix.contains(':')))?;
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let length = |length: Option<Length>| length.map(|length| length.0);
    let name = some(fields.name);
    let scope = fields.address_scope_id.flatten().filter(|id| !id.is_empty());
    let address_scope = match &scope {
        None => None,
        Some(id) => Some(scope_named(&session, &namespace, id).await?),
    };
    let shared = boolean("shared", fields.shared.as_ref())?.unwrap_or_default();
    let everybody = Share { id: None, project: EVERY_PROJECT.to_owned() };
    let spec = SubnetPoolSpec {
        address_scope,
        is_default: boolean("is_default", fields.is_default.as_ref())?.unwrap_or_default(),
        shared_with: shared.then_some(everybody).into_iter().collect(),
        display_name: name.clone(),
        description: some(fields.description),
        prefixes,
        default_length: length(fields.default_prefixlen),
        min_length: length(fields.min_prefixlen),
        max_length: length(fields.max_prefixlen),
        quota: fields.default_quota,
        ..SubnetPoolSpec::default()
    };
    let display = name.unwrap_or_else(|| "subnetpool".to_owned());
    let pools = session.within::<SubnetPool>(&namespace);
    let made = ids::create(&pools, SubnetPool::new("", spec), &display).await;
    let pool = made.map_err(|fault| in_scope(fault, &display, scope.as_deref().unwrap_or_default()))?;
    Ok(json_response(StatusCode::CREATED, &json!({"subnetpool": shown(&session, &pool).await?})))
}

/// `PUT /subnetpools/{id}`: prefixes only become more, as in Neutron.
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.subnetpool;
    fields.check()?;
    if fields.project_id.is_some() || fields.tenant_id.is_some() {
        return Err(Fault::bad("Cannot update read-only attribute project_id.").named("HTTPBadRequest"));
    }
    if fields.shared.is_some() {
        return Err(Fault::bad("Attribute 'shared' not allowed in PUT"));
    }
    let pool = find(&session, &id).await?;
    let scope = match &fields.address_scope_id {
        None => None,
        Some(Some(id)) if !id.is_empty() => {
            Some(json!(scope_named(&session, ids::namespace(&pool), id).await?))
        }
        Some(_) => Some(Value::Null),
    };
    fields.check_lengths(pool.spec.is_of_ipv6())?;
    if let Some(wanted) = &fields.prefixes {
        let nets: Vec<IpNet> = wanted.iter().filter_map(|prefix| prefix.parse().ok()).collect();
        let kept = |prefix: &String| {
            prefix.parse::<IpNet>().is_ok_and(|old| nets.iter().any(|new| new.contains(&old)))
        };
        if !pool.spec.prefixes.iter().all(kept) {
            let text = "Illegal subnetpool update : existing prefixes must be a subset of the new prefixes.";
            return Err(Fault::bad(text).named("IllegalSubnetPoolPrefixUpdate"));
        }
    }
    let length = |length: Option<Length>| length.map(|length| length.0);
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("prefixes", fields.prefixes.map(|prefixes| json!(prefixes)))
        .set("defaultLength", length(fields.default_prefixlen))
        .set("minLength", length(fields.min_prefixlen))
        .set("maxLength", length(fields.max_prefixlen))
        .set("isDefault", boolean("is_default", fields.is_default.as_ref())?)
        .set("addressScope", scope)
        .set("quota", fields.default_quota);
    let changed = changes.apply(&session.within(ids::namespace(&pool)), &pool).await;
    let named = fields.address_scope_id.flatten().unwrap_or_default();
    let pool = changed.map_err(|fault| in_scope(fault, &id, &named))?;
    Ok(ok(&json!({"subnetpool": shown(&session, &pool).await?})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prefixes {
    prefixes: Vec<String>,
}

/// `PUT /subnetpools/{id}/add_prefixes`
pub(super) async fn add(session: Session, Path(id): Path<String>, Json(body): Json<Prefixes>) -> Answer {
    let more = nets(&body.prefixes)?;
    change_prefixes(&session, &id, |prefixes| prefixes.extend(&more)).await
}

/// `PUT /subnetpools/{id}/remove_prefixes`: those that it does not have are no error.
pub(super) async fn remove(session: Session, Path(id): Path<String>, Json(body): Json<Prefixes>) -> Answer {
    let gone = nets(&body.prefixes)?;
    change_prefixes(&session, &id, |prefixes| prefixes.retain(|prefix| !gone.contains(prefix))).await
}

fn nets(prefixes: &[String]) -> Result<Vec<IpNet>, Fault> {
    let net = |prefix: &String| {
        let net = prefix.parse::<IpNet>().map(|net| net.trunc());
        net.map_err(|_| {
            Fault::bad(format!("Invalid input for prefixes. '{prefix}' is not a valid IP subnet."))
        })
    };
    prefixes.iter().map(net).collect()
}

/// Changes a pool's prefixes as they are now; those that lie side by side become one, as in Neutron.
async fn change_prefixes(session: &Session, id: &str, edit: impl Fn(&mut Vec<IpNet>)) -> Answer {
    let pool = find(session, id).await?;
    let pools = session.within::<SubnetPool>(ids::namespace(&pool));
    let changed = change::edit(&pools, pool, |pool| {
        let mut now = nets(&pool.spec.prefixes)?;
        edit(&mut now);
        let now: Vec<String> = IpNet::aggregate(&now).iter().map(IpNet::to_string).collect();
        Ok(Changes::default().set("prefixes", Some(json!(now))))
    });
    let pool = changed.await.map_err(|fault| match fault.status {
        StatusCode::BAD_REQUEST | StatusCode::CONFLICT => {
            Fault::bad(format!("Illegal subnetpool update : {}", fault.message))
                .named("IllegalSubnetPoolUpdate")
        }
        _ => fault,
    })?;
    Ok(ok(&json!({"prefixes": pool.spec.prefixes})))
}

/// `DELETE /subnetpools/{id}`: not while subnets have ranges of it.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let pool = find(&session, &id).await?;
    let pools = session.within::<SubnetPool>(ids::namespace(&pool));
    match pools.delete(ids::name(&pool), &change::deletion(&pool)?).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let text = format!("Unable to delete subnet pool: {}", status.message);
            Err(Fault::bad(text).named("SubnetPoolDeleteError"))
        }
        other => {
            other?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
    }
}

/// A range of the pool that no subnet of it has yet; the lowest.
pub(super) fn free(pool: &SubnetPoolSpec, subnets: &[IpNet], wanted: Option<u8>) -> Result<IpNet, Fault> {
    let (shortest, longest) = pool.lengths();
    let length = wanted.unwrap_or_else(|| pool.usual_length());
    if length < shortest {
        let text = format!(
            "Unable to allocate subnet with prefix length {length}, minimum allowed prefix is {shortest}."
        );
        return Err(Fault::bad(text).named("MinPrefixSubnetAllocationError"));
    }
    if length > longest {
        let text = format!(
            "Unable to allocate subnet with prefix length {length}, maximum allowed prefix is {longest}."
        );
        return Err(Fault::bad(text).named("MaxPrefixSubnetAllocationError"));
    }
    let mut prefixes: Vec<IpNet> = pool.prefixes.iter().filter_map(|prefix| prefix.parse().ok()).collect();
    prefixes.sort();
    for prefix in prefixes.iter().filter(|prefix| prefix.prefix_len() <= length) {
        // Past what is taken, not one step at a time: a pool may have millions of ranges.
        let bits: u8 = if prefix.addr().is_ipv4() { 32 } else { 128 };
        let bits = bits.checked_sub(length).map(u32::from);
        let Some(step) = bits.and_then(|bits| 1_u128.checked_shl(bits)) else { continue };
        let end = number(prefix.broadcast());
        let mut at = Some(number(prefix.network()));
        while let Some(first) = at {
            let Some(last) = first.checked_add(step - 1).filter(|last| *last <= end) else { break };
            let taken = subnets.iter().find(|net| {
                let (low, high) = (number(net.network()), number(net.broadcast()));
                net.addr().is_ipv4() == prefix.addr().is_ipv4() && low <= last && first <= high
            });
            match taken {
                None => return numbered(*prefix, first, length),
                Some(net) => {
                    let past = number(net.broadcast()).checked_add(1).map(|past| past.max(first + 1));
                    at = past.and_then(|past| past.div_ceil(step).checked_mul(step));
                }
            }
        }
    }
    let text = "Failed to allocate subnet: Insufficient prefix space to allocate subnet size.";
    Err(Fault::conflict(text).named("SubnetAllocationError"))
}

/// The range of a prefix's family that begins at this number.
fn numbered(prefix: IpNet, first: u128, length: u8) -> Result<IpNet, Fault> {
    let start = match prefix {
        // It is one of the prefix's addresses.
        IpNet::V4(_) => Ipv4Addr::from_bits(first as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(first).into(),
    };
    IpNet::new(start, length).map_err(|error| Fault::bad(error.to_string()))
}

/// The ranges that subnets have of a pool.
pub(super) async fn ranges(session: &Session, pool: &SubnetPool) -> Result<Vec<IpNet>, Fault> {
    let place = (ids::namespace(pool), ids::name(pool));
    // Those of other projects are not the caller's to see, but taken.
    let lent = !pool.spec.shared_with.is_empty();
    let subnets: Api<Subnet> =
        if lent { Api::all(session.door.system.clone()) } else { session.within(place.0) };
    let subnets = ids::list(&subnets).await?;
    let named = |subnet: &Subnet| {
        let pool = subnet.spec.subnet_pool.as_deref();
        pool.is_some_and(|pool| network_place(ids::namespace(subnet), pool) == place)
    };
    let of = subnets.iter().filter(|subnet| named(subnet));
    Ok(of.filter_map(|subnet| subnet.spec.cidr.parse().ok()).collect())
}

impl Context {
    /// A pool as Neutron shows it.
    fn pool_view(&self, pool: &SubnetPool, scopes: &[AddressScope]) -> Value {
        let spec = &pool.spec;
        let (shortest, longest) = spec.lengths();
        let view = json!({
            "description": spec.description.as_deref().unwrap_or_default(), "prefixes": spec.prefixes,
            "ip_version": if spec.is_of_ipv6() { 6 } else { 4 },
            // Text, as Neutron writes them.
            "default_prefixlen": spec.usual_length().to_string(), "min_prefixlen": shortest.to_string(),
            "max_prefixlen": longest.to_string(),
            "default_quota": spec.quota, "shared": self.is_for_caller(pool), "is_default": spec.is_default,
            "address_scope_id": address_scopes::scope_id(pool, scopes),
        });
        let mut view = self.with_base(pool, view);
        view["name"] = json!(spec.display_name.as_deref().unwrap_or_default());
        view
    }

    /// The id of the pool that objects of a namespace call so.
    pub(super) fn pool_id(&self, namespace: &str, name: &str) -> Option<String> {
        let (namespace, name) = network_place(namespace, name);
        let mut all = self.pools().iter();
        all.find(|it| ids::name(*it) == name && ids::namespace(*it) == namespace).map(Identified::id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_range_is_found() {
        let spec = |prefixes: &[&str]| SubnetPoolSpec {
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
            default_length: Some(26),
            min_length: Some(16),
            max_length: Some(28),
            ..SubnetPoolSpec::default()
        };
        let nets = |all: &[&str]| all.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let pool = spec(&["10.9.0.0/24", "10.8.0.0/24"]);
        let free = |taken: &[&str], wanted| {
            free(&pool, &nets(taken), wanted).map(|net| net.to_string()).map_err(|fault| fault.name)
        };
        assert_eq!(free(&[], None).unwrap(), "10.8.0.0/26");
        assert_eq!(free(&["10.8.0.0/28"], None).unwrap(), "10.8.0.64/26");
        assert_eq!(free(&["10.8.0.0/28"], Some(28)).unwrap(), "10.8.0.16/28");
        assert_eq!(free(&["10.8.0.0/25", "10.8.0.128/25"], Some(24)).unwrap(), "10.9.0.0/24");
        assert_eq!(free(&["10.8.0.128/26"], Some(25)).unwrap(), "10.8.0.0/25");
        assert_eq!(free(&["10.8.0.0/24", "10.9.0.0/24"], None), Err(Some("SubnetAllocationError")));
        assert_eq!(free(&[], Some(20)), Err(Some("SubnetAllocationError")), "no prefix is so large");
        assert_eq!(free(&[], Some(15)), Err(Some("MinPrefixSubnetAllocationError")));
        assert_eq!(free(&[], Some(30)), Err(Some("MaxPrefixSubnetAllocationError")));
        let prefixes = vec!["fd00::/62".to_owned()];
        let six = SubnetPoolSpec { prefixes, ..SubnetPoolSpec::default() };
        let free = |taken: &[&str]| super::free(&six, &nets(taken), None).map(|net| net.to_string());
        assert_eq!(free(&[]).unwrap(), "fd00::/64");
        assert_eq!(free(&["fd00::/64", "fd00:0:0:1::/66"]).unwrap(), "fd00:0:0:2::/64");
        assert!(free(&["fd00::/62"]).is_err());
        let long = SubnetPoolSpec { max_length: Some(128), ..pool };
        assert_eq!(
            super::free(&long, &[], Some(64)).map_err(|fault| fault.name),
            Err(Some("SubnetAllocationError")),
            "IPv4 has no such length"
        );
    }
}
