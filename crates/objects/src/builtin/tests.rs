use serde_json::{Value, json};

use super::*;
use crate::{FieldValidation, Object};

pub(super) fn kind(name: &str) -> Descriptor {
    descriptors().into_iter().find(|each| each.kind == name).unwrap()
}

/// The refusal of a new object, without its beginning; empty where it is accepted.
pub(super) fn refusal(name: &str, object: Object) -> String {
    reason(created(&kind(name), object))
}

/// The object after this change of it, as the registry stores it; and the refusal, if any.
pub(super) fn changed(name: &str, old: &Object, change: Value) -> (Object, String) {
    let kind = kind(name);
    let mut new = crate::patch::merge(old, &change).unwrap();
    kind.decode(&mut new, FieldValidation::Strict, &[]).unwrap();
    kind.default(&mut new);
    kind.prepare_update(&mut new, old);
    let refused = kind.validate_update(&new, old);
    (new, reason(refused))
}

/// The refusal of a change of the status.
pub(super) fn status_refusal(name: &str, old: &Object, status: Value) -> String {
    let kind = kind(name);
    let mut new = old.clone();
    new["status"] = status;
    kind.decode(&mut new, FieldValidation::Strict, &[]).unwrap();
    kind.prepare_status_update(&mut new, old);
    reason(kind.validate_status_update(&new, old))
}

fn reason<T>(result: Result<T, crate::ApiError>) -> String {
    let message = result.err().map(|error| error.message().to_owned()).unwrap_or_default();
    message.split_once(" is invalid: ").map(|(_, why)| why.to_owned()).unwrap_or(message)
}

/// The cells of an object's row, as text.
pub(super) fn row(name: &str, object: &Object) -> Vec<String> {
    let plain = |cell: Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    kind(name).cells.unwrap()(object, "2026-01-01T00:00:00Z".parse().unwrap())
        .into_iter()
        .map(plain)
        .collect()
}

/// An object as the registry stores it.
pub(super) fn created(kind: &Descriptor, mut object: Object) -> Result<Object, crate::ApiError> {
    kind.decode(&mut object, FieldValidation::Strict, &[])?;
    if kind.namespaced {
        crate::meta::fill_namespace(&mut object, Some("demo"))?;
    }
    kind.default(&mut object);
    kind.prepare_create(&mut object);
    kind.validate_create(&object)?;
    Ok(object)
}

pub(super) fn from_yaml(text: &str) -> Object {
    crate::codec::decode_yaml(text.as_bytes()).unwrap().value
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: localhost:5000/demo/web:1
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {path: /, port: http}}
        resources: {requests: {cpu: 50m, memory: 16Mi}}
        volumeMounts: [{name: pages, mountPath: /www}]
      volumes: [{name: pages, configMap: {name: pages}}]
";

#[test]
fn every_definition_is_readable_and_every_reference_leads_somewhere() {
    for (name, raw) in definitions().raw() {
        let value: Value = serde_json::from_str(raw.get()).unwrap();
        let _ = definitions().get(name);
        let mut todo = vec![&value];
        while let Some(next) = todo.pop() {
            match next {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        assert!(
                            definitions().contains(target.rsplit('/').next().unwrap()),
                            "{name}: {target}"
                        );
                    }
                    todo.extend(map.values());
                }
                Value::Array(list) => todo.extend(list),
                _ => {}
            }
        }
    }
}

#[test]
fn every_kind_has_its_schema_and_as_many_cells_as_columns() {
    let all = descriptors();
    assert!(all.len() >= 18);
    for kind in all {
        assert!(kind.schema.properties.contains_key("metadata"), "{}", kind.kind);
        let cells = kind.cells.unwrap()(&json!({"metadata": {"name": "x"}}), jiff::Timestamp::UNIX_EPOCH);
        // One kind has a cell without a heading, as upstream has it.
        let more = usize::from(kind.kind == "IPAddress");
        assert_eq!(cells.len(), kind.columns.len() + more, "{}", kind.kind);
        // Nothing may panic on nonsense where objects belong: decoding refuses it.
        let mut nonsense = json!({"metadata": {}, "spec": 1, "status": [], "roleRef": "x", "data": 2, "involvedObject": 3, "regarding": 3, "endpoints": 4, "rules": 5, "secrets": 6, "subsets": 7, "template": 8, "revision": "9", "parameters": 7, "value": "x", "handler": 8, "webhooks": 9, "storageClassName": 10, "conditions": 11, "timestamp": 12});
        assert_eq!(
            kind.decode(&mut nonsense, FieldValidation::Ignore, &[]).unwrap_err().code(),
            400,
            "{}",
            kind.kind
        );
        // Nor on an object with nothing in it.
        for mut object in [
            json!({}),
            json!({"spec": {}, "status": {}, "roleRef": {}, "rules": [{}], "subjects": [{}], "endpoints": [{}], "ports": [{}]}),
        ] {
            kind.decode(&mut object, FieldValidation::Ignore, &[]).unwrap();
            kind.prepare_create(&mut object);
            kind.default(&mut object);
            let _ = kind.validate_create(&object);
            let _ = kind.cells.unwrap()(&object, jiff::Timestamp::UNIX_EPOCH);
            let mut newer = object.clone();
            kind.prepare_update(&mut newer, &object);
            let _ = kind.validate_update(&newer, &object);
        }
    }
}

