//! Validation of a value by its schema, worded as kube-apiserver words it for custom resources.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::formats::{has_format, is_format_of};
use super::shape::{MAX_FINDINGS, Path};
use super::{ListType, Schema, SchemaRef, SchemaType};
use crate::error::FieldError;
use crate::validations::{Before, is_same};

impl Schema {
    /// All that is wrong with a custom resource.
    pub fn validate(&self, value: &Value) -> Vec<FieldError> {
        self.validate_with(value, true)
    }

    /// All that is wrong with an object. `custom` says whether it is a custom resource: of those, keys of list maps
    /// must be unique, which Kubernetes does not check for all lists of its own kinds; and in its own kinds some
    /// fields are null where nothing is in them.
    pub fn validate_with(&self, value: &Value, custom: bool) -> Vec<FieldError> {
        Check::all(self, value, None, custom)
    }

    /// All that is wrong with a changed custom resource. What was as wrong before is let through: a schema
    /// may have become stricter than what is stored.
    pub fn validate_change(&self, value: &Value, old: &Value) -> Vec<FieldError> {
        Check::all(self, value, Some(old), true)
    }

    /// Whether a value is valid.
    pub fn is_valid(&self, value: &Value) -> bool {
        self.validate(value).is_empty()
    }
}

struct Check {
    errors: Vec<FieldError>,
    /// Items that are there twice: told of behind everything else.
    repeated: Vec<FieldError>,
    path: Path,
    custom: bool,
}

