//! The tree of an expression. Macros are nodes of their own, so that running them needs no accumulator.

use std::collections::BTreeSet;

/// A node, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    /// Characters before the node's mark: the operator, the dot, the opening bracket.
    pub(crate) at: usize,
    pub(crate) node: Node,
    /// Nodes on the longest way down, this one included: what a walk's stack must hold.
    pub(crate) height: usize,
}

impl Expr {
    /// A node over nodes that are there.
    pub(crate) fn new(at: usize, node: Node) -> Self {
        let height = 1 + node.children().iter().map(|child| child.height).max().unwrap_or(0);
        Self { at, node, height }
    }
}

impl Node {
    /// Adds the fields that are selected of a variable.
    pub(crate) fn fields_of(&self, variable: &str, fields: &mut BTreeSet<String>) {
        if let Self::Select { operand, field, .. } = self
            && matches!(&operand.node, Self::Ident(name) if name == variable)
        {
            fields.insert(field.clone());
        }
        self.children().iter().for_each(|child| child.node.fields_of(variable, fields));
    }

    /// The nodes right below.
    pub(crate) fn children(&self) -> Vec<&Expr> {
        match self {
            Self::Literal(_) | Self::Ident(_) => Vec::new(),
            Self::Select { operand, .. } => vec![operand],
            Self::Call { args, .. } => args.iter().collect(),
            Self::And(left, right) | Self::Or(left, right) => vec![left, right],
            Self::Cond(test, yes, no) => vec![test, yes, no],
            Self::List(items) => items.iter().map(|(_, item)| item).collect(),
            Self::Map(items) => items.iter().flat_map(|(_, key, value)| [key, value]).collect(),
            Self::Message(_, fields) => fields.iter().map(|(_, _, value)| value).collect(),
            Self::Fold(fold) => {
                [Some(&fold.range), fold.filter.as_ref(), Some(&fold.body)].into_iter().flatten().collect()
            }
        }
    }

    /// Whether a free variable of this name is in it.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        match self {
            Self::Ident(ident) => ident == name,
            Self::Fold(fold) if fold.first == name || fold.second.as_deref() == Some(name) => {
                fold.range.node.mentions(name)
            }
            node => node.children().iter().any(|child| child.node.mentions(name)),
        }
    }
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Literal(Literal),
    Ident(String),
    /// `a.b`, `a.?b`, and with `test` `has(a.b)`.
    Select {
        operand: Box<Expr>,
        field: String,
        optional: bool,
        test: bool,
    },
    /// A function, or an operator by its CEL name (`_+_`); of a method the receiver comes first.
    Call {
        name: String,
        method: bool,
        args: Vec<Expr>,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Cond(Box<Expr>, Box<Expr>, Box<Expr>),
    /// Items; those marked are left out where they are none.
    List(Vec<(bool, Expr)>),
    Map(Vec<(bool, Expr, Expr)>),
    Fold(Box<Fold>),
    /// `Name{field: value}`: a message; fields that are marked are left out where they are none.
    Message(String, Vec<(bool, String, Expr)>),
}

/// A macro over the items of a list, the entries of a map, or one value.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub(crate) kind: FoldKind,
    pub(crate) range: Expr,
    pub(crate) first: String,
    /// The second variable: value beside key or index.
    pub(crate) second: Option<String>,
    /// Which items count (`map` and the transforms alone).
    pub(crate) filter: Option<Expr>,
    pub(crate) body: Expr,
}

/// Which macro.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
    OptMap,
    OptFlatMap,
    SortBy,
}
