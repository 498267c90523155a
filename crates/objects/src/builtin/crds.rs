//! CustomResourceDefinition, as an object like any other.

use serde_json::{Value, json};

use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{set_default, text};
use crate::{Object, crd};

pub(super) struct CrdStrategy;

impl Strategy for CrdStrategy {
    fn default(&self, object: &mut Object) {
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        set_default(spec, "conversion", json!({"strategy": "None"}));
        let service = spec
            .get_mut("conversion")
            .and_then(|c| c.get_mut("webhook")?.get_mut("clientConfig")?.get_mut("service"));
        if let Some(service) = service {
            set_default(service, "port", 443);
        }
        for version in spec.get_mut("versions").and_then(Value::as_array_mut).into_iter().flatten() {
            if version.is_object() {
                set_default(version, "served", false);
                set_default(version, "storage", false);
            }
        }
        let Some(names) = spec.get_mut("names").filter(|names| names.is_object()) else { return };
        let kind = text(names, &["kind"]).to_owned();
        if !kind.is_empty() {
            set_default(names, "singular", kind.to_lowercase());
            set_default(names, "listKind", format!("{kind}List"));
        }
    }

    fn wrong_name(&self, object: &Object) -> Option<String> {
        crd::wrong_name(object)
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        crd::validate(object)
    }

    fn validate_create(&self, object: &Object) -> Vec<FieldError> {
        crd::validate_create(object)
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        crd::warnings(new, old)
    }

    // What is missing is told in the words for definitions.
    fn tells_of_missing(&self) -> bool {
        true
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        crd::validate_update(new, old)
    }
}