#[test]
fn less_than_no_grace_is_the_shortest_for_a_pod_and_stays_in_a_template() {
    let spec = "{terminationGracePeriodSeconds: -5, containers: [{name: a, image: a}]}";
    let pod = created(&kind("Pod"), from_yaml(&format!("{{metadata: {{name: a}}, spec: {spec}}}"))).unwrap();
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 1);
    let template = format!("{{metadata: {{name: a}}, template: {{spec: {spec}}}}}");
    let template = created(&kind("PodTemplate"), from_yaml(&template)).unwrap();
    assert_eq!(template["template"]["spec"]["terminationGracePeriodSeconds"], -5);
}

#[test]
fn a_deployment_gets_the_defaults_that_clients_see() {
    let object = created(&kind("Deployment"), from_yaml(DEPLOYMENT)).unwrap();
    let spec = &object["spec"];
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Always");
    assert_eq!(pod["dnsPolicy"], "ClusterFirst");
    assert_eq!(pod["terminationGracePeriodSeconds"], 30);
    assert_eq!(pod["volumes"][0]["configMap"]["defaultMode"], 420);
    let container = &pod["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(container["ports"][0]["protocol"], "TCP");
    assert_eq!(container["readinessProbe"]["periodSeconds"], 10);
    assert_eq!(container["readinessProbe"]["httpGet"]["scheme"], "HTTP");
    assert_eq!(object["metadata"]["generation"], 1);
    // Defaults are no change.
    let deployment = kind("Deployment");
    let mut again = from_yaml(DEPLOYMENT);
    again["metadata"]["namespace"] = json!("demo");
    deployment.default(&mut again);
    deployment.prepare_update(&mut again, &object);
    assert_eq!(again, object);
    again["spec"]["replicas"] = json!(4);
    deployment.prepare_update(&mut again, &object);
    assert_eq!(again["metadata"]["generation"], 2);
}

#[test]
fn bad_deployments_are_refused_by_field() {
    let deployment = kind("Deployment");
    for (pointer, value, wanted) in [
        (
            "/spec/template/metadata/labels/app",
            json!("other"),
            "Deployment.apps \"web\" is invalid: spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`",
        ),
        (
            "/spec/template/spec/containers/0/name",
            json!("Web"),
            "spec.template.spec.containers[0].name: Invalid value: \"Web\"",
        ),
        (
            "/spec/template/spec/containers/0/volumeMounts/0/name",
            json!("none"),
            "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"none\"",
        ),
        (
            "/spec/template/spec/containers/0/ports/0/containerPort",
            json!(70000),
            "must be between 1 and 65535, inclusive",
        ),
        ("/spec/replicas", json!(-1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (
            "/spec/replicas",
            json!("three"),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        ("/spec/template/spec/containers/0/resources/requests/cpu", json!("much"), "quantities must match"),
        ("/metadata/name", json!("Web_1"), "metadata.name: Invalid value: \"Web_1\""),
    ] {
        let mut object = from_yaml(DEPLOYMENT);
        *object.pointer_mut(pointer).unwrap() = value;
        let error = created(&deployment, object).unwrap_err();
        assert!(error.message().contains(wanted), "{error}");
    }
    let mut unknown = from_yaml(DEPLOYMENT);
    unknown["spec"]["replcas"] = json!(1);
    let error = created(&deployment, unknown.clone()).unwrap_err();
    assert_eq!(
        error.message(),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replcas\""
    );
    let warnings = deployment.decode(&mut unknown, FieldValidation::Warn, &[]).unwrap();
    assert_eq!(warnings, ["unknown field \"spec.replcas\""]);
    assert!(unknown["spec"].get("replcas").is_none());
}

#[test]
fn a_selector_never_changes() {
    let deployment = kind("Deployment");
    let old = created(&deployment, from_yaml(DEPLOYMENT)).unwrap();
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"]["x"] = json!("y");
    new["spec"]["template"]["metadata"]["labels"]["x"] = json!("y");
    let error = deployment.validate_update(&new, &old).unwrap_err();
    assert!(error.message().contains("spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"x\":\"y\"}}: field is immutable"), "{error}");
}

#[test]
fn a_pod_is_mostly_frozen() {
    let pods = kind("Pod");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "creationTimestamp": null},
        "spec": {"containers": [{"name": "c", "image": "busybox", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]},
        "status": {"phase": "Running"}});
    let old = created(&pods, pod).unwrap();
    assert_eq!(old["status"]["phase"], "Pending");
    assert_eq!(old["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(old["status"]["qosClass"], "Guaranteed");
    assert_eq!(old["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("busybox:2");
    pods.validate_update(&new, &old).unwrap();
    new["spec"]["containers"][0]["command"] = json!(["sh"]);
    let error = pods.validate_update(&new, &old).unwrap_err();
    assert!(
        error.message().contains("spec: Forbidden: pod updates may not change fields other than"),
        "{error}"
    );
    // A status write changes nothing else.
    let mut status = old.clone();
    status["spec"]["nodeName"] = json!("forged");
    status["status"]["phase"] = json!("Running");
    pods.prepare_status_update(&mut status, &old);
    assert!(status["spec"].get("nodeName").is_none());
    assert_eq!(status["status"]["phase"], "Running");
}

#[test]
fn services_get_ports_and_keep_their_address() {
    let services = kind("Service");
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let mut old = created(&services, service.clone()).unwrap();
    assert_eq!(old["spec"]["type"], "ClusterIP");
    assert_eq!(old["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    assert_eq!(old["status"], json!({"loadBalancer": {}}));
    old["spec"]["clusterIP"] = json!("10.96.0.10");
    old["spec"]["clusterIPs"] = json!(["10.96.0.10"]);
    let mut new = service;
    services.decode(&mut new, FieldValidation::Strict, &[]).unwrap();
    new["metadata"]["namespace"] = json!("demo");
    services.default(&mut new);
    services.prepare_update(&mut new, &old);
    assert_eq!(settle_service(&mut old, None, false), []);
    assert_eq!(settle_service(&mut new, Some(&old), false), []);
    assert_eq!(new, old);
    new["spec"]["clusterIP"] = json!("10.96.0.11");
    assert_eq!(settle_service(&mut new, Some(&old), false), []);
    let error = services.validate_update(&new, &old).unwrap_err();
    assert!(
        error
            .message()
            .contains("spec.clusterIPs[0]: Invalid value: [\"10.96.0.11\"]: may not change once set"),
        "{error}"
    );
    let two = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}, {"port": 81}]}});
    assert!(created(&services, two).unwrap_err().message().contains("spec.ports[0].name: Required value"));
}

#[test]
fn secrets_turn_plain_text_into_data() {
    let secrets = kind("Secret");
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}, "immutable": true});
    let old = created(&secrets, secret).unwrap();
    assert_eq!(old["data"], json!({"password": "aHVudGVyMg=="}));
    assert_eq!(old["type"], "Opaque");
    assert!(old.get("stringData").is_none());
    let mut new = old.clone();
    new["data"]["password"] = json!("eA==");
    let error = secrets.validate_update(&new, &old).unwrap_err();
    assert!(
        error.message().contains("data: Forbidden: field is immutable when `immutable` is set"),
        "{error}"
    );
    let bad = json!({"metadata": {"name": "s"}, "data": {"a": "not base64!"}});
    assert_eq!(created(&secrets, bad).unwrap_err().code(), 400);
}

