//! Values of a running expression. Large ones are shared, so that a copy is cheap.

use std::any::Any;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::types::Type;

/// A value.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // Named as CEL names them.
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    List(Arc<List>),
    Map(Arc<BTreeMap<Key, Value>>),
    Optional(Option<Arc<Value>>),
    /// A type, by its name.
    Type(&'static str),
    /// A value of a library.
    Opaque(Arc<dyn Opaque>),
}

/// A list, and what makes its items differ.
#[derive(Clone, Debug)]
pub struct List {
    /// The items.
    pub items: Vec<Value>,
    /// What two such lists being equal, and their sum, mean.
    pub kind: ListKind,
}

/// How lists are compared and joined, as `x-kubernetes-list-type` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// In order, as they are.
    #[default]
    Plain,
    /// Each value once, in any order.
    Set,
    /// Each combination of these fields once, in any order.
    Map(Arc<Vec<String>>),
}

/// A key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Named as CEL names them.
pub enum Key {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Arc<str>),
}

/// A value that a library made and alone looks into.
pub trait Opaque: fmt::Debug + Send + Sync + 'static {
    /// Its type's name, as signatures have it.
    fn type_name(&self) -> &'static str;
    /// For the library to find its own.
    fn as_any(&self) -> &dyn Any;
    /// Whether the other is the same value.
    fn same(&self, other: &dyn Opaque) -> bool;
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::List(Arc::new(List { items, kind: ListKind::Plain }))
    }
}

impl From<Option<Value>> for Value {
    fn from(value: Option<Value>) -> Self {
        Self::Optional(value.map(Arc::new))
    }
}

impl Key {
    /// The value as a key; `None` for values that can be none.
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Int(value) => Some(Self::Int(*value)),
            // Numbers that are equal are one key.
            Value::Uint(value) => Some(i64::try_from(*value).map_or(Self::Uint(*value), Self::Int)),
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 9e15 => {
                Some(Self::Int(*value as i64))
            }
            Value::String(value) => Some(Self::String(value.clone())),
            _ => None,
        }
    }

    /// The key as a value.
    pub fn value(&self) -> Value {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Uint(value) => Value::Uint(*value),
            Self::String(value) => Value::String(value.clone()),
        }
    }
}

