use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::*;
use crate::{Descriptor, FieldValidation, builtin, codec};

/// Sent by kubectl 1.33: `create deployment web --image=nginx:1 --replicas=3 --port=80`.
const DEPLOYMENT: &str = concat!(
    "6b3873000a150a07617070732f7631120a4465706c6f796d656e7412be010a230a0377656212001a046361703222002a0032",
    "00380042005a0a0a0361707012037765621288010803120c0a0a0a0361707012037765621a6e0a1c0a0012001a0022002a00",
    "3200380042005a0a0a036170701203776562124e12300a056e67696e7812076e67696e783a312a00320a0a00100018502200",
    "2a0042006a007200800100880100900100a201001a00320042004a0052005800600068008201008a01009a0100c201002202",
    "0a00280038001a0c0800100018002000280038001a002200",
);

/// Sent by kubectl 1.33: `create service clusterip web --tcp=80:http`.
const SERVICE: &str = concat!(
    "6b3873000a0d0a02763112075365727669636512700a230a0377656212001a046361703222002a003200380042005a0a0a03",
    "617070120377656212450a1e0a0738302d6874747012035443501850220a080110001a04687474702800120a0a0361707012",
    "037765621a002209436c757374657249503a00420052005a00600068001a020a001a002200",
);

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
    out
}

/// A field with bytes: a text or a message.
fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A field with a number.
fn small(number: u64, value: u64) -> Vec<u8> {
    [varint(number << 3), varint(value)].concat()
}

/// A field with a floating point number.
fn double(number: u64, value: f64) -> Vec<u8> {
    [varint(number << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &type_meta), field(2, object)].concat()
}

fn builtin_kind(kind: &str) -> Descriptor {
    builtin::descriptors().into_iter().find(|descriptor| descriptor.kind == kind).unwrap()
}

/// The object in a field of a Deployment's spec.
fn deployment(spec: &[Vec<u8>]) -> Value {
    decode(&body("apps/v1", "Deployment", &field(2, &spec.concat()))).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    let error = decode(bytes).unwrap_err();
    assert_eq!(error.code(), 400);
    error.message().to_owned()
}

#[test]
fn every_kind_of_kubernetes_own_has_a_form() {
    // What is not stored is measured, and has none.
    for descriptor in builtin::descriptors().into_iter().filter(|one| one.group != "metrics.k8s.io") {
        assert!(knows(&descriptor.api_version(), &descriptor.kind), "{}", descriptor.kind);
    }
    for (api_version, kind) in [
        ("v1", "Binding"),
        ("autoscaling/v1", "Scale"),
        ("policy/v1", "Eviction"),
        ("policy/v1beta1", "Eviction"),
        ("apps/v1", "DeleteOptions"),
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
    ] {
        assert!(knows(api_version, kind), "{kind}");
    }
    assert!(!knows("yunfan.io/v1", "Network"));
    assert!(is_protobuf("Application/vnd.kubernetes.protobuf; charset=utf-8"));
    assert!(!is_protobuf("application/vnd.kubernetes.protobuf+x"));
}

#[test]
fn empty_fields_go_and_empty_pointers_stay() {
    let label = |key: &[u8], value: &[u8]| field(1, &[field(1, key), field(2, value)].concat());
    let read = deployment(&[
        small(1, 0),                         // replicas, a pointer
        field(2, &label(b"app", b"")),       // selector.matchLabels
        field(3, &[]),                       // template, which no client leaves out
        field(4, &[field(1, b"")].concat()), // strategy.type
        small(5, 0),                         // minReadySeconds
        small(7, 0),                         // paused
    ]);
    let wanted = json!({"replicas": 0, "selector": {"matchLabels": {"app": ""}}, "template": {}});
    assert_eq!(read, json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": wanted}));

    let meta = [field(1, b"x"), field(2, b""), small(7, 0), field(8, &[])].concat();
    let read = decode(&body("v1", "Namespace", &[field(1, &meta), field(2, &[]), field(3, &[])].concat()));
    assert_eq!(read.unwrap(), json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}));
}

