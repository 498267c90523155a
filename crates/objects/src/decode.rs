//! From a body to an object of a kind: what it says it is, unknown and repeated fields, wrong types.

use serde_json::{Value, json};

use crate::codec::NO_KIND;
use crate::golang::{self, type_name};
use crate::lookup::text;
use crate::schema::Schema;
use crate::{ApiError, Descriptor, FieldError, FieldValidation, GroupVersionKind, Object, builtin, protobuf};

impl Descriptor {
    /// Brings a body into shape, and says what of it was odd, as [`shape`](Self::shape) and
    /// [`judge`] do. `duplicates` are those that the codec found. Returns warnings.
    ///
    /// # Errors
    /// 400: another kind than this one; with `Strict` an unknown or repeated field; a wrong type.
    pub fn decode(
        &self,
        object: &mut Object,
        mode: FieldValidation,
        duplicates: &[String],
    ) -> Result<Vec<String>, ApiError> {
        let unknown = self.shape(object)?;
        judge(&self.gvk(), mode, duplicates.iter().cloned().chain(unknown).collect())
    }

    /// Brings a body into shape: checks `apiVersion` and `kind` (fills them in where absent),
    /// drops fields that the schema does not know and nulls that mean absence, and for built-in
    /// kinds checks types. Returns what it dropped, as `unknown field "spec.x"`.
    ///
    /// # Errors
    /// 400: another kind than this one; a wrong type.
    pub fn shape(&self, object: &mut Object) -> Result<Vec<String>, ApiError> {
        check_type(object, &self.gvk(), self.builtin)?;
        self.drop_nulls(object);
        let unknown = self.shape_fields(object)?;
        self.drop_refused_nulls(object);
        self.drop_zeros(object);
        Ok(unknown)
    }

    /// Drops nulls of a custom kind that its schema refuses, as its objects are read. What is applied is not read so: it is refused.
    pub fn drop_refused_nulls(&self, object: &mut Object) {
        if !self.builtin {
            self.schema.drop_refused_nulls(object);
        }
    }

    /// Drops nulls that mean absence: of a custom kind only those of its metadata, since others may be a value.
    pub(crate) fn drop_nulls(&self, object: &mut Object) {
        if self.builtin {
            self.schema.drop_nulls(object);
        } else if let Some(metadata) = object.get_mut("metadata") {
            builtin::object_meta().drop_nulls(metadata);
        }
    }

    /// Drops empty values that a kind of Kubernetes' own cannot tell from absent ones.
    pub fn drop_zeros(&self, object: &mut Object) {
        if self.builtin {
            protobuf::drop_zeros(&self.api_version(), &self.kind, object);
        }
    }

    /// As [`shape`](Self::shape), for a configuration that is applied: its manager owns the empty values, too, and what it
    /// says to be null.
    ///
    /// # Errors
    /// As there.
    pub fn shape_applied(&self, object: &mut Object) -> Result<Vec<String>, ApiError> {
        check_type(object, &self.gvk(), self.builtin)?;
        self.shape_fields(object)
    }

    fn shape_fields(&self, object: &mut Object) -> Result<Vec<String>, ApiError> {
        if self.builtin {
            shape_builtin(object, &self.gvk(), &self.schema)
        } else {
            self.shape_custom(object).map_err(|why| cannot_handle(&self.gvk(), &why))
        }
    }

    fn shape_custom(&self, object: &mut Object) -> Result<Vec<String>, String> {
        // Metadata is read by the server itself, so its types matter before any validation.
        if let Some(why) = object.get("metadata").and_then(metadata_error) {
            return Err(why);
        }
        write_whole(object);
        let mut paths = self.schema.prune(object);
        // Metadata is read before the rest.
        paths.sort_by_cached_key(|path| (!path.starts_with("metadata."), path.clone()));
        paths.extend(self.schema.settle_embedded(object).map_err(|error| error.to_string())?);
        Ok(unknown(paths))
    }
}

/// Writes whole numbers without a dot, as Go does: typed readers of a custom kind would not take `80.0` for the integer that its schema
/// says it is.
fn write_whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            // Larger ones have no integer to stand for them.
            let whole = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0);
            if let Some(float) = whole.filter(|float| float.abs() < 9e15) {
                *value = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(write_whole),
        Value::Object(map) => map.values_mut().for_each(write_whole),
        _ => {}
    }
}

/// Reads a body of a kind that is not stored, such as a Binding: as [`Descriptor::shape`] does.
///
/// # Errors
/// 400: another kind than the wanted one; a wrong type.
pub fn shape_plain(
    object: &mut Object,
    wanted: &GroupVersionKind,
    schema: &Schema,
) -> Result<Vec<String>, ApiError> {
    check_type(object, wanted, true)?;
    schema.drop_nulls(object);
    shape_builtin(object, wanted, schema)
}

/// Why an object's metadata cannot be read, if it cannot.
pub(crate) fn metadata_error(metadata: &Value) -> Option<String> {
    if !metadata.is_object() {
        let what = type_name(metadata);
        return Some(format!("json: cannot unmarshal {what} into Go value of type v1.ObjectMeta"));
    }
    builtin::object_meta().unmarshal_error("ObjectMeta", metadata)
}

fn shape_builtin(
    object: &mut Object,
    wanted: &GroupVersionKind,
    schema: &Schema,
) -> Result<Vec<String>, ApiError> {
    if let Some(why) = schema.unmarshal_error(&wanted.kind, object) {
        return Err(cannot_handle(wanted, &why));
    }
    schema.canonical(object);
    Ok(unknown(schema.prune(object)))
}

