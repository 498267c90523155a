//! The declared shape of a variable: types, and how large values can get.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::Type;

/// Largest request, bytes: no value in it has more items than fit into that.
pub const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;

/// A declared shape.
#[derive(Clone, Debug)]
pub struct Decl {
    /// What it is.
    pub kind: DeclKind,
    /// Most characters, items or entries; 1 for what has none.
    pub max: u64,
    /// Least bytes in a request.
    pub min_bytes: u64,
}

/// What a value is declared to be.
#[derive(Clone, Debug)]
pub enum DeclKind {
    /// A value without parts.
    Scalar(Type),
    /// Items of one shape.
    List(Arc<Decl>),
    /// Text keys, values of one shape.
    Map(Arc<Decl>),
    /// Fields, by the names that expressions use.
    Object(Arc<BTreeMap<String, Arc<Decl>>>),
}

impl Decl {
    /// The shape's type.
    pub fn to_type(&self) -> Type {
        match &self.kind {
            DeclKind::Scalar(ty) => ty.clone(),
            DeclKind::List(of) => Type::list(of.to_type()),
            DeclKind::Map(of) => Type::map(of.to_type()),
            DeclKind::Object(fields) => {
                let fields = fields.iter().map(|(name, decl)| (name.clone(), decl.to_type()));
                Type::Object(Arc::new(fields.collect()))
            }
        }
    }

    /// The shape of what is inside a list or a map.
    pub fn element(&self) -> Option<&Arc<Decl>> {
        match &self.kind {
            DeclKind::List(of) | DeclKind::Map(of) => Some(of),
            _ => None,
        }
    }
}