#[test]
fn special_forms() {
    let pod = |spec: &[u8]| decode(&body("v1", "Pod", &field(2, spec))).unwrap()["spec"].clone();
    let probe = |action: Vec<u8>| pod(&field(2, &[field(1, b"c"), field(10, &field(1, &action))].concat()));
    let port = |port: &[u8]| probe(field(2, &field(2, port)))["containers"][0]["livenessProbe"].clone();
    // An inlined message's fields are its owner's.
    assert_eq!(port(&[small(1, 0), small(2, 80)].concat()), json!({"httpGet": {"port": 80}}));
    assert_eq!(port(&[small(1, 1), field(3, b"web")].concat()), json!({"httpGet": {"port": "web"}}));
    assert_eq!(port(&[]), json!({"httpGet": {"port": 0}}));
    let volume = [field(1, b"v"), field(2, &field(2, &[]))].concat();
    assert_eq!(pod(&field(1, &volume))["volumes"], json!([{"name": "v", "emptyDir": {}}]));

    let lease = |time: &[u8]| decode(&body("coordination.k8s.io/v1", "Lease", &field(2, &field(3, time))));
    let time = |time: &[u8]| lease(time).unwrap()["spec"]["acquireTime"].clone();
    assert_eq!(time(&[0x08, 1, 0x10, 0xc0, 0x84, 0x3d]), json!("1970-01-01T00:00:01.001000Z"));
    assert_eq!(time(&[0x08, 0, 0x10, 0]), json!("1970-01-01T00:00:00.000000Z"));
    assert_eq!(time(&[]), Value::Null);
    assert!(lease(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).is_err());

    let secret = field(2, &[field(1, b"k"), field(2, &[0xff, 0])].concat());
    assert_eq!(decode(&body("v1", "Secret", &secret)).unwrap()["data"], json!({"k": "/wA="}));
    let quota = field(2, &field(1, &[field(1, b"pods"), field(2, &field(1, b"4"))].concat()));
    assert_eq!(decode(&body("v1", "ResourceQuota", &quota)).unwrap()["spec"]["hard"], json!({"pods": "4"}));
    let managed = field(1, &field(17, &field(7, &field(1, br#"{"f:a":{}}"#))));
    let read = decode(&body("v1", "ConfigMap", &managed)).unwrap();
    assert_eq!(read["metadata"]["managedFields"], json!([{"fieldsV1": {"f:a": {}}}]));

    let extra =
        field(5, &[field(1, b"scopes"), field(2, &[field(1, b"a"), field(1, b"b")].concat())].concat());
    let read = decode(&body("authorization.k8s.io/v1", "SubjectAccessReview", &field(2, &extra))).unwrap();
    assert_eq!(read["spec"]["extra"], json!({"scopes": ["a", "b"]}));
}

#[test]
fn what_kubectl_sends_is_what_it_would_have_sent_as_json() {
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "nginx", "image": "nginx:1", "ports": [{"containerPort": 80}]}]},
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "cap2", "labels": {"app": "web"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    });
    let port = json!({"name": "80-http", "protocol": "TCP", "port": 80, "targetPort": "http"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "cap2", "labels": {"app": "web"}},
        "spec": {"ports": [port], "selector": {"app": "web"}, "type": "ClusterIP"},
    });
    for (sent, mut wanted) in [(DEPLOYMENT, deployment), (SERVICE, service)] {
        let mut read = codec::decode(MEDIA_TYPE, &unhex(sent)).unwrap().value;
        // Upstream's JSON has this one too: it is no pointer, and not marked as one to leave out.
        if let Some(status) = read.as_object_mut().unwrap().remove("status") {
            assert_eq!(status, json!({"loadBalancer": {}}));
        }
        let descriptor = builtin_kind(read["kind"].as_str().unwrap());
        assert_eq!(descriptor.decode(&mut read, FieldValidation::Strict, &[]).unwrap(), [""; 0]);
        descriptor.decode(&mut wanted, FieldValidation::Strict, &[]).unwrap();
        assert_eq!(read, wanted);
        descriptor.default(&mut read);
        descriptor.validate_create(&read).unwrap();
    }
}