fn unknown(paths: Vec<String>) -> Vec<String> {
    paths.into_iter().map(|path| format!("unknown field {path:?}")).collect()
}

/// What becomes of unknown and repeated fields in a body of this kind: a refusal, warnings, or nothing.
///
/// # Errors
/// 400 with `Strict`, where there are any.
pub fn judge(
    kind: &GroupVersionKind,
    mode: FieldValidation,
    findings: Vec<String>,
) -> Result<Vec<String>, ApiError> {
    match mode {
        FieldValidation::Strict if !findings.is_empty() => {
            Err(cannot_handle(kind, &format!("strict decoding error: {}", findings.join(", "))))
        }
        FieldValidation::Warn => Ok(findings),
        _ => Ok(Vec::new()),
    }
}

fn cannot_handle(kind: &GroupVersionKind, why: &str) -> ApiError {
    let GroupVersionKind { version, kind, .. } = kind;
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// Checks `apiVersion` and `kind`; fills them in where absent.
fn check_type(object: &mut Object, wanted: &GroupVersionKind, builtin: bool) -> Result<(), ApiError> {
    let api_version = wanted.api_version();
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!("the body must be a JSON object of kind {}", wanted.kind)));
    };
    map.entry("apiVersion").or_insert_with(|| json!(api_version));
    map.entry("kind").or_insert_with(|| json!(wanted.kind));
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    for field in ["apiVersion", "kind"] {
        if let Some(wrong) = object.get(field).filter(|value| !value.is_string()) {
            return Err(ApiError::bad_request(format!(
                "{NO_KIND}json: cannot unmarshal {} into Go struct field .{field} of type string",
                type_name(wrong)
            )));
        }
    }
    let given = GroupVersionKind::read(object);
    if given == *wanted {
        return Ok(());
    }
    let GroupVersionKind { version, kind, .. } = &given;
    Err(ApiError::bad_request(match misfit(&given, wanted) {
        Some(why) if builtin => {
            format!("{kind} in version {version:?} cannot be handled as a {}: {why}", wanted.kind)
        }
        _ if given.api_version() != api_version => format!(
            "the API version in the data ({}) does not match the expected API version ({api_version})",
            given.api_version()
        ),
        _ => {
            // Of custom kinds it is what is wrong with the object, which is one of that other kind until then.
            let wrong = FieldError::invalid("kind", kind.as_str(), format!("must be {}", wanted.kind));
            return Err(ApiError::invalid(&given, text(object, &["metadata", "name"]), &[wrong]));
        }
    }))
}

/// Why an object of another kind cannot become one of the wanted kind; none where it is the same kind in another
/// version.
fn misfit(given: &GroupVersionKind, wanted: &GroupVersionKind) -> Option<String> {
    let api_version = given.api_version();
    let known = |kind: &str| protobuf::knows(&api_version, kind);
    let of_list = given.kind.strip_suffix("List").filter(|kind| !kind.is_empty());
    let is_known = known(&given.kind) || of_list.is_some_and(known) || (given.kind == "List" && known("Pod"));
    let is_early = given.version.contains("alpha") || given.version.contains("beta");
    let is_near = given.group == wanted.group || given.group == "extensions";
    if given.kind == wanted.kind && (is_known || (is_early && is_near)) {
        return None;
    }
    if !is_known {
        let kind = &given.kind;
        return Some(format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme {TABLE:?}"
        ));
    }
    let inside = golang::inner_package(&wanted.group);
    let (GroupVersionKind { version, kind, .. }, wanted) = (given, &wanted.kind);
    Some(format!("converting ({version}.{kind}) to ({inside}.{wanted}): unknown conversion"))
}

/// What kube-apiserver calls its table of kinds.
pub const TABLE: &str = "pkg/runtime/scheme.go:111";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;

    fn refusal(kind: &str, mut object: Object) -> String {
        let all = builtin::descriptors();
        let found = all.iter().find(|each| each.kind == kind).expect("a kind");
        let refused = found.decode(&mut object, FieldValidation::Warn, &[]);
        refused.expect_err("is refused").message().to_owned()
    }

    #[test]
    fn another_kind_is_told_apart_from_none() {
        let object = |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind});
        assert_eq!(
            refusal("ConfigMap", object("v1", "Secret")),
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"
        );
        assert_eq!(
            refusal("ConfigMap", object("v1", "Foo")),
            "Foo in version \"v1\" cannot be handled as a ConfigMap: no kind \"Foo\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\""
        );
        assert!(refusal("ConfigMap", object("v1", "SecretList")).contains("converting (v1.SecretList)"));
        assert!(
            refusal("Deployment", object("v1", "Deployment")).contains("is registered for version \"v1\"")
        );
        assert_eq!(
            refusal("Deployment", object("apps/v1beta1", "Deployment")),
            "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"
        );
        assert_eq!(
            refusal("ConfigMap", json!({"apiVersion": 1})),
            "couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .apiVersion of type string"
        );
    }

    #[test]
    fn repeated_fields_come_before_unknown_ones() {
        let all = builtin::descriptors();
        let found = all.iter().find(|each| each.kind == "ConfigMap").expect("a kind");
        let mut object = json!({"zz": 1});
        let repeated = ["duplicate field \"data\"".to_owned()];
        let findings = found.decode(&mut object, FieldValidation::Warn, &repeated).unwrap();
        assert_eq!(findings, ["duplicate field \"data\"", "unknown field \"zz\""]);
    }
}
