//! `x-kubernetes-validations`: rules in CEL beside the nodes of a schema, compiled once with the definition.
//!
//! [`Rules`] is a tree beside the schema's own, with the nodes alone that have rules below them.

mod brief;
mod declare;
mod library;
mod run;
mod values;

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use yunfan_cel::{Environment, Library, MAX_REQUEST_BYTES, Program, Type};

use crate::error::FieldError;
use crate::lookup::{list, text};
use crate::schema::{Additional, ListType, Schema, SchemaRef};

pub use brief::briefly;
pub(crate) use declare::declare_whole;
pub use declare::escape;
pub(crate) use run::{Before, is_same};

/// Most estimated cost of one rule, over all places that it can run at.
const RULE_LIMIT: u64 = 10_000_000;
/// Most estimated cost of all rules of a version.
const TOTAL_LIMIT: u64 = 100_000_000;
/// Most cost of one run of one rule.
const CALL_LIMIT: u64 = 1_000_000;
/// Most cost of all rules for one object.
const OBJECT_LIMIT: u64 = 10_000_000;
/// Longest time for one object, whatever it costs.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Longest message that a `messageExpression` may make, bytes.
const MAX_MESSAGE: usize = 5 * 1024;
/// Reasons that a rule may give.
const REASONS: [&str; 4] =
    ["FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate"];

/// The rules of a node and of what is below it.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    /// What the rules see.
    schema: Option<SchemaRef>,
    root: bool,
    properties: BTreeMap<String, Rules>,
    items: Option<Box<Rules>>,
    additional: Option<Box<Rules>>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// What a failure says where the rule itself says nothing better: its message, or its source.
    shown: String,
    message: Option<String>,
    reason: String,
    /// Dotted, with its dot before it; empty for the node itself.
    field: String,
    program: Program,
    message_program: Option<Program>,
    uses_old: bool,
    optional_old: bool,
}

/// The functions that rules know.
fn environment() -> &'static Environment {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| Environment::new(libraries()))
}

/// Functions that know Kubernetes.
pub fn libraries() -> [Library; 2] {
    [library::quantities(), library::formats()]
}

/// What is known on the way down while rules are compiled.
#[derive(Clone)]
struct Place {
    path: String,
    /// How often the node can be there in one object, where that is limited.
    times: Option<u64>,
    /// The list or map whose items cannot be told apart over an update.
    uncorrelated: Option<String>,
    root: bool,
}

/// What came out of compiling a version.
struct Findings {
    errors: Vec<FieldError>,
    total: u64,
    costly: Vec<(String, u64)>,
}

impl Rules {
    /// Compiles the rules of a version's schema: `source` is what the client wrote, `schema` what was read of
    /// it, `path` the field's. `None` where there are no rules.
    ///
    /// # Errors
    /// Rules that are none, or that may cost too much.
    pub fn compile(source: &Value, schema: &SchemaRef, path: &str) -> Result<Option<Self>, Vec<FieldError>> {
        let mut findings = Findings { errors: Vec::new(), total: 0, costly: Vec::new() };
        let place = Place { path: path.to_owned(), times: Some(1), uncorrelated: None, root: true };
        let rules = node(source, schema, &place, &mut findings);
        if findings.total > TOTAL_LIMIT {
            findings.costly.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            let why =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            findings
                .errors
                .extend(findings.costly.iter().take(4).map(|(path, _)| FieldError::forbidden(path, why)));
            let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
            findings.errors.push(FieldError::forbidden(path, exceeds(what, findings.total, TOTAL_LIMIT)));
        }
        if findings.errors.is_empty() { Ok(rules) } else { Err(findings.errors) }
    }

    /// The rules of properties.
    pub(crate) fn properties(&self) -> &BTreeMap<String, Rules> {
        &self.properties
    }

    /// The rules of a list's items.
    pub(crate) fn items(&self) -> Option<&Rules> {
        self.items.as_deref()
    }