#[test]
fn the_smaller_kinds_are_checked() {
    let quota = |amount: &str| json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": amount, "requests.cpu": "1500m"}}});
    created(&kind("ResourceQuota"), quota("10")).unwrap();
    assert!(
        created(&kind("ResourceQuota"), quota("1500m")).unwrap_err().message().contains("must be an integer")
    );
    let namespace = created(&kind("Namespace"), json!({"metadata": {"name": "demo"}})).unwrap();
    assert_eq!(namespace["status"]["phase"], "Active");
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "demo");
    assert!(created(&kind("Namespace"), json!({"metadata": {"name": "a.b"}})).is_err());
    let held = |finalizer: &str| {
        let object = json!({"metadata": {"name": "demo"}, "spec": {"finalizers": [finalizer]}});
        created(&kind("Namespace"), object)
    };
    assert_eq!(held("a.b/c").unwrap()["spec"]["finalizers"], json!(["a.b/c", "kubernetes"]));
    let error = held("bad").unwrap_err();
    assert!(
        error
            .message()
            .contains("spec.finalizers: Invalid value: \"bad\": name is neither a standard finalizer"),
        "{error}"
    );
    let node =
        created(&kind("Node"), json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "2"}}}))
            .unwrap();
    assert_eq!(node["status"]["capacity"]["cpu"], "2", "a node registers with its status");
    let binding = json!({"metadata": {"name": "system:b"}, "roleRef": {"kind": "ClusterRole", "name": "admin"}, "subjects": [{"kind": "User", "name": "u"}]});
    let old = created(&kind("RoleBinding"), binding).unwrap();
    assert_eq!(old["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    let mut new = old.clone();
    new["roleRef"]["name"] = json!("other");
    assert!(
        kind("RoleBinding")
            .validate_update(&new, &old)
            .unwrap_err()
            .message()
            .contains("cannot change roleRef")
    );
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"]}]});
    assert!(created(&kind("Role"), role).unwrap_err().message().contains("rules[0].verbs: Required value"));
}

#[test]
fn a_definition_of_our_own_kind_is_accepted() {
    // Recursive schema: a JSONSchemaProps inside a JSONSchemaProps.
    let crd = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"n": {"type": "integer", "default": 3, "enum": [3, 4]}}}}}}}]}});
    let kind = kind("CustomResourceDefinition");
    let mut object = crd;
    kind.prepare_create(&mut object);
    kind.default(&mut object);
    // Admission says what becomes of it before it is checked.
    let nobody = crate::crd::status::Taken::default();
    object["status"] = crate::crd::status::compute(&object, &Value::Null, &nobody, "2024-01-01T00:00:00Z");
    kind.validate_create(&object).unwrap();
    assert_eq!(object["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(
        object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["n"]["default"],
        3
    );
    assert_eq!(crate::crd::descriptors(&object).unwrap().len(), 1);
}

