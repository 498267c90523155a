//! CustomResourceDefinition, as an object like any other.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rows::name;
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{list, set_default, text};
use crate::{Object, crd};

pub(super) fn cells(object: &Object, _now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, &["metadata", "creationTimestamp"]))]
}

pub(super) struct CrdStrategy;

impl Strategy for CrdStrategy {
    fn default(&self, object: &mut Object) {
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        set_default(spec, "scope", "Namespaced");
        set_default(spec, "conversion", json!({"strategy": "None"}));
        let Some(names) = spec.get_mut("names").filter(|names| names.is_object()) else { return };
        let kind = text(names, &["kind"]).to_owned();
        if !kind.is_empty() {
            set_default(names, "singular", kind.to_lowercase());
            set_default(names, "listKind", format!("{kind}List"));
        }
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        crd::validate(object)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Vec::new();
        // Objects are stored under these: another value would lose them.
        for path in [
            &["spec", "group"][..],
            &["spec", "scope"],
            &["spec", "names", "plural"],
            &["spec", "names", "kind"],
        ] {
            let (after, before) = (text(new, path), text(old, path));
            if after != before {
                errors.push(FieldError::invalid(path.join("."), after, "field is immutable"));
            }
        }
        let versions: Vec<&str> =
            list(new, &["spec", "versions"]).iter().map(|each| text(each, &["name"])).collect();
        for stored in list(old, &["status", "storedVersions"]).iter().filter_map(Value::as_str) {
            if !versions.contains(&stored) {
                let why = format!("must appear in spec.versions: {stored}");
                errors.push(FieldError::invalid("status.storedVersions", json!([stored]), why));
            }
        }
        errors
    }
}