/// What a message calls a value's type.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Check {
    fn all(schema: &Schema, value: &Value, old: Option<&Value>, custom: bool) -> Vec<FieldError> {
        let mut check = Self { errors: Vec::new(), repeated: Vec::new(), path: Path::default(), custom };
        check.value(schema, value, old);
        check.errors.append(&mut check.repeated);
        check.errors.truncate(MAX_FINDINGS);
        check.errors
    }

    fn push(&mut self, error: FieldError) {
        if self.errors.len() < MAX_FINDINGS {
            self.errors.push(error);
        }
    }

    fn invalid(&mut self, value: &Value, rule: String) {
        let path = self.path.as_str();
        let error = FieldError::invalid(path, value.clone(), format!("{path} in body {rule}"));
        self.push(error);
    }

    /// `old` is the same part before an update, where that can be told.
    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>) {
        let unchanged = old.is_some_and(|old| is_same(schema, value, old));
        if unchanged || (value.is_null() && (schema.nullable || !self.custom)) {
            return;
        }
        // What has another type is looked at all the same, as what it is.
        if let Some((wanted, given)) = wrong_type(schema, value) {
            let path = self.path.as_str();
            let detail = format!("{path} in body must be of type {wanted}: \"{given}\"");
            let error = FieldError::type_invalid(path, given, detail);
            self.push(error);
        }
        if value.is_null() {
            return self.enumeration(schema, value);
        }
        self.branches(schema, value);
        match value {
            Value::String(text) => self.text(schema, value, text),
            Value::Number(number) => self.number(schema, value, number.as_f64().unwrap_or_default()),
            Value::Array(items) => self.list(schema, items, old),
            _ => {}
        }
        self.enumeration(schema, value);
        if let Value::Object(map) = value {
            self.object(schema, map, old);
        }
    }

    fn enumeration(&mut self, schema: &Schema, value: &Value) {
        let Some(allowed) = &schema.limits.enumeration else { return };
        if !allowed.contains(value) {
            let texts: Vec<String> = allowed
                .iter()
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let error = FieldError::not_supported(self.path.as_str(), value.clone(), &texts);
            self.push(error);
        }
    }

    fn branches(&mut self, schema: &Schema, value: &Value) {
        let limits = &schema.limits;
        for branch in &limits.all_of {
            self.value(branch, value, None);
        }
        let rule = |rule: &str, path: &Path| format!("{:?} must {rule}", path.as_str());
        if !limits.any_of.is_empty() && !limits.any_of.iter().any(|branch| branch.is_valid(value)) {
            self.branch(rule("validate at least one schema (anyOf)", &self.path));
            self.missing(limits.any_of.first(), value);
        }
        if !limits.one_of.is_empty() {
            let matching = limits.one_of.iter().filter(|branch| branch.is_valid(value)).count();
            if matching != 1 {
                let found = match matching {
                    0 => "Found none valid".to_owned(),
                    several => format!("Found {several} valid alternatives"),
                };
                self.branch(rule(&format!("validate one and only one schema (oneOf). {found}"), &self.path));
                if matching == 0 {
                    self.missing(limits.one_of.first(), value);
                }
            }
        }
        if limits.not.as_ref().is_some_and(|branch| branch.is_valid(value)) {
            self.branch(rule("not validate the schema (not)", &self.path));
        }
    }

    /// What a branch misses. No more is told of it: branches nest, and each would be checked once more.
    fn missing(&mut self, branch: Option<&SchemaRef>, value: &Value) {
        if let (Some(branch), Value::Object(map)) = (branch, value) {
            self.required(branch, map);
        }
    }

    fn required(&mut self, schema: &Schema, map: &Map<String, Value>) {
        for key in schema.required.iter().filter(|key| !map.contains_key(*key)) {
            let field = match self.path.as_str() {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            self.push(FieldError::required(field, ""));
        }
    }

    /// A finding about branches: it has no field of its own.
    fn branch(&mut self, text: String) {
        self.push(FieldError::invalid("<nil>", "", text));
    }

    fn text(&mut self, schema: &Schema, value: &Value, text: &str) {
        let limits = &schema.limits;
        let length = text.chars().count() as u64;
        // Of these, the first is told alone.
        if let Some(most) = limits.max_length.filter(|most| length > *most) {
            let error = FieldError::too_long(self.path.as_str(), most);
            self.push(error);
        } else if let Some(least) = limits.min_length.filter(|least| length < *least) {
            self.invalid(value, format!("should be at least {least} chars long"));
        } else if let Some(pattern) = limits.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.invalid(value, format!("should match '{}'", pattern.as_str()));
        }
        if let Some(format) = schema.format.as_deref().filter(|format| !has_format(format, text)) {
            let path = self.path.as_str();
            let detail = format!("{path} in body must be of type {format}: {text:?}");
            let error = FieldError::type_invalid(path, text, detail);
            self.push(error);
        }
    }

    fn number(&mut self, schema: &Schema, value: &Value, number: f64) {
        let limits = &schema.limits;
        if let Some(kind) = unheld_by(schema, value) {
            // The finding has no field of its own.
            self.branch(format!("Checked value must be of type {kind} in {}", self.path.as_str()));
        }
        if let Some(divisor) = limits.multiple_of {
            let times = number / divisor;
            if (times - times.round()).abs() > 1e-9 {
                self.invalid(value, format!("should be a multiple of {divisor}"));
            }
        }
        if let Some(least) = limits.minimum {
            if limits.exclusive_minimum && number <= least {
                self.invalid(value, format!("should be greater than {least}"));
            } else if number < least {
                self.invalid(value, format!("should be greater than or equal to {least}"));
            }
        }
        if let Some(most) = limits.maximum {
            if limits.exclusive_maximum && number >= most {
                self.invalid(value, format!("should be less than {most}"));
            } else if number > most {
                self.invalid(value, format!("should be less than or equal to {most}"));
            }
        }
    }

    fn list(&mut self, schema: &Schema, items: &[Value], old: Option<&Value>) {
        let (limits, count) = (&schema.limits, items.len() as u64);
        if let Some(least) = limits.min_items.filter(|least| count < *least) {
            self.invalid(&count.into(), format!("should have at least {least} items"));
        }
        if let Some(most) = limits.max_items.filter(|most| count > *most) {
            let error = FieldError::too_many(self.path.as_str(), count, most);
            // The items of a list beyond its limit are not worth the time.
            return self.push(error);
        }
        if self.custom {
            self.uniqueness(schema, items);
        }
        if let Some(inner) = &schema.items {
            let before =
                Before::new(schema, old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default());
            for (index, item) in items.iter().enumerate() {
                let old = before.same(item);
                self.inside(|path| path.push_item(index), |check| check.value(inner, item, old));
            }
        }
    }

    fn uniqueness(&mut self, schema: &Schema, items: &[Value]) {
        let keys = match &schema.list_type {
            ListType::Map(keys) => Some(keys),
            ListType::Set => None,
            ListType::Atomic if schema.limits.unique_items => None,
            ListType::Atomic => return,
        };
        let mut seen = HashSet::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let shown = match keys {
                None => item.clone(),
                Some(keys) => {
                    let each = keys.iter().filter_map(|key| {
                        let default =
                            schema.items.as_ref().and_then(|items| items.field(key)?.default.clone());
                        Some((key.clone(), item.get(key).cloned().or(default)?))
                    });
                    Value::Object(each.collect())
                }
            };
            // Keys are sorted in objects, so equal values have equal texts.
            if !seen.insert(shown.to_string()) {
                let error = FieldError::duplicate(format!("{}[{index}]", self.path.as_str()), shown);
                self.repeated.push(error);
            }
            if self.repeated.len() >= MAX_FINDINGS {
                return;
            }
        }
    }

    fn object(&mut self, schema: &Schema, map: &Map<String, Value>, old: Option<&Value>) {
        let (limits, count) = (&schema.limits, map.len() as u64);
        if let Some(least) = limits.min_properties.filter(|least| count < *least) {
            self.invalid(&count.into(), format!("should have at least {least} properties"));
        }
        if let Some(most) = limits.max_properties.filter(|most| count > *most) {
            let error = FieldError::too_many(self.path.as_str(), count, most);
            return self.push(error);
        }
        for (key, value) in map {
            if let Some(inner) = schema.field(key) {
                let old = old.filter(|_| !schema.atomic_map).and_then(|old| old.get(key));
                self.inside(|path| path.push_field(key), |check| check.value(inner, value, old));
            }
        }
        self.required(schema, map);
    }

    fn inside(&mut self, enter: impl FnOnce(&mut Path), inner: impl FnOnce(&mut Self)) {
        if self.errors.len() >= MAX_FINDINGS {
            return;
        }
        let length = self.path.len();
        enter(&mut self.path);
        inner(self);
        self.path.truncate(length);
    }
}

