use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, json};

use super::*;
use crate::schema::{Additional, SchemaRef, SchemaType};
use crate::{builtin, codec};

/// A value of a schema with fields set at random; `None` where nothing is to be set. Nothing is empty or
/// zero, since such values may be absent after a round.
fn random_value(schema: &SchemaRef, depth: usize, random: &mut StdRng) -> Option<Value> {
    Some(match schema.kind {
        SchemaType::String => random_text(schema, random).into(),
        SchemaType::Integer => match schema.format.as_deref() {
            Some("int32") => random.random_range(i32::MIN..0).into(),
            _ => random.random_range(1..i64::MAX).into(),
        },
        SchemaType::Number => 0.25.into(),
        SchemaType::Boolean => true.into(),
        SchemaType::Quantity => "1500m".into(),
        SchemaType::IntOrString if random.random() => random.random_range(0..9000).into(),
        SchemaType::IntOrString => "25%".into(),
        SchemaType::Array => {
            let item = random_value(schema.items.as_ref()?, depth.checked_sub(1)?, random)?;
            vec![item; random.random_range(1..3)].into()
        }
        SchemaType::Object | SchemaType::Any => random_object(schema, depth, random)?,
    })
}

fn random_text(schema: &SchemaRef, random: &mut StdRng) -> String {
    let number: u16 = random.random();
    match schema.format.as_deref() {
        Some("date-time") if schema.name().is_some_and(|name| name.ends_with("MicroTime")) => {
            format!("1969-12-31T23:59:59.{number:06}Z")
        }
        Some("date-time") => "2026-11-21T08:00:00Z".to_owned(),
        Some("byte") => "/wA=".to_owned(),
        _ => format!("text {number}"),
    }
}

fn random_object(schema: &SchemaRef, depth: usize, random: &mut StdRng) -> Option<Value> {
    let free = ["RawExtension", "FieldsV1"];
    if schema.kind == SchemaType::Object
        && schema.preserve_unknown
        && schema.name().is_some_and(|name| free.iter().all(|free| !name.ends_with(free)))
    {
        // A kind of object without fields, such as the subresource status of a definition.
        return Some(json!({}));
    }
    if schema.preserve_unknown {
        // Whatever is wanted in its place: JSON of any kind, or a schema.
        return Some(json!({"type": "string"}));
    }
    let depth = depth.checked_sub(1)?;
    let mut object = Map::new();
    // Protobuf has the type of the whole object alone, and not of those inside, such as a claim's template.
    let types = schema.properties.contains_key("metadata");
    for (name, field) in &schema.properties {
        if types && matches!(name.as_str(), "apiVersion" | "kind") {
            continue;
        }
        if random.random_bool(0.6)
            && let Some(value) = random_value(field, depth, random)
        {
            object.insert(name.clone(), value);
        }
    }
    if let Additional::Schema(value) = &schema.additional {
        for key in ["b", "a"] {
            object.insert(key.to_owned(), random_value(value, depth, random)?);
        }
    }
    (!object.is_empty()).then_some(object.into())
}

#[test]
fn every_kind_comes_back_from_protobuf_as_it_went() {
    let mut random = StdRng::seed_from_u64(11);
    let all = builtin::descriptors().into_iter();
    for descriptor in all.filter(|one| knows(&one.api_version(), &one.kind)) {
        for round in 0..12 {
            let depth = 3 + round / 2;
            let mut object =
                random_value(&descriptor.schema, depth, &mut random).unwrap_or_else(|| json!({}));
            object["apiVersion"] = json!(descriptor.api_version());
            object["kind"] = json!(descriptor.kind);
            let bytes = encode(&object).unwrap();
            assert_eq!(decode(&bytes).unwrap(), object, "{descriptor:?}");
            // The same object gives the same bytes.
            assert_eq!(encode(&object).unwrap(), bytes);
        }
    }
}