impl Value {
    /// The library's value, if it is one of this type.
    pub fn opaque<T: 'static>(&self) -> Option<&T> {
        match self {
            Self::Opaque(value) => value.as_any().downcast_ref(),
            _ => None,
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Opaque(value) => value.type_name(),
        }
    }

    /// Whether it can stand for a parameter of this type; what is inside lists and maps is not looked at.
    pub(crate) fn fits(&self, ty: &Type) -> bool {
        match ty {
            Type::Dyn | Type::Param(_) => true,
            Type::Null => matches!(self, Self::Null),
            Type::Bool => matches!(self, Self::Bool(_)),
            Type::Int => matches!(self, Self::Int(_)),
            Type::Uint => matches!(self, Self::Uint(_)),
            Type::Double => matches!(self, Self::Double(_)),
            Type::String => matches!(self, Self::String(_)),
            Type::Bytes => matches!(self, Self::Bytes(_)),
            Type::Timestamp => matches!(self, Self::Timestamp(_)),
            Type::Duration => matches!(self, Self::Duration(_)),
            Type::Type => matches!(self, Self::Type(_)),
            Type::List(of) => match self {
                // Lists of texts are told from others by their first item.
                Self::List(list) => list.items.first().is_none_or(|item| item.fits(of)),
                _ => false,
            },
            Type::Map(..) | Type::Object(_) | Type::Message(_) => matches!(self, Self::Map(_)),
            Type::Optional(_) => matches!(self, Self::Optional(_)),
            Type::Opaque(name) => matches!(self, Self::Opaque(value) if value.type_name() == *name),
        }
    }

    /// Equality: numbers by their value whatever their type, lists as their kind has it.
    pub fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.equals(b),
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|((k, v), (l, w))| k == l && v.equals(w))
            }
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (a, b) => a.is_none() && b.is_none(),
            },
            (Self::Opaque(a), Self::Opaque(b)) => a.same(b.as_ref()),
            (a, b) => a.is_number() && b.is_number() && a.compare(b) == Some(Ordering::Equal),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Uint(_) | Self::Double(_))
    }

    /// The order of two values of one ordered type; numbers of any two.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Self::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Int(a), Self::Double(b)) => whole_to_double(i128::from(*a), *b),
            (Self::Double(a), Self::Int(b)) => whole_to_double(i128::from(*b), *a).map(Ordering::reverse),
            (Self::Uint(a), Self::Double(b)) => whole_to_double(i128::from(*a), *b),
            (Self::Double(a), Self::Uint(b)) => whole_to_double(i128::from(*b), *a).map(Ordering::reverse),
            (Self::String(a), Self::String(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// About how many steps it takes to look at all of it; at most `most`, beyond which it is not looked at: parts that
    /// are shared count as often as they are met.
    pub fn weight(&self, most: u64) -> u64 {
        let mut left = most;
        self.spend(&mut left);
        most - left
    }

    fn spend(&self, left: &mut u64) {
        let own = match self {
            Self::String(text) => 1 + text.len() as u64 / 10,
            Self::Bytes(bytes) => 1 + bytes.len() as u64 / 10,
            _ => 1,
        };
        *left = left.saturating_sub(own);
        let mut all = |values: &mut dyn Iterator<Item = &Value>, each: u64| {
            for value in values {
                if *left == 0 {
                    return;
                }
                *left = left.saturating_sub(each);
                value.spend(left);
            }
        };
        match self {
            Self::List(list) => all(&mut list.items.iter(), 0),
            Self::Map(map) => all(&mut map.values(), 1),
            Self::Optional(Some(value)) => all(&mut std::iter::once(&**value), 0),
            _ => {}
        }
    }
}

/// Exact, so that the order is one: two whole numbers may be the same double and yet not each other.
fn whole_to_double(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // The cast saturates, and i128 holds all of both whole types.
    let parts = whole.cmp(&(double.trunc() as i128));
    Some(parts.then(0.0_f64.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)))
}

impl List {
    fn equals(&self, other: &List) -> bool {
        if self.items.len() != other.items.len() {
            return false;
        }
        match &self.kind {
            ListKind::Plain => self.items.iter().zip(&other.items).all(|(a, b)| a.equals(b)),
            ListKind::Set => self.items.iter().all(|a| other.items.iter().any(|b| a.equals(b))),
            ListKind::Map(keys) => {
                self.items.iter().all(|a| other.items.iter().any(|b| same_keys(keys, a, b) && a.equals(b)))
            }
        }
    }

    /// Both lists in one: of a set what is new, of a map list entries of the same keys are replaced.
    pub(crate) fn joined(&self, other: &List) -> List {
        let mut items = self.items.clone();
        for item in &other.items {
            let known = match &self.kind {
                ListKind::Plain => None,
                ListKind::Set => items.iter().position(|known| known.equals(item)),
                ListKind::Map(keys) => items.iter().position(|known| same_keys(keys, known, item)),
            };
            match known {
                Some(index) => items[index] = item.clone(),
                None => items.push(item.clone()),
            }
        }
        List { items, kind: self.kind.clone() }
    }
}

fn same_keys(keys: &[String], a: &Value, b: &Value) -> bool {
    let (Value::Map(a), Value::Map(b)) = (a, b) else { return false };
    keys.iter().all(|key| {
        let key = Key::String(key.as_str().into());
        match (a.get(&key), b.get(&key)) {
            (Some(a), Some(b)) => a.equals(b),
            (a, b) => a.is_none() && b.is_none(),
        }
    })
}
