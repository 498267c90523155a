//! What Kubernetes' own kinds say of a value of the wrong type: the words of Go's JSON reader, which name the type
//! that holds the field, the fields on the way there (no index, no key of a map), and the type that it should have.

use serde_json::{Number, Value};

use super::go_names::named;
use super::{Additional, Schema, SchemaRef, SchemaType};
use crate::golang::{time_error, type_name};
use crate::{Quantity, QuantityError};

/// Types whose fields stand in the type around them; their name is part of the way all the same.
const EMBEDDED: [(&str, &[&str], &str); 2] = [
    ("Probe", &["exec", "grpc", "httpGet", "tcpSocket"], "ProbeHandler"),
    ("EphemeralContainer", &[], "EphemeralContainerCommon"),
];

/// A finding: one that Go's reader notes and reads on, or one that ends it.
enum Stop {
    /// The first one counts.
    Noted(String),
    /// Counts before any that is only noted.
    Final(String),
}

struct Walk {
    /// Names of fields.
    path: Vec<String>,
    /// The type whose field is read.
    owner: String,
    /// The name of the type that the texts in the field are of, where they have one.
    text: Option<&'static str>,
    noted: Option<String>,
}

impl Schema {
    /// What is wrong with the types in an object of this schema, whose type has this name, if anything.
    pub fn unmarshal_error(&self, name: &str, value: &Value) -> Option<String> {
        let mut walk = Walk { path: Vec::new(), owner: name.to_owned(), text: None, noted: None };
        match walk.fields(self, name, value) {
            Err(Stop::Final(why) | Stop::Noted(why)) => Some(why),
            Ok(()) => walk.noted,
        }
    }
}

