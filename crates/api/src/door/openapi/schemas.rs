//! The schemas of a document: the published definitions of Kubernetes' own kinds with what their fields are for, those of custom
//! kinds as their definitions have them, and all that they refer to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use yunfan_objects::builtin::{self, Descriptions};
use yunfan_objects::{Descriptor, GroupVersionKind};

use crate::kinds::Kind;

/// Which version of OpenAPI a document is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V2,
    V3,
}

impl Version {
    /// What references begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }

    /// A reference to a schema.
    pub(super) fn reference(self, name: &str) -> Value {
        json!({"$ref": format!("{}{name}", self.prefix())})
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Where a schema says of which kinds it is.
const MARK: &str = "x-kubernetes-group-version-kind";

/// The definitions of Kubernetes' own kinds, by kind.
static KINDS: LazyLock<HashMap<GroupVersionKind, String>> = LazyLock::new(|| {
    let mut all = HashMap::new();
    for (name, raw) in builtin::definitions().raw().filter(|(_, raw)| raw.get().contains(MARK)) {
        let schema: Value = serde_json::from_str(raw.get()).unwrap_or_default();
        for gvk in schema[MARK].as_array().into_iter().flatten() {
            let text = |key: &str| gvk[key].as_str().unwrap_or_default();
            let gvk = GroupVersionKind::new(text("group"), text("version"), text("kind"));
            all.insert(gvk, name.to_owned());
        }
    }
    all
});

/// The schemas of one document.
pub(super) struct Schemas<'t> {
    version: Version,
    texts: &'t Descriptions,
    done: BTreeMap<String, Value>,
    wanted: BTreeSet<String>,
}

impl<'t> Schemas<'t> {
    pub(super) fn new(version: Version, texts: &'t Descriptions) -> Self {
        Self { version, texts, done: BTreeMap::new(), wanted: BTreeSet::new() }
    }

    /// Adds a kind and its list; returns the kind's name among the schemas.
    pub(super) fn add_kind(&mut self, kind: &Kind) -> String {
        let descriptor = &kind.descriptor;
        let name = match descriptor.schema.name() {
            Some(name) if descriptor.builtin => self.add_published(descriptor, name),
            _ => self.add_custom(kind),
        };
        self.add_list(descriptor, &name);
        name
    }

    /// Adds a kind by its definition; returns its name. An older version whose fields are those of the one that is defined
    /// gets a schema of its own, which names that version: clients find schemas by group, version and kind.
    fn add_published(&mut self, descriptor: &Descriptor, defined: &str) -> String {
        let own = GroupVersionKind::new(&descriptor.group, &descriptor.version, &descriptor.kind);
        let older = match defined.rsplit_once(&format!(".{}", descriptor.kind)).map(|(place, _)| place) {
            Some(place) if !KINDS.contains_key(&own) => place.rsplit_once('.').map(|(place, _)| place),
            _ => None,
        };
        let Some(place) = older else { return self.want(defined) };
        let name = format!("{place}.{}.{}", descriptor.version, descriptor.kind);
        let mut schema = self.published(defined);
        schema[MARK] = json!([gvk(&own.group, &own.version, &own.kind)]);
        self.done.insert(name.clone(), schema);
        name
    }

    /// Adds one of Kubernetes' own kinds; returns its name among the schemas, if there is such a kind.
    pub(super) fn add_builtin(&mut self, kind: &GroupVersionKind) -> Option<String> {
        let name = KINDS.get(kind)?;
        Some(self.want(name))
    }

    /// Adds a definition of `meta/v1`; returns its name.
    pub(super) fn add_meta(&mut self, kind: &str) -> String {
        self.want(&format!("{META}{kind}"))
    }

    /// The schemas, by name.
    pub(super) fn take(mut self) -> BTreeMap<String, Value> {
        while let Some(name) = self.wanted.pop_first() {
            if !self.done.contains_key(&name) {
                let schema = self.published(&name);
                self.done.insert(name, schema);
            }
        }
        self.done
    }

