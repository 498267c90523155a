//! CustomResourceDefinitions: from the object to the [`Descriptor`]s of its versions.
//!
//! CEL rules (`x-kubernetes-validations`) are stored but not evaluated, and conversion between
//! versions changes nothing but `apiVersion`; [`warnings`] tells a client so.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::builtin::{ALL_VERBS, object_meta};
use crate::descriptor::{Descriptor, PlainStrategy, ScalePaths};
use crate::error::{ApiError, FieldError};
use crate::lookup::{at, entries, list, text};
use crate::meta::{dns_label, dns_subdomain};
use crate::schema::{Additional, Schema, SchemaRef, SchemaType};
use crate::table::{Column, JsonPath};
use crate::{GroupVersionKind, Object, meta};

/// Most versions of one kind.
const MAX_VERSIONS: usize = 32;
/// Most printer columns of one version.
const MAX_COLUMNS: usize = 64;

/// The descriptors of all served versions.
///
/// # Errors
/// 422 for a definition that [`validate`] would refuse.
pub fn descriptors(crd: &Object) -> Result<Vec<Descriptor>, ApiError> {
    let refuse = |errors: &[FieldError]| {
        let kind = GroupVersionKind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        ApiError::invalid(&kind, text(crd, &["metadata", "name"]), errors)
    };
    let versions = list(crd, &["spec", "versions"]).iter().enumerate();
    versions
        .filter(|(_, version)| version["served"] == true)
        .map(|(index, version)| descriptor(crd, version, index).map_err(|error| refuse(&[error])))
        .collect()
}

