//! What is other projects' and the caller's project may use: networks, subnet pools, address scopes.
//!
//! Whom a Network is for is said in the Network, by whoever may change it. The cloud's own look finds those for the caller's project: they
//! are in namespaces that the caller cannot read. What the caller does with one, the API server judges by the same words.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, ListParams};
use yunfan_resources::Identified;
use yunfan_resources::iam::Project;
use yunfan_resources::network::{Network, SHARED_LABEL, Shared, Subnet, is_shared_with};

use crate::auth::Session;
use crate::error::Fault;
use crate::ids::Kind;
use crate::{directory, ids};

/// The Networks of other namespaces that are shared with the caller's project.
pub(crate) async fn networks(session: &Session, namespace: &str) -> Result<Vec<Network>, Fault> {
    all(session, namespace).await
}

/// What there is of a kind in other namespaces that is shared with the caller's project.
pub(crate) async fn all<K>(session: &Session, namespace: &str) -> Result<Vec<K>, Fault>
where
    K: Kind + Shared + kube::Resource<Scope = NamespaceResourceScope>,
{
    let labelled = ListParams::default().labels(SHARED_LABEL);
    let mut all = Api::<K>::all(session.door.system.clone()).list(&labelled).await?.items;
    all.retain(|object| {
        ids::namespace(object) != namespace && is_shared_with(object.shared_with(), session.project_id())
    });
    Ok(all)
}

/// The Subnets of such Networks.
pub(crate) async fn subnets(session: &Session, networks: &[Network]) -> Result<Vec<Subnet>, Fault> {
    let places: BTreeSet<(&str, &str)> =
        networks.iter().map(|network| (ids::namespace(network), ids::name(network))).collect();
    let owners: BTreeSet<&str> = places.iter().map(|(namespace, _)| *namespace).collect();
    let mut found = Vec::new();
    for owner in owners {
        let all = ids::list(&Api::<Subnet>::namespaced(session.door.system.clone(), owner)).await?;
        found
            .extend(all.into_iter().filter(|subnet| places.contains(&(owner, subnet.spec.network.as_str()))));
    }
    Ok(found)
}

/// Project ids by namespace: whose a Network is, everybody knows who may use it.
pub(crate) async fn owners(session: &Session) -> Result<HashMap<String, String>, Fault> {
    let projects = session.door.directory.all::<Project>().await?.list();
    Ok(projects
        .iter()
        .filter_map(|project| Some((directory::home(project)?.to_owned(), project.id())))
        .collect())
}

/// The object with this id: where the caller may see it, or among those that are shared with its project.
pub(crate) async fn find<K>(session: &Session, id: &str) -> Result<Option<K>, Fault>
where
    K: Kind + Shared + Identified + kube::Resource<Scope = NamespaceResourceScope>,
{
    if let Some(own) = session.find_anywhere::<K>(id).await? {
        return Ok(Some(own));
    }
    let all = all::<K>(session, session.namespace()?).await?;
    Ok(all.into_iter().find(|object| object.id() == id))
}

/// What the caller's project has of a kind and may use; with `everywhere`, what all projects have.
pub(crate) async fn visible<K>(session: &Session, everywhere: bool) -> Result<Vec<K>, Fault>
where
    K: Kind + Shared + kube::Resource<Scope = NamespaceResourceScope>,
{
    if everywhere {
        return ids::list(&session.everywhere::<K>()).await;
    }
    let mut own = ids::list(&session.own::<K>()?).await?;
    own.extend(all(session, session.namespace()?).await?);
    Ok(own)
}
