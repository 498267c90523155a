//! The worst case of an expression, by the declared sizes of what it looks at. The numbers are part of the API: they
//! decide which rules are taken, so they are those of Kubernetes (the estimates of cel-go, and of Kubernetes' libraries).
//! What costs more when it runs is caught by its budget.

mod calls;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Expr, Fold, FoldKind, Literal, Node};
use crate::decl::{Decl, DeclKind};
use crate::types::Type;

/// Cost of making a list.
pub(crate) const LIST: u64 = 10;
/// Cost of making a map.
pub(crate) const MAP: u64 = 30;
/// A message.
pub(crate) const MESSAGE: u64 = 40;

/// The types that the check found, by the place of the node in memory.
pub(crate) type NodeTypes = HashMap<*const Expr, Type>;

/// Items or characters, at least and at most.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Size {
    min: u64,
    max: u64,
}

impl Size {
    const ONE: Self = Self::exact(1);
    /// Of what nothing is known.
    const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    const fn exact(size: u64) -> Self {
        Self { min: size, max: size }
    }

    fn up_to(max: u64) -> Self {
        Self { min: 0, max }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// What is known of a node: its cost, the size of its value and of what is in it, and its declaration.
#[derive(Clone, Default)]
struct Estimate {
    cost: u64,
    size: Option<Size>,
    entry: Option<Size>,
    decl: Option<Arc<Decl>>,
}

impl Estimate {
    fn new(cost: u64, size: Option<Size>) -> Self {
        Self { cost, size, entry: None, decl: None }
    }

    fn sized(&self) -> Size {
        self.size.unwrap_or(Size::UNKNOWN)
    }
}

/// A variable in sight.
struct Known {
    name: String,
    size: Option<Size>,
    decl: Option<Arc<Decl>>,
}

/// The most units that a run can take.
pub(crate) fn estimate(expr: &Expr, variables: Vec<(String, Arc<Decl>)>, types: &NodeTypes) -> u64 {
    let root = variables.first().map_or(Size::UNKNOWN, |(_, decl): &(String, Arc<Decl>)| decl_size(decl));
    let known = |(name, decl)| Known { name, size: None, decl: Some(decl) };
    Estimator { variables: variables.into_iter().map(known).collect(), root, types }.of(expr).cost
}

struct Estimator<'a> {
    variables: Vec<Known>,
    /// Size of the first variable, which also stands for names that have no declaration.
    root: Size,
    types: &'a NodeTypes,
}

impl Estimator<'_> {
    fn of(&mut self, expr: &Expr) -> Estimate {
        let mut out = self.node(expr);
        if out.size.is_none() {
            out.size = match (&out.decl, self.type_of(expr)) {
                (Some(decl), _) => Some(decl_size(decl)),
                (None, ty) => is_scalar(ty).then_some(Size::ONE),
            };
        }
        out
    }

    fn type_of(&self, expr: &Expr) -> &Type {
        self.types.get(&std::ptr::from_ref(expr)).unwrap_or(&Type::Dyn)
    }

    fn node(&mut self, expr: &Expr) -> Estimate {
        match &expr.node {
            Node::Literal(literal) => Estimate::new(0, Some(literal_size(literal))),
            Node::Ident(name) => {
                let known = self.variables.iter().rev().find(|known| known.name == *name);
                let names_type = (Some(self.root), None);
                let (size, decl) = known.map_or(names_type, |known| (known.size, known.decl.clone()));
                Estimate { cost: 1, size: size.filter(|_| decl.is_none()), entry: None, decl }
            }
            Node::Select { operand, field, optional, test } => {
                let ty = self.type_of(operand).clone();
                let operand = self.of(operand);
                if *test {
                    return Estimate::new(operand.cost, Some(Size::ONE));
                }
                if *optional {
                    return Estimate::new(operand.cost.saturating_add(1), None);
                }
                let step = u64::from(matches!(ty, Type::Map(..) | Type::Object(_)));
                let decl = operand.decl.as_ref().and_then(|decl| match &decl.kind {
                    DeclKind::Object(fields) => fields.get(field).cloned(),
                    _ => None,
                });
                Estimate { cost: operand.cost.saturating_add(step), size: None, entry: None, decl }
            }
            Node::And(left, right) | Node::Or(left, right) => {
                let cost = self.of(left).cost.saturating_add(self.of(right).cost);
                Estimate::new(cost, Some(Size::ONE))
            }
            Node::Cond(test, yes, no) => {
                let (test, yes, no) = (self.of(test), self.of(yes), self.of(no));
                let cost = test.cost.saturating_add(yes.cost.max(no.cost));
                let entry = yes.entry.zip(no.entry).map(|(a, b)| a.or(b));
                Estimate { cost, size: Some(yes.sized().or(no.sized())), entry, decl: None }
            }
            Node::List(items) => self.literal(LIST, items.len(), items.iter().map(|(_, item)| (None, item))),
            Node::Map(items) => {
                self.literal(MAP, items.len(), items.iter().map(|(_, key, value)| (Some(key), value)))
            }
            Node::Message(_, fields) => {
                self.literal(MESSAGE, fields.len(), fields.iter().map(|(_, _, value)| (None, value)))
            }
            Node::Call { name, method, args } => self.call(expr, name, *method, args),
            Node::Fold(fold) => self.fold(fold),
        }
    }