impl Walk {
    fn fields(&mut self, schema: &Schema, name: &str, value: &Value) -> Result<(), Stop> {
        for (key, inner) in value.as_object().into_iter().flatten() {
            let Some(field) = schema.properties.get(key) else { continue };
            let length = self.path.len();
            let embedded = EMBEDDED.iter().find(|(owner, fields, _)| {
                *owner == name && (fields.is_empty() || fields.contains(&key.as_str()))
            });
            self.path.extend(embedded.map(|(.., embedded)| (*embedded).to_owned()));
            self.path.push(key.clone());
            name.clone_into(&mut self.owner);
            self.text = named(name, key);
            self.value(field, inner)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn value(&mut self, schema: &SchemaRef, value: &Value) -> Result<(), Stop> {
        match self.check(schema, value) {
            Err(Stop::Noted(why)) => {
                self.noted.get_or_insert(why);
                Ok(())
            }
            other => other,
        }
    }

    fn check(&mut self, schema: &SchemaRef, value: &Value) -> Result<(), Stop> {
        match (schema.kind, value) {
            (_, Value::Null) | (SchemaType::Any, _) | (SchemaType::Boolean, Value::Bool(_)) => Ok(()),
            (SchemaType::Number, Value::Number(_)) => Ok(()),
            (SchemaType::Object, Value::Object(map)) => match &schema.additional {
                Additional::Schema(inner) if schema.properties.is_empty() => {
                    map.values().try_for_each(|value| self.value(inner, value))
                }
                _ => match schema.name() {
                    Some(name) => self.fields(schema, short(name), value),
                    None => Ok(()),
                },
            },
            (SchemaType::Array, Value::Array(list)) => match &schema.items {
                Some(inner) => list.iter().try_for_each(|value| self.value(inner, value)),
                None => Ok(()),
            },
            (SchemaType::Integer | SchemaType::IntOrString, Value::Number(number)) => {
                self.integer(schema, number)
            }
            (SchemaType::IntOrString, Value::String(_)) => Ok(()),
            (SchemaType::Quantity, _) => match Quantity::from_json(value) {
                Ok(_) => Ok(()),
                // Go's reader does not say where.
                Err(error @ QuantityError) => Err(Stop::Final(error.to_string())),
            },
            (SchemaType::String, Value::String(text)) => format_error(schema, text),
            (SchemaType::String, _) if is_time(schema) => {
                Err(Stop::Final(self.wrong(type_name(value), "string")))
            }
            (SchemaType::IntOrString, _) => Err(Stop::Final(self.wrong(type_name(value), "int32"))),
            _ => Err(Stop::Noted(self.wrong(type_name(value), &self.wanted(schema)))),
        }
    }

    fn integer(&self, schema: &Schema, number: &Number) -> Result<(), Stop> {
        let wide = schema.kind == SchemaType::Integer && schema.format.as_deref() != Some("int32");
        if number.as_i64().is_some_and(|number| wide || i32::try_from(number).is_ok()) {
            return Ok(());
        }
        let why = self.wrong(&format!("number {number}"), if wide { "int64" } else { "int32" });
        Err(if schema.kind == SchemaType::Integer { Stop::Noted(why) } else { Stop::Final(why) })
    }

    /// The type that a value should have, as Go names it.
    fn wanted(&self, schema: &SchemaRef) -> String {
        let wanted = go_type(schema);
        match (self.text, wanted.as_str()) {
            (Some(text), "string") => text.to_owned(),
            (Some(text), "[]string") => format!("[]{text}"),
            _ => wanted,
        }
    }

    fn wrong(&self, what: &str, wanted: &str) -> String {
        let (owner, path) = (&self.owner, self.path.join("."));
        format!("json: cannot unmarshal {what} into Go struct field {owner}.{path} of type {wanted}")
    }
}

fn is_time(schema: &Schema) -> bool {
    schema.format.as_deref() == Some("date-time")
}

fn format_error(schema: &SchemaRef, text: &str) -> Result<(), Stop> {
    match schema.format.as_deref() {
        Some("date-time") if !text.is_empty() => {
            let micros = schema.name().is_some_and(|name| name.ends_with(".MicroTime"));
            time_error(text, micros).map_or(Ok(()), |why| Err(Stop::Final(why)))
        }
        Some("byte") => base64_error(text)
            .map_or(Ok(()), |at| Err(Stop::Noted(format!("illegal base64 data at input byte {at}")))),
        _ => Ok(()),
    }
}

/// Where a text stops to be base64.
fn base64_error(text: &str) -> Option<usize> {
    use base64::Engine;
    use base64::alphabet::STANDARD;
    if base64::engine::general_purpose::STANDARD.decode(text).is_ok() {
        return None;
    }
    let known = |byte: &u8| STANDARD.as_str().as_bytes().contains(byte);
    let good = text.bytes().take_while(known).count();
    // Padding may only fill the last four; a text that ends too early is at fault where its last four begin.
    if good == text.len() { Some(good - good % 4) } else { Some(good) }
}

/// A definition's name without its package.
fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// A type as Go names it.
fn go_type(schema: &SchemaRef) -> String {
    match schema.kind {
        SchemaType::Boolean => "bool".to_owned(),
        SchemaType::Number => "float64".to_owned(),
        SchemaType::Integer if schema.format.as_deref() == Some("int32") => "int32".to_owned(),
        SchemaType::Integer => "int64".to_owned(),
        SchemaType::String if schema.format.as_deref() == Some("byte") => "[]uint8".to_owned(),
        SchemaType::Array => format!("[]{}", schema.items.as_ref().map_or_else(String::new, go_type)),
        SchemaType::Quantity => "resource.Quantity".to_owned(),
        SchemaType::Object => match (schema.name(), &schema.additional) {
            (Some(name), _) => {
                let mut parts = name.rsplit('.');
                let kind = parts.next().unwrap_or_default();
                format!("{}.{kind}", parts.next().unwrap_or_default())
            }
            // The one type of maps that has a name wherever it is used.
            (None, Additional::Schema(inner)) if inner.kind == SchemaType::Quantity => {
                "v1.ResourceList".to_owned()
            }
            (None, Additional::Schema(inner)) => format!("map[string]{}", go_type(inner)),
            (None, _) => "map[string]interface {}".to_owned(),
        },
        SchemaType::String | SchemaType::Any | SchemaType::IntOrString => "string".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::builtin;
    use serde_json::json;

    fn of(kind: &str, value: serde_json::Value) -> String {
        let all = builtin::descriptors();
        let found = all.iter().find(|each| each.kind == kind).expect("a kind");
        found.schema.unmarshal_error(kind, &value).unwrap_or_default()
    }

    #[test]
    fn a_wrong_type_names_the_fields_on_the_way() {
        let pod = |spec| of("Pod", json!({"spec": spec}));
        let container = |with: serde_json::Value| pod(json!({"containers": [with]}));
        for (found, words) in [
            (pod(json!([])), "array into Go struct field Pod.spec of type v1.PodSpec"),
            (
                pod(json!({"containers": {}})),
                "object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                pod(json!({"containers": ["x"]})),
                "string into Go struct field PodSpec.spec.containers of type v1.Container",
            ),
            (
                container(json!({"command": [1]})),
                "number into Go struct field Container.spec.containers.command of type string",
            ),
            (
                container(json!({"ports": [{"containerPort": 99_999_999_999_i64}]})),
                "number 99999999999 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                container(json!({"livenessProbe": {"httpGet": {"port": {}}}})),
                "object into Go struct field HTTPGetAction.spec.containers.livenessProbe.ProbeHandler.httpGet.port of type int32",
            ),
            (
                container(json!({"resources": {"limits": [1]}})),
                "array into Go struct field ResourceRequirements.spec.containers.resources.limits of type v1.ResourceList",
            ),
            (
                of("Pod", json!({"status": {"phase": 5}})),
                "number into Go struct field PodStatus.status.phase of type v1.PodPhase",
            ),
            (
                container(json!({"securityContext": {"capabilities": {"add": [1]}}})),
                "number into Go struct field Capabilities.spec.containers.securityContext.capabilities.add of type v1.Capability",
            ),
            (
                of("PersistentVolume", json!({"spec": {"accessModes": "x"}})),
                "string into Go struct field PersistentVolumeSpec.spec.accessModes of type []v1.PersistentVolumeAccessMode",
            ),
            (
                of("ConfigMap", json!({"data": {"k": 1}})),
                "number into Go struct field ConfigMap.data of type string",
            ),
            (
                of("ConfigMap", json!({"metadata": {"creationTimestamp": 1}})),
                "number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
            ),
        ] {
            assert_eq!(found, format!("json: cannot unmarshal {words}"));
        }
    }

    #[test]
    fn texts_that_stand_for_something_else_are_read() {
        assert_eq!(
            of("ConfigMap", json!({"binaryData": {"a": "ab*d"}})),
            "illegal base64 data at input byte 2"
        );
        let lots = of("Pod", json!({"spec": {"overhead": {"cpu": "lots"}}}));
        assert!(lots.starts_with("quantities must match"), "{lots}");
        assert!(
            of("Lease", json!({"spec": {"renewTime": "2026-01-01T00:00:00Z"}})).ends_with("as \".000000\"")
        );
        assert_eq!(of("Lease", json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})), "");
        // What ends the reader counts before what it only notes.
        let both = json!({"spec": {"hostNetwork": 1, "overhead": {"cpu": "lots"}}});
        assert!(of("Pod", both).starts_with("quantities must match"));
    }
}
