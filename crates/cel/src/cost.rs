//! The worst case of an expression, by the declared sizes of what it looks at. An over-estimate is harmless up
//! to its limit, an under-estimate is caught by the budget when it runs.

use std::sync::Arc;

use crate::ast::{Expr, FoldKind, Literal, Node};
use crate::decl::{Decl, DeclKind, MAX_REQUEST_BYTES};

/// What is known of a node: cost, most items or characters of its value, and its declaration.
struct Estimate {
    cost: u64,
    size: u64,
    decl: Option<Arc<Decl>>,
}

/// The most units that a run can take.
pub(crate) fn estimate(expr: &Expr, variables: Vec<(String, Arc<Decl>)>) -> u64 {
    let variables = variables.into_iter().map(|(name, decl)| (name, decl.max, Some(decl))).collect();
    Estimator { variables }.of(expr).cost
}

struct Estimator {
    variables: Vec<(String, u64, Option<Arc<Decl>>)>,
}

impl Estimator {
    fn of(&mut self, expr: &Expr) -> Estimate {
        match &expr.node {
            Node::Literal(literal) => Estimate { cost: 0, size: literal_size(literal), decl: None },
            Node::Ident(name) => {
                let known = self.variables.iter().rev().find(|(known, ..)| known == name);
                let (size, decl) = known.map_or((1, None), |(_, size, decl)| (*size, decl.clone()));
                Estimate { cost: 1, size, decl }
            }
            Node::Select { operand, field, .. } => {
                let operand = self.of(operand);
                let decl = operand.decl.as_ref().and_then(|decl| match &decl.kind {
                    DeclKind::Object(fields) => fields.get(field).cloned(),
                    _ => decl.element().cloned(),
                });
                inside(operand.cost + 1, operand.decl.is_some(), decl)
            }
            Node::And(left, right) | Node::Or(left, right) => {
                let cost = self.of(left).cost.saturating_add(self.of(right).cost);
                Estimate { cost, size: 1, decl: None }
            }
            Node::Cond(test, yes, no) => {
                let (test, yes, no) = (self.of(test), self.of(yes), self.of(no));
                let cost = test.cost.saturating_add(yes.cost.max(no.cost));
                Estimate { cost, size: yes.size.max(no.size), decl: yes.decl.or(no.decl) }
            }
            Node::List(items) => {
                let cost =
                    items.iter().fold(10, |sum: u64, (_, item)| sum.saturating_add(self.of(item).cost));
                Estimate { cost, size: items.len() as u64, decl: None }
            }
            Node::Map(items) => {
                let each = items.iter().flat_map(|(_, key, value)| [key, value]);
                let cost = each.fold(30, |sum: u64, item| sum.saturating_add(self.of(item).cost));
                Estimate { cost, size: items.len() as u64, decl: None }
            }
            Node::Call { name, args, .. } => self.call(name, args),
            Node::Fold(fold) => {
                let range = self.of(&fold.range);
                let element = range.decl.as_ref().and_then(|decl| decl.element().cloned());
                let size = element.as_ref().map_or(MAX_REQUEST_BYTES, |decl| decl.max);
                let depth = self.variables.len();
                let of_keys = matches!(range.decl.as_ref().map(|decl| &decl.kind), Some(DeclKind::Map(_)));
                // Keys of a map are texts that nobody declared.
                let key = (MAX_REQUEST_BYTES, None);
                let (first, second) = match (&fold.second, of_keys) {
                    (Some(_), _) => (key, (size, element)),
                    (None, true) => (key, (1, None)),
                    (None, false) => ((size, element), (1, None)),
                };
                self.variables.push((fold.first.clone(), first.0, first.1));
                if let Some(name) = &fold.second {
                    self.variables.push((name.clone(), second.0, second.1));
                }
                let filter = fold.filter.as_ref().map_or(0, |filter| self.of(filter).cost);
                let body = self.of(&fold.body);
                self.variables.truncate(depth);
                let once = matches!(fold.kind, FoldKind::OptMap | FoldKind::OptFlatMap);
                let times = if once { 1 } else { range.size };
                let turn = body.cost.saturating_add(filter).saturating_add(2);
                let cost = range.cost.saturating_add(turn.saturating_mul(times));
                let decl = if fold.kind == FoldKind::Filter { range.decl } else { None };
                Estimate { cost, size: range.size, decl }
            }
        }
    }

    fn call(&mut self, name: &str, args: &[Expr]) -> Estimate {
        let args: Vec<Estimate> = args.iter().map(|arg| self.of(arg)).collect();
        let cost = args.iter().fold(1, |sum: u64, arg| sum.saturating_add(arg.cost));
        let size = |index: usize| args.get(index).map_or(0, |arg| arg.size);
        let (extra, result) = match name {
            "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => (tenth(size(0).min(size(1))), 1),
            "_+_" => {
                let sum = size(0).saturating_add(size(1));
                (tenth(sum), sum)
            }
            "@in" => {
                let of_map = matches!(args[1].decl.as_ref().map(|decl| &decl.kind), Some(DeclKind::Map(_)));
                (if of_map { 0 } else { size(1) }, 1)
            }
            "_[_]" | "_[?_]" => {
                let element = args.first().and_then(|arg| arg.decl.as_ref()?.element().cloned());
                return inside(cost, args.first().is_some_and(|arg| arg.decl.is_some()), element);
            }
            "matches" | "find" | "findAll" => {
                (tenth(size(0)).saturating_add(1).saturating_mul(size(1) / 4 + 1), size(0))
            }
            "sets.contains" | "sets.equivalent" | "sets.intersects" => (size(0).saturating_mul(size(1)), 1),
            "distinct" => (size(0).saturating_mul(size(0)), size(0)),
            "size" => (0, 1),
            "isSorted" | "sum" | "min" | "max" | "sort" | "reverse" | "flatten" => (size(0), size(0)),
            "replace" => {
                let grown = size(0).saturating_mul(size(2).max(1));
                (tenth(grown), grown)
            }
            "lists.range" => (MAX_REQUEST_BYTES, MAX_REQUEST_BYTES),
            "string" => (tenth(size(0)), size(0).max(32)),
            _ => (args.iter().fold(0, |sum: u64, arg| sum.saturating_add(tenth(arg.size))), size(0)),
        };
        Estimate { cost: cost.saturating_add(extra), size: result, decl: None }
    }
}

/// A part of a declared value; of one that is not declared it may be anything.
fn inside(cost: u64, declared: bool, decl: Option<Arc<Decl>>) -> Estimate {
    let size = match &decl {
        Some(decl) => decl.max,
        None if declared => 1,
        None => MAX_REQUEST_BYTES,
    };
    Estimate { cost, size, decl }
}

fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

fn literal_size(literal: &Literal) -> u64 {
    match literal {
        Literal::String(text) => text.chars().count() as u64,
        Literal::Bytes(bytes) => bytes.len() as u64,
        _ => 1,
    }
}
