//! CustomResourceDefinitions: from the object to the [`Descriptor`]s of its versions.
//!
//! [`validate`] says what is wrong with a definition, [`status`] what becomes of its names.

mod schema;
pub mod status;
mod structural;
#[cfg(test)]
mod tests;
mod validate;

pub use validate::{validate, validate_update};

use std::sync::Arc;

use serde_json::{Value, json};

use crate::builtin::{ALL_VERBS, object_meta};
use crate::descriptor::{Descriptor, PlainStrategy, ScalePaths};
use crate::error::{ApiError, FieldError};
use crate::lookup::{at, list, text};
use crate::schema::{Additional, Schema, SchemaRef, SchemaType};
use crate::table::{Column, JsonPath};
use crate::validations::Rules;
use crate::{GroupVersionKind, Object};

/// Finalizer of a definition whose objects are still there.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
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
    let one = |error: FieldError| vec![error];
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
    let schema = root_schema(version, &path).map_err(one)?;
    let source = &version["schema"]["openAPIV3Schema"];
    let rules = Rules::compile(source, &schema, &format!("{path}.schema.openAPIV3Schema"))?;
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
        schema,
        rules: rules.map(Arc::new),
        columns: columns(version, &path).map_err(one)?,
        cells: None,
        status_subresource: subresources.get("status").is_some(),
        scale: scale_paths(subresources, &path).map_err(one)?,
        subresources: Vec::new(),
        verbs: ALL_VERBS.iter().map(|verb| (*verb).to_owned()).collect(),
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
        let field = format!("{path}.type");
        let why = format!("must be one of {}", KINDS.join(","));
        if kind.is_empty() {
            return Err(FieldError::required(field, why));
        } else if !KINDS.contains(&kind) {
            return Err(FieldError::invalid(field, kind, why));
        }
        let format = text(column, &["format"]);
        const FORMATS: [&str; 9] =
            ["byte", "date", "date-time", "double", "float", "int32", "int64", "password", ""];
        if !FORMATS.contains(&format) {
            let why = format!("must be one of {}", FORMATS[..8].join(","));
            return Err(FieldError::invalid(format!("{path}.format"), format, why));
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
