//! Functions, in tables: name, signatures, and what it does. A table serves the check and the run alike.

mod convert;
mod lists;
mod net;
mod operators;
mod semver;
mod text;
mod time;
mod url;

pub(crate) use text::compile;
pub use time::parse_duration;

use crate::budget::Budget;
use crate::eval::EvalError;
use crate::types::{Signature, signatures};
use crate::value::Value;

/// What a function does. The values fit one of the signatures; what it makes or looks through beyond one step
/// must be charged.
pub type Call = fn(&[Value], &mut Budget) -> Result<Value, EvalError>;

/// Functions that belong together.
pub type Library = Vec<Function>;

/// A function with all ways to call it.
#[derive(Clone, Debug)]
pub struct Function {
    pub(crate) name: &'static str,
    overloads: Vec<(Signature, Call)>,
}

impl Function {
    /// A function with these signatures, as `string.(string) bool | (list<A>) A`: a type before the dot is the
    /// receiver's, `A` and `B` are any type, other words are types of a library. What cannot be read
    /// as a signature is left out.
    pub fn new(name: &'static str, ways: &'static str, call: Call) -> Self {
        let read = signatures(ways);
        debug_assert!(read.is_some(), "{name}: {ways}");
        Self { name, overloads: read.unwrap_or_default().into_iter().map(|way| (way, call)).collect() }
    }

    pub(crate) fn extend(&mut self, other: Function) {
        self.overloads.extend(other.overloads);
    }

    pub(crate) fn signatures(&self) -> impl Iterator<Item = &Signature> {
        self.overloads.iter().map(|(signature, _)| signature)
    }

    pub(crate) fn call(&self, values: &[Value], budget: &mut Budget) -> Result<Value, EvalError> {
        let fitting = self.overloads.iter().find(|(signature, _)| {
            signature.params.len() == values.len()
                && signature.params.iter().zip(values).all(|(wanted, value)| value.fits(wanted))
        });
        match fitting {
            Some((_, call)) => call(values, budget),
            None => Err(EvalError::NoSuchOverload),
        }
    }
}

/// Makes a library of a table of names, signatures (see [`Function::new`]) and what they do.
pub fn table(rows: &[(&'static str, &'static str, Call)]) -> Library {
    rows.iter().map(|(name, ways, call)| Function::new(name, ways, *call)).collect()
}

/// All libraries of this crate.
pub(crate) fn standard() -> Vec<Library> {
    vec![
        operators::library(),
        convert::library(),
        text::library(),
        lists::library(),
        time::library(),
        net::library(),
        url::library(),
        semver::library(),
    ]
}

fn failed<T>(message: impl Into<String>) -> Result<T, EvalError> {
    Err(EvalError::failed(message))
}

/// Each text at these places; the signature has promised that they are.
fn texts<const N: usize>(values: &[Value]) -> Result<[&str; N], EvalError> {
    let mut out = [""; N];
    for (slot, value) in out.iter_mut().zip(values) {
        let Value::String(text) = value else { return Err(EvalError::NoSuchOverload) };
        *slot = text;
    }
    if values.len() < N { Err(EvalError::NoSuchOverload) } else { Ok(out) }
}

fn int(value: Option<&Value>) -> Result<i64, EvalError> {
    match value {
        Some(Value::Int(value)) => Ok(*value),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn items(value: &Value) -> Result<&[Value], EvalError> {
    match value {
        Value::List(list) => Ok(&list.items),
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// A length as a number; no value in memory is longer than fits.
fn count(length: usize) -> Value {
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

/// A type of a library that is compared by its value.
macro_rules! opaque {
    ($type:ty, $name:literal) => {
        impl $crate::value::Opaque for $type {
            fn type_name(&self) -> &'static str {
                $name
            }
            fn as_any(&self) -> &dyn std::any::Any {
                self
            }
            fn same(&self, other: &dyn $crate::value::Opaque) -> bool {
                other.as_any().downcast_ref::<Self>().is_some_and(|other| self == other)
            }
        }
    };
}
use opaque;

/// A value of a library.
fn made(value: impl crate::value::Opaque) -> Value {
    Value::Opaque(std::sync::Arc::new(value))
}

/// The library's value in the first place.
fn of<T: 'static>(values: &[Value], index: usize) -> Result<&T, EvalError> {
    values.get(index).and_then(Value::opaque).ok_or(EvalError::NoSuchOverload)
}