/// The type that a value ought to have and the one that it has, if these differ. Where a format is said, both are
/// told as formats.
fn wrong_type(schema: &Schema, value: &Value) -> Option<(String, &'static str)> {
    let (fits, wanted) = match schema.kind {
        SchemaType::Any => (true, ""),
        SchemaType::Object => (value.is_object(), "object"),
        SchemaType::Array => (value.is_array(), "array"),
        SchemaType::String => (value.is_string(), "string"),
        SchemaType::Integer => (is_whole(value), "integer"),
        SchemaType::Number => (value.is_number(), "number"),
        SchemaType::Boolean => (value.is_boolean(), "boolean"),
        SchemaType::IntOrString => (value.is_string() || is_whole(value), "integer,string"),
        SchemaType::Quantity => (value.is_string() || value.is_number(), "number,string"),
    };
    if fits {
        return None;
    }
    let format = schema.format.as_deref().filter(|format| is_format_of(wanted, format));
    Some(match format.filter(|_| !(value.is_null() || value.is_string() || value.is_array())) {
        Some(format) => (format.to_owned(), type_format(value)),
        None => (wanted.to_owned(), type_name(value)),
    })
}

/// What a message calls the format of a value's type.
fn type_format(value: &Value) -> &'static str {
    match type_name(value) {
        "number" => "float64",
        "integer" => "int64",
        _ => "",
    }
}

/// What kind of number a number ought to be that is none of these.
fn unheld_by(schema: &Schema, value: &Value) -> Option<String> {
    if schema.kind == SchemaType::Number && schema.format.as_deref() == Some("float") {
        let held = value.as_f64().is_some_and(|number| number.abs() <= f64::from(f32::MAX));
        return (!held).then(|| "number with format float".to_owned());
    }
    if schema.kind != SchemaType::Integer {
        return None;
    }
    let format = schema.format.as_deref().filter(|format| is_format_of("integer", format));
    let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    // What has no fraction is as good written with a dot; a number this large is beyond all kinds in any case.
    let whole =
        whole.or_else(|| value.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i128));
    let held = whole.is_some_and(|whole| match format {
        Some("int32") => i32::try_from(whole).is_ok(),
        _ => i64::try_from(whole).is_ok(),
    });
    (!held).then(|| match format {
        Some(format) => format!("integer with format {format}"),
        None => "integer (default format)".to_owned(),
    })
}