#[test]
fn scale_reads_and_writes_replicas() {
    let deployment = kind("Deployment");
    let object = created(&deployment, from_yaml(DEPLOYMENT)).unwrap();
    let mut scale = crate::scale::to_scale(&deployment, &object).unwrap();
    assert_eq!(scale["spec"]["replicas"], 3);
    assert_eq!(scale["status"]["selector"], "app=web");
    scale["spec"]["replicas"] = json!(7);
    assert_eq!(crate::scale::apply_scale(&deployment, &object, &scale).unwrap()["spec"]["replicas"], 7);
    scale["spec"]["replicas"] = json!(-7);
    assert_eq!(crate::scale::apply_scale(&deployment, &object, &scale).unwrap_err().code(), 422);
}

#[test]
fn quantities_come_out_as_text() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}, "limits": {"cpu": 1}}}]}});
    let pod = created(&kind("Pod"), pod).unwrap();
    assert_eq!(
        pod["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1"}})
    );
}

/// Puts nonsense into a random place of a manifest.
fn spoil(value: &mut Value, random: &mut impl FnMut(usize) -> usize) {
    let nonsense = [
        json!(null),
        json!(-1),
        json!(""),
        json!([]),
        json!({}),
        json!([null]),
        json!([{}]),
        json!("x"),
        json!(1.5),
        json!(true),
        json!({"": 1}),
        json!([[1]]),
        json!({"$patch": "delete"}),
        json!("\u{0}/é.."),
    ];
    let stop = random(4) == 0;
    match value {
        Value::Object(map) if !stop && !map.is_empty() => {
            let at = random(map.len());
            if let Some((_, inner)) = map.iter_mut().nth(at) {
                spoil(inner, random);
            }
        }
        Value::Array(list) if !stop && !list.is_empty() => {
            let at = random(list.len());
            spoil(&mut list[at], random);
        }
        other => *other = nonsense[random(nonsense.len())].clone(),
    }
}

