//! Writes in the very words of Kubernetes: options, field validation, server-side apply, deletions,
//! subresources.

use serde_json::{Value, json};
use yunfan_objects::protobuf;

use crate::support::{Answer, Desk, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

fn warnings(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("warning").iter();
    all.map(|each| String::from_utf8_lossy(each.as_bytes()).into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_repeated_fields_are_told_in_kubernetes_words() {
    let desk = Desk::new().await;
    let body = deployment("d").to_string().replace(r#""replicas":2"#, r#""odd":1,"replicas":2,"replicas":3"#);
    let post = |mode: &str, kind: &'static str, body: &str| {
        let path = format!("{DEPLOYMENTS}?fieldValidation={mode}");
        let body = body.to_owned();
        let desk = &desk;
        async move { desk.send(admin(), "POST", &path, kind, &[], body).await }
    };
    let message = post("Strict", "application/json", &body).await.refused(400);
    assert_eq!(
        message,
        r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.odd", duplicate field "spec.replicas""#
    );
    let warned = post("Warn", "application/json", &body).await;
    assert_eq!(
        warnings(&warned),
        [r#"299 - "unknown field \"spec.odd\"""#, r#"299 - "duplicate field \"spec.replicas\"""#]
    );
    assert_eq!(warned.expect(201)["spec"]["replicas"], 3);
    // The same with a patch: the patch is at fault, not the path.
    let path = format!("{DEPLOYMENTS}/d?fieldValidation=Strict");
    let message = desk.patch("merge-patch+json", &path, r#"{"spec":{"odd":1}}"#).await.refused(422);
    assert!(message.ends_with(r#"strict decoding error: unknown field "spec.odd""#), "{message}");
    let body = r#"[{"op":"add","path":"/metadata/labels","value":{},"why":1}]"#;
    let message = desk.patch("json-patch+json", &path, body).await.refused(422);
    assert!(message.contains(r#"json patch unknown field "[0].why""#), "{message}");
    let ignored = desk
        .patch(
            "merge-patch+json",
            &format!("{DEPLOYMENTS}/d?fieldValidation=Ignore"),
            r#"{"spec":{"odd":1}}"#,
        )
        .await;
    assert!(warnings(&ignored).is_empty());
    ignored.expect(200);

    let yaml = "\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yam\ndata:\n  a: '1'\n  a: '2'\n";
    let path = format!("{MAPS}?fieldValidation=Strict");
    let message =
        desk.send(admin(), "POST", &path, "application/yaml", &[], yaml.to_owned()).await.refused(400);
    assert!(message.contains("line 8: key \"a\" already set in map"), "{message}");
    let path = format!("{MAPS}/yam?fieldManager=m&fieldValidation=Strict");
    let message = desk.patch("apply-patch+yaml", &path, yaml).await.refused(400);
    assert!(
        message.starts_with("error strict decoding YAML: error converting YAML to JSON: yaml"),
        "{message}"
    );
    let made = desk.patch("apply-patch+yaml", &format!("{MAPS}/yam?fieldManager=m"), yaml).await;
    assert_eq!(warnings(&made), [r#"299 - "line 8: key \"a\" already set in map""#]);
    assert_eq!(made.expect(201)["data"]["a"], "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_says_what_is_wrong_with_it() {
    let desk = Desk::new().await;
    let path = format!("{DEPLOYMENTS}/d?fieldManager=m");
    let apply = |body: Value| desk.patch("apply-patch+yaml", &path, body.to_string());
    let mut unknown = deployment("d");
    unknown["spec"]["odd"] = json!(1);
    assert_eq!(
        apply(unknown).await.refused(500),
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): .spec.odd: field not declared in schema"
    );
    let mut version = deployment("d");
    version["apiVersion"] = json!("apps/v2");
    assert_eq!(apply(version).await.refused(400), "invalid object type: apps/v2, Kind=Deployment");
    let mut managed = deployment("d");
    managed["metadata"]["managedFields"] = json!([]);
    assert_eq!(apply(managed).await.refused(400), "metadata.managedFields must be nil");
    let mut uid = deployment("d");
    uid["metadata"]["uid"] = json!("u");
    assert!(apply(uid).await.refused(409).contains("uid mismatch: the provided object specified uid u"));
    let dry =
        desk.patch("apply-patch+yaml", &format!("{path}&dryRun=All"), deployment("d").to_string()).await;
    dry.expect(201);
    desk.call("GET", &format!("{DEPLOYMENTS}/d"), None).await.refused(404);
    // The status is not the main resource's to apply, nor the other way round.
    let mut all = deployment("d");
    all["status"] = json!({"replicas": 7});
    let made = apply(all.clone()).await.expect(201);
    assert!(made["status"]["replicas"] != 7, "{made}");
    let path = format!("{DEPLOYMENTS}/d/status?fieldManager=s");
    all["spec"]["replicas"] = json!(9);
    let after = desk.patch("apply-patch+yaml", &path, all.to_string()).await.expect(200);
    assert_eq!((&after["status"]["replicas"], &after["spec"]["replicas"]), (&json!(7), &json!(2)));
    let entries = after["metadata"]["managedFields"].as_array().expect("entries");
    let own = entries.iter().find(|entry| entry["subresource"] == "status").expect("an entry of the status");
    assert!(own["fieldsV1"].get("f:spec").is_none() && own["fieldsV1"].get("f:status").is_some(), "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_effect_is_none() {
    let desk = Desk::new().await;
    let path = format!("{DEPLOYMENTS}/d?fieldManager=m");
    let apply = || desk.patch("apply-patch+yaml", &path, deployment("d").to_string());
    let made = apply().await.expect(201);
    let again = apply().await.expect(200);
    assert_eq!(made["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"]);
    let put = desk
        .call("PUT", &format!("{DEPLOYMENTS}/d?fieldManager=other"), Some(again.clone()))
        .await
        .expect(200);
    assert_eq!(put, again);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_of_one_object_at_one_revision() {
    let desk = Desk::new().await;
    let made = desk.call("POST", MAPS, Some(map("a"))).await.expect(201);
    let path = format!("{MAPS}/a");
    let put = |body: Value| desk.call("PUT", &path, Some(body));
    let message = put(json!({"metadata": {}})).await.refused(400);
    assert_eq!(message, "the name of the object (a based on URL) was undeterminable: name must be provided");
    let message = put(map("b")).await.refused(400);
    assert_eq!(message, "the name of the object (b) does not match the name on the URL (a)");
    let mut uid = map("a");
    uid["metadata"]["uid"] = json!("other");
    assert!(put(uid).await.refused(409).contains(
        "Key: /registry/configmaps/default/a, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: other"
    ));
    let mut deleted = made.clone();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(put(deleted).await.refused(422).contains("metadata.deletionTimestamp"));
    let mut owned = made.clone();
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"});
    owned["metadata"]["ownerReferences"] = json!([owner, owner]);
    let answer = put(owned).await;
    assert!(warnings(&answer)[0].contains("duplicate UID(s) observed: u"));
    assert_eq!(answer.expect(200)["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(1));

    // Some kinds want the revision, some are made where there is none.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "h"}});
    desk.call("PUT", leases, Some(lease.clone())).await.expect(201);
    assert_eq!(
        desk.call("PUT", leases, Some(lease)).await.refused(422),
        "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    desk.call("PUT", &format!("{MAPS}/none"), Some(map("none"))).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_obey_their_options_and_answer_like_kubernetes() {
    let desk = Desk::new().await;
    desk.call("POST", MAPS, Some(map("a"))).await.expect(201);
    let path = format!("{MAPS}/a");
    let message =
        desk.call("DELETE", &path, Some(json!({"preconditions": {"uid": "other"}}))).await.refused(409);
    assert!(message.starts_with("Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (other) does not match the UID in record ("), "{message}");
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
    assert!(desk.call("DELETE", &path, Some(both)).await.refused(422).contains("cannot be both set"));
    let yaml = "kind: DeleteOptions\napiVersion: v1\npropagationPolicy: Foreground\n".to_owned();
    let marked = desk.send(admin(), "DELETE", &path, "application/yaml", &[], yaml).await.expect(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    // The old form of Background takes the finalizer out again.
    let gone = desk.call("DELETE", &path, Some(json!({"orphanDependents": false}))).await.expect(200);
    assert_eq!((&gone["kind"], &gone["details"]["kind"]), (&json!("Status"), &json!("configmaps")));

    desk.call("POST", PODS, Some(pod("p"))).await.expect(201);
    let last = desk.call("DELETE", &format!("{PODS}/p"), None).await.expect(200);
    assert_eq!((&last["kind"], &last["metadata"]["deletionGracePeriodSeconds"]), (&json!("Pod"), &json!(0)));

    for name in ["x", "y", "z"] {
        desk.call("POST", MAPS, Some(map(name))).await.expect(201);
    }
    let dry = desk.call("DELETE", &format!("{MAPS}?dryRun=All"), None).await.expect(200);
    assert!(dry["items"].as_array().is_some_and(|items| items.len() >= 3));
    let page = desk.call("DELETE", &format!("{MAPS}?limit=1"), None).await.expect(200);
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1));
    assert!(page["metadata"]["continue"].is_string());
    assert_eq!(page["kind"], "ConfigMapList");
    desk.call("DELETE", MAPS, None).await.expect(200);
    assert_eq!(desk.call("GET", MAPS, None).await.expect(200)["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn scales_are_read_written_patched_and_applied() {
    let desk = Desk::new().await;
    desk.call("POST", DEPLOYMENTS, Some(deployment("d"))).await.expect(201);
    let path = format!("{DEPLOYMENTS}/d/scale");
    let mut scale = desk.call("GET", &path, None).await.expect(200);
    assert_eq!(scale["status"]["selector"], "a=b");
    scale["spec"]["replicas"] = json!(3);
    let after = desk.call("PUT", &path, Some(scale.clone())).await.expect(200);
    assert_eq!(after["spec"]["replicas"], 3);
    // The first revision is an old one now.
    scale["spec"]["replicas"] = json!(4);
    desk.call("PUT", &path, Some(scale)).await.refused(409);
    let dry =
        desk.patch("merge-patch+json", &format!("{path}?dryRun=All"), r#"{"spec":{"replicas":8}}"#).await;
    assert_eq!(dry.expect(200)["spec"]["replicas"], 8);
    assert_eq!(desk.call("GET", &path, None).await.expect(200)["spec"]["replicas"], 3);
    let applied = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 5}});
    let conflict =
        desk.patch("apply-patch+yaml", &format!("{path}?fieldManager=me"), applied.to_string()).await;
    assert!(conflict.refused(409).contains(".spec.replicas"));
    let forced = desk
        .patch("apply-patch+yaml", &format!("{path}?fieldManager=me&force=true"), applied.to_string())
        .await
        .expect(200);
    assert_eq!(forced["spec"]["replicas"], 5);
    let object = desk.call("GET", &format!("{DEPLOYMENTS}/d"), None).await.expect(200);
    let entries = object["metadata"]["managedFields"].as_array().expect("entries");
    let own = entries.iter().find(|entry| entry["manager"] == "me").expect("an entry");
    assert_eq!((&own["subresource"], &own["apiVersion"]), (&json!("scale"), &json!("apps/v1")));
    assert_eq!(own["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    desk.call("PUT", &path, Some(json!({"kind": "Pod", "metadata": {"name": "d"}}))).await.refused(400);
    desk.call("DELETE", &path, None).await.refused(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_bound_and_evicted() {
    let desk = Desk::new().await;
    desk.call("POST", PODS, Some(pod("p"))).await.expect(201);
    let binding = |node: &str| {
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "annotations": {"a": "b"}},
            "target": {"kind": "Node", "name": node}})
    };
    let path = format!("{PODS}/p/binding");
    let place =
        json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": place}});
    desk.call("POST", "/api/v1/nodes", Some(node)).await.expect(201);
    desk.call("POST", &format!("{path}?dryRun=All"), Some(binding("n"))).await.expect(201);
    let nominated = r#"{"status": {"nominatedNodeName": "m"}}"#;
    let meant = desk.patch("merge-patch+json", &format!("{PODS}/p/status"), nominated).await.expect(200);
    assert_eq!(meant["status"]["nominatedNodeName"], "m");
    desk.call("POST", &path, Some(binding("n"))).await.expect(201);
    let bound = desk.call("GET", &format!("{PODS}/p"), None).await.expect(200);
    assert!(bound["status"]["nominatedNodeName"].is_null(), "it is where it is now");
    let labels =
        json!({"app": "web", "topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    assert_eq!(bound["metadata"]["labels"], labels, "it is told where it is");
    let mut placed = pod("placed");
    placed["spec"]["nodeName"] = json!("n");
    let placed = desk.call("POST", PODS, Some(placed)).await.expect(201);
    assert_eq!(placed["metadata"]["labels"], labels);
    for path in ["p/status/x", "p/log/x", "p/binding/x", "p/nothing/x"] {
        desk.call("GET", &format!("{PODS}/{path}"), None).await.refused(404);
    }
    assert_eq!(
        desk.call("POST", &path, Some(binding("m"))).await.refused(409),
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""
    );
    let mut other = binding("n");
    other["metadata"]["name"] = json!("q");
    desk.call("POST", &path, Some(other)).await.refused(400);
    desk.call("GET", &path, None).await.refused(405);

    let eviction =
        |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let path = format!("{PODS}/p/eviction");
    desk.call("POST", &path, Some(eviction("q"))).await.refused(400);
    let mut elsewhere = eviction("p");
    elsewhere["metadata"]["namespace"] = json!("x");
    desk.call("POST", &path, Some(elsewhere)).await.refused(400);
    desk.call("POST", &format!("{path}?dryRun=All"), Some(eviction("p"))).await.expect(201);
    // Also in the older version, and in the form in which Go clients send it.
    let mut early = eviction("p");
    early["apiVersion"] = json!("policy/v1beta1");
    let early = String::from_utf8(protobuf::encode(&early).expect("a message")).expect("small numbers alone");
    let dry = format!("{path}?dryRun=All");
    desk.send(admin(), "POST", &dry, protobuf::MEDIA_TYPE, &[], early).await.expect(201);
    let before = desk.call("GET", &format!("{PODS}/p"), None).await.expect(200);
    assert!(before["metadata"]["deletionTimestamp"].is_null());
    let mut stale = eviction("p");
    stale["deleteOptions"] = json!({"preconditions": {"resourceVersion": "1"}});
    desk.call("POST", &path, Some(stale)).await.refused(409);
    assert_eq!(desk.call("POST", &path, Some(eviction("p"))).await.expect(201)["status"], "Success");
    let evicted = desk.call("GET", &format!("{PODS}/p"), None).await.expect(200);
    assert!(evicted["metadata"]["deletionTimestamp"].is_string());
    let conditions = evicted["status"]["conditions"].as_array().expect("conditions");
    assert!(
        conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["reason"] == "EvictionByEvictionAPI")
    );
    let list = desk.call("GET", "/api/v1", None).await.expect(200);
    let found =
        list["resources"].as_array().and_then(|all| all.iter().find(|each| each["name"] == "pods/eviction"));
    assert_eq!(
        found.map(|each| (&each["kind"], &each["group"], &each["version"])),
        Some((&json!("Eviction"), &json!("policy"), &json!("v1")))
    );
}