/// JSON tells 1 and 1.0 not apart.
fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SchemaRef;
    use serde_json::json;

    fn schema() -> SchemaRef {
        SchemaRef::from_openapi(&json!({
            "type": "object",
            "required": ["spec"],
            "properties": {"spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 5},
                    "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                    "name": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
                    "maybe": {"type": "string", "nullable": true},
                    "port": {"x-kubernetes-int-or-string": true},
                    "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 3},
                    "rules": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"],
                        "items": {"type": "object", "properties": {"key": {"type": "string"}, "on": {"type": "boolean", "default": true}}}},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "one": {"type": "object", "oneOf": [{"required": ["x"]}, {"required": ["y"]}]}
                }
            }}
        }))
        .unwrap()
    }

    #[test]
    fn numbers_keep_to_their_format() {
        let schema = json!({"type": "object", "properties": {"f": {"type": "number", "format": "float"},
            "d": {"type": "number", "format": "double"}}});
        let schema = SchemaRef::from_openapi(&schema).unwrap();
        let texts =
            |value: Value| schema.validate(&value).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(json!({"f": -3.4e38, "d": 1e300})), [""; 0]);
        let found = texts(json!({"f": 1e39}));
        assert_eq!(
            found,
            ["<nil>: Invalid value: \"\": Checked value must be of type number with format float in f"]
        );
    }

    fn texts(value: Value) -> Vec<String> {
        schema().validate(&value).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_value_passes() {
        assert!(texts(json!({"spec": {
            "size": 2, "maybe": null, "port": "http", "tags": ["a", "b"], "rules": [{"key": "a"}, {"key": "b"}],
            "free": {"any": 1}, "labels": {"a.b": "c"}, "one": {"x": 1}
        }})).is_empty());
        assert!(texts(json!({"spec": {"size": 2.0}})).is_empty());
    }

    #[test]
    fn each_rule_is_worded_as_kubernetes_words_it() {
        for (spec, wanted) in [
            (
                json!({"size": "string"}),
                "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
            ),
            (json!({}), "spec.size: Required value"),
            (
                json!({"size": 0}),
                "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
            ),
            (
                json!({"size": 1, "mode": "z"}),
                "spec.mode: Unsupported value: \"z\": supported values: \"a\", \"b\"",
            ),
            (
                json!({"size": 1, "name": "a"}),
                "spec.name: Invalid value: \"a\": spec.name in body should be at least 2 chars long",
            ),
            (json!({"size": 1, "name": "abcde"}), "spec.name: Too long: may not be more than 4 bytes"),
            (
                json!({"size": 1, "name": "AB"}),
                "spec.name: Invalid value: \"AB\": spec.name in body should match '^[a-z]+$'",
            ),
            (
                json!({"size": 1, "mode": null}),
                "spec.mode: Invalid value: \"null\": spec.mode in body must be of type string: \"null\", spec.mode: Unsupported value: null: supported values: \"a\", \"b\"",
            ),
            (
                json!({"size": 1, "port": 1.5}),
                "spec.port: Invalid value: \"number\": spec.port in body must be of type integer,string: \"number\"",
            ),
            (json!({"size": 1, "tags": ["a", "a"]}), "spec.tags[1]: Duplicate value: \"a\""),
            (
                json!({"size": 1, "tags": ["a", "b", "c", "d"]}),
                "spec.tags: Too many: 4: must have at most 3 items",
            ),
            (
                json!({"size": 1, "rules": [{"key": "a"}, {"key": "a"}]}),
                "spec.rules[1]: Duplicate value: {\"key\":\"a\"}",
            ),
            (
                json!({"size": 1, "labels": {"a": 1}}),
                "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
            ),
            (
                json!({"size": 1, "one": {}}),
                "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found none valid, spec.one.x: Required value",
            ),
        ] {
            assert_eq!(texts(json!({"spec": spec})).join(", "), wanted);
        }
    }

    #[test]
    fn unknown_fields_are_pruned_and_defaults_filled_in() {
        let mut value = json!({"spec": {"size": 1, "mode": null, "name": null, "bogus": {"a": 1}, "free": {"keep": 1}, "rules": [{"key": "a", "x": 1}]}, "top": 1});
        assert_eq!(schema().prune(&mut value), ["spec.bogus", "spec.rules[0].x", "top"]);
        schema().drop_refused_nulls(&mut value);
        schema().apply_defaults(&mut value);
        assert_eq!(
            value,
            json!({"spec": {"size": 1, "mode": "a", "free": {"keep": 1}, "rules": [{"key": "a", "on": true}]}})
        );
    }

    #[test]
    fn what_was_there_before_may_stay_in_another_order() {
        let rule = json!({"type": "object", "properties": {"key": {"type": "string", "maxLength": 2}}});
        let schema = json!({"type": "object", "properties": {"rules": {"type": "array", "maxItems": 2, "items": rule,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"]}}});
        let schema = SchemaRef::from_openapi(&schema).unwrap();
        let with = |keys: [&str; 3]| json!({"rules": keys.map(|key| json!({"key": key}))});
        let old = with(["long", "b", "c"]);
        assert!(schema.validate_change(&with(["c", "long", "b"]), &old).is_empty());
        assert_eq!(schema.validate_change(&with(["c", "long", "d"]), &old).len(), 1);
        assert_ne!(schema.validate_change(&with(["b", "b", "c"]), &old), []);
    }

    #[test]
    fn hostile_schemas_are_refused() {
        let mut deep = json!({"type": "string"});
        for _ in 0..super::super::MAX_SCHEMA_DEPTH + 1 {
            deep = json!({"type": "object", "properties": {"a": deep}});
        }
        assert!(SchemaRef::from_openapi(&deep).is_err());
        assert!(SchemaRef::from_openapi(&json!({"type": "string", "pattern": "(((("})).is_err());
        assert!(SchemaRef::from_openapi(&json!({"type": "string", "pattern": "(a{1000}){1000}"})).is_err());
        assert!(SchemaRef::from_openapi(&json!({"$ref": "#/x"})).is_err());
    }
}