    /// What a field is for that every kind has.
    fn common_text(&self, field: &str) -> &str {
        let fields = self.texts.texts.get(&format!("{META}Status"));
        fields.and_then(|fields| fields.get(field)).map(String::as_str).unwrap_or_default()
    }

    /// Adds a definition; returns its name.
    pub(super) fn want(&mut self, name: &str) -> String {
        self.wanted.insert(name.to_owned());
        name.to_owned()
    }

    fn add_list(&mut self, descriptor: &Descriptor, name: &str) {
        let meta = self.add_meta("ListMeta");
        let text = |field: &str| self.common_text(field);
        let mut list = json!({
            "description": format!("{} is a list of {}", descriptor.list_kind, descriptor.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string", "description": text("apiVersion")},
                "kind": {"type": "string", "description": text("kind")},
                "metadata": self.version.reference(&meta),
                "items": {
                    "type": "array", "items": self.version.reference(name),
                    "description": format!(
                        "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
                        descriptor.plural
                    ),
                },
            },
            MARK: [gvk(&descriptor.group, &descriptor.version, &descriptor.list_kind)],
        });
        if let Some(fields) = selectable(descriptor) {
            list["x-kubernetes-selectable-fields"] = fields;
        }
        self.done.insert(format!("{name}List"), list);
    }

    /// One of the published definitions, with its texts.
    fn published(&mut self, name: &str) -> Value {
        let found = builtin::definitions().raw().find(|(known, _)| *known == name);
        let mut schema: Value = found
            .and_then(|(_, raw)| serde_json::from_str(raw.get()).ok())
            .unwrap_or_else(|| json!({"type": "object"}));
        if let Some(texts) = self.texts.texts.get(name) {
            describe(&mut schema, texts);
        }
        for (place, values) in self.texts.values.get(name).into_iter().flatten() {
            if let Some(node) = schema["properties"].pointer_mut(&format!("/{place}")) {
                node["enum"] = json!(values);
            }
        }
        self.publish(&mut schema);
        schema
    }

    /// Turns what the server goes by into what is published, node by node.
    fn publish(&mut self, node: &mut Value) {
        let Some(fields) = node.as_object_mut() else { return };
        // The server's own mark of what it does not look into: in a published schema it would mean more than that.
        fields.remove("x-kubernetes-preserve-unknown-fields");
        if fields.remove("x-kubernetes-int-or-string").is_some() {
            self.int_or_string(fields);
        }
        for key in ["items", "additionalProperties"] {
            fields.get_mut(key).into_iter().for_each(|inner| self.publish(inner));
        }
        if let Some(Value::Object(properties)) = fields.get_mut("properties") {
            properties.iter_mut().for_each(|(_, property)| self.publish(property));
        }
        self.refer(fields);
    }

