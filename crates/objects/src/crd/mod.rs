//! CustomResourceDefinitions: from the object to the [`Descriptor`]s of its versions.
//!
//! [`validate`] says what is wrong with a definition, [`status`] what becomes of its names.

mod formats;
mod hook;
mod parts;
mod schema;
pub mod status;
mod structural;
#[cfg(test)]
mod tests;
mod validate;

pub use formats::warnings;
pub use validate::{validate, validate_create, validate_update, wrong_name};

use std::sync::Arc;

use serde_json::{Value, json};

use crate::builtin::object_meta;
use crate::descriptor::{Descriptor, PlainStrategy, ScalePaths};
use crate::error::{ApiError, FieldError};
use crate::lookup::{at, list, text};
use crate::schema::{Additional, Schema, SchemaRef, SchemaType};
use crate::table::{Column, JsonPath};
use crate::validations::Rules;
use crate::{GroupVersionKind, Object};

/// Finalizer of a definition whose objects are still there.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// What can be done with every custom kind, in the order that discovery shows.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// Most printer columns of one version.
const MAX_COLUMNS: usize = 64;

/// The descriptors of all versions, those that are not served too.
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
        .map(|(index, version)| descriptor(crd, version, index).map_err(|errors| refuse(&errors)))
        .collect()
}

fn descriptor(crd: &Object, version: &Value, index: usize) -> Result<Descriptor, Vec<FieldError>> {
    let names = &crd["spec"]["names"];
    let texts = |key: &str| -> Vec<String> {
        list(names, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let or = |key: &str, default: String| match text(names, &[key]) {
        "" => default,
        given => given.to_owned(),
    };
    let kind = text(names, &["kind"]).to_owned();
    let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
    let source = at(version, &["schema", "openAPIV3Schema"])
        .ok_or_else(|| vec![FieldError::required(path.as_str(), "")])?;
    let schema = root_schema(source, &path).map_err(|error| vec![error])?;
    let rules = Rules::compile(source, &schema, &path)?;
    let subresources = &version["subresources"];
    let selectable = list(version, &["selectableFields"])
        .iter()
        .map(|field| text(field, &["jsonPath"]).trim_start_matches('.').to_owned());
    let group = text(crd, &["spec", "group"]).to_owned();
    let version_name = text(version, &["name"]).to_owned();
    let deprecation = (version["deprecated"] == true).then(|| match text(version, &["deprecationWarning"]) {
        "" => deprecated(crd, &group, &version_name, &kind),
        given => given.to_owned(),
    });
    Ok(Descriptor {
        list_kind: or("listKind", format!("{kind}List")),
        plural: text(names, &["plural"]).to_owned(),
        singular: or("singular", kind.to_lowercase()),
        short_names: texts("shortNames"),
        categories: texts("categories"),
        namespaced: text(crd, &["spec", "scope"]) != "Cluster",
        schema,
        rules: rules.map(Arc::new),
        columns: columns(version),
        cells: None,
        status_subresource: subresources.get("status").is_some(),
        scale: scale_paths(subresources),
        subresources: Vec::new(),
        verbs: VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
        strategy: Arc::new(PlainStrategy),
        builtin: false,
        served: version["served"] == true,
        storage_version: version["storage"] == true,
        conversion: None,
        selectable_fields: selectable.collect(),
        deprecation,
        group,
        version: version_name,
        kind,
    })
}

/// What clients are told of a version whose definition does not say it: with a better version, where there is one.
fn deprecated(crd: &Object, group: &str, version: &str, kind: &str) -> String {
    let others = list(crd, &["spec", "versions"]).iter().filter(|other| other["served"] == true);
    let better = others
        .filter(|other| other["deprecated"] != true)
        .map(|other| text(other, &["name"]))
        .filter(|other| version_priority(other) > version_priority(version))
        .max_by_key(|other| version_priority(other));
    let hint = better.map(|better| format!("; use {group}/{better} {kind}")).unwrap_or_default();
    format!("{group}/{version} {kind} is deprecated{hint}")
}

/// Kubernetes' order of versions: stable before beta before alpha, higher before lower, others last.
pub fn version_priority(version: &str) -> (u8, u64, u64) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, tail) = rest.split_at(digits);
    let Ok(major) = major.parse() else { return (0, 0, 0) };
    match tail {
        "" => (3, major, 0),
        tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(minor), _) => (2, major, minor.parse().unwrap_or(0)),
            (_, Some(minor)) => (1, major, minor.parse().unwrap_or(0)),
            _ => (0, 0, 0),
        },
    }
}

/// The version's schema with apiVersion, kind and metadata as every object has them.
fn root_schema(source: &Value, path: &str) -> Result<SchemaRef, FieldError> {
    let parse = |source: &Value| {
        SchemaRef::from_openapi(source)
            .map_err(|error| FieldError::invalid(format!("{path}{}", error.path), error.value, error.message))
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

/// The columns of a version. One that cannot be read makes them the usual ones.
fn columns(version: &Value) -> Vec<Column> {
    let given = list(version, &["additionalPrinterColumns"]);
    let usual = || vec![Column::name(), Column::age()];
    if given.is_empty() {
        return usual();
    }
    let column = |column: &Value| {
        let priority = column["priority"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
        let (name, kind) = (text(column, &["name"]), text(column, &["type"]));
        let path = text(column, &["jsonPath"]);
        let description = match text(column, &["description"]) {
            "" => format!("Custom resource definition column (in JSONPath format): {path}"),
            given => given.to_owned(),
        };
        let mut out = Column::new(name, kind, priority, &description);
        out.format = text(column, &["format"]).to_owned();
        out.path = Some(JsonPath::parse(path).ok()?);
        Some(out)
    };
    let read: Option<Vec<Column>> = given.iter().take(MAX_COLUMNS).map(column).collect();
    read.map_or_else(usual, |columns| [vec![Column::name()], columns].concat())
}

/// The paths of the scale: fields between dots.
fn scale_paths(subresources: &Value) -> Option<ScalePaths> {
    let scale = subresources.get("scale").filter(|scale| scale.is_object())?;
    let fields = |key: &str| {
        let path = text(scale, &[key]).strip_prefix('.')?;
        Some(path.split('.').map(str::to_owned).collect::<Vec<_>>())
    };
    Some(ScalePaths {
        spec_replicas: fields("specReplicasPath")?,
        status_replicas: fields("statusReplicasPath")?,
        selector: fields("labelSelectorPath"),
    })
}
