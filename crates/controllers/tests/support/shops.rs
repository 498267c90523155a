//! A kind that nobody but its definition knows, with a scale.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use serde_json::json;

use super::{Cloud, SPACE};

/// Defines the kind `Shop`, and makes one of each name, scaled to 9.
pub(crate) async fn shops(cloud: &Cloud, names: &[&str]) -> Api<DynamicObject> {
    let field = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "shops.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": {"plural": "shops", "kind": "Shop"}, "versions": [{
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": field, "status": field}}},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}}}]}});
    let definition: CustomResourceDefinition = serde_json::from_value(definition).expect("a definition");
    Api::all(cloud.client.clone()).create(&PostParams::default(), &definition).await.expect("defined");
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("example.org", "v1", "Shop"));
    let shops: Api<DynamicObject> = Api::namespaced_with(cloud.client.clone(), SPACE, &kind);
    for name in names {
        let shop = DynamicObject::new(name, &kind).data(json!({"spec": {"replicas": 9}}));
        shops.create(&PostParams::default(), &shop).await.expect("a shop");
    }
    shops
}