    fn int_or_string(&self, fields: &mut Map<String, Value>) {
        let quantity = fields.get("format").is_some_and(|format| format == "quantity");
        if quantity {
            fields.remove("format");
        }
        match self.version {
            Version::V2 => fields.insert("type".to_owned(), json!("string")),
            Version::V3 if quantity => {
                fields.insert("oneOf".to_owned(), json!([{"type": "string"}, {"type": "number"}]))
            }
            Version::V3 => {
                fields.insert("oneOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]))
            }
        };
    }

    /// Takes note of a reference and writes it as the version has it.
    fn refer(&mut self, fields: &mut Map<String, Value>) {
        let name = fields.get("$ref").and_then(Value::as_str).and_then(|target| target.rsplit('/').next());
        let Some(name) = name.map(str::to_owned) else { return };
        fields.remove("$ref");
        let reference = self.version.reference(&name);
        if self.version == Version::V3 && !fields.is_empty() {
            // Beside a reference nothing counts, so what is said in this place stands around it.
            fields.insert("allOf".to_owned(), json!([reference]));
        } else {
            fields.insert("$ref".to_owned(), reference["$ref"].clone());
        }
        self.wanted.insert(name);
    }

    /// Adds a custom kind as its definition has it.
    fn add_custom(&mut self, kind: &Kind) -> String {
        let descriptor = &kind.descriptor;
        let reversed: Vec<&str> = descriptor.group.rsplit('.').collect();
        let name = format!("{}.{}.{}", reversed.join("."), descriptor.version, descriptor.kind);
        let definition =
            kind.resource.definition.as_ref().map(|entry| entry.decode_stored()).unwrap_or_default();
        let versions = definition["spec"]["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let version = versions.iter().find(|version| version["name"] == descriptor.version.as_str());
        let mut schema =
            version.map(|version| version["schema"]["openAPIV3Schema"].clone()).unwrap_or_default();
        // What says nothing of its fields, or wants all of them kept, says nothing here either.
        let open = definition["spec"]["preserveUnknownFields"] == true
            || schema["x-kubernetes-preserve-unknown-fields"] == true;
        if !schema.is_object() || (open && self.version == Version::V2) {
            schema = json!({"type": "object"});
        } else {
            if self.version == Version::V2 {
                for_second_version(&mut schema);
            }
            self.complete(&mut schema);
            self.embed(&mut schema);
        }
        if let Some(fields) = selectable(descriptor) {
            schema["x-kubernetes-selectable-fields"] = fields;
        }
        schema[MARK] = json!([gvk(&descriptor.group, &descriptor.version, &descriptor.kind)]);
        self.done.insert(name.clone(), schema);
        name
    }

    /// The fields that every object has and no definition declares.
    fn complete(&mut self, schema: &mut Value) {
        for field in ["apiVersion", "kind"] {
            schema["properties"][field] = json!({"type": "string", "description": self.common_text(field)});
        }
        self.add_metadata(schema);
    }

    fn add_metadata(&mut self, schema: &mut Value) {
        let meta = self.add_meta("ObjectMeta");
        let mut property = json!({
            "$ref": format!("#/definitions/{meta}"),
            "description": "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
        });
        self.publish(&mut property);
        schema["properties"]["metadata"] = property;
    }

    /// Gives what is an object inside a custom one the fields that every object has, and says what numbers that may
    /// be texts are.
    fn embed(&mut self, schema: &mut Value) {
        for key in ["items", "additionalProperties"] {
            schema
                .get_mut(key)
                .filter(|inner| inner.is_object())
                .into_iter()
                .for_each(|inner| self.embed(inner));
        }
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            properties.iter_mut().for_each(|(_, property)| self.embed(property));
        }
        let third = self.version == Version::V3;
        if third && schema["x-kubernetes-int-or-string"] == true && schema.get("anyOf").is_none() {
            schema["anyOf"] = json!([{"type": "integer"}, {"type": "string"}]);
        }
        let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
        if schema["x-kubernetes-embedded-resource"] != true || (open && !third) {
            return;
        }
        schema["properties"]["apiVersion"] = json!({"type": "string", "description": "apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"});
        schema["properties"]["kind"] = json!({"type": "string", "description": "kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"});
        self.add_metadata(schema);
        let mut required = schema["required"].as_array().cloned().unwrap_or_default();
        for field in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == field) {
                required.push(json!(field));
            }
        }
        schema["required"] = json!(required);
    }
}

/// The fields of a custom kind that lists can be filtered by, as an extension has them.
fn selectable(descriptor: &Descriptor) -> Option<Value> {
    if descriptor.builtin || descriptor.selectable_fields.is_empty() {
        return None;
    }
    let fields = descriptor.selectable_fields.iter();
    Some(fields.map(|field| json!({"fieldPath": field.trim_start_matches('.')})).collect())
}