fn descriptor(crd: &Object, version: &Value, index: usize) -> Result<Descriptor, FieldError> {
    let names = &crd["spec"]["names"];
    let texts = |key: &str| -> Vec<String> {
        list(names, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let or = |key: &str, default: String| match text(names, &[key]) {
        "" => default,
        given => given.to_owned(),
    };
    let kind = text(names, &["kind"]).to_owned();
    let path = format!("spec.versions[{index}]");
    let subresources = &version["subresources"];
    let selectable = list(version, &["selectableFields"])
        .iter()
        .map(|field| text(field, &["jsonPath"]).trim_start_matches('.').to_owned());
    let group = text(crd, &["spec", "group"]).to_owned();
    let version_name = text(version, &["name"]).to_owned();
    let deprecation = (version["deprecated"] == true).then(|| match text(version, &["deprecationWarning"]) {
        "" => format!("{group}/{version_name} {kind} is deprecated"),
        given => given.to_owned(),
    });
    Ok(Descriptor {
        list_kind: or("listKind", format!("{kind}List")),
        plural: text(names, &["plural"]).to_owned(),
        singular: or("singular", kind.to_lowercase()),
        short_names: texts("shortNames"),
        categories: texts("categories"),
        namespaced: text(crd, &["spec", "scope"]) != "Cluster",
        schema: root_schema(version, &path)?,
        columns: columns(version, &path)?,
        cells: None,
        status_subresource: subresources.get("status").is_some(),
        scale: scale_paths(subresources, &path)?,
        subresources: Vec::new(),
        verbs: ALL_VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
        strategy: Arc::new(PlainStrategy),
        builtin: false,
        storage_version: version["storage"] == true,
        selectable_fields: selectable.collect(),
        deprecation,
        group,
        version: version_name,
        kind,
    })
}

/// The version's schema with apiVersion, kind and metadata as every object has them.
fn root_schema(version: &Value, path: &str) -> Result<SchemaRef, FieldError> {
    let path = format!("{path}.schema.openAPIV3Schema");
    let Some(source) = at(version, &["schema", "openAPIV3Schema"]) else {
        return Err(FieldError::required(path, "schemas are required"));
    };
    let parse = |source: &Value| {
        SchemaRef::from_openapi(source)
            .map_err(|error| FieldError::invalid(format!("{path}{}", error.path), Value::Null, error.message))
    };
    let mut root: Schema = (*parse(source)?).clone();
    let plain = |kind| SchemaRef::inline(Schema { kind, ..Schema::default() });
    root.kind = SchemaType::Object;
    for key in ["apiVersion", "kind"] {
        root.properties.insert(key.to_owned(), plain(SchemaType::String));
    }
    let mut metadata = object_meta();
    // A definition may restrict names, which counts on top of what holds for all metadata.
    if let Some(own) = at(source, &["properties", "metadata", "properties"]) {
        let mut schema: Schema = (*metadata).clone();
        schema.limits.all_of.push(parse(&json!({"properties": own}))?);
        metadata = SchemaRef::inline(schema);
    }
    root.properties.insert("metadata".to_owned(), metadata);
    if matches!(root.additional, Additional::Any) {
        root.preserve_unknown = true;
    }
    Ok(SchemaRef::inline(root))
}

fn columns(version: &Value, path: &str) -> Result<Vec<Column>, FieldError> {
    let given = list(version, &["additionalPrinterColumns"]);
    let mut columns = vec![Column::name()];
    if given.is_empty() {
        columns.push(Column::age());
    }
    if given.len() > MAX_COLUMNS {
        let field = format!("{path}.additionalPrinterColumns");
        return Err(FieldError::too_many(field, given.len() as u64, MAX_COLUMNS as u64));
    }
    for (index, column) in given.iter().enumerate() {
        let path = format!("{path}.additionalPrinterColumns[{index}]");
        let name = text(column, &["name"]);
        if name.is_empty() {
            return Err(FieldError::required(format!("{path}.name"), ""));
        }
        let kind = text(column, &["type"]);
        const KINDS: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
        if !KINDS.contains(&kind) {
            return Err(FieldError::not_supported(format!("{path}.type"), kind, &KINDS));
        }
        let source = text(column, &["jsonPath"]);
        let parsed = JsonPath::parse(source)
            .map_err(|error| FieldError::invalid(format!("{path}.jsonPath"), source, error.to_string()))?;
        let priority = column["priority"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        let mut out = Column::new(name, kind, priority, text(column, &["description"]));
        out.format = text(column, &["format"]).to_owned();
        out.path = Some(parsed);
        columns.push(out);
    }
    Ok(columns)
}

fn scale_paths(subresources: &Value, path: &str) -> Result<Option<ScalePaths>, FieldError> {
    let Some(scale) = subresources.get("scale").filter(|scale| scale.is_object()) else { return Ok(None) };
    let fields = |key: &str| {
        let source = text(scale, &[key]);
        let fields = JsonPath::parse(source).ok().and_then(|path| path.plain_fields());
        fields.filter(|fields| !fields.is_empty()).ok_or_else(|| {
            let why = "must be a JSON path of plain fields, like .spec.replicas";
            FieldError::invalid(format!("{path}.subresources.scale.{key}"), source, why)
        })
    };
    let selector = match text(scale, &["labelSelectorPath"]) {
        "" => None,
        _ => Some(fields("labelSelectorPath")?),
    };
    Ok(Some(ScalePaths {
        spec_replicas: fields("specReplicasPath")?,
        status_replicas: fields("statusReplicasPath")?,
        selector,
    }))
}

/// All that is wrong with a definition, beyond its own schema.
pub fn validate(crd: &Object) -> Vec<FieldError> {
    let mut errors = validate_names(crd);
    let versions = list(crd, &["spec", "versions"]);
    if versions.is_empty() {
        errors.push(FieldError::required(
            "spec.versions",
            "must have exactly one version marked as storage version",
        ));
        return errors;
    }
    if versions.len() > MAX_VERSIONS {
        errors.push(FieldError::too_many("spec.versions", versions.len() as u64, MAX_VERSIONS as u64));
        return errors;
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let names: Vec<&Value> = versions.iter().map(|version| &version["name"]).collect();
        let why = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", json!(names), why));
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let name = text(version, &["name"]);
        let field = format!("spec.versions[{index}].name");
        if let Some(why) = dns_label(name) {
            errors.push(FieldError::invalid(field, name, why));
        } else if !seen.insert(name) {
            errors.push(FieldError::invalid(field, name, "must be unique"));
        }
        errors.extend(validate_version(crd, version, index));
    }
    let strategy = text(crd, &["spec", "conversion", "strategy"]);
    if !matches!(strategy, "" | "None") {
        errors.push(FieldError::not_supported("spec.conversion.strategy", strategy, &["None"]));
    }
    errors
}

fn validate_names(crd: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let group = text(crd, &["spec", "group"]);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(why) = dns_subdomain(group) {
        errors.push(FieldError::invalid("spec.group", group, why));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
    let names = &crd["spec"]["names"];
    let plural = text(names, &["plural"]);
    for key in ["plural", "singular", "kind", "listKind"] {
        let given = text(names, &[key]);
        let field = format!("spec.names.{key}");
        if given.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if let Some(why) = dns_label(&given.to_lowercase()) {
            errors.push(FieldError::invalid(field, given, why));
        } else if matches!(key, "plural" | "singular") && given != given.to_lowercase() {
            errors.push(FieldError::invalid(field, given, "must be lower case"));
        }
    }
    if text(names, &["kind"]) == text(names, &["listKind"]) && !text(names, &["kind"]).is_empty() {
        let given = text(names, &["listKind"]);
        errors.push(FieldError::invalid(
            "spec.names.listKind",
            given,
            "kind and listKind may not be the same",
        ));
    }
    for key in ["shortNames", "categories"] {
        for (index, name) in list(names, &[key]).iter().filter_map(Value::as_str).enumerate() {
            if let Some(why) = dns_label(name) {
                errors.push(FieldError::invalid(format!("spec.names.{key}[{index}]"), name, why));
            }
        }
    }
    let name = text(crd, &["metadata", "name"]);
    if name != format!("{plural}.{group}") {
        errors.push(FieldError::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
    let scope = text(crd, &["spec", "scope"]);
    if !matches!(scope, "Cluster" | "Namespaced") {
        errors.push(FieldError::not_supported("spec.scope", scope, &["Cluster", "Namespaced"]));
    }
    errors
}

fn validate_version(crd: &Object, version: &Value, index: usize) -> Vec<FieldError> {
    let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
    // Building the descriptor is the check: what it needs is what must hold.
    let descriptor = match descriptor(crd, version, index) {
        Ok(descriptor) => descriptor,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    let source = &version["schema"]["openAPIV3Schema"];
    if text(source, &["type"]) != "object" {
        let field = format!("{path}.type");
        errors.push(FieldError::invalid(field, source["type"].clone(), "must be object at the root"));
    }
    structural(source, &path, true, &mut errors);
    valid_defaults(&descriptor.schema, &path, &mut errors, 0);
    errors
}

/// A schema must say the type of all that it names, so that pruning and merging know their way.
fn structural(source: &Value, path: &str, root: bool, errors: &mut Vec<FieldError>) {
    let flag = |key: &str| source.get(key) == Some(&Value::Bool(true));
    let untyped = text(source, &["type"]).is_empty();
    if untyped
        && !flag("x-kubernetes-int-or-string")
        && !flag("x-kubernetes-preserve-unknown-fields")
        && !root
    {
        let why = "must not be empty for specified object fields";
        errors.push(FieldError::required(format!("{path}.type"), why));
        return;
    }
    if text(source, &["type"]) == "array" {
        if !source["items"].is_object() {
            errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
        }
        if text(source, &["x-kubernetes-list-type"]) == "map"
            && list(source, &["x-kubernetes-list-map-keys"]).is_empty()
        {
            let field = format!("{path}.x-kubernetes-list-map-keys");
            errors.push(FieldError::required(field, "must not be empty if x-kubernetes-list-type is map"));
        }
    }
    if !source["properties"].is_null() && source["additionalProperties"].is_object() {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(format!("{path}.additionalProperties"), why));
    }
    for (name, property) in entries(source, &["properties"]) {
        if !(root && matches!(name.as_str(), "metadata" | "apiVersion" | "kind")) {
            structural(property, &format!("{path}.properties[{name}]"), false, errors);
        }
    }
    for key in ["items", "additionalProperties"] {
        if source[key].as_object().is_some_and(|inner| !inner.is_empty()) {
            structural(&source[key], &format!("{path}.{key}"), false, errors);
        }
    }
}

fn valid_defaults(schema: &Schema, path: &str, errors: &mut Vec<FieldError>, depth: usize) {
    if depth > crate::schema::MAX_SCHEMA_DEPTH {
        return;
    }
    for (name, property) in schema.properties.iter().filter(|(name, _)| depth > 0 || *name != "metadata") {
        let path = format!("{path}.properties[{name}]");
        if let Some(default) = &property.default
            && let Some(error) = property.validate(default).first()
        {
            errors.push(FieldError::invalid(format!("{path}.default"), default.clone(), error.body()));
        }
        valid_defaults(property, &path, errors, depth + 1);
    }
    if let Some(items) = &schema.items {
        valid_defaults(items, &format!("{path}.items"), errors, depth + 1);
    }
    if let Additional::Schema(inner) = &schema.additional {
        valid_defaults(inner, &format!("{path}.additionalProperties"), errors, depth + 1);
    }
}

/// The status of a definition that is served: names accepted, established, versions that objects
/// may be stored in. Times of conditions that hold already are kept.
pub fn established_status(crd: &Object, now: jiff::Timestamp) -> Value {
    let mut stored: Vec<Value> = list(crd, &["status", "storedVersions"]).to_vec();
    for version in list(crd, &["spec", "versions"]) {
        if version["storage"] == true && !stored.contains(&version["name"]) {
            stored.push(version["name"].clone());
        }
    }
    let condition = |kind: &str, reason: &str, message: &str| {
        let before = list(crd, &["status", "conditions"])
            .iter()
            .find(|each| text(each, &["type"]) == kind && text(each, &["status"]) == "True");
        let since = before.map_or_else(|| json!(meta::time(now)), |each| each["lastTransitionTime"].clone());
        json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since})
    };
    json!({
        "acceptedNames": crd["spec"]["names"],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": stored,
    })
}

/// What in a definition is accepted but has no effect.
pub fn warnings(crd: &Object) -> Vec<String> {
    fn find(value: &Value, path: &str, found: &mut Vec<String>) {
        const SHOWN: usize = 8;
        match value {
            Value::Object(map) if found.len() < SHOWN => {
                for (key, inner) in map {
                    if key == "x-kubernetes-validations" && inner.is_array() {
                        found.push(format!("{path}.{key}: CEL rules are stored but not evaluated"));
                    }
                    find(inner, &format!("{path}.{key}"), found);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    find(item, &format!("{path}[{index}]"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    find(&crd["spec"]["versions"], "spec.versions", &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FieldValidation, table};

    fn crd() -> Object {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "crontabs.stable.example.com"},
            "spec": {
                "group": "stable.example.com", "scope": "Namespaced",
                "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList", "shortNames": ["ct"]},
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                    "additionalPrinterColumns": [
                        {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
                    ],
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                        "spec": {"type": "object", "required": ["cronSpec"], "properties": {
                            "cronSpec": {"type": "string"},
                            "replicas": {"type": "integer", "minimum": 1, "default": 1}
                        }},
                        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
                    }}}
                }]
            }
        })
    }

    #[test]
    fn a_definition_becomes_a_served_kind() {
        assert_eq!(validate(&crd()), []);
        let descriptors = descriptors(&crd()).unwrap();
        let kind = &descriptors[0];
        assert_eq!(kind.api_version(), "stable.example.com/v1");
        assert!(kind.status_subresource && kind.storage_version && kind.namespaced);
        assert_eq!(kind.scale.as_ref().unwrap().spec_replicas, ["spec", "replicas"]);

        let mut object = json!({
            "apiVersion": "stable.example.com/v1", "kind": "CronTab",
            "metadata": {"name": "a", "namespace": "n", "creationTimestamp": null, "bogus": 1},
            "spec": {"cronSpec": "* * * * *", "extra": true}
        });
        let warnings = kind.decode(&mut object, FieldValidation::Warn, &[]).unwrap();
        assert_eq!(warnings, ["unknown field \"metadata.bogus\"", "unknown field \"spec.extra\""]);
        kind.prepare_create(&mut object);
        kind.default(&mut object);
        kind.validate_create(&object).unwrap();
        assert_eq!(object["spec"], json!({"cronSpec": "* * * * *", "replicas": 1}));

        let mut newer = object.clone();
        newer["spec"]["replicas"] = json!("x");
        let error = kind.validate_update(&newer, &object).unwrap_err();
        assert_eq!(
            error.message(),
            "CronTab.stable.example.com \"a\" is invalid: spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""
        );
        newer["spec"]["replicas"] = json!(3);
        newer["status"] = json!({"forged": 1});
        kind.prepare_update(&mut newer, &object);
        assert_eq!(newer["metadata"]["generation"], 2);
        assert!(newer.get("status").is_none());

        let mut strict = object.clone();
        strict["spec"]["foo"] = json!(1);
        let error = kind.decode(&mut strict, FieldValidation::Strict, &[]).unwrap_err();
        assert_eq!(error.code(), 400);
        assert!(error.message().ends_with("strict decoding error: unknown field \"spec.foo\""), "{error}");
    }

    #[test]
    fn rows_follow_the_columns() {
        let kind = descriptors(&crd()).unwrap().remove(0);
        let object = json!({
            "metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"cronSpec": "x"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}
        });
        let now = "2024-01-01T00:03:00Z".parse().unwrap();
        let table = table::render(&kind, [&object], table::IncludeObject::Metadata, now, json!({}));
        assert_eq!(table["rows"][0]["cells"], json!(["a", "x", "True", "3m"]));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    }

    #[test]
    fn bad_definitions_are_refused_by_field() {
        let cases: [(&str, Value, &str); 6] = [
            ("/metadata/name", json!("x"), "metadata.name"),
            ("/spec/versions/0/storage", json!(false), "spec.versions"),
            (
                "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/cronSpec",
                json!({}),
                "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[cronSpec].type",
            ),
            (
                "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/replicas/default",
                json!(0),
                "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[replicas].default",
            ),
            (
                "/spec/versions/0/additionalPrinterColumns/0/jsonPath",
                json!("spec"),
                "spec.versions[0].additionalPrinterColumns[0].jsonPath",
            ),
            ("/spec/scope", json!("Everywhere"), "spec.scope"),
        ];
        for (pointer, value, field) in cases {
            let mut bad = crd();
            *bad.pointer_mut(pointer).unwrap() = value;
            let errors = validate(&bad);
            assert_eq!(errors.first().map(|error| error.field.as_str()), Some(field), "{errors:?}");
        }
    }

    #[test]
    fn an_established_definition_says_so() {
        let status = established_status(&crd(), "2024-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(status["storedVersions"], json!(["v1"]));
        assert_eq!(status["conditions"][1]["type"], "Established");
        assert_eq!(status["acceptedNames"]["plural"], "crontabs");
    }
}