/// Bytes changed, cut out, doubled and put in at random: anything but a panic is fine, also in what comes
/// after the decoder.
#[test]
fn damaged_bodies_never_panic() {
    let schema = field(29, &[field(1, b"a"), field(2, &field(24, &field(1, &field(5, b"string"))))].concat());
    let bodies = [unhex(DEPLOYMENT), unhex(SERVICE), crd(&schema)];
    let mut random = StdRng::seed_from_u64(7);
    let mut read = 0;
    for round in 0..30_000 {
        let mut bytes = bodies[round % bodies.len()].clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..5) {
                0 => bytes[at] ^= 1 << random.random_range(0..8),
                1 => bytes[at] = random.random(),
                2 => bytes.insert(at, random.random()),
                3 => bytes.truncate(at.max(1)),
                _ => {
                    let end = random.random_range(at..bytes.len());
                    bytes.extend_from_within(at..end);
                }
            }
        }
        let Ok(mut value) = decode(&bytes) else { continue };
        read += 1;
        let Some(kind) = value["kind"].as_str().map(str::to_owned) else { continue };
        let Some(descriptor) = builtin::descriptors().into_iter().find(|one| one.kind == kind) else {
            continue;
        };
        if descriptor.decode(&mut value, FieldValidation::Strict, &[]).is_ok() {
            descriptor.default(&mut value);
            let _ = descriptor.validate_create(&value);
        }
    }
    // Else the changes would be too wild to reach what lies behind the envelope.
    assert!(read > 1_000, "{read}");
}

/// A CustomResourceDefinition whose only version has a schema of these bytes.
fn crd(schema: &[u8]) -> Vec<u8> {
    let version = [field(1, b"v1"), field(4, &field(1, schema))].concat();
    body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &field(2, &field(7, &version)))
}