#[test]
fn no_nonsense_makes_anything_panic() {
    use crate::patch::{self, apply};
    let mut state: u64 = 42;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let manifests = [
        ("Deployment", from_yaml(DEPLOYMENT)),
        (
            "Service",
            json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 1, "name": "a"}]}}),
        ),
        (
            "Secret",
            json!({"metadata": {"name": "s"}, "stringData": {"a": "b"}, "type": "kubernetes.io/dockerconfigjson"}),
        ),
        (
            "Namespace",
            json!({"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"finalizers": ["kubernetes"]}}),
        ),
        (
            "RoleBinding",
            json!({"metadata": {"name": "n"}, "roleRef": {"name": "x", "kind": "Role"}, "subjects": [{"kind": "User", "name": "u"}]}),
        ),
        (
            "CustomResourceDefinition",
            json!({"metadata": {"name": "a.b.c"}, "spec": {"group": "b.c", "scope": "Cluster", "names": {"plural": "a", "kind": "A"},
            "versions": [{"name": "v1", "served": true, "storage": true, "additionalPrinterColumns": [{"name": "a", "type": "string", "jsonPath": ".a"}],
            "subresources": {"scale": {"specReplicasPath": ".a", "statusReplicasPath": ".b"}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "enum": ["x"]}}}}}}]}}),
        ),
    ];
    let writer =
        apply::Writer { manager: "m", subresource: "", api_version: "v1", now: jiff::Timestamp::UNIX_EPOCH };
    for round in 0..3000 {
        let (name, manifest) = &manifests[round % manifests.len()];
        let kind = kind(name);
        let good = created(&kind, manifest.clone()).unwrap_or_else(|_| manifest.clone());
        let mut bad = manifest.clone();
        for _ in 0..=random(3) {
            spoil(&mut bad, &mut random);
        }
        let _ = patch::merge(&good, &bad);
        let patched = patch::strategic(&good, &bad, &kind.schema);
        for mut object in [Some(bad), patched.ok()].into_iter().flatten() {
            let _ = apply::apply(Some(&good), &object, &writer, true, &kind.schema);
            if kind.decode(&mut object, FieldValidation::Ignore, &[]).is_err() {
                continue;
            }
            let _ = kind.apply(Some(&good), &object, &writer, true, &|_, _| None);
            let mut newer = object.clone();
            kind.default(&mut newer);
            kind.prepare_update(&mut newer, &good);
            let _ = kind.validate_update(&newer, &good);
            apply::track_update(Some(&good), &mut newer, &writer, &kind.schema);
            kind.prepare_create(&mut object);
            kind.default(&mut object);
            let valid = kind.validate_create(&object);
            let _ = kind.cells.unwrap()(&object, writer.now);
            let _ = crate::codec::encode(&object);
            if *name == "CustomResourceDefinition" {
                let served = crate::crd::descriptors(&object);
                assert!(valid.is_err() || served.is_ok());
                let _ = crate::crd::status::compute(
                    &object,
                    &serde_json::Value::Null,
                    &Default::default(),
                    "now",
                );
            }
        }
    }
}

/// Definitions with fields that Kubernetes does not describe either.
const UNDESCRIBED: [&str; 6] = [
    ".JSONSchemaProps",
    ".ExternalDocumentation",
    ".GroupResource",
    ".CertificateSigningRequest",
    ".version.Info",
    ".WatchEvent",
];

#[test]
fn every_field_of_every_kind_says_what_it_is_for() {
    let Descriptions { texts, values } = descriptions();
    for (name, raw) in definitions().raw() {
        let schema: Value = serde_json::from_str(raw.get()).unwrap();
        for field in schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field) {
            let known = texts.get(name).is_some_and(|fields| fields.contains_key(field));
            assert!(known || UNDESCRIBED.iter().any(|one| name.ends_with(one)), "{name}: {field}");
        }
    }
    assert!(texts["io.k8s.api.core.v1.Pod"][""].starts_with("Pod is a collection of containers"));
    let container = "io.k8s.api.core.v1.Container";
    assert_eq!(values[container]["imagePullPolicy"], ["Always", "IfNotPresent", "Never"]);
    assert!(texts[container]["imagePullPolicy"].contains("Possible enum values:\n - `\"Always\"` means"));
    assert_eq!(values["io.k8s.api.core.v1.ServiceSpec"]["ipFamilies/items"], ["", "IPv4", "IPv6"]);
}