    fn literal<'e>(
        &mut self,
        base: u64,
        count: usize,
        entries: impl Iterator<Item = (Option<&'e Expr>, &'e Expr)>,
    ) -> Estimate {
        let mut out = Estimate { cost: base, size: Some(Size::exact(count as u64)), ..Estimate::default() };
        for (key, value) in entries {
            let key = key.map_or(0, |key| self.of(key).cost);
            let value = self.of(value);
            out.cost = out.cost.saturating_add(key).saturating_add(value.cost);
            out.entry = Some(out.entry.map_or(value.sized(), |entry| entry.or(value.sized())));
        }
        out.entry.get_or_insert(Size::exact(0));
        out
    }

    fn fold(&mut self, fold: &Fold) -> Estimate {
        let ty = self.type_of(&fold.range).clone();
        let range = self.of(&fold.range);
        if matches!(fold.kind, FoldKind::OptMap | FoldKind::OptFlatMap) {
            self.variables.push(Known { name: fold.first.clone(), size: None, decl: None });
            let body = self.of(&fold.body);
            self.variables.pop();
            // It is asked for twice: whether it is there, and for its value.
            let twice = range.cost.saturating_mul(2).saturating_add(15);
            return Estimate::new(twice.saturating_add(body.cost), None);
        }
        let element = range.decl.as_ref().and_then(|decl| decl.element().cloned());
        let depth = self.variables.len();
        let root = Some(self.root);
        let value = |name: &str| Known { name: name.to_owned(), size: root, decl: element.clone() };
        // Keys of declared maps are texts of no declared length, which count as empty.
        let declared = range.decl.as_ref().is_some_and(|decl| matches!(decl.kind, DeclKind::Map(_)));
        let size = if declared { Some(Size::exact(0)) } else { root };
        let key = |name: &str| Known { name: name.to_owned(), size, decl: None };
        match &fold.second {
            Some(second) => self.variables.extend([key(&fold.first), value(second)]),
            None if matches!(ty, Type::Map(..)) => self.variables.push(key(&fold.first)),
            None => self.variables.push(value(&fold.first)),
        }
        let filter = fold.filter.as_ref().map_or(0, |filter| self.of(filter).cost);
        let body = self.of(&fold.body);
        self.variables.truncate(depth);
        let (around, turn) = overhead(fold.kind);
        let turn = body.cost.saturating_add(filter).saturating_add(turn);
        let cost = range.cost.saturating_add(around).saturating_add(turn.saturating_mul(range.sized().max));
        let size = match fold.kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => Size::ONE,
            _ => range.sized(),
        };
        let entry = match fold.kind {
            FoldKind::Map | FoldKind::TransformList => Some(body.sized().or(Size::exact(0))),
            FoldKind::Filter => {
                Some(element.as_deref().map(decl_size).or(range.entry).unwrap_or(Size::UNKNOWN))
            }
            _ => None,
        };
        let mut out = Estimate { cost, size: Some(size), entry, decl: None };
        if fold.kind == FoldKind::SortBy {
            out.cost = out.cost.saturating_add(calls::sorting(range.sized(), Some(&Type::String)));
        }
        out
    }
}

/// What a macro costs once, and for each item beside its arguments.
fn overhead(kind: FoldKind) -> (u64, u64) {
    match kind {
        FoldKind::All => (1, 3),
        FoldKind::Exists => (1, 4),
        FoldKind::ExistsOne => (2, 2),
        FoldKind::Map | FoldKind::TransformList | FoldKind::SortBy => (LIST + 1, LIST + 2),
        FoldKind::Filter => (LIST + 1, LIST + 3),
        FoldKind::TransformMap => (MAP + 1, 3),
        FoldKind::TransformMapEntry => (MAP + 1, 2),
        FoldKind::OptMap | FoldKind::OptFlatMap => (0, 0),
    }
}

/// Sizes are declared for texts, lists and maps.
fn decl_size(decl: &Decl) -> Size {
    match &decl.kind {
        DeclKind::Object(_) | DeclKind::Scalar(Type::Bool | Type::Int | Type::Double) => Size::exact(0),
        _ => Size::up_to(decl.max),
    }
}

fn is_scalar(ty: &Type) -> bool {
    matches!(ty, Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Duration | Type::Timestamp)
}

fn literal_size(literal: &Literal) -> Size {
    match literal {
        Literal::String(text) => Size::exact(text.chars().count() as u64),
        Literal::Bytes(bytes) => Size::exact(bytes.len() as u64),
        _ => Size::ONE,
    }
}