    /// The rules of a map's values.
    pub(crate) fn additional(&self) -> Option<&Rules> {
        self.additional.as_deref()
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.properties.is_empty()
            && self.items.is_none()
            && self.additional.is_none()
    }
}

fn node(source: &Value, schema: &SchemaRef, place: &Place, findings: &mut Findings) -> Option<Rules> {
    let mut out = Rules { schema: Some(schema.clone()), root: place.root, ..Rules::default() };
    for (index, rule) in list(source, &["x-kubernetes-validations"]).iter().enumerate() {
        let path = format!("{}.x-kubernetes-validations[{index}]", place.path);
        out.rules.extend(compile(rule, schema, place, &path, findings));
    }
    let below = |part: &str| Place { path: format!("{}.{part}", place.path), root: false, ..place.clone() };
    for (name, property) in &schema.properties {
        let Some(inner) = source["properties"].get(name) else { continue };
        let place = below(&format!("properties[{name}]"));
        out.properties.extend(node(inner, property, &place, findings).map(|rules| (name.clone(), rules)));
    }
    let times = |most: Option<u64>| place.times.zip(most).map(|(times, most)| times.saturating_mul(most));
    if let (Some(items), true) = (&schema.items, source["items"].is_object()) {
        let mut place = below("items");
        place.times = times(schema.limits.max_items);
        if !matches!(schema.list_type, ListType::Map(_)) {
            place.uncorrelated.get_or_insert_with(|| out_path(&place.path));
        }
        out.items = node(&source["items"], items, &place, findings).map(Box::new);
    }
    if let (Additional::Schema(inner), true) =
        (&schema.additional, source["additionalProperties"].is_object())
    {
        let mut place = below("additionalProperties");
        place.times = times(schema.limits.max_properties);
        out.additional = node(&source["additionalProperties"], inner, &place, findings).map(Box::new);
    }
    (!out.is_empty()).then_some(out)
}

/// The path of the node above.
fn out_path(path: &str) -> String {
    path.rsplit_once('.').map_or_else(|| path.to_owned(), |(above, _)| above.to_owned())
}

fn compile(
    rule: &Value,
    schema: &Schema,
    place: &Place,
    path: &str,
    findings: &mut Findings,
) -> Option<Rule> {
    let before = findings.errors.len();
    let source = text(rule, &["rule"]);
    plain_checks(rule, schema, path, &mut findings.errors);
    if findings.errors.len() > before {
        return None;
    }
    let Some(declared) = declare::declare(schema, place.root) else {
        findings.errors.push(FieldError::internal(
            format!("{}.x-kubernetes-validations", place.path),
            "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations",
        ));
        return None;
    };
    let optional_old = rule["optionalOldSelf"] == true;
    let variables = [("self", declared.clone()), ("oldSelf", declared.clone())];
    let build = |source: &str| match optional_old {
        true => environment().compile_optional(source, &variables[..1], &variables[1..]),
        false => environment().compile(source, &variables),
    };
    let refuse = |field: &str, why: String| FieldError::invalid(format!("{path}.{field}"), rule.clone(), why);
    let unused = || {
        let why = "may not be set if oldSelf is not used in rule";
        FieldError::invalid(format!("{path}.optionalOldSelf"), rule["optionalOldSelf"].clone(), why)
    };
    let program = match build(source) {
        Ok(program) if *program.output() == Type::Bool => program,
        refused => {
            let why = match refused {
                Ok(_) => "cel expression must evaluate to a bool".to_owned(),
                Err(error) => format!("compilation failed: {error}"),
            };
            findings.errors.push(refuse("rule", why));
            findings.errors.extend((!rule["optionalOldSelf"].is_null()).then(unused));
            return None;
        }
    };
    let times = place.times.unwrap_or(MAX_REQUEST_BYTES / (declared.min_bytes + 1));
    charge(&program, times, "estimated rule cost", &format!("{path}.rule"), findings);
    let uses_old = program.mentions("oldSelf");
    let message_program = match text(rule, &["messageExpression"]) {
        "" => None,
        source => match build(source) {
            Ok(program) if *program.output() == Type::String => {
                charge(
                    &program,
                    1,
                    "estimated messageExpression cost",
                    &format!("{path}.messageExpression"),
                    findings,
                );
                Some(program)
            }
            Ok(_) => {
                let why = "messageExpression must evaluate to a string".to_owned();
                findings.errors.push(refuse("messageExpression", why));
                None
            }
            Err(error) => {
                let why = format!("messageExpression compilation failed: {error}");
                findings.errors.push(refuse("messageExpression", why));
                None
            }
        },
    };
    if let (true, Some(above)) = (uses_old, &place.uncorrelated) {
        let why =
            format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {above}");
        findings.errors.push(FieldError::invalid(format!("{path}.rule"), source, why));
    } else if !uses_old && !rule["optionalOldSelf"].is_null() {
        findings.errors.push(unused());
    }
    let message = Some(text(rule, &["message"]).trim()).filter(|text| !text.is_empty());
    Some(Rule {
        shown: message.unwrap_or(source.trim()).to_owned(),
        message: message.map(str::to_owned),
        reason: text(rule, &["reason"]).to_owned(),
        field: declare::field_path(schema, text(rule, &["fieldPath"])).unwrap_or_default(),
        program,
        message_program,
        uses_old,
        optional_old,
    })
}

