//! What clients find of extension servers: groups, resources and documents, beside our own.

use std::task::Poll;

use serde_json::{Value, json};
use yunfan_api::ApiConfig;

use crate::aggregated::{Extension, GROUP, SERVICES, Said, THINGS, condition};
use crate::support::{Desk, admin};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The version of the group that the server has, in the list of all groups.
async fn listed(desk: &Desk) -> Value {
    let all = desk.get_as("/apis", AGGREGATED).await.expect(200);
    let items = all["items"].as_array().expect("items");
    assert!(items.iter().any(|item| item["metadata"]["name"] == "apps"), "ours are there");
    let found = items.iter().find(|item| item["metadata"]["name"] == "ext.example.com");
    found.map(|item| item["versions"][0].clone()).unwrap_or_default()
}

/// Makes the server's check fail, and waits until that is known.
async fn fail(desk: &Desk, server: &Extension) {
    server.says(&format!("{GROUP}/v1"), Said::Text(404, "text/plain", String::new()));
    let touched = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
    desk.patch("merge-patch+json", "/api/v1/namespaces/default/services/ext", touched).await.expect(200);
    condition(desk, "FailedDiscoveryCheck").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_other_servers_stand_among_ours() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    assert_eq!(listed(&desk).await, Value::Null);
    let before = desk.get_as("/apis", AGGREGATED).await.got(200).headers["etag"].clone();
    server.register(&desk).await;
    let groups = desk.call("GET", "/apis", None).await.expect(200)["groups"].clone();
    let names: Vec<&str> =
        groups.as_array().expect("a list").iter().filter_map(|group| group["name"].as_str()).collect();
    let at = |name: &str| {
        names.iter().position(|known| *known == name).unwrap_or_else(|| panic!("{name} in {names:?}"))
    };
    assert!(at("flowcontrol.apiserver.k8s.io") < at("ext.example.com"), "{names:?}");
    assert!(at("ext.example.com") < at("compute.yunfan.io"), "a definition has less priority: {names:?}");
    assert_eq!(names[0], "apiregistration.k8s.io");
    let group = desk.call("GET", GROUP, None).await.expect(200);
    assert_eq!(group["preferredVersion"], json!({"groupVersion": "ext.example.com/v1", "version": "v1"}));
    let version = listed(&desk).await;
    let things = json!({"resource": "things", "singularResource": "thing", "scope": "Namespaced", "shortNames": ["th"],
        "responseKind": {"group": "ext.example.com", "version": "v1", "kind": "Thing"},
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        "subresources": [{"subresource": "status", "verbs": ["get"],
            "responseKind": {"group": "ext.example.com", "version": "v1", "kind": "Thing"}}]});
    assert_eq!(version, json!({"version": "v1", "freshness": "Current", "resources": [things]}));
    let root = desk.call("GET", "/", None).await.expect(200);
    assert!(root["paths"].as_array().expect("paths").contains(&json!("/apis/ext.example.com/v1")));
    assert_ne!(desk.get_as("/apis", AGGREGATED).await.got(200).headers["etag"], before);
    // Requests on what it told are counted under its name.
    desk.call("GET", THINGS, None).await.got(200);
    let metrics = desk.call("GET", "/metrics", None).await.text;
    assert!(metrics.contains("group=\"ext.example.com\",version=\"v1\",resource=\"things\""), "{metrics}");

    fail(&desk, &server).await;
    let stale = listed(&desk).await;
    assert_eq!((&stale["freshness"], &stale["resources"]), (&json!("Stale"), &version["resources"]));
    desk.call("GET", GROUP, None).await.expect(200);
    desk.call("DELETE", &format!("{SERVICES}/v1.ext.example.com"), None).await.expect(200);
    assert_eq!(listed(&desk).await, Value::Null);
    desk.call("GET", GROUP, None).await.expect_no_page();
    assert_eq!(desk.get_as("/apis", AGGREGATED).await.got(200).headers["etag"], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_and_endless_words_harm_nobody() {
    let lies = json!({"kind": "APIGroupDiscoveryList", "items": [
        {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [{"resource": "evils"}]}]},
        {"metadata": {"name": "ext.example.com"}, "versions": [{"version": "v1", "resources": [
            {"resource": "../x"}, 7, {"resource": "goods", "verbs": ["list", 7], "scope": "Everywhere"}]}]}]});
    for (said, freshness, names) in [
        (Said::Text(200, AGGREGATED, lies.to_string()), "Current", json!(["goods"])),
        (Said::Text(200, AGGREGATED, "no JSON".to_owned()), "Stale", json!([])),
        (Said::Endless, "Stale", json!([])),
    ] {
        let desk = Desk::new().await;
        let server = Extension::start(&desk).await;
        server.says("/apis", said.clone());
        server.says("/openapi/v2", said.clone());
        server.says("/openapi/v3", said);
        server.register(&desk).await;
        let version = listed(&desk).await;
        let found: Vec<&Value> =
            version["resources"].as_array().into_iter().flatten().map(|one| &one["resource"]).collect();
        assert_eq!((&version["freshness"], json!(found)), (&json!(freshness), names));
        let all = desk.get_as("/apis", AGGREGATED).await.expect(200).to_string();
        assert!(!all.contains("evils"), "it speaks for its own group alone");
        let index = desk.call("GET", "/openapi/v3", None).await.expect(200);
        assert_eq!(index["paths"]["apis/ext.example.com/v1"], Value::Null);
        let second = desk.call("GET", "/openapi/v2", None).await.expect(200);
        assert!(second["paths"]["/apis/apps/v1/deployments"].is_object());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_given_up() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    server.register(&desk).await;
    server.says(&format!("{GROUP}/v1"), Said::Nothing);
    let message = desk.call("GET", &format!("{GROUP}/v1"), None).await.refused(503);
    assert_eq!(message, "error trying to reach service: context deadline exceeded");
    desk.call("GET", THINGS, None).await.got(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_other_servers_are_found_in_ours() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    let path = "/openapi/v3/apis/ext.example.com/v1";
    let index = json!({"paths": {"apis/ext.example.com/v1": {"serverRelativeURL": format!("{path}?hash=0AF")},
        "apis/apps/v1": {"serverRelativeURL": "/evil?hash=1"}}});
    server.says("/openapi/v3", Said::Text(200, "application/json", index.to_string()));
    server.says(path, Said::Text(200, "application/json", "{\"openapi\":\"3.0.0\"}".to_owned()));
    let second = json!({"paths": {(THINGS): {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/ext.Thing"}}}}},
            "/apis/apps/v1/deployments": {"evil": true}},
        "definitions": {"ext.Thing": {"description": "A thing.", "properties": {"metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}},
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"description": "Another one."}, "io.k8s.api.core.v1.Pod": {"evil": true}}});
    server.says("/openapi/v2", Said::Text(200, "application/json", second.to_string()));
    server.register(&desk).await;
    let found = desk.call("GET", "/openapi/v3", None).await.expect(200);
    assert_eq!(found["paths"]["apis/ext.example.com/v1"]["serverRelativeURL"], format!("{path}?hash=0AF"));
    assert_ne!(found["paths"]["apis/apps/v1"]["serverRelativeURL"], "/evil?hash=1");
    let document = desk.call("GET", &format!("{path}?hash=0AF"), None).await.expect(200);
    assert_eq!(document, json!({"openapi": "3.0.0"}));
    let (line, told) = server.take().pop().expect("it was asked");
    assert_eq!(
        (line.as_str(), &told["x-remote-user"]),
        (format!("GET {path}?hash=0AF").as_str(), &"system:aggregator".parse().unwrap())
    );
    assert!(told.get("x-remote-group").is_none());

    let ours = desk.call("GET", "/openapi/v2", None).await.expect(200);
    assert_eq!(ours["paths"][THINGS]["get"]["responses"]["200"]["schema"]["$ref"], "#/definitions/ext.Thing");
    let other = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta_v2";
    assert_eq!(
        ours["definitions"]["ext.Thing"]["properties"]["metadata"]["$ref"],
        format!("#/definitions/{other}")
    );
    assert_eq!(ours["definitions"][other]["description"], "Another one.");
    assert!(ours["paths"]["/apis/apps/v1/deployments"]["evil"].is_null());
    assert!(ours["definitions"]["io.k8s.api.core.v1.Pod"]["evil"].is_null());
    let packed = desk
        .get_as("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
        .await
        .got(200);
    assert!(packed.text.contains("A thing."));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_asked_for_in_nobodys_words_but_ours() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    let path = "/openapi/v3/apis/ext.example.com/v1";
    let index =
        json!({"paths": {"apis/ext.example.com/v1": {"serverRelativeURL": format!("{path}?hash=0AF")}}});
    server.says("/openapi/v3", Said::Text(200, "application/json", index.to_string()));
    server.says(path, Said::Text(200, "application/json", "{}".to_owned()));
    server.register(&desk).await;
    for below in ["x", "../../../../apis/ext.example.com/v1/namespaces/kube-system/things/x?a=b", "%2e%2e"] {
        assert_eq!(desk.call("GET", &format!("{path}/{below}"), None).await.got(404).text, "", "{below}");
    }
    let ours = desk.call("POST", "/openapi/v3/apis/apps/v1", None).await;
    let theirs = desk.call("POST", path, None).await;
    assert_eq!((theirs.status, theirs.text), (ours.status, ours.text));
    assert_eq!(server.take().len(), 0);
    let headers =
        [("x-own", "1"), ("cookie", "a=b"), ("accept", "application/json"), ("if-none-match", "\"x\"")];
    let other = format!("{path}?hash=old&a=b");
    desk.send(admin(), "GET", &other, "", &headers, "body".to_owned()).await.expect(200);
    let (line, told) = server.take().pop().expect("it was asked");
    assert_eq!(line, format!("GET {path}"), "an older document is not there any more");
    let mut names: Vec<&str> = told.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "host", "if-none-match", "x-remote-user"]);
    // What its index does not name, it does not have.
    server.says("/openapi/v3", Said::Text(404, "text/plain", String::new()));
    fail(&desk, &server).await;
    server.answers.lock().expect("nobody panics").retain(|(at, _)| *at != format!("{GROUP}/v1"));
    let touched = json!({"metadata": {"labels": {"a": "c"}}}).to_string();
    desk.patch("merge-patch+json", "/api/v1/namespaces/default/services/ext", touched).await.expect(200);
    condition(&desk, "Passed").await;
    desk.call("GET", path, None).await.got(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_hangs_holds_up_nobody_else() {
    let desk = Desk::with(ApiConfig { max_in_flight: 4, ..ApiConfig::default() }).await;
    let server = Extension::start(&desk).await;
    let path = "/openapi/v3/apis/ext.example.com/v1";
    let index = json!({"paths": {"apis/ext.example.com/v1": {"serverRelativeURL": path}}});
    server.says("/openapi/v3", Said::Text(200, "application/json", index.to_string()));
    server.says(path, Said::Nothing);
    server.register(&desk).await;
    let mut asked: Vec<_> = (0..8).map(|_| Box::pin(desk.call("GET", path, None))).collect();
    let mut codes = Vec::new();
    for one in &mut asked {
        if let Poll::Ready(answer) = futures::poll!(one.as_mut()) {
            codes.push(answer.status.as_u16());
        }
    }
    assert_eq!(codes, [429; 7], "a quarter of all may wait for one server");
    desk.call("GET", "/livez", None).await.got(200);
    desk.call("GET", "/api/v1/pods", None).await.expect(200);
    let message = asked.swap_remove(0).await.refused(503);
    assert_eq!(message, "error trying to reach service: context deadline exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_too_large_is_left_out() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    let document = |size: usize| json!({"paths": {(THINGS): {"get": {"description": "x".repeat(size)}}}});
    let say = |size| Said::Text(200, "application/json", document(size).to_string());
    server.says("/openapi/v2", say(5 << 20));
    server.register(&desk).await;
    let ours = desk.call("GET", "/openapi/v2", None).await.expect(200);
    assert!(ours["paths"][THINGS].is_null());
    fail(&desk, &server).await;
    server.answers.lock().expect("nobody panics").clear();
    server.says("/openapi/v2", say(3 << 20));
    let touched = json!({"metadata": {"labels": {"a": "c"}}}).to_string();
    desk.patch("merge-patch+json", "/api/v1/namespaces/default/services/ext", touched).await.expect(200);
    condition(&desk, "Passed").await;
    let ours = desk.call("GET", "/openapi/v2", None).await.expect(200);
    assert!(ours["paths"][THINGS].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apiservice_takes_over_what_a_definition_serves() {
    let desk = Desk::new().await;
    let server = Extension::start(&desk).await;
    let definition = json!({"metadata": {"name": "things.ext.example.com"}, "spec": {"group": "ext.example.com", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
            {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let one = format!("{SERVICES}/v1.ext.example.com");
    let mut watch =
        desk.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name%3Dv1.ext.example.com")).await;
    server.register(&desk).await;
    assert_eq!(watch.step().await.0, "ADDED");
    desk.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Some(definition))
        .await
        .expect(201);
    assert!(
        desk.call("GET", THINGS, None).await.got(200).text.starts_with("GET "),
        "the APIService was first"
    );
    let group = desk.call("GET", GROUP, None).await.expect(200);
    let versions: Vec<&Value> =
        group["versions"].as_array().expect("a list").iter().map(|one| &one["version"]).collect();
    assert_eq!(versions, ["v2", "v1"], "by priority: 100 before 20");
    let other = desk.call("GET", &THINGS.replace("/v1/", "/v2/"), None).await.expect(200);
    assert_eq!(other["kind"], "ThingList");
    desk.call("DELETE", &one, None).await.expect(200);
    while watch.step().await.0 != "DELETED" {}
    assert_eq!(watch.step().await.0, "ADDED", "the definition's own APIService is made then");
    assert_eq!(desk.call("GET", THINGS, None).await.expect(200)["kind"], "ThingList");
}
