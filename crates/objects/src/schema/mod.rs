//! Structural schemas: what fields an object has, and how its lists and maps are merged.
//!
//! A [`Schema`] is one node. Built-in kinds share nodes by name through a [`Definitions`] table,
//! decoded on first use; the nodes of a CustomResourceDefinition hold each other directly.

mod definitions;
mod embedded;
mod formats;
pub(crate) mod go_names;
mod parse;
mod shape;
mod unmarshal;
mod validate;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use regex::Regex;
use serde_json::Value;

pub use definitions::Definitions;
pub(crate) use formats::{has_format, is_format_of};
pub use parse::{MAX_SCHEMA_DEPTH, SchemaError};
pub(crate) use shape::MAX_FINDINGS;
pub(crate) use validate::type_name;

/// The JSON type that a value must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Named as JSON names them.
pub enum SchemaType {
    /// Not said.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
    /// A Kubernetes quantity: text, or a number.
    Quantity,
}

/// How the items of a list are merged and owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// As a whole.
    #[default]
    Atomic,
    /// Each scalar once.
    Set,
    /// Items told apart by these keys.
    Map(Vec<String>),
}

/// What a schema says about fields that are not among its properties.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    /// Nothing: they are unknown.
    #[default]
    None,
    /// Anything goes (`additionalProperties: true`).
    Any,
    /// A map with values of this shape.
    Schema(SchemaRef),
}

/// One node of a schema.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // Most are named and meant as in OpenAPI v3.
pub struct Schema {
    pub kind: SchemaType,
    pub nullable: bool,
    pub format: Option<String>,
    pub properties: BTreeMap<String, SchemaRef>,
    pub required: Vec<String>,
    pub additional: Additional,
    pub items: Option<SchemaRef>,
    pub list_type: ListType,
    /// A map that is merged and owned as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic_map: bool,
    pub preserve_unknown: bool,
    /// A whole object with apiVersion, kind and metadata.
    pub embedded_resource: bool,
    pub limits: Limits,
}

/// Checks of values.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // Named and meant as in OpenAPI v3.
pub struct Limits {
    pub enumeration: Option<Vec<Value>>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub pattern: Option<Regex>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub all_of: Vec<SchemaRef>,
    pub any_of: Vec<SchemaRef>,
    pub one_of: Vec<SchemaRef>,
    pub not: Option<SchemaRef>,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchMeta {
    /// Lists are merged item by item instead of replaced.
    pub merge: bool,
    /// Objects are replaced instead of merged.
    pub replace: bool,
    /// `$retainKeys` clears what the patch does not name.
    pub retain_keys: bool,
    /// The key that tells items of a merged list apart; `None` for lists of scalars.
    pub merge_key: Option<String>,
}

/// A reference to a schema node, with what is said about it in this place.
#[derive(Clone, Debug)]
pub struct SchemaRef {
    node: Node,
    /// Treatment by a strategic merge patch.
    pub patch: PatchMeta,
    /// Value that is filled in where there is none.
    pub default: Option<Value>,
}

#[derive(Clone)]
enum Node {
    Inline(Arc<Schema>),
    /// By name in a table that lives as long as the process.
    Named(&'static Definitions, String),
    /// The same, merged field by field in this place, whatever the definition says.
    Granular(&'static Definitions, String, Arc<OnceLock<Schema>>),
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline(schema) => schema.fmt(f),
            Self::Named(_, name) | Self::Granular(_, name, _) => write!(f, "Named({name})"), // Definitions may be recursive.
        }
    }
}

impl SchemaRef {
    /// A reference to a node of its own.
    pub fn inline(schema: Schema) -> Self {
        let node = Node::Inline(Arc::new(schema));
        Self { node, patch: PatchMeta::default(), default: None }
    }

    /// A reference by name.
    pub(crate) fn named(table: &'static Definitions, name: &str) -> Self {
        let node = Node::Named(table, name.to_owned());
        Self { node, patch: PatchMeta::default(), default: None }
    }

    /// A reference by name, to what is merged field by field in this place.
    pub(crate) fn granular(table: &'static Definitions, name: &str) -> Self {
        let node = Node::Granular(table, name.to_owned(), Arc::default());
        Self { node, patch: PatchMeta::default(), default: None }
    }

    /// The schema that allows anything and forgets nothing.
    pub fn anything() -> Self {
        Self::inline(Schema { preserve_unknown: true, ..Schema::default() })
    }

    /// The name of the definition that this refers to, if it has one.
    pub fn name(&self) -> Option<&str> {
        match &self.node {
            Node::Inline(_) => None,
            Node::Named(_, name) | Node::Granular(_, name, _) => Some(name),
        }
    }
}

impl Deref for SchemaRef {
    type Target = Schema;

    fn deref(&self) -> &Schema {
        match &self.node {
            Node::Inline(schema) => schema,
            Node::Named(table, name) => table.get(name),
            Node::Granular(table, name, node) => {
                node.get_or_init(|| Schema { atomic_map: false, ..table.get(name).clone() })
            }
        }
    }
}

impl Schema {
    /// The schema of a field, be it a property or an entry of a map.
    pub fn field(&self, key: &str) -> Option<&SchemaRef> {
        self.properties.get(key).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }

    /// Whether a key is an entry of a map, and no field that the schema names.
    pub(crate) fn is_entry(&self, key: &str) -> bool {
        let own = self.embedded_resource && matches!(key, "apiVersion" | "kind" | "metadata");
        !own && !self.properties.contains_key(key)
    }

    /// Whether nothing is said about what is inside: such a value is owned as a whole only where
    /// it is no object.
    pub fn is_untyped(&self) -> bool {
        self.kind == SchemaType::Any && self.properties.is_empty() && self.items.is_none()
    }
}
