//! Tables and metadata of one object, of many and of none.

use serde_json::{Value, json};

use crate::support::Desk;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const ONE: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const MANY: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_one_and_of_many_are_told_apart() {
    let desk = Desk::new().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    desk.call("POST", MAPS, Some(map)).await.expect(201);
    let one = desk.get_as(&format!("{MAPS}/a"), ONE).await.expect(200);
    assert_eq!(one["kind"], "PartialObjectMetadata");
    assert_eq!(desk.get_as(MAPS, MANY).await.expect(200)["kind"], "PartialObjectMetadataList");
    let refused = desk.get_as(&format!("{MAPS}/a"), MANY).await.refused(406);
    assert_eq!(
        refused,
        "you requested PartialObjectMetadataList, but the requested object is not a list (*core.ConfigMap)"
    );
    let refused = desk.get_as(MAPS, ONE).await.refused(406);
    assert_eq!(
        refused,
        "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)"
    );
    let projects = desk.get_as("/apis/iam.yunfan.io/v1/projects", ONE).await.refused(406);
    assert!(projects.ends_with("is a list (*unstructured.UnstructuredList)"), "{projects}");
    let project =
        json!({"apiVersion": "iam.yunfan.io/v1", "kind": "Project", "metadata": {"name": "p"}, "spec": {}});
    desk.call("POST", "/apis/iam.yunfan.io/v1/projects", Some(project)).await.expect(201);
    let project = desk.get_as("/apis/iam.yunfan.io/v1/projects/p", MANY).await.refused(500);
    assert_eq!(project, "content is not a list");
    // The events of a watch are about one object each.
    let mut watch = desk.watch_as(&format!("{MAPS}?watch=true"), ONE).await;
    assert_eq!(watch.step().await.1, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_nothing_has_no_rows_as_its_kind_says_that() {
    let desk = Desk::new().await;
    let rows = async |path: &str| {
        let path = format!("{path}?fieldSelector=metadata.name=none");
        desk.get_as(&path, TABLE).await.expect(200)["rows"].take()
    };
    assert_eq!(rows(MAPS).await, json!([]));
    assert_eq!(rows("/apis/rbac.authorization.k8s.io/v1/clusterroles").await, Value::Null);
    assert_eq!(rows("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_is_shown_as_any_object() {
    let desk = Desk::new().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let object =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
    desk.call("POST", DEPLOYMENTS, Some(object)).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let table = desk.get_as(&path, TABLE).await.expect(200);
    let columns: Vec<&Value> =
        table["columnDefinitions"].as_array().into_iter().flatten().map(|column| &column["name"]).collect();
    assert_eq!(columns, ["Name", "Desired", "Available", "Age"]);
    assert_eq!(
        table["rows"][0]["cells"].as_array().map(|cells| &cells[..3]),
        Some(&[json!("d"), json!(2), json!(0)][..])
    );
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "d");
    let whole = desk.get_as(&format!("{path}?includeObject=Object"), TABLE).await.expect(200);
    assert_eq!(whole["rows"][0]["object"]["kind"], "Scale");
    let metadata = desk.get_as(&path, ONE).await.expect(200);
    assert_eq!(metadata["kind"], "PartialObjectMetadata");
    assert_eq!(metadata.get("spec"), None);
    let refused = desk.get_as(&path, MANY).await.refused(406);
    assert!(refused.ends_with("is not a list (*autoscaling.Scale)"), "{refused}");
}