#[test]
fn schemas_of_custom_kinds() {
    let schema = |bytes: &[u8]| {
        decode(&crd(bytes)).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    };
    let text = field(5, b"string");
    assert_eq!(schema(&field(8, &field(1, br#"{"a":[1]}"#))), json!({"default": {"a": [1]}}));
    assert_eq!(schema(&double(11, 0.5)), json!({"minimum": 0.5}));
    assert!(refusal(&crd(&double(11, f64::INFINITY))).contains("minimum: a number that is not finite"));

    let both = [field(2, &text), field(2, &[])].concat();
    assert_eq!(schema(&field(24, &field(1, &text))), json!({"items": {"type": "string"}}));
    assert_eq!(schema(&field(24, &both)), json!({"items": [{"type": "string"}, {}]}));
    assert_eq!(schema(&field(30, &small(1, 1))), json!({"additionalProperties": true}));
    assert_eq!(schema(&field(30, &small(1, 0))), json!({"additionalProperties": false}));
    let given = field(30, &[small(1, 1), field(2, &text)].concat());
    assert_eq!(schema(&given), json!({"additionalProperties": {"type": "string"}}));
    let names = field(32, &[field(1, b"a"), field(2, &field(2, b"b"))].concat());
    assert_eq!(schema(&names), json!({"dependencies": {"a": ["b"]}}));
    let property = field(29, &[field(1, b"a"), field(2, &text)].concat());
    assert_eq!(schema(&property), json!({"properties": {"a": {"type": "string"}}}));
}

#[test]
fn what_came_twice_is_merged_and_packed_numbers_are_read() {
    let read =
        deployment(&[small(1, 2), small(1, 3), field(4, &field(1, b"Recreate")), field(4, &field(2, &[]))]);
    let strategy = json!({"type": "Recreate", "rollingUpdate": {}});
    assert_eq!(read["spec"], json!({"replicas": 3, "strategy": strategy}));
    let groups = |bytes: Vec<u8>| {
        let spec = field(14, &bytes);
        decode(&body("v1", "Pod", &field(2, &spec))).unwrap()["spec"]["securityContext"].clone()
    };
    assert_eq!(groups(field(4, &[5, 6, 7])), json!({"supplementalGroups": [5, 6, 7]}));
    assert_eq!(groups([small(4, 5), small(4, 6)].concat()), json!({"supplementalGroups": [5, 6]}));
    let minus_one = [vec![2 << 3], vec![0xff; 9], vec![1]].concat();
    assert_eq!(groups(minus_one), json!({"runAsUser": -1}));
}

#[test]
fn refusals_name_what_is_wrong_and_where() {
    assert!(refusal(b"k8s").ends_with("expected prefix [107 56 115 0]"));
    assert!(refusal(br#"{"kind":"Pod"}"#).contains("does not appear to be a protobuf message"));
    assert!(refusal(&body("", "", b"")).contains(r#"no kind """#));
    assert!(
        refusal(&body("v1", "Nothing", b"")).contains(r#"no kind "Nothing" is registered for version "v1""#)
    );
    let pod = |spec: &[u8]| body("v1", "Pod", &field(2, spec));
    assert!(refusal(&pod(&field(2, &small(1, 1)))).contains("spec.containers.name: wrong wire type"));
    assert!(refusal(&pod(&field(2, &field(1, &[0xff])))).contains("spec.containers.name: no valid UTF-8"));
    assert!(refusal(&pod(&[0x12, 9])).contains("spec: it ends too early: 9 bytes wanted, 0 left"));
    let compressed = [body("v1", "Pod", b""), field(3, b"gzip")].concat();
    assert!(refusal(&compressed).contains("contentEncoding"));
    // What a newer client knows and we do not is passed over.
    assert!(decode(&pod(&[0xf8, 0x7f, 1])).is_ok());
}

#[test]
fn depth_and_number_of_values_are_limited() {
    let not = |depth: usize| (0..depth).fold(Vec::new(), |schema, _| field(28, &schema));
    assert!(decode(&crd(&not(90))).is_ok());
    assert!(refusal(&crd(&not(5_000))).contains("nest too deeply"));
    let json = ["[".repeat(98), "]".repeat(98)].concat();
    assert!(refusal(&crd(&field(8, &field(1, json.as_bytes())))).contains("it nests deeper than 100 levels"));

    let names = |count: usize| body("v1", "Pod", &field(2, &field(2, &[]).repeat(count)));
    assert!(decode(&names(1_000)).is_ok());
    assert!(refusal(&names(MAX_VALUES)).contains("too many values"));
}

/// Without the members that are null, as a reader of the built-in kinds has it.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// Kubernetes' own samples (the folder testdata/HEAD of the Go module k8s.io/api), each kind in
/// JSON and in protobuf with every field set. They are not kept here.
#[test]
fn a_body_that_does_not_say_its_kind_is_of_the_expected_one() {
    // An envelope with the message `{metadata: {name: "a"}}` alone.
    let bare = unhex("6b38730012050a030a0161");
    let expected = crate::GroupVersionKind::new("", "v1", "ConfigMap");
    let read = decode_as(&bare, Some(&expected)).unwrap();
    assert_eq!(read, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}));
    let of = |bytes: &[u8]| decode_as(bytes, Some(&expected)).unwrap_err().message().to_owned();
    assert!(decode(&bare).is_err());
    assert_eq!((of(b""), of(MAGIC)), ("empty data".to_owned(), "empty body".to_owned()));
}

#[test]
#[ignore = "wants the folder with Kubernetes' samples in YUNFAN_KUBERNETES_SAMPLES"]
fn kubernetes_own_samples_read_alike() {
    let folder = PathBuf::from(std::env::var_os("YUNFAN_KUBERNETES_SAMPLES").unwrap());
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "pb") {
            continue;
        }
        let sample = codec::decode_json(&std::fs::read(path.with_extension("json")).unwrap()).unwrap().value;
        let text = |field: &str| sample[field].as_str().unwrap_or_default();
        if knows(text("apiVersion"), text("kind")) {
            let read = decode(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!(without_nulls(read), without_nulls(sample), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}
