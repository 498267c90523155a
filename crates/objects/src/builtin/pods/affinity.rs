//! Selectors of nodes: in the affinity of Pods and of volumes.

use crate::builtin::field::Field;
use crate::error::FieldError;
use crate::meta::{label_value, qualified_name};

/// All that is wrong with a NodeSelector.
pub(in crate::builtin) fn node_selector(selector: &Field<'_>) -> Vec<FieldError> {
    let terms = selector.at("nodeSelectorTerms");
    if terms.list().is_empty() {
        return vec![terms.required("must have at least one node selector term")];
    }
    terms.items().flat_map(|term| selector_term(&term, true)).collect()
}

/// All that is wrong with a term that is preferred: values that no label can have do no harm there.
pub(in crate::builtin) fn preferred_term(term: &Field<'_>) -> Vec<FieldError> {
    selector_term(term, false)
}

fn selector_term(term: &Field<'_>, checks_values: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for requirement in term.at("matchExpressions").items() {
        errors.extend(operator_fits(&requirement));
        errors.extend(requirement.at("key").obeys(qualified_name));
        if checks_values {
            errors.extend(requirement.at("values").items().flat_map(|value| value.follows(label_value)));
        }
    }
    for requirement in term.at("matchFields").items() {
        errors.extend(match_field(&requirement));
    }
    errors
}

fn operator_fits(requirement: &Field<'_>) -> Vec<FieldError> {
    let (operator, values) = (requirement.at("operator"), requirement.at("values"));
    let count = values.list().len();
    match operator.text() {
        "In" | "NotIn" if count == 0 => {
            vec![values.required("must be specified when `operator` is 'In' or 'NotIn'")]
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            vec![values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'")]
        }
        "Gt" | "Lt" if count != 1 => {
            vec![values.required("must be specified single value when `operator` is 'Lt' or 'Gt'")]
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => Vec::new(),
        given => vec![FieldError::invalid(operator.path, given, "not a valid selector operator")],
    }
}

fn match_field(requirement: &Field<'_>) -> Vec<FieldError> {
    let (operator, values, key) =
        (requirement.at("operator"), requirement.at("values"), requirement.at("key"));
    let mut errors = Vec::new();
    match operator.text() {
        "In" | "NotIn" if values.list().len() != 1 => {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(values.required(why));
        }
        "In" | "NotIn" => {}
        given => errors.push(FieldError::invalid(operator.path, given, "not a valid selector operator")),
    }
    if key.text() == "metadata.name" {
        errors.extend(values.items().flat_map(|value| value.follows(crate::meta::dns_subdomain)));
    } else {
        errors.push(FieldError::invalid(key.path.as_str(), key.text(), "not a valid field selector key"));
    }
    errors
}
