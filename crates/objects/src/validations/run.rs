//! Running the rules over an object and what it was before.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value as Json};
use yunfan_cel::{Budget, EvalError, Value};

use super::{CALL_LIMIT, MAX_MESSAGE, OBJECT_LIMIT, Rule, Rules, TIME_LIMIT, brief, values};
use crate::error::FieldError;
use crate::schema::{ListType, MAX_FINDINGS, Schema, type_name};

const SPENT: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// A run over one object.
struct Run {
    left: u64,
    end: std::time::Instant,
    errors: Vec<FieldError>,
    /// No more rules are run.
    over: bool,
    /// Whether it is about what did not change, and not about all else.
    unchanged: bool,
}

impl Rules {
    /// What the rules say of an object. Rules over what did not change are not held against an update, except those that
    /// look at the change itself.
    pub fn validate(&self, object: &Json, old: Option<&Json>) -> Vec<FieldError> {
        self.run(object, old, false)
    }

    /// What the rules say of what did not change, and what is not held against an update.
    pub fn tolerated(&self, object: &Json, old: &Json) -> Vec<FieldError> {
        self.run(object, Some(old), true)
    }

    fn run(&self, object: &Json, old: Option<&Json>, unchanged: bool) -> Vec<FieldError> {
        let end = std::time::Instant::now() + TIME_LIMIT;
        let mut run = Run { left: OBJECT_LIMIT, end, errors: Vec::new(), over: false, unchanged };
        run.node(self, "", object, old);
        run.errors
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

impl Run {
    fn node(&mut self, rules: &Rules, path: &str, json: &Json, old: Option<&Json>) {
        let Some(schema) = rules.schema.as_ref().filter(|_| !json.is_null()) else { return };
        let old = old.filter(|old| !old.is_null());
        if !rules.rules.is_empty() {
            self.rules(rules, schema, path, json, old);
        }
        match json {
            Json::Object(map) => {
                let before = old.and_then(Json::as_object);
                self.entries(rules, path, map, before);
            }
            Json::Array(items) => {
                let Some(inner) = &rules.items else { return };
                let before =
                    Before::new(schema, old.and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default());
                for (index, item) in items.iter().enumerate() {
                    if self.over {
                        return;
                    }
                    self.node(inner, &format!("{path}[{index}]"), item, before.same(item));
                }
            }
            _ => {}
        }
    }

    fn entries(
        &mut self,
        rules: &Rules,
        path: &str,
        map: &Map<String, Json>,
        old: Option<&Map<String, Json>>,
    ) {
        for (key, value) in map {
            if self.over {
                return;
            }
            let before = old.and_then(|old| old.get(key));
            match (rules.properties.get(key), &rules.additional) {
                (Some(inner), _) => self.node(inner, &join(path, key), value, before),
                (None, Some(inner)) => self.node(inner, &format!("{path}[{key}]"), value, before),
                (None, None) => {}
            }
        }
    }

    fn rules(&mut self, rules: &Rules, schema: &Schema, path: &str, json: &Json, old: Option<&Json>) {
        if self.over {
            return;
        }
        let current = values::value(schema, json, rules.root);
        let uses_old = rules.rules.iter().any(|rule| rule.uses_old);
        let before = old.filter(|_| uses_old).map(|old| values::value(schema, old, rules.root));
        let unchanged = old.is_some_and(|old| is_same(schema, json, old));
        for rule in &rules.rules {
            if self.over {
                return;
            }
            if rule.uses_old && before.is_none() && !rule.optional_old {
                continue;
            }
            // What did not change is not held against an update, and must not use up the budget of what did.
            if (unchanged && !rule.uses_old) != self.unchanged {
                continue;
            }
            let mut variables = vec![("self", current.clone())];
            match (&before, rule.optional_old) {
                (before, true) => variables.push(("oldSelf", before.clone().into())),
                (Some(before), false) => variables.push(("oldSelf", before.clone())),
                (None, false) => {}
            }
            if let Some(error) = self.rule(rule, path, json, &variables) {
                self.errors.push(error);
                self.over |= self.errors.len() >= MAX_FINDINGS;
            }
        }
    }

    fn rule(
        &mut self,
        rule: &Rule,
        path: &str,
        json: &Json,
        variables: &[(&str, Value)],
    ) -> Option<FieldError> {
        let kind = type_name(json);
        let shown = &rule.shown;
        match self.evaluate(&rule.program, variables) {
            Ok(Value::Bool(true)) => None,
            Ok(_) => {
                let field = format!(
                    "{path}{}",
                    if path.is_empty() { rule.field.trim_start_matches('.') } else { &rule.field }
                );
                let detail = match self.message(rule, variables) {
                    Ok(message) => message,
                    Err(why) => {
                        self.over = true;
                        return Some(FieldError::invalid(field, kind, why));
                    }
                };
                let detail =
                    detail.or(rule.message.clone()).unwrap_or_else(|| format!("failed rule: {shown}"));
                let error = match rule.reason.as_str() {
                    "FieldValueForbidden" => FieldError::forbidden(field, detail),
                    "FieldValueRequired" => FieldError::required(field, detail),
                    "FieldValueDuplicate" => FieldError::duplicate(field, json.clone()),
                    _ => FieldError::invalid(field, json.clone(), detail),
                };
                Some(if json.is_object() || json.is_array() { error.whole() } else { error })
            }
            Err(error) => {
                let why = match &error {
                    EvalError::Limit if self.left == 0 => SPENT.to_owned(),
                    EvalError::Limit => format!(
                        "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                    ),
                    EvalError::NoSuchOverload => format!(
                        "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                    ),
                    EvalError::Failed(_) => format!("{error} evaluating rule: {shown}"),
                };
                self.over |= error == EvalError::Limit;
                Some(FieldError::invalid(path, kind, why))
            }
        }
    }

    fn evaluate(
        &mut self,
        program: &yunfan_cel::Program,
        variables: &[(&str, Value)],
    ) -> Result<Value, EvalError> {
        let time = self.end.saturating_duration_since(std::time::Instant::now());
        let mut budget = Budget::new(self.left.min(CALL_LIMIT).min(brief::left()), time);
        let out = program.run(variables, &mut budget);
        brief::pay(budget.used());
        self.left = self.left.saturating_sub(budget.used());
        out
    }

    /// The message that a `messageExpression` makes, if it makes one that can be shown.
    fn message(&mut self, rule: &Rule, variables: &[(&str, Value)]) -> Result<Option<String>, String> {
        let Some(program) = &rule.message_program else { return Ok(None) };
        match self.evaluate(program, variables) {
            Ok(Value::String(text)) => {
                let text = text.trim();
                let fit = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
                Ok(fit.then(|| text.to_owned()))
            }
            Err(EvalError::Limit) => {
                Err("messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned())
            }
            _ => Ok(None),
        }
    }
}

/// The items of a list before, by their keys: only lists with keys tell which item is which.
pub(crate) struct Before<'a> {
    keys: &'a [String],
    items: HashMap<String, &'a Json>,
}

impl<'a> Before<'a> {
    pub(crate) fn new(schema: &'a Schema, before: &'a [Json]) -> Self {
        let keys: &[String] = if let ListType::Map(keys) = &schema.list_type { keys } else { &[] };
        let mut items = HashMap::new();
        for item in before.iter().filter(|_| !keys.is_empty()) {
            items.entry(key_of(keys, item)).or_insert(item);
        }
        Self { keys, items }
    }

    /// The item that was the same one before.
    pub(crate) fn same(&self, item: &Json) -> Option<&'a Json> {
        if self.items.is_empty() { None } else { self.items.get(&key_of(self.keys, item)).copied() }
    }
}

fn key_of(keys: &[String], item: &Json) -> String {
    let values: Vec<Option<&Json>> = keys.iter().map(|key| item.get(key)).collect();
    serde_json::to_string(&values).unwrap_or_default()
}

/// Whether a value is what it was before: the order of a list does not count where keys tell which item is which.
pub(crate) fn is_same(schema: &Schema, value: &Json, before: &Json) -> bool {
    if value == before {
        return true;
    }
    match (value, before) {
        (Json::Object(new), Json::Object(old)) if new.len() == old.len() => new.iter().all(|(key, value)| {
            let (inner, before) = (schema.field(key), old.get(key));
            before.is_some_and(|before| match inner {
                Some(inner) => is_same(inner, value, before),
                None => value == before,
            })
        }),
        (Json::Array(new), Json::Array(old)) if new.len() == old.len() => {
            let (Some(inner), ListType::Map(keys)) = (&schema.items, &schema.list_type) else { return false };
            let before = Before::new(schema, old);
            let mut seen = HashSet::with_capacity(new.len());
            new.iter().all(|item| {
                let same = before.same(item).is_some_and(|before| is_same(inner, item, before));
                same && seen.insert(key_of(keys, item))
            })
        }
        _ => false,
    }
}
