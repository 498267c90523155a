//! CustomResourceDefinitions, live.

use serde_json::{Value, json};

use crate::support::Desk;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

fn definition() -> Value {
    let schema = |extra: Value| {
        let mut spec = json!({"size": {"type": "integer", "minimum": 1, "default": 3}});
        if let (Some(spec), Some(extra)) = (spec.as_object_mut(), extra.as_object()) {
            spec.extend(extra.clone());
        }
        json!({"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": spec}, "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com"},
    "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList", "shortNames": ["th"]},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": schema(json!({})), "subresources": {"status": {}},
             "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]},
            {"name": "v1beta1", "served": true, "storage": false, "schema": schema(json!({})), "subresources": {"status": {}}},
        ]}})
}

fn thing(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_is_served_as_soon_as_it_is_defined_and_no_longer_than_that() {
    let desk = Desk::new().await;
    desk.call("GET", THINGS, None).await.expect_no_page();
    let made = desk.call("POST", CRDS, Some(definition())).await.expect(201);
    let conditions = made["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True"));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    let one = desk.call("POST", THINGS, Some(thing("a", json!({})))).await.expect(201);
    assert_eq!(one["spec"]["size"], 3, "defaults are filled in");
    assert!(
        desk.call("POST", THINGS, Some(thing("b", json!({"size": 0}))))
            .await
            .refused(422)
            .contains("spec.size")
    );
    let pruned = desk.call("POST", THINGS, Some(thing("c", json!({"odd": 1})))).await.expect(201);
    assert!(pruned["spec"].get("odd").is_none());

    // The other version is the same object under the other name.
    let other = "/apis/example.com/v1beta1/namespaces/default/things";
    let same = desk.call("GET", &format!("{other}/a"), None).await.expect(200);
    assert_eq!(
        (&same["apiVersion"], &same["metadata"]["uid"]),
        (&json!("example.com/v1beta1"), &one["metadata"]["uid"])
    );
    let list = desk.call("GET", other, None).await.expect(200);
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1beta1");
    let changed =
        desk.patch("merge-patch+json", &format!("{other}/a"), r#"{"spec":{"size":5}}"#).await.expect(200);
    assert_eq!(changed["apiVersion"], "example.com/v1beta1");
    assert_eq!(
        desk.call("GET", &format!("{THINGS}/a"), None).await.expect(200)["apiVersion"],
        "example.com/v1"
    );

    // A status only by its own path; strategic merge not at all.
    let body = r#"{"status":{"ready":true}}"#;
    assert!(
        desk.patch("merge-patch+json", &format!("{THINGS}/a"), body)
            .await
            .expect(200)
            .get("status")
            .is_none()
    );
    let status = desk.patch("merge-patch+json", &format!("{THINGS}/a/status"), body).await.expect(200);
    assert_eq!(status["status"]["ready"], true);
    desk.patch("strategic-merge-patch+json", &format!("{THINGS}/a"), "{}").await.refused(415);

    // A change of the schema counts at once.
    let more = r#"[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/odd","value":{"type":"integer"}}]"#;
    desk.patch("json-patch+json", &format!("{CRDS}/things.example.com"), more).await.expect(200);
    let kept = desk.call("POST", THINGS, Some(thing("d", json!({"odd": 1})))).await.expect(201);
    assert_eq!(kept["spec"]["odd"], 1);

    // The definition goes when its objects have gone.
    desk.call("DELETE", &format!("{CRDS}/things.example.com"), None).await.expect(200);
    for _ in 0..100 {
        if desk.call("GET", &format!("{CRDS}/things.example.com"), None).await.status.as_u16() == 404 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    desk.call("GET", &format!("{CRDS}/things.example.com"), None).await.refused(404);
    desk.call("GET", THINGS, None).await.expect_no_page();
    desk.call("POST", CRDS, Some(definition())).await.expect(201);
    let fresh = desk.call("GET", THINGS, None).await.expect(200);
    assert_eq!(fresh["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clouds_own_definitions_stay() {
    let desk = Desk::new().await;
    let path = format!("{CRDS}/flavors.compute.yunfan.io");
    desk.call("DELETE", &path, None).await.refused(403);
    desk.patch("merge-patch+json", &path, r#"{"spec":{"names":{"shortNames":["f"]}}}"#).await.refused(403);
    desk.patch("merge-patch+json", &path, r#"{"metadata":{"labels":{"a":"b"}}}"#).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_definition_is_refused() {
    let desk = Desk::new().await;
    let mut wrong = definition();
    wrong["metadata"]["name"] = json!("other.example.com");
    desk.call("POST", CRDS, Some(wrong)).await.refused(422);
    let mut wrong = definition();
    wrong["spec"]["versions"][1]["storage"] = json!(true);
    desk.call("POST", CRDS, Some(wrong)).await.refused(422);
}
