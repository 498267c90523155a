//! Functions for rules that know Kubernetes: quantities, and formats of names.

use std::any::Any;
use std::sync::Arc;

use yunfan_cel::{Budget, EvalError, Function, Library, Opaque, Value, table};

use crate::schema::has_format;
use crate::{Quantity, meta};

#[derive(Debug)]
struct Amount(Quantity);

impl Opaque for Amount {
    fn type_name(&self) -> &'static str {
        "kubernetes.Quantity"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn same(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self.0.milli() == other.0.milli())
    }
}

fn amount(quantity: Quantity) -> Value {
    Value::Opaque(Arc::new(Amount(quantity)))
}

fn of(values: &[Value], index: usize) -> Result<Quantity, EvalError> {
    let found = values.get(index).and_then(|value| value.opaque::<Amount>());
    found.map(|amount| amount.0).ok_or(EvalError::NoSuchOverload)
}

/// The quantity in the second place, or whole units.
fn operand(values: &[Value]) -> Result<Quantity, EvalError> {
    match values.get(1) {
        Some(Value::Int(units)) => Ok(Quantity::from_units(*units)),
        _ => of(values, 1),
    }
}

fn read(values: &[Value]) -> Result<Option<Quantity>, EvalError> {
    match values {
        [Value::String(text)] => Ok(text.parse().ok()),
        _ => Err(EvalError::NoSuchOverload),
    }
}

const WITH: &str = "kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity | kubernetes.Quantity.(int) kubernetes.Quantity";
const TO: &str = "kubernetes.Quantity.(kubernetes.Quantity) bool";

fn order(values: &[Value]) -> Result<std::cmp::Ordering, EvalError> {
    Ok(of(values, 0)?.milli().cmp(&of(values, 1)?.milli()))
}

