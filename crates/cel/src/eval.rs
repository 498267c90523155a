//! Running a checked expression. Each node costs a unit, so that a budget ends any run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ast::{Expr, Fold, FoldKind, Literal, Node};
use crate::budget::Budget;
use crate::check::TYPE_NAMES;
use crate::cost;
use crate::library::Function;
use crate::value::{Key, List, Value};

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The budget is used up.
    #[error("operation cancelled: actual cost limit exceeded")]
    Limit,
    /// A function was called with types that it does not take.
    #[error("no such overload")]
    NoSuchOverload,
    /// What the language calls an error.
    #[error("{0}")]
    Failed(String),
}

impl EvalError {
    /// An error in words.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }
}

type Outcome = Result<Value, EvalError>;

/// Values behind a dot that are made when an expression comes to them: `variables.x`.
pub trait Lookup {
    /// The value of `space.field`; `None` where that is nothing special. What it costs is charged.
    fn get(&self, space: &str, field: &str, budget: &mut Budget) -> Option<Result<Value, EvalError>>;
}

/// The variables of a run, and what is left for it.
pub(crate) struct Scope<'a> {
    functions: &'a HashMap<&'static str, Function>,
    variables: Vec<(&'a str, Value)>,
    /// How many of the variables were there from the start: macros add their own.
    given: usize,
    lookup: Option<&'a dyn Lookup>,
    budget: &'a mut Budget,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(
        functions: &'a HashMap<&'static str, Function>,
        variables: &[(&'a str, Value)],
        lookup: Option<&'a dyn Lookup>,
        budget: &'a mut Budget,
    ) -> Self {
        Self { functions, variables: variables.to_vec(), given: variables.len(), lookup, budget }
    }

    /// The value of a node.
    pub(crate) fn eval(&mut self, expr: &'a Expr) -> Outcome {
        match &expr.node {
            Node::Literal(literal) => {
                // Free in upstream's count, but one in a loop must end as well.
                self.budget.charge(0)?;
                Ok(constant(literal))
            }
            Node::Ident(name) => {
                self.budget.charge(1)?;
                self.variable(name)
            }
            Node::Select { operand, field, optional, test } => {
                if let Some(found) = self.looked_up(operand, field) {
                    self.budget.charge(1)?;
                    return match (test, optional) {
                        (true, _) => Ok(Value::Bool(true)),
                        (_, true) => Ok(Some(found?).into()),
                        _ => found,
                    };
                }
                let operand = self.eval(operand)?;
                self.budget.charge(1)?;
                select(&operand, field, *optional, *test)
            }
            Node::Call { name, args, .. } => {
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    values.push(self.eval(arg)?);
                }
                self.budget.charge(1)?;
                let function = self.functions.get(name.as_str()).ok_or(EvalError::NoSuchOverload)?;
                function.call(&values, self.budget)
            }
            Node::And(left, right) => self.logical(left, right, false),
            Node::Or(left, right) => self.logical(left, right, true),
            Node::Cond(test, yes, no) => match self.eval(test)? {
                Value::Bool(true) => self.eval(yes),
                Value::Bool(false) => self.eval(no),
                _ => Err(EvalError::NoSuchOverload),
            },
            Node::List(items) => self.list(items),
            Node::Map(items) => self.map(items),
            Node::Fold(fold) => self.fold(fold),
            Node::Message(_, fields) => self.message(fields),
        }
    }

    fn message(&mut self, fields: &'a [(bool, String, Expr)]) -> Outcome {
        self.budget.charge(cost::MESSAGE)?;
        let mut out = BTreeMap::new();
        for (optional, field, value) in fields {
            self.budget.charge(1)?;
            let value = match (optional, self.eval(value)?) {
                (true, Value::Optional(None)) => continue,
                (true, Value::Optional(Some(value))) => Value::clone(&value),
                (_, value) => value,
            };
            out.insert(Key::String(field.as_str().into()), value);
        }
        Ok(Value::Map(Arc::new(out)))
    }

    fn looked_up(&mut self, operand: &Expr, field: &str) -> Option<Outcome> {
        let (lookup, Node::Ident(space)) = (self.lookup?, &operand.node) else { return None };
        let hidden = self.variables[self.given..].iter().any(|(name, _)| name == space);
        if hidden { None } else { lookup.get(space, field, self.budget) }
    }

    fn variable(&self, name: &str) -> Outcome {
        if let Some((_, value)) = self.variables.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        match TYPE_NAMES.iter().find(|known| **known == name) {
            Some(name) => Ok(Value::Type(name)),
            None => Err(EvalError::failed(format!("no such attribute(s): {name}"))),
        }
    }

    /// An error on one side does not matter where the other side decides.
    fn logical(&mut self, left: &'a Expr, right: &'a Expr, decides: bool) -> Outcome {
        let first = self.eval(left);
        match &first {
            Ok(Value::Bool(value)) if *value == decides => return first,
            Err(EvalError::Limit) => return first,
            _ => {}
        }
        let second = self.eval(right);
        match (&first, &second) {
            (_, Ok(Value::Bool(value))) if *value == decides => second,
            (_, Err(EvalError::Limit)) => second,
            (Err(_), _) => first,
            (Ok(Value::Bool(_)), Ok(Value::Bool(_)) | Err(_)) => second,
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    fn list(&mut self, items: &'a [(bool, Expr)]) -> Outcome {
        self.budget.charge(cost::LIST)?;
        let mut out = Vec::new();
        for (optional, item) in items {
            self.budget.charge(1)?;
            match (optional, self.eval(item)?) {
                (true, Value::Optional(None)) => {}
                (true, Value::Optional(Some(value))) => out.push(Value::clone(&value)),
                (_, value) => out.push(value),
            }
        }
        Ok(out.into())
    }

    fn map(&mut self, items: &'a [(bool, Expr, Expr)]) -> Outcome {
        self.budget.charge(cost::MAP)?;
        let mut out = BTreeMap::new();
        for (optional, key, value) in items {
            self.budget.charge(1)?;
            let key = map_key(&self.eval(key)?)?;
            let value = match (optional, self.eval(value)?) {
                (true, Value::Optional(None)) => continue,
                (true, Value::Optional(Some(value))) => Value::clone(&value),
                (_, value) => value,
            };
            if out.insert(key, value).is_some() {
                return Err(EvalError::failed("insert failed: key already exists"));
            }
        }
        Ok(Value::Map(Arc::new(out)))
    }

    fn fold(&mut self, fold: &'a Fold) -> Outcome {
        let range = self.eval(&fold.range)?;
        self.budget.charge(1)?;
        if let FoldKind::OptMap | FoldKind::OptFlatMap = fold.kind {
            return self.optional(fold, &range);
        }
        let mut outcome = Gathered::default();
        match &range {
            Value::List(list) => {
                for (index, item) in list.items.iter().enumerate() {
                    // No list in memory has more items than that.
                    let index = Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
                    if self.step(fold, (index, item.clone()), item, &mut outcome)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for (key, value) in map.iter() {
                    let key = key.value();
                    let item = key.clone();
                    if self.step(fold, (key, value.clone()), &item, &mut outcome)? {
                        break;
                    }
                }
            }
            _ => return Err(EvalError::NoSuchOverload),
        }
        outcome.finish(fold.kind, &range)
    }

    /// One item; true if the outcome is decided.
    fn step(
        &mut self,
        fold: &'a Fold,
        (key, value): (Value, Value),
        item: &Value,
        outcome: &mut Gathered,
    ) -> Result<bool, EvalError> {
        self.budget.charge(1)?;
        let depth = self.variables.len();
        match &fold.second {
            Some(second) => {
                self.variables.push((&fold.first, key.clone()));
                self.variables.push((second, value));
            }
            None => self.variables.push((&fold.first, item.clone())),
        }
        let wanted = match &fold.filter {
            Some(filter) => truth(self.eval(filter)),
            None => Ok(true),
        };
        let body = match wanted {
            Ok(true) => Some(self.eval(&fold.body)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        };
        self.variables.truncate(depth);
        match body {
            None => Ok(false),
            Some(Err(EvalError::Limit)) => Err(EvalError::Limit),
            Some(body) => outcome.take(fold.kind, key, item, body),
        }
    }

    fn optional(&mut self, fold: &'a Fold, range: &Value) -> Outcome {
        let Value::Optional(inner) = range else { return Err(EvalError::NoSuchOverload) };
        let Some(inner) = inner else { return Ok(Value::Optional(None)) };
        self.variables.push((&fold.first, Value::clone(inner)));
        let body = self.eval(&fold.body);
        self.variables.pop();
        match (fold.kind, body?) {
            (FoldKind::OptMap, value) => Ok(Some(value).into()),
            (_, value @ Value::Optional(_)) => Ok(value),
            _ => Err(EvalError::NoSuchOverload),
        }
    }
}

fn truth(value: Outcome) -> Result<bool, EvalError> {
    match value? {
        Value::Bool(value) => Ok(value),
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// What a macro has seen so far.
#[derive(Default)]
struct Gathered {
    items: Vec<Value>,
    entries: BTreeMap<Key, Value>,
    keyed: Vec<(Value, Value)>,
    matches: u64,
    decided: bool,
    /// Forgotten where another item decides.
    error: Option<EvalError>,
}

impl Gathered {
    fn take(&mut self, kind: FoldKind, key: Value, item: &Value, body: Outcome) -> Result<bool, EvalError> {
        match kind {
            FoldKind::All | FoldKind::Exists => {
                match truth(body) {
                    Ok(value) => self.decided = value == (kind == FoldKind::Exists),
                    Err(error) => self.error = Some(error),
                }
                return Ok(self.decided);
            }
            FoldKind::ExistsOne => self.matches += u64::from(truth(body)?),
            FoldKind::Filter => {
                if truth(body)? {
                    self.items.push(item.clone());
                }
            }
            FoldKind::Map | FoldKind::TransformList => self.items.push(body?),
            FoldKind::TransformMap => {
                self.entries.insert(map_key(&key)?, body?);
            }
            FoldKind::TransformMapEntry => {
                let Value::Map(map) = body? else { return Err(EvalError::NoSuchOverload) };
                for (key, value) in map.iter() {
                    if self.entries.insert(key.clone(), value.clone()).is_some() {
                        return Err(EvalError::failed("insert failed: key already exists"));
                    }
                }
            }
            FoldKind::SortBy => self.keyed.push((body?, item.clone())),
            FoldKind::OptMap | FoldKind::OptFlatMap => return Err(EvalError::NoSuchOverload),
        }
        Ok(false)
    }

    fn finish(mut self, kind: FoldKind, range: &Value) -> Outcome {
        match kind {
            FoldKind::All | FoldKind::Exists => match (self.decided, self.error) {
                (false, Some(error)) => Err(error),
                (decided, _) => Ok(Value::Bool(decided == (kind == FoldKind::Exists))),
            },
            FoldKind::ExistsOne => Ok(Value::Bool(self.matches == 1)),
            FoldKind::TransformMap | FoldKind::TransformMapEntry => Ok(Value::Map(Arc::new(self.entries))),
            FoldKind::SortBy => {
                if self.keyed.windows(2).any(|pair| pair[0].0.compare(&pair[1].0).is_none()) {
                    return Err(EvalError::NoSuchOverload);
                }
                self.keyed.sort_by(|a, b| a.0.compare(&b.0).unwrap_or(std::cmp::Ordering::Equal));
                Ok(self.keyed.into_iter().map(|(_, item)| item).collect::<Vec<_>>().into())
            }
            FoldKind::Filter => {
                let kind = match range {
                    Value::List(list) => list.kind.clone(),
                    _ => Default::default(),
                };
                Ok(Value::List(Arc::new(List { items: self.items, kind })))
            }
            _ => Ok(self.items.into()),
        }
    }
}

fn map_key(value: &Value) -> Result<Key, EvalError> {
    Key::of(value).ok_or_else(|| EvalError::failed(format!("unsupported key type: {}", value.type_name())))
}

fn constant(literal: &Literal) -> Value {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(value) => value.as_str().into(),
        Literal::Bytes(value) => Value::Bytes(value.as_slice().into()),
    }
}

fn select(operand: &Value, field: &str, optional: bool, test: bool) -> Outcome {
    let found = match operand {
        Value::Map(map) => map.get(&Key::String(field.into())).cloned(),
        Value::Optional(None) if test => return Ok(Value::Bool(false)),
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => return select(inner, field, true, test),
        _ => return Err(EvalError::NoSuchOverload),
    };
    match (test, optional, found) {
        (true, _, found) => Ok(Value::Bool(found.is_some())),
        (_, true, found) => Ok(found.into()),
        (_, _, Some(value)) => Ok(value),
        (_, _, None) => Err(EvalError::failed(format!("no such key: {field}"))),
    }
}
