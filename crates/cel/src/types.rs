//! Types of expressions, and the signatures of functions in words.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The type of an expression.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // Named as CEL names them.
pub enum Type {
    /// Known when it runs.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    /// A type as a value.
    Type,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// Declared fields.
    Object(Arc<BTreeMap<String, Type>>),
    /// A type of a library, as `net.IP`.
    Opaque(&'static str),
    /// A message, by its name.
    Message(Arc<str>),
    /// A parameter of a signature.
    Param(u8),
}

impl Type {
    /// A list of these.
    pub fn list(of: Type) -> Self {
        Self::List(Arc::new(of))
    }

    /// A map with text keys.
    pub fn map(of: Type) -> Self {
        Self::Map(Arc::new(Self::String), Arc::new(of))
    }

    /// These, or nothing.
    pub fn optional(of: Type) -> Self {
        Self::Optional(Arc::new(of))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn | Self::Param(_) => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Type => f.write_str("type"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(key, of) => write!(f, "map({key}, {of})"),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Object(_) => f.write_str("object"),
            Self::Opaque(name) => f.write_str(name),
            Self::Message(name) => f.write_str(name),
        }
    }
}

/// One way to call a function.
#[derive(Clone, Debug)]
pub(crate) struct Signature {
    /// Called on its first parameter: `a.f(b)`.
    pub(crate) method: bool,
    pub(crate) params: Vec<Type>,
    pub(crate) result: Type,
}

/// Reads signatures like `string.(string) bool | (list<A>) A`; `None` for words that are none. Only tables in
/// code are read, never what a client wrote.
pub(crate) fn signatures(text: &'static str) -> Option<Vec<Signature>> {
    text.split('|').map(|one| signature(one.trim())).collect()
}

fn signature(text: &'static str) -> Option<Signature> {
    let close = text.rfind(')')?;
    let open = text[..close].find('(')?;
    let head = text[..open].trim().strip_suffix('.');
    let mut params = Vec::new();
    if let Some(head) = head {
        params.push(one(head)?);
    }
    for part in split(&text[open + 1..close]) {
        params.push(one(part)?);
    }
    Some(Signature { method: head.is_some(), params, result: one(&text[close + 1..])? })
}

/// Parts between commas outside of angle brackets.
fn split(text: &'static str) -> Vec<&'static str> {
    let (mut depth, mut start, mut out) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        out.push(&text[start..]);
    }
    out
}

fn one(text: &'static str) -> Option<Type> {
    let text = text.trim();
    if let Some((name, inner)) = text.split_once('<') {
        let parts = split(inner.strip_suffix('>')?);
        let part = |index: usize| parts.get(index).and_then(|part| one(part)).map(Arc::new);
        return match name {
            "list" => Some(Type::List(part(0)?)),
            "optional" => Some(Type::Optional(part(0)?)),
            "map" => Some(Type::Map(part(0)?, part(1)?)),
            _ => None,
        };
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        "" => return None,
        name => Type::Opaque(name),
    })
}

/// What the parameters of a signature stand for in one call.
#[derive(Default)]
pub(crate) struct Bindings([Option<Type>; 2]);

impl Bindings {
    /// Whether a value of type `given` can stand where `wanted` is asked for.
    pub(crate) fn accept(&mut self, wanted: &Type, given: &Type) -> bool {
        match (wanted, given) {
            (Type::Param(index), _) => {
                let Some(slot) = self.0.get_mut(usize::from(*index)) else { return false };
                match slot.clone() {
                    None | Some(Type::Dyn) => {
                        *slot = Some(given.clone());
                        true
                    }
                    Some(bound) => match join(&bound, given) {
                        Some(both) => {
                            self.0[usize::from(*index)] = Some(both);
                            true
                        }
                        None => false,
                    },
                }
            }
            (Type::List(wanted), Type::List(given)) | (Type::Optional(wanted), Type::Optional(given)) => {
                self.accept(wanted, given)
            }
            (Type::Map(key, value), Type::Map(given_key, given_value)) => {
                self.accept(key, given_key) && self.accept(value, given_value)
            }
            (wanted, given) => join(wanted, given).is_some(),
        }
    }

    /// The type with its parameters replaced; those that nothing was said about can be anything.
    pub(crate) fn fill(&self, ty: &Type) -> Type {
        match ty {
            Type::Param(index) => self.0.get(usize::from(*index)).cloned().flatten().unwrap_or(Type::Dyn),
            Type::List(of) => Type::List(Arc::new(self.fill(of))),
            Type::Optional(of) => Type::Optional(Arc::new(self.fill(of))),
            Type::Map(key, of) => Type::Map(Arc::new(self.fill(key)), Arc::new(self.fill(of))),
            other => other.clone(),
        }
    }
}

/// The type that values of both types have, if there is one. Null stands for any type that may lack.
pub(crate) fn join(left: &Type, right: &Type) -> Option<Type> {
    match (left, right) {
        (Type::Dyn, _) | (_, Type::Dyn) => Some(Type::Dyn),
        (left, right) if left == right => Some(left.clone()),
        (Type::Null, other) | (other, Type::Null) => match other {
            Type::Object(_) | Type::Opaque(_) | Type::Timestamp | Type::Duration | Type::Optional(_) => {
                Some(other.clone())
            }
            _ => None,
        },
        (Type::List(left), Type::List(right)) => Some(Type::list(join(left, right)?)),
        (Type::Optional(left), Type::Optional(right)) => Some(Type::optional(join(left, right)?)),
        (Type::Map(lk, lv), Type::Map(rk, rv)) => {
            Some(Type::Map(Arc::new(join(lk, rk)?), Arc::new(join(lv, rv)?)))
        }
        _ => None,
    }
}
