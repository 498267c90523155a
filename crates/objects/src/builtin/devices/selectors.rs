//! Selectors of devices: expressions over what is known of one device.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use yunfan_cel::{Decl, DeclKind, Environment, Type};

use super::{MOST, TEXT_LIMIT};
use crate::builtin::field::Field;
use crate::error::FieldError;
use crate::validations;

/// Most cost of a selector.
const COST_LIMIT: u64 = 1_000_000;
/// Most attributes and capacities of a device.
const MOST_ATTRIBUTES: u64 = 32;
/// Longest domain, and longest value of an attribute, characters.
const LONGEST: u64 = 64;

/// What an expression sees.
static DEVICE: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let decl = |kind, max| Arc::new(Decl { kind, max, min_bytes: 1 });
    let scalar = |ty, max| decl(DeclKind::Scalar(ty), max);
    // By domain, then by name.
    let by_domain = |of| {
        let named = decl(DeclKind::Map(of), MOST_ATTRIBUTES);
        decl(DeclKind::Map(named), MOST_ATTRIBUTES)
    };
    let fields = [
        ("driver", scalar(Type::String, LONGEST)),
        ("allowMultipleAllocations", scalar(Type::Bool, 1)),
        ("attributes", by_domain(scalar(Type::Dyn, LONGEST))),
        ("capacity", by_domain(scalar(Type::Opaque("kubernetes.Quantity"), 1))),
    ];
    let fields: BTreeMap<String, Arc<Decl>> =
        fields.into_iter().map(|(name, decl)| (name.to_owned(), decl)).collect();
    decl(DeclKind::Object(Arc::new(fields)), 1)
});

/// What selectors know beside what rules of definitions do: names for values.
static ENVIRONMENT: LazyLock<Environment> =
    LazyLock::new(|| Environment::new(validations::libraries()).with_bindings());

/// Checks a list of selectors.
pub(super) fn validate(field: &Field<'_>, errors: &mut Vec<FieldError>) {
    let too_many = field.at_most(MOST);
    if too_many.is_some() {
        return errors.extend(too_many);
    }
    for selector in field.items() {
        let cel = selector.at("cel");
        if cel.is_given() {
            errors.extend(expression(&cel.at("expression")));
        } else {
            errors.push(cel.required(""));
        }
    }
}

fn expression(field: &Field<'_>) -> Option<FieldError> {
    // What is too long is not read.
    field.no_longer_than(TEXT_LIMIT).or_else(|| {
        let source = field.text();
        let refuse = |why: String| FieldError::invalid(field.path.as_str(), source, why);
        match ENVIRONMENT.compile(source, &[("device", DEVICE.clone())]) {
            Err(error) => Some(refuse(format!("compilation failed: {error}"))),
            Ok(program) => match program.output() {
                Type::Bool | Type::Dyn if program.max_cost() > COST_LIMIT => {
                    Some(field.forbidden("too complex, exceeds cost limit"))
                }
                Type::Bool | Type::Dyn => None,
                other => Some(refuse(format!("must evaluate to bool or the unknown type, not {other}"))),
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(source: &str) -> String {
        let value = json!([{"cel": {"expression": source}}]);
        let mut errors = Vec::new();
        validate(&Field { value: &value, path: "s".to_owned() }, &mut errors);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_selector_is_an_expression_over_a_device() {
        for good in [
            "device.driver == 'gpu.example.com'",
            "device.attributes['gpu.example.com'].model == 'a' && device.capacity['gpu.example.com'].memory.isGreaterThan(quantity('1Gi'))",
            "device.attributes['d'].ok",
            "cel.bind(dra, device.attributes['d'], dra.one && dra.two)",
            "device.attributes['d'].version.compareTo(semver('1.0.0')) > 0",
        ] {
            assert_eq!(refusal(good), "", "{good}");
        }
        for (bad, wanted) in [
            (
                "",
                "compilation failed: ERROR: <input>:1:0: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
            ),
            ("'text'", "must evaluate to bool or the unknown type, not string"),
            (
                "device.none",
                "compilation failed: ERROR: <input>:1:7: undefined field 'none'\n | device.none\n | ......^",
            ),
        ] {
            assert_eq!(refusal(bad), format!("s[0].cel.expression: Invalid value: {bad:?}: {wanted}"));
        }
        assert!(refusal(&"a".repeat(TEXT_LIMIT + 1)).contains("Too long"));
    }
}