/// `quantity('1Gi')` and what can be done with it.
pub(super) fn quantities() -> Library {
    table(&[
        ("quantity", "(string) kubernetes.Quantity", |v, _| {
            read(v)?.map(amount).ok_or_else(|| {
                EvalError::failed("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
            })
        }),
        ("isQuantity", "(string) bool", |v, _| Ok(Value::Bool(read(v)?.is_some()))),
        ("sign", "kubernetes.Quantity.() int", |v, _| {
            Ok(Value::Int(of(v, 0)?.milli().signum().try_into().unwrap_or_default()))
        }),
        ("isInteger", "kubernetes.Quantity.() bool", |v, _| Ok(Value::Bool(whole(of(v, 0)?).is_some()))),
        ("asInteger", "kubernetes.Quantity.() int", |v, _| {
            let whole = whole(of(v, 0)?).map(Value::Int);
            whole.ok_or_else(|| EvalError::failed("cannot convert value to integer"))
        }),
        ("asApproximateFloat", "kubernetes.Quantity.() double", |v, _| {
            Ok(Value::Double(of(v, 0)?.milli() as f64 / 1000.0))
        }),
        ("isGreaterThan", TO, |v, _| Ok(Value::Bool(order(v)?.is_gt()))),
        ("isLessThan", TO, |v, _| Ok(Value::Bool(order(v)?.is_lt()))),
        ("compareTo", "kubernetes.Quantity.(kubernetes.Quantity) int", |v, _| {
            Ok(Value::Int(order(v)? as i64))
        }),
        ("add", WITH, |v, _| Ok(amount(of(v, 0)? + operand(v)?))),
        ("sub", WITH, |v, _| Ok(amount(of(v, 0)? - operand(v)?))),
    ])
}

fn whole(quantity: Quantity) -> Option<i64> {
    let milli = quantity.milli();
    (milli % 1000 == 0).then(|| i64::try_from(milli / 1000).ok()).flatten()
}

/// A format, which is a name for a check.
#[derive(Debug, PartialEq)]
struct Format(&'static str);

impl Opaque for Format {
    fn type_name(&self) -> &'static str {
        "kubernetes.NamedFormat"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn same(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self == other)
    }
}

/// The names of formats, and a function of each name.
macro_rules! formats {
    ($($name:literal),* $(,)?) => {
        const FORMATS: &[&str] = &[$($name),*];

        fn constants() -> Vec<Function> {
            vec![$(Function::new(concat!("format.", $name), "() kubernetes.NamedFormat", |_, _| {
                Ok(Value::Opaque(Arc::new(Format($name))))
            })),*]
        }
    };
}

formats![
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "qualifiedName",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// What is wrong with a text by a format.
fn wrong(format: &str, text: &str) -> meta::Wrongs {
    // A prefix may end in a dash, which no name may: it is checked as it will be used.
    let used = format!("{text}x");
    match format {
        "dns1123Label" => meta::dns_label(text),
        "dns1123Subdomain" => meta::dns_subdomain(text),
        "dns1035Label" => meta::dns1035_label(text),
        "dns1123LabelPrefix" => meta::dns_label(&used),
        "dns1123SubdomainPrefix" => meta::dns_subdomain(&used),
        "dns1035LabelPrefix" => meta::dns1035_label(&used),
        "qualifiedName" => meta::qualified_name(text),
        "labelValue" => meta::label_value(text),
        name if has_format(name, text) => Vec::new(),
        "uuid" => vec!["does not match the UUID format".to_owned()],
        "byte" => vec!["invalid base64".to_owned()],
        "uri" => vec![uri_fault(text)],
        name => vec![format!("invalid {name}")],
    }
}

/// Why a text is no URI, in the words of Go's reader.
fn uri_fault(text: &str) -> String {
    let hex = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    let escape = text.match_indices('%').find(|(at, _)| !(hex(at + 1) && hex(at + 2)));
    let why = match escape {
        _ if text.chars().any(|c| c.is_ascii_control()) => {
            "net/url: invalid control character in URL".to_owned()
        }
        _ if text.is_empty() => "empty url".to_owned(),
        _ if text.starts_with(':') => "missing protocol scheme".to_owned(),
        Some((at, _)) => {
            let bad: String = text[at..].chars().take(3).collect();
            format!("invalid URL escape {bad:?}")
        }
        None => "invalid URI for request".to_owned(),
    };
    format!("parse {text:?}: {why}")
}

fn named(values: &[Value], _: &mut Budget) -> Result<Value, EvalError> {
    let [Value::String(name)] = values else { return Err(EvalError::NoSuchOverload) };
    let found = FORMATS.iter().find(|known| **known == &**name);
    Ok(found.map(|name| Value::Opaque(Arc::new(Format(name)))).into())
}

/// `format.dns1123Label().validate(text)`: none, or what is wrong.
pub(super) fn formats() -> Library {
    let mut out = table(&[
        ("format.named", "(string) optional<kubernetes.NamedFormat>", named),
        ("validate", "kubernetes.NamedFormat.(string) optional<list<string>>", |v, b| {
            let (Some(format), Some(Value::String(text))) = (v[0].opaque::<Format>(), v.get(1)) else {
                return Err(EvalError::NoSuchOverload);
            };
            b.charge_bytes(text.len())?;
            let found: Vec<Value> = wrong(format.0, text).into_iter().map(Value::from).collect();
            Ok((!found.is_empty()).then(|| Value::from(found)).into())
        }),
    ]);
    out.extend(constants());
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use yunfan_cel::Environment;

    use super::*;

    #[test]
    fn every_format_is_there_by_function_and_by_name() {
        let environment = Environment::new([formats()]);
        for name in FORMATS {
            let same = format!(
                "format.named('{name}').value() == format.{name}() && format.{name}() == format.{name}()"
            );
            let program = environment.compile(&same, &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut budget = Budget::new(1000, Duration::from_secs(5));
            assert!(matches!(program.run(&[], &mut budget), Ok(Value::Bool(true))), "{name}");
        }
        assert!(environment.compile("format.other()", &[]).is_err());
    }
}