/// Kubernetes' own samples, as the test of the reader has them: every field is set, so they must be the same
/// byte for byte.
#[test]
#[ignore = "wants the folder with Kubernetes' samples in YUNFAN_KUBERNETES_SAMPLES"]
fn kubernetes_own_samples_are_written_alike() {
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
            let written = encode(&sample).unwrap();
            let wanted = std::fs::read(&path).unwrap();
            assert_eq!(decode(&written).unwrap(), decode(&wanted).unwrap(), "{}", path.display());
            assert!(written == wanted, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn zeros_and_nulls_are_written_as_they_are_meant() {
    let deployment = |spec: Value| {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec});
        decode(&encode(&object).unwrap()).unwrap()["spec"].clone()
    };
    assert_eq!(deployment(json!({"replicas": 0})), json!({"replicas": 0}));
    assert_eq!(deployment(json!({"replicas": 3.0, "paused": null})), json!({"replicas": 3}));
    let made =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"creationTimestamp": null, "name": "a"}});
    assert_eq!(decode(&encode(&made).unwrap()).unwrap()["metadata"], json!({"name": "a"}));
    // Fields of another version of the kind have no place.
    assert_eq!(deployment(json!({"nobodyKnowsThis": 1})), Value::Null);
}

#[test]
fn what_has_no_protobuf_form_is_refused() {
    let refused = |object: Value| encode(&object).unwrap_err();
    assert_eq!(refused(json!({"apiVersion": "x.io/v1", "kind": "X"})).code(), 406);
    let wrong = refused(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": 1}]}}));
    assert_eq!(wrong.code(), 500);
    assert!(wrong.message().ends_with("spec.containers.name: a number in place of a text"), "{wrong:?}");
    let wrong = refused(json!({"apiVersion": "v1", "kind": "Secret", "data": {"k": "no base64!"}}));
    assert!(wrong.message().contains("data.k: "), "{wrong:?}");
    let wrong =
        refused(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"creationTimestamp": "now"}}));
    assert!(wrong.message().contains("metadata.creationTimestamp: "), "{wrong:?}");
}

#[test]
fn lists_and_events_hold_their_objects() {
    let pods: Vec<Vec<u8>> = ["a", "b"]
        .iter()
        .map(|name| message("v1", "Pod", &json!({"metadata": {"name": name}})).unwrap())
        .collect();
    let mut items = Vec::new();
    pods.iter().for_each(|pod| item(pod, &mut items));
    let bytes = list("v1", "PodList", &json!({"resourceVersion": "7"}), &items).unwrap();
    let objects = json!([{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]);
    let whole = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": objects});
    assert_eq!(encode(&whole).unwrap(), bytes);
    let envelope = Envelope::read(bytes.strip_prefix(MAGIC).unwrap()).unwrap();
    assert_eq!((envelope.api_version, envelope.kind), ("v1", "PodList"));
    let mut reader = Reader::new(envelope.object);
    let mut fields = Vec::new();
    while let Some((number, raw)) = reader.next().unwrap() {
        fields.push((number, raw.bytes().unwrap().to_vec()));
    }
    // ListMeta has the revision in field 2.
    assert_eq!(fields[0], (1, vec![2 << 3 | 2, 1, b'7']));
    assert_eq!(fields[1..], [(2, pods[0].clone()), (2, pods[1].clone())]);

    let pod = self::envelope("v1", "Pod", &pods[0]);
    let event = event("ADDED", &pod);
    let (length, event) = event.split_at(4);
    assert_eq!(u32::from_be_bytes(length.try_into().unwrap()) as usize, event.len());
    let mut reader = Reader::new(event);
    let (1, kind) = reader.next().unwrap().unwrap() else { panic!("no type") };
    assert_eq!(kind.text().unwrap(), "ADDED");
    let (2, object) = reader.next().unwrap().unwrap() else { panic!("no object") };
    let (1, raw) = Reader::new(object.bytes().unwrap()).next().unwrap().unwrap() else { panic!("no bytes") };
    assert_eq!(decode(raw.bytes().unwrap()).unwrap()["metadata"]["name"], "a");
}
