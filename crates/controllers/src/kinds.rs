//! Which kinds the API server serves, for the loops that act on objects of every kind.

use kube::core::DynamicObject;
use kube::discovery::verbs;
use kube::{Api, Client, Discovery, discovery::Scope};

use kube::api::ApiResource;

/// A kind that can be listed, watched and deleted.
#[derive(Clone, Debug)]
pub(crate) struct ServedKind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
}

impl ServedKind {
    /// The API of this kind; `namespace` is left out for a cluster-scoped kind.
    pub(crate) fn api(&self, client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }
}

/// Every kind whose objects are stored, in its preferred version.
pub(crate) async fn served(client: &Client) -> kube::Result<Vec<ServedKind>> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let stored = [verbs::LIST, verbs::WATCH, verbs::DELETE]
                .iter()
                .all(|verb| capabilities.supports_operation(verb));
            if stored {
                kinds.push(ServedKind { resource, namespaced: capabilities.scope == Scope::Namespaced });
            }
        }
    }
    Ok(kinds)
}