/// Group, version and kind as an extension has them.
pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Puts the texts of a definition in their places.
fn describe(schema: &mut Value, texts: &HashMap<String, String>) {
    if let Some(text) = texts.get("") {
        schema["description"] = json!(text);
    }
    for (field, property) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
    {
        if let (Some(text), Some(property)) = (texts.get(field), property.as_object_mut()) {
            property.insert("description".to_owned(), json!(text));
        }
    }
}

/// Takes out of a custom kind's schema what the second version of OpenAPI cannot say, or what its clients
/// stumble over, as Kubernetes does it: branches, nullable values, and the insides of what is open.
fn for_second_version(schema: &mut Value) {
    let Some(node) = schema.as_object_mut() else { return };
    for key in ["allOf", "oneOf", "anyOf", "not", "default"] {
        node.remove(key);
    }
    if node.remove("nullable") == Some(Value::Bool(true)) {
        for key in ["type", "items", "properties"] {
            node.remove(key);
        }
    }
    let open = node.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if open {
        for key in ["items", "properties"] {
            node.remove(key);
        }
    }
    let kind = node.get("type").and_then(Value::as_str).unwrap_or_default();
    if (kind == "array" && !node.contains_key("items")) || (kind == "object" && open) {
        node.remove("type");
    }
    let nullable: Vec<String> = node
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| property["nullable"] == true)
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(Value::Array(required)) = node.get_mut("required") {
        required.retain(|name| name.as_str().is_none_or(|name| !nullable.iter().any(|one| one == name)));
        if required.is_empty() {
            node.remove("required");
        }
    }
    for key in ["items", "additionalProperties"] {
        node.get_mut(key).into_iter().for_each(for_second_version);
    }
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.iter_mut().for_each(|(_, property)| for_second_version(property));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_leaves_out_what_it_cannot_say() {
        let mut schema = json!({
            "type": "object", "required": ["a", "b"],
            "properties": {
                "a": {"type": "object", "nullable": true, "properties": {"x": {"type": "string"}}},
                "b": {"type": "array", "items": {"anyOf": [{"type": "string"}], "x-kubernetes-int-or-string": true}},
                "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {}}},
                "d": {"type": "array", "x-kubernetes-preserve-unknown-fields": true, "items": {}},
            },
        });
        for_second_version(&mut schema);
        assert_eq!(
            schema,
            json!({
                "type": "object", "required": ["b"],
                "properties": {
                    "a": {},
                    "b": {"type": "array", "items": {"x-kubernetes-int-or-string": true}},
                    "c": {"x-kubernetes-preserve-unknown-fields": true},
                    "d": {"x-kubernetes-preserve-unknown-fields": true},
                },
            })
        );
    }

    #[test]
    fn built_in_kinds_come_with_texts_and_all_that_they_refer_to() {
        let texts = builtin::descriptions();
        for version in [Version::V2, Version::V3] {
            let mut schemas = Schemas::new(version, &texts);
            let pod = schemas.add_builtin(&GroupVersionKind::new("", "v1", "Pod")).expect("a kind");
            assert_eq!(schemas.add_builtin(&GroupVersionKind::new("x", "v1", "Pod")), None);
            let all = schemas.take();
            let spec = &all[&pod]["properties"]["spec"];
            assert!(spec["description"].as_str().is_some_and(|text| text.starts_with("Specification of")));
            let reference = if version == Version::V2 { &spec["$ref"] } else { &spec["allOf"][0]["$ref"] };
            assert_eq!(*reference, format!("{}io.k8s.api.core.v1.PodSpec", version.prefix()));
            let text = json!(all).to_string();
            assert!(!text.contains("x-kubernetes-int-or-string"), "it is no custom kind");
            for found in text.split("\"$ref\":\"").skip(1) {
                let target = found.split('"').next().unwrap_or_default();
                let name = target.strip_prefix(version.prefix()).expect("a reference of this version");
                assert!(all.contains_key(name), "{name}");
            }
        }
    }
}
