//! What clients read before they ask: discovery, schemas, health.

use http::HeaderValue;
use serde_json::{Value, json};
use yunfan_objects::protobuf;

use crate::support::{Desk, admin};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn definition(description: &str) -> Value {
    let schema = json!({"type": "object", "description": description, "properties": {
        "spec": {"type": "object", "properties": {"size": {
            "description": "How large it is.", "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
        }, "color": {"type": "string"}}},
    }});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "docs.example.org"},
        "spec": {"group": "example.org", "scope": "Cluster",
            "names": {"plural": "docs", "singular": "doc", "kind": "Doc", "listKind": "DocList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "selectableFields": [{"jsonPath": ".spec.color"}]}]}})
}

/// Fails unless every reference in a document leads somewhere in it.
fn check_references(document: &Value, within: &Value) {
    match within {
        Value::Object(fields) => {
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                let pointer = target.trim_start_matches('#');
                assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
            }
            fields.values().for_each(|inner| check_references(document, inner));
        }
        Value::Array(items) => items.iter().for_each(|inner| check_references(document, inner)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_version_has_all_kinds_and_follows_definitions() {
    let desk = Desk::new().await;
    let answer = desk.call("GET", "/openapi/v2", None).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert!(answer.headers.contains_key("last-modified"));
    let etag = answer.headers["etag"].to_str().expect("text").to_owned();
    let document = answer.expect(200);
    assert_eq!(document["swagger"], "2.0");
    check_references(&document, &document);
    let spec = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"];
    assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert!(spec["containers"]["description"].as_str().is_some_and(|text| text.contains("containers")));
    let pods = &document["paths"]["/api/v1/namespaces/{namespace}/pods"];
    assert_eq!(pods["get"]["x-kubernetes-action"], "list");
    assert_eq!(pods["post"]["operationId"], "createCoreV1NamespacedPod");
    assert_eq!(pods["delete"]["operationId"], "deleteCoreV1CollectionNamespacedPod");
    assert_eq!(pods["get"]["description"], "list or watch objects of kind Pod");
    for (path, method, id) in [
        ("/api/v1/watch/namespaces/{namespace}/pods/{name}", "get", "watchCoreV1NamespacedPod"),
        ("/api/v1/watch/pods", "get", "watchCoreV1PodListForAllNamespaces"),
        ("/api/v1/nodes/{name}/proxy/{path}", "options", "connectCoreV1OptionsNodeProxyWithPath"),
        ("/apis/rbac.authorization.k8s.io/", "get", "getRbacAuthorizationAPIGroup"),
        ("/apis/apps/v1/", "get", "getAppsV1APIResources"),
        ("/openid/v1/jwks/", "get", "getServiceAccountIssuerOpenIDKeyset"),
    ] {
        assert_eq!(document["paths"][path][method]["operationId"], id, "{path}");
    }
    let older = &document["definitions"]["io.k8s.api.certificates.v1beta1.ClusterTrustBundle"];
    assert_eq!(older["x-kubernetes-group-version-kind"][0]["version"], "v1beta1");
    assert!(older["properties"]["spec"]["description"].is_string(), "{older}");
    let container = &document["definitions"]["io.k8s.api.core.v1.Container"]["properties"];
    assert_eq!(container["imagePullPolicy"]["enum"], json!(["Always", "IfNotPresent", "Never"]));
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["put"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");
    assert!(document["paths"]["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"]["post"].is_object());

    desk.call("POST", CRDS, Some(definition("A document."))).await.expect(201);
    let again = desk.call("GET", "/openapi/v2", None).await;
    assert_ne!(again.headers["etag"], etag.as_str());
    let document = again.expect(200);
    let doc = &document["definitions"]["org.example.v1.Doc"];
    assert_eq!(doc["description"], "A document.");
    // OpenAPI v2 has no branches.
    let size = json!({"description": "How large it is.", "x-kubernetes-int-or-string": true});
    assert_eq!(doc["properties"]["spec"]["properties"]["size"], size);
    assert_eq!(doc["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.color"}]));
    assert!(document["paths"].get("/apis/example.org/").is_none(), "groups of custom kinds have no path");
    desk.call("DELETE", &format!("{CRDS}/docs.example.org"), None).await.expect(200);
    // Its objects go first.
    let gone = async {
        loop {
            let document = desk.call("GET", "/openapi/v2", None).await.expect(200);
            if document["definitions"].get("org.example.v1.Doc").is_none() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("its schema goes with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_version_comes_in_protobuf_and_compressed() {
    let desk = Desk::new().await;
    let answer = desk.get_as("/openapi/v2", PROTOBUF).await;
    assert_eq!(answer.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert!(answer.text.starts_with("\n\u{3}2.0"), "field 1 is the version");
    assert!(answer.text.contains("io.k8s.api.apps.v1.Deployment"));
    desk.get_as("/openapi/v2", "text/html").await.refused(406);
    let wanted = [("accept-encoding", "gzip"), ("accept", PROTOBUF)];
    let packed = desk.send(admin(), "GET", "/openapi/v2", "", &wanted, String::new()).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_third_version_is_kept_by_who_asks_by_hash() {
    let desk = Desk::new().await;
    desk.call("POST", CRDS, Some(definition("A document."))).await.expect(201);
    let index = desk.call("GET", "/openapi/v3", None).await.expect(200);
    for (path, entry) in index["paths"].as_object().expect("paths") {
        let url = entry["serverRelativeURL"].as_str().expect("an address");
        let answer = desk.call("GET", url, None).await;
        assert_eq!(answer.headers["cache-control"], "public, immutable", "{path}");
        assert!(answer.headers.contains_key("expires"));
        let document = answer.expect(200);
        check_references(&document, &document);
    }
    for path in ["api", "apis", "apis/apps", "version", "openid/v1/jwks", ".well-known/openid-configuration"]
    {
        assert!(index["paths"][path].is_object(), "{path}");
        let document = desk.call("GET", &format!("/openapi/v3/{path}"), None).await.expect(200);
        assert!(document["paths"][format!("/{path}/")]["get"].is_object(), "{path}");
    }
    let wrong = desk.call("GET", "/openapi/v3/api/v1?hash=0", None).await;
    assert_eq!(wrong.status, 301);
    let there = wrong.headers["location"].to_str().expect("text").to_owned();
    let core = desk.call("GET", &there, None).await.expect(200);
    let create = &core["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
    for code in ["200", "201", "202"] {
        let content = &create["responses"][code]["content"];
        assert!(content["application/vnd.kubernetes.protobuf"].is_object(), "{code}");
    }
    assert!(core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"]["post"].is_object());
    let read = &core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["get"];
    assert!(read.is_object() && read.get("parameters").is_none(), "no empty list of parameters");

    let before = index["paths"]["apis/example.org/v1"].clone();
    let apps = index["paths"]["apis/apps/v1"].clone();
    let patch = json!({"spec": {"versions": definition("Another one.")["spec"]["versions"]}});
    desk.patch("merge-patch+json", &format!("{CRDS}/docs.example.org"), patch.to_string()).await.expect(200);
    let index = desk.call("GET", "/openapi/v3", None).await.expect(200);
    assert_ne!(index["paths"]["apis/example.org/v1"], before);
    assert_eq!(index["paths"]["apis/apps/v1"], apps, "what did not change keeps its address");
    desk.get_as("/openapi/v3", "text/html").await.refused(406);
    let none = desk.call("GET", "/openapi/v3/apis/nothing.example/v1", None).await;
    assert_eq!((none.status.as_u16(), none.text.as_str()), (404, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_tells_all_that_clients_look_for() {
    let desk = Desk::new().await;
    let core = desk.call("GET", "/api/v1", None).await.expect(200);
    let find = |list: &Value, name: &str| {
        let all = list["resources"].as_array().expect("resources");
        all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name} is missing")).clone()
    };
    let pods = find(&core, "pods");
    // The very hash that Kubernetes has for Pods.
    assert_eq!((&pods["storageVersionHash"], &pods["singularName"]), (&json!("xPOwRZ+Yhw8="), &json!("pod")));
    let exec = find(&core, "pods/exec");
    assert_eq!((&exec["kind"], exec.get("group")), (&json!("PodExecOptions"), None));
    let apps = desk.call("GET", "/apis/apps/v1", None).await.expect(200);
    let scale = find(&apps, "deployments/scale");
    assert_eq!(
        (&scale["group"], &scale["version"], &scale["kind"]),
        (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
    );

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = desk.get_as("/apis", accept).await;
    let known = [("if-none-match", all.headers["etag"].to_str().expect("text")), ("accept", accept)];
    let again = desk.send(admin(), "GET", "/apis", "", &known, String::new()).await;
    assert_eq!(again.status, 304);
    let all = all.expect(200);
    assert_eq!(all["apiVersion"], "apidiscovery.k8s.io/v2");
    // Clients of the time before that get what all clients get.
    let older = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    desk.get_as("/apis", older).await.refused(406);
    let both = desk.get_as("/apis", &format!("{older},application/json")).await.expect(200);
    assert_eq!(both["kind"], "APIGroupList");

    let host = [("host", "10.0.0.1:6443")];
    let versions = desk.send(admin(), "GET", "/api", "", &host, String::new()).await.expect(200);
    let address = json!([{"clientCIDR": "0.0.0.0/0", "serverAddress": "10.0.0.1:6443"}]);
    assert_eq!(versions["serverAddressByClientCIDRs"], address);
    let paths = desk.call("GET", "/", None).await.expect(200);
    for path in ["/apis/apps/v1", "/openapi/v2", "/readyz/etcd", "/openapi/v3/apis/apps/v1"] {
        assert!(paths["paths"].as_array().is_some_and(|all| all.contains(&json!(path))), "{path}");
        desk.call("GET", path, None).await;
    }
    let version = desk.call("GET", "/version", None).await.expect(200);
    // Clients that want protobuf alone, such as Kubernetes' own tests, get each in the form that there is.
    for (path, form) in [
        ("/", "application/json"),
        ("/version", "application/json"),
        ("/api", protobuf::MEDIA_TYPE),
        ("/apis", protobuf::MEDIA_TYPE),
        ("/apis/apps", protobuf::MEDIA_TYPE),
        ("/apis/apps/v1", protobuf::MEDIA_TYPE),
        ("/api/v1", protobuf::MEDIA_TYPE),
    ] {
        let only = [("accept", protobuf::MEDIA_TYPE)];
        let response = desk.raw(admin(), "GET", path, "", &only, String::new()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &HeaderValue::from_static(form)),
            "{path}"
        );
    }
    assert_eq!(version["emulationMinor"], version["minor"]);
}

/// What is an object inside of a custom one has the fields of every object, also in lists; in the second version what is open has
/// no fields at all.
#[tokio::test(flavor = "multi_thread")]
async fn objects_inside_of_custom_ones_are_described() {
    let desk = Desk::new().await;
    let open = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    let closed = json!({"type": "object", "x-kubernetes-embedded-resource": true,
        "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}});
    let mut made = definition("Holds others.");
    made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] = json!({
        "color": {"type": "string"}, "open": open, "closed": closed, "many": {"type": "array", "items": open}});
    desk.call("POST", CRDS, Some(made)).await.expect(201);
    let third = desk.call("GET", "/openapi/v3/apis/example.org/v1", None).await.expect(200);
    let spec = &third["components"]["schemas"]["org.example.v1.Doc"]["properties"]["spec"]["properties"];
    for inner in [&spec["open"], &spec["closed"], &spec["many"]["items"]] {
        assert_eq!(inner["required"], json!(["kind", "apiVersion"]), "{inner}");
        assert_eq!(inner["properties"]["apiVersion"]["type"], "string", "{inner}");
        let target = &inner["properties"]["metadata"]["allOf"][0]["$ref"];
        assert_eq!(target, "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    }
    assert_eq!(spec["closed"]["properties"]["spec"]["properties"]["a"]["type"], "string");
    check_references(&third, &third);
    let second = desk.call("GET", "/openapi/v2", None).await.expect(200);
    let spec = &second["definitions"]["org.example.v1.Doc"]["properties"]["spec"]["properties"];
    let bare = json!({"x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    assert_eq!((&spec["open"], &spec["many"]["items"]), (&bare, &bare));
    assert_eq!(spec["closed"]["properties"]["kind"]["type"], "string");
    let target = &spec["closed"]["properties"]["metadata"]["$ref"];
    assert_eq!(target, "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_is_counted() {
    let desk = Desk::new().await;
    desk.call("GET", "/api/v1/namespaces/default", None).await.expect(200);
    desk.call("GET", "/api/v1/namespaces/none", None).await.refused(404);
    desk.call("GET", "/api/v1/nothing", None).await.refused(404);
    desk.call("GET", "/api/v1/namespaces", None).await.expect(200);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "counted"}});
    desk.call("POST", "/api/v1/namespaces/default/configmaps", Some(map)).await.expect(201);
    let watch = "/api/v1/namespaces?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    desk.call("GET", watch, None).await;
    let answer = desk.call("GET", "/metrics", None).await;
    assert_eq!(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let place = "group=\"\",version=\"v1\",resource=\"namespaces\"";
    let get = format!(
        "{place},verb=\"GET\",subresource=\"\",scope=\"resource\",component=\"apiserver\",dry_run=\"\""
    );
    for line in [
        "# TYPE apiserver_request_total counter".to_owned(),
        format!("apiserver_request_total{{{get},code=\"200\"}} 1"),
        format!("apiserver_request_total{{{get},code=\"404\"}} 1"),
        format!("apiserver_request_duration_seconds_count{{{get}}} 2"),
        format!(
            "apiserver_longrunning_requests{{{place},verb=\"WATCH\",subresource=\"\",scope=\"cluster\",component=\"apiserver\"}} 0"
        ),
        "apiserver_resource_objects{group=\"apps\",resource=\"deployments\"} 0".to_owned(),
        "apiserver_cache_list_total{group=\"\",index=\"\",resource=\"namespaces\"} 1".to_owned(),
    ] {
        assert!(answer.text.lines().any(|found| found == line), "{line} is not in {}", answer.text);
    }
    let number = |name: &str| {
        let line = answer.text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is missing")).trim().parse::<f64>().expect("a number")
    };
    assert!(
        number(&format!("apiserver_watch_events_total{{{place}}}")) >= 5.0,
        "four namespaces and a bookmark"
    );
    assert!(number("process_resident_memory_bytes") > 0.0);
    for counted in [
        "apiserver_request_sli_duration_seconds_count{group=\"\",version=\"v1\",resource=\"namespaces\",verb=\"LIST\",subresource=\"\",scope=\"cluster\",component=\"apiserver\"}",
        "apiserver_response_sizes_count{group=\"\",version=\"v1\",resource=\"namespaces\",verb=\"GET\",subresource=\"\",scope=\"resource\",component=\"apiserver\"}",
        "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"validate\"}",
        "apiserver_watch_cache_resource_version{group=\"\",resource=\"namespaces\"}",
        "authentication_attempts{result=\"success\"}",
        "authentication_duration_seconds_count{result=\"success\"}",
        "authorization_attempts_total{result=\"allowed\"}",
        "authorization_duration_seconds_count{result=\"allowed\"}",
        "etcd_request_duration_seconds_count{operation=\"create\",group=\"\",resource=\"namespaces\"}",
        "etcd_requests_total{operation=\"create\",group=\"\",resource=\"namespaces\"}",
        "go_goroutines",
    ] {
        assert!(number(counted) > 0.0, "{counted}");
    }
    for family in [
        "apiserver_client_certificate_expiration_seconds",
        "apiserver_watch_cache_events_received_total",
        "kubernetes_build_info",
        "rest_client_requests_total",
    ] {
        assert!(answer.text.contains(&format!("\n# TYPE {family} ")), "{family} is missing");
    }
    assert!(!answer.text.contains("resource=\"nothing\""), "nobody makes labels by asking");
    let open = desk.get_as("/metrics", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5").await;
    assert_eq!(open.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text.ends_with("# EOF\n"));
    // Whoever may, lets counting begin anew.
    let reset = desk.call("DELETE", "/metrics", None).await;
    assert_eq!((reset.status.as_u16(), reset.text.as_str()), (200, "metrics reset\n"));
    let after = desk.call("GET", "/metrics", None).await.text;
    assert!(after.contains(&format!("apiserver_request_total{{{get},code=\"200\"}} 0\n")), "{after}");
    assert!(after.contains("apiserver_resource_objects{group=\"\",resource=\"namespaces\"} "), "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_checked_one_by_one() {
    let desk = Desk::new().await;
    let get = async |path: &str| desk.call("GET", path, None).await;
    assert_eq!(get("/readyz").await.text, "ok");
    assert_eq!(get("/readyz/etcd").await.text, "ok");
    assert_eq!(get("/livez/ping").await.text, "ok");
    let checks = async |endpoint: &str| {
        let text = get(&format!("/{endpoint}?verbose")).await.text;
        let checks = text.strip_suffix(&format!("{endpoint} check passed\n")).expect("it passed").to_owned();
        checks.lines().map(|line| line["[+]".len()..line.len() - " ok".len()].to_owned()).collect::<Vec<_>>()
    };
    let mut ready = checks("readyz").await;
    let made = "poststarthook/scheduling/bootstrap-system-priority-classes";
    assert!(ready.contains(&made.to_owned()), "{ready:?}");
    assert_eq!(ready.remove(3), "informer-sync");
    assert_eq!(checks("livez").await, ready);
    assert_eq!(checks("healthz").await, ready);
    let without = get("/readyz?verbose&exclude=etcd&exclude=other").await.text;
    assert!(without.contains("[+]etcd excluded: ok\n"), "{without}");
    assert!(without.contains("cannot be excluded: no matches for \"other\"\n"), "{without}");
    get("/readyz/nothing").await.expect_no_page();

    // What is gone again was made all the same.
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin";
    desk.call("DELETE", role, None).await.expect(200);
    assert_eq!(get("/readyz").await.text, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_start_did_not_make_is_told() {
    let desk = Desk::new().await;
    let get = async |path: &str| desk.call("GET", path, None).await;
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin";
    desk.call("DELETE", role, None).await.expect(200);
    let bad = get("/readyz").await;
    assert_eq!(bad.status, 500);
    let failed = "[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n";
    assert!(bad.text.contains(failed) && bad.text.ends_with("readyz check failed\n"), "{}", bad.text);
    assert_eq!(get("/readyz?exclude=poststarthook/rbac/bootstrap-roles").await.text, "ok");
    assert_eq!(get("/readyz/ping").await.text, "ok");
    let levels = get("/metrics/slis").await.text;
    for line in [
        "# TYPE kubernetes_healthcheck gauge",
        "kubernetes_healthcheck{name=\"poststarthook/rbac/bootstrap-roles\",type=\"readyz\"} 0",
        "kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 1",
        "kubernetes_healthchecks_total{name=\"etcd\",type=\"readyz\",status=\"success\"} 2",
        "kubernetes_healthchecks_total{name=\"poststarthook/rbac/bootstrap-roles\",type=\"readyz\",status=\"error\"} 1",
    ] {
        assert!(levels.lines().any(|found| found == line), "{line}: {levels}");
    }
    let all = get("/metrics").await.text;
    assert!(!all.contains("kubernetes_healthcheck"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_kinds_come_in_protobuf_and_custom_ones_do_not() {
    use http_body_util::BodyExt;
    let desk = Desk::new().await;
    let accept = |accept: &'static str| [("accept", accept)];
    let bytes = async |path: &str, accept: &[(&str, &str)]| {
        let response = desk.raw(admin(), "GET", path, "", accept, String::new()).await;
        let media = response.headers()["content-type"].to_str().expect("text").to_owned();
        (
            response.status().as_u16(),
            media,
            response.into_body().collect().await.expect("a whole body").to_bytes(),
        )
    };
    let only = accept(protobuf::MEDIA_TYPE);
    let path = "/api/v1/namespaces/default";
    let (code, media, namespace) = bytes(path, &only).await;
    assert_eq!((code, media.as_str()), (200, protobuf::MEDIA_TYPE));
    let json = desk.call("GET", path, None).await.expect(200);
    let mut read = protobuf::decode(&namespace).expect("protobuf");
    assert_eq!(read["metadata"]["resourceVersion"], json["metadata"]["resourceVersion"]);
    read["spec"] = json["spec"].clone();
    assert_eq!(read, json);
    let (_, _, list) = bytes("/api/v1/namespaces", &only).await;
    let whole = desk.call("GET", "/api/v1/namespaces", None).await.expect(200);
    let list_again = protobuf::encode(&whole).expect("a list of namespaces");
    assert_eq!(list, list_again);

    let (code, _, missing) = bytes("/api/v1/namespaces/none", &only).await;
    assert_eq!(code, 404);
    assert_eq!(protobuf::decode(&missing).expect("a Status")["reason"], "NotFound");
    let custom = "/apis/compute.yunfan.io/v1/flavors";
    desk.get_as(custom, "application/vnd.kubernetes.protobuf, application/json").await.expect(200);
    assert_eq!(bytes(custom, &only).await.0, 406);
    let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    assert_eq!(bytes(custom, &accept(metadata)).await.0, 200);

    let watch = "/api/v1/namespaces?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Ddefault";
    let (_, media, events) = bytes(watch, &only).await;
    assert_eq!(media, "application/vnd.kubernetes.protobuf;stream=watch");
    assert_eq!(events, protobuf::event("ADDED", &namespace));
}
