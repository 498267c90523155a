//! The static check: every name is declared, every call has arguments that it can take.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Expr, Fold, FoldKind, Literal, Node};
use crate::cost::NodeTypes;
use crate::environment::{Fault, Messages};
use crate::library::Function;
use crate::types::{Bindings, Type, join};

/// Types that are values: `type(x) == int`.
pub(crate) const TYPE_NAMES: [&str; 10] =
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];

/// A check under way.
pub(crate) struct Checker<'a> {
    functions: &'a HashMap<&'static str, Function>,
    messages: Messages,
    variables: Vec<(String, Type)>,
    pub(crate) faults: Vec<Fault>,
    /// What was found, for the estimate of cost.
    pub(crate) types: NodeTypes,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(
        functions: &'a HashMap<&'static str, Function>,
        messages: Messages,
        variables: Vec<(String, Type)>,
    ) -> Self {
        Self { functions, messages, variables, faults: Vec::new(), types: NodeTypes::new() }
    }

    fn fault(&mut self, at: usize, message: String) -> Type {
        self.faults.push(Fault { at, message });
        // Whatever is made of it is no further fault.
        Type::Dyn
    }

    /// The type of a node; faults are noted.
    pub(crate) fn check(&mut self, expr: &Expr) -> Type {
        let found = self.node(expr);
        self.types.insert(std::ptr::from_ref(expr), found.clone());
        found
    }

    fn node(&mut self, expr: &Expr) -> Type {
        match &expr.node {
            Node::Literal(literal) => literal_type(literal),
            Node::Ident(name) => self.ident(expr.at, name),
            Node::Select { operand, field, optional, test } => {
                let known = self.qualified(operand, field);
                let operand = self.check(operand);
                let found = known.unwrap_or_else(|| self.select(expr.at, &operand, field));
                match (test, optional, &operand, found) {
                    (true, ..) => Type::Bool,
                    (_, _, _, Type::Optional(inner)) => Type::Optional(inner),
                    (_, true, _, found) | (_, _, Type::Optional(_), found) => Type::optional(found),
                    (_, _, _, found) => found,
                }
            }
            Node::Call { name, method, args } => {
                if !self.functions.contains_key(name.as_str()) {
                    // Of what is not there only the receiver can be checked.
                    args.iter().take(usize::from(*method)).for_each(|receiver| drop(self.check(receiver)));
                    return self.undeclared(expr.at, name);
                }
                self.constants(name, args);
                let args: Vec<Type> = args
                    .iter()
                    .map(|arg| match &arg.node {
                        // What is put into a text may be of any types.
                        Node::List(items) if name == "format" => {
                            items.iter().for_each(|(_, item)| drop(self.check(item)));
                            Type::list(Type::Dyn)
                        }
                        _ => self.check(arg),
                    })
                    .collect();
                self.call(expr.at, name, *method, &args)
            }
            Node::And(left, right) => self.logical(expr.at, "_&&_", left, right),
            Node::Or(left, right) => self.logical(expr.at, "_||_", left, right),
            Node::Cond(test, yes, no) => {
                let (test, yes, no) = (self.check(test), self.check(yes), self.check(no));
                let both = join(&yes, &no).filter(|_| matches!(test, Type::Bool | Type::Dyn));
                both.unwrap_or_else(|| self.no_overload(expr.at, "_?_:_", &[test, yes, no], false))
            }
            Node::List(items) => {
                let each = items.iter().map(|(optional, item)| (*optional, item));
                let of = self.common(each);
                Type::list(of)
            }
            Node::Map(items) => {
                let key = self.common(items.iter().map(|(_, key, _)| (false, key)));
                // Others can't be keys when it runs, and keys of keys would let a type double at every level.
                let key = match key {
                    Type::Bool | Type::Int | Type::Uint | Type::Double | Type::String | Type::Dyn => key,
                    other => self.fault(expr.at, format!("unsupported key type '{other}'")),
                };
                let value = self.common(items.iter().map(|(optional, _, value)| (*optional, value)));
                Type::Map(Arc::new(key), Arc::new(value))
            }
            Node::Fold(fold) => self.fold(expr.at, fold),
            Node::Message(name, fields) => self.message(expr.at, name, fields),
        }
    }

    fn message(&mut self, at: usize, name: &str, fields: &[(bool, String, Expr)]) -> Type {
        let Some(found) = (self.messages)(name, None) else { return self.undeclared(at, name) };
        for (optional, field, value) in fields {
            let given = match (optional, self.check(value)) {
                (true, Type::Optional(inner)) => (*inner).clone(),
                (_, given) => given,
            };
            match (self.messages)(name, Some(field)) {
                None => {
                    self.fault(value.at, format!("undefined field '{field}'"));
                }
                Some(wanted) if !holds(&wanted, &given) => {
                    let message = format!(
                        "expected type of field '{field}' is '{wanted}' but provided type is '{given}'"
                    );
                    self.fault(value.at, message);
                }
                Some(_) => {}
            }
        }
        found
    }

    fn ident(&mut self, at: usize, name: &str) -> Type {
        if let Some((_, ty)) = self.variables.iter().rev().find(|(known, _)| known == name) {
            return ty.clone();
        }
        if TYPE_NAMES.contains(&name) {
            return Type::Type;
        }
        self.undeclared(at, name)
    }

    /// The type of a variable with a dot in its name, unless a macro's own variable hides the part before it.
    fn qualified(&self, operand: &Expr, field: &str) -> Option<Type> {
        let Node::Ident(space) = &operand.node else { return None };
        let own = |name: &str| name.split_once('.') == Some((space.as_str(), field));
        let (name, ty) = self.variables.iter().rev().find(|(name, _)| name == space || own(name))?;
        own(name).then(|| ty.clone())
    }

    fn undeclared(&mut self, at: usize, name: &str) -> Type {
        self.fault(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    /// What is written out as a pattern, a duration or a time must be one.
    fn constants(&mut self, name: &str, args: &[Expr]) {
        let Some(Expr { at, node: Node::Literal(Literal::String(text)), .. }) = args.last() else { return };
        let good = match (name, args.len()) {
            ("matches" | "find" | "findAll", 2) => crate::library::compile(text).is_ok(),
            ("duration", 1) => crate::library::parse_duration(text).is_some(),
            ("timestamp", 1) => text.parse::<jiff::Timestamp>().is_ok(),
            _ => true,
        };
        if !good {
            self.fault(*at, format!("invalid {name} argument"));
        }
    }

    fn select(&mut self, at: usize, operand: &Type, field: &str) -> Type {
        match operand {
            Type::Dyn | Type::Message(_) => Type::Dyn,
            Type::Object(fields) => match fields.get(field) {
                Some(ty) => ty.clone(),
                None => self.fault(at, format!("undefined field '{field}'")),
            },
            Type::Map(key, of) if matches!(**key, Type::String | Type::Dyn) => (**of).clone(),
            Type::Optional(inner) => self.select(at, &inner.clone(), field),
            other => self.fault(at, format!("type '{other}' does not support field selection")),
        }
    }

    /// The type of all these; literals must not mix types.
    fn common<'e>(&mut self, items: impl Iterator<Item = (bool, &'e Expr)>) -> Type {
        let mut common: Option<Type> = None;
        for (optional, item) in items {
            let mut ty = self.check(item);
            if optional {
                ty = match ty {
                    Type::Optional(inner) => (*inner).clone(),
                    Type::Dyn => Type::Dyn,
                    other => {
                        self.fault(item.at, format!("expected type 'optional_type' but found '{other}'"))
                    }
                };
            }
            common = Some(match common {
                None => ty,
                Some(before) => match join(&before, &ty) {
                    Some(both) => both,
                    None => self.fault(item.at, format!("expected type '{before}' but found '{ty}'")),
                },
            });
        }
        common.unwrap_or(Type::Dyn)
    }

    fn logical(&mut self, at: usize, name: &str, left: &Expr, right: &Expr) -> Type {
        let types = [self.check(left), self.check(right)];
        if types.iter().all(|ty| matches!(ty, Type::Bool | Type::Dyn)) {
            return Type::Bool;
        }
        self.no_overload(at, name, &types, false)
    }

    fn call(&mut self, at: usize, name: &str, method: bool, args: &[Type]) -> Type {
        let Some(function) = self.functions.get(name) else { return self.undeclared(at, name) };
        let mut result: Option<Type> = None;
        for signature in function.signatures() {
            if signature.method != method || signature.params.len() != args.len() {
                continue;
            }
            let mut bindings = Bindings::default();
            if signature.params.iter().zip(args).all(|(wanted, given)| bindings.accept(wanted, given)) {
                let found = bindings.fill(&signature.result);
                result = Some(match result {
                    None => found,
                    // What comes out depends on what is known only when it runs.
                    Some(before) => join(&before, &found).unwrap_or(Type::Dyn),
                });
            }
        }
        result.unwrap_or_else(|| self.no_overload(at, name, args, method))
    }

    fn no_overload(&mut self, at: usize, name: &str, args: &[Type], method: bool) -> Type {
        let shown: Vec<String> = args.iter().map(ToString::to_string).collect();
        let applied = match shown.split_first() {
            Some((receiver, rest)) if method => format!("{receiver}.({})", rest.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.fault(at, format!("found no matching overload for '{name}' applied to '{applied}'"))
    }

    fn fold(&mut self, at: usize, fold: &Fold) -> Type {
        let range = self.check(&fold.range);
        if matches!(fold.kind, FoldKind::OptMap | FoldKind::OptFlatMap) {
            return self.optional(at, fold, &range);
        }
        let (key, value) = match &range {
            Type::List(of) => (Type::Int, (**of).clone()),
            Type::Map(key, of) => ((**key).clone(), (**of).clone()),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.fault(fold.range.at, message);
                (Type::Dyn, Type::Dyn)
            }
        };
        let depth = self.variables.len();
        match &fold.second {
            Some(second) => {
                self.variables.push((fold.first.clone(), key.clone()));
                self.variables.push((second.clone(), value.clone()));
            }
            None => {
                let item = if matches!(range, Type::Map(..)) { key.clone() } else { value.clone() };
                self.variables.push((fold.first.clone(), item));
            }
        }
        if let Some(filter) = &fold.filter {
            self.boolean(filter);
        }
        let out = match fold.kind {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => {
                self.boolean(&fold.body);
                Type::Bool
            }
            FoldKind::Filter => {
                self.boolean(&fold.body);
                Type::list(if matches!(range, Type::Map(..)) { key } else { value })
            }
            FoldKind::Map | FoldKind::TransformList => Type::list(self.check(&fold.body)),
            FoldKind::TransformMap => {
                let body = self.check(&fold.body);
                Type::Map(Arc::new(key), Arc::new(body))
            }
            FoldKind::TransformMapEntry => match self.check(&fold.body) {
                map @ (Type::Map(..) | Type::Dyn) => map,
                other => self.fault(fold.body.at, format!("expected type 'map' but found '{other}'")),
            },
            FoldKind::SortBy => {
                self.check(&fold.body);
                range
            }
            FoldKind::OptMap | FoldKind::OptFlatMap => Type::Dyn,
        };
        self.variables.truncate(depth);
        out
    }

    fn optional(&mut self, at: usize, fold: &Fold, range: &Type) -> Type {
        let inner = match range {
            Type::Optional(inner) => (**inner).clone(),
            Type::Dyn => Type::Dyn,
            other => return self.fault(at, format!("expected type 'optional_type' but found '{other}'")),
        };
        self.variables.push((fold.first.clone(), inner));
        let body = self.check(&fold.body);
        self.variables.pop();
        match (fold.kind, body) {
            (FoldKind::OptMap, body) => Type::optional(body),
            (_, body @ (Type::Optional(_) | Type::Dyn)) => body,
            (_, other) => {
                self.fault(fold.body.at, format!("expected type 'optional_type' but found '{other}'"))
            }
        }
    }

    fn boolean(&mut self, expr: &Expr) {
        match self.check(expr) {
            Type::Bool | Type::Dyn => {}
            other => {
                self.fault(expr.at, format!("expected type 'bool' but found '{other}'"));
            }
        }
    }
}

/// Whether a field of a message can hold this. One that is declared as a message holds anything but other messages.
fn holds(wanted: &Type, given: &Type) -> bool {
    match (wanted, given) {
        (Type::Message(wanted), Type::Message(given)) => wanted == given,
        (Type::Message(_), Type::List(of) | Type::Map(_, of) | Type::Optional(of)) => holds(wanted, of),
        (Type::Message(_), _) => true,
        _ => join(wanted, given).is_some(),
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
