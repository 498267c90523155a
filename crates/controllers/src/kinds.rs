//! Which kinds the API server serves, for the loops that act on objects of every kind.

use http::Request;
use http::header::ACCEPT;
use kube::api::ApiResource;
use kube::core::DynamicObject;
use kube::discovery::verbs;
use kube::{Api, Client};
use serde_json::Value;

/// All groups with all their resources in one answer.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

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

/// What is served.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) kinds: Vec<ServedKind>,
    /// Group versions (as `apiVersion` has them) of other servers that can't be asked now: there may be kinds of which nothing is
    /// known.
    pub(crate) failed: Vec<String>,
}

impl Served {
    fn add(&mut self, groups: &Value) {
        for group in items(&groups["items"]) {
            let mut seen: Vec<&str> = Vec::new();
            let name = text(&group["metadata"]["name"]);
            // The preferred version comes first.
            for version in items(&group["versions"]) {
                let number = text(&version["version"]);
                let api_version =
                    if name.is_empty() { number.to_owned() } else { format!("{name}/{number}") };
                if version["freshness"] == "Stale" {
                    self.failed.push(api_version);
                    continue;
                }
                for resource in items(&version["resources"]) {
                    let plural = text(&resource["resource"]);
                    let can = |verb: &&str| items(&resource["verbs"]).any(|known| known == *verb);
                    if seen.contains(&plural) || ![verbs::LIST, verbs::WATCH, verbs::DELETE].iter().all(can) {
                        continue;
                    }
                    seen.push(plural);
                    self.kinds.push(ServedKind {
                        resource: ApiResource {
                            group: name.to_owned(),
                            version: number.to_owned(),
                            api_version: api_version.clone(),
                            kind: text(&resource["responseKind"]["kind"]).to_owned(),
                            plural: plural.to_owned(),
                        },
                        namespaced: resource["scope"] == "Namespaced",
                    });
                }
            }
        }
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Every kind whose objects are stored, in its preferred version.
pub(crate) async fn served(client: &Client) -> kube::Result<Served> {
    let mut all = Served::default();
    for path in ["/api", "/apis"] {
        let request = Request::get(path).header(ACCEPT, AGGREGATED).body(Vec::new());
        all.add(&client.request(request.map_err(kube::Error::HttpError)?).await?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_come_in_their_preferred_version_and_gaps_are_told() {
        let resource = |plural: &str, kind: &str, verbs: &[&str]| json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": verbs});
        let whole = ["get", "list", "watch", "delete"];
        let mut served = Served::default();
        served.add(&json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
            resource("pods", "Pod", &whole), resource("bindings", "Binding", &["create"])]}]}]}));
        served.add(&json!({"items": [
            {"metadata": {"name": "a"}, "versions": [
                {"version": "v2", "freshness": "Current", "resources": [resource("things", "Thing", &whole)]},
                {"version": "v1", "freshness": "Current", "resources": [
                    resource("things", "Thing", &whole), resource("olds", "Old", &whole)]}]},
            {"metadata": {"name": "b"}, "versions": [
                {"version": "v1", "freshness": "Stale", "resources": [resource("lost", "Lost", &whole)]}]}]}));
        let found: Vec<(&str, &str)> = served
            .kinds
            .iter()
            .map(|kind| (kind.resource.api_version.as_str(), kind.resource.plural.as_str()))
            .collect();
        assert_eq!(found, [("v1", "pods"), ("a/v2", "things"), ("a/v1", "olds")]);
        assert_eq!(served.failed, ["b/v1"]);
    }
}