/// Notes what a program may cost.
fn charge(program: &Program, times: u64, what: &str, path: &str, findings: &mut Findings) {
    let cost = program.max_cost().saturating_mul(times);
    if cost > RULE_LIMIT {
        findings.errors.push(FieldError::forbidden(path, exceeds(what, cost, RULE_LIMIT)));
    }
    findings.total = findings.total.saturating_add(cost);
    // What is less than a hundredth of the limit is not what makes a definition costly.
    if cost >= TOTAL_LIMIT / 100 {
        findings.costly.push((path.to_owned(), cost));
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        factor if factor > 100.0 => "more than 100x".to_owned(),
        factor if factor < 1.5 => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// What can be said of a rule without reading its expressions.
fn plain_checks(rule: &Value, schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    let (source, message) = (text(rule, &["rule"]), text(rule, &["message"]));
    let at = |field: &str| format!("{path}.{field}");
    if source.trim().is_empty() {
        errors.push(FieldError::required(at("rule"), "rule is not specified"));
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.push(FieldError::invalid(at("message"), message, "must be non-empty if specified"));
    } else if breaks(message.trim()) {
        errors.push(FieldError::invalid(at("message"), message, "must not contain line breaks"));
    } else if breaks(source.trim()) && message.trim().is_empty() {
        let why = "message must be specified if rule contains line breaks";
        errors.push(FieldError::required(at("message"), why));
    }
    let expression = text(rule, &["messageExpression"]);
    if !expression.is_empty() && expression.trim().is_empty() {
        let why = "messageExpression must be non-empty if specified";
        errors.push(FieldError::required(at("messageExpression"), why));
    }
    let reason = text(rule, &["reason"]);
    if !rule["reason"].is_null() && !REASONS.contains(&reason) {
        let mut sorted = REASONS;
        sorted.sort_unstable();
        errors.push(FieldError::not_supported(at("reason"), reason, &sorted));
    }
    let field = text(rule, &["fieldPath"]);
    if field.is_empty() {
        return;
    }
    if field.trim().is_empty() {
        errors.push(FieldError::invalid(at("fieldPath"), field, "must be non-empty if specified"));
    }
    if breaks(field) {
        errors.push(FieldError::invalid(at("fieldPath"), field, "must not contain line breaks"));
    }
    if declare::field_path(schema, field).is_none() {
        errors.push(FieldError::invalid(at("fieldPath"), field, "must be a valid path"));
    }
}
