//! What calls cost.

use super::{Estimate, Estimator, LIST, Size, decl_size};
use crate::ast::{Expr, Literal, Node};
use crate::types::Type;

/// Most characters of a pattern of a named format, and a quarter of it: what a format's check costs a character.
const FORMAT_PATTERN: u64 = 128 / 4;
/// Characters of the longest name of a format.
const FORMAT_NAME: u64 = 64;
/// What it takes to look whether one range of addresses holds another, or an address.
const ADDRESS: u64 = 4;
const RANGE: u64 = 7;

/// An argument: what is known of it, its type, and the number that it is, where it is a literal one.
struct Arg {
    known: Estimate,
    ty: Type,
    number: Option<u64>,
}

impl Arg {
    fn size(&self) -> Size {
        self.known.sized()
    }

    /// Size of what is in a list: known by its declaration alone.
    fn item(&self) -> Size {
        let element = self.known.decl.as_ref().and_then(|decl| decl.element());
        element.map_or(Size::UNKNOWN, |decl| decl_size(decl))
    }
}

impl Estimator<'_> {
    pub(super) fn call(&mut self, expr: &Expr, name: &str, method: bool, args: &[Expr]) -> Estimate {
        let args: Vec<Arg> = args
            .iter()
            .map(|arg| Arg {
                known: self.of(arg),
                ty: self.type_of(arg).clone(),
                number: match &arg.node {
                    Node::Literal(Literal::Int(number)) => u64::try_from(*number).ok(),
                    _ => None,
                },
            })
            .collect();
        let sum = args.iter().fold(0, |sum: u64, arg| sum.saturating_add(arg.known.cost));
        let mut out = match args.as_slice() {
            [first] => unary(name, method, first, self.type_of(expr)),
            [first, second] => binary(name, method, first, second),
            [first, second, third] => ternary(name, first, second, third),
            _ => Estimate::new(1, None),
        };
        out.cost = out.cost.saturating_add(sum);
        out
    }
}

fn unary(name: &str, method: bool, arg: &Arg, result: &Type) -> Estimate {
    let size = arg.size();
    let walk = scaled(size, 0.1);
    match name {
        "dyn" => Estimate { cost: 1, ..arg.known.clone() },
        "url" => Estimate::new(walk, Some(size)),
        "lowerAscii" | "upperAscii" | "trim" => Estimate::new(walk, Some(size)),
        "quantity" | "isQuantity" | "semver" | "isSemver" | "cidr" | "isIP" | "isCIDR" => {
            Estimate::new(walk, None)
        }
        "ip" if !method => Estimate::new(walk, None),
        "ip.isCanonical" => Estimate::new(scaled(size, 0.2), None),
        "join" => {
            let joined = size.times(arg.item());
            Estimate::new(scaled(joined, 0.1), Some(joined))
        }
        "isSorted" | "sum" | "max" | "min" => Estimate::new(compared(arg), None),
        "reverse" => made(size, 1.0),
        "flatten" => made(size, 1.0),
        "distinct" => made(size.times(size), 2.0),
        "sort" => {
            let item = match &arg.ty {
                Type::List(of) => Some(&**of),
                _ => None,
            };
            Estimate::new(sorting(size, item), Some(size.times(size)))
        }
        "lists.range" => made(arg.number.map_or(Size::exact(u64::MAX), Size::exact), 1.0),
        "strings.quote" => {
            let quoted =
                Size { min: size.min.saturating_add(2), max: size.max.saturating_mul(2).saturating_add(2) };
            Estimate::new(walk, Some(quoted))
        }
        "bytes" if matches!(arg.ty, Type::String | Type::Dyn) => {
            Estimate::new(walk, Some(Size { min: size.min, max: size.max.saturating_mul(4) }))
        }
        "string" if arg.ty == Type::Bytes && *result == Type::String => {
            Estimate::new(walk, Some(Size { min: size.min / 4, max: size.max }))
        }
        _ => Estimate::new(1, None),
    }
}

fn binary(name: &str, method: bool, first: &Arg, second: &Arg) -> Estimate {
    let (a, b) = (first.size(), second.size());
    let is_text = |arg: &Arg| matches!(arg.ty, Type::String | Type::Bytes | Type::Dyn);
    let plain = Estimate::new(1, None);
    match name {
        "_==_" | "_!=_" => Estimate::new(equality(first, a.max.min(b.max)), None),
        "_<_" | "_<=_" | "_>_" | "_>=_" if is_text(first) => {
            Estimate::new(scaled(Size::up_to(a.max.min(b.max)), 0.1), None)
        }
        "_+_" => match &first.ty {
            Type::List(_) => {
                let entry = first.known.entry.zip(second.known.entry).map(|(a, b)| a.or(b));
                Estimate { cost: 1, size: Some(a.plus(b)), entry, decl: None }
            }
            Type::String | Type::Bytes | Type::Dyn => {
                Estimate::new(scaled(a.plus(b), 0.1).max(1), Some(a.plus(b)))
            }
            _ => plain,
        },
        "@in" if !matches!(second.ty, Type::Map(..)) => Estimate::new(b.max, None),
        "_[_]" => {
            let decl = first.known.decl.as_ref().and_then(|decl| decl.element().cloned());
            let size = first.known.entry.filter(|_| decl.is_none());
            Estimate { cost: 1, size, entry: None, decl }
        }
        "matches" if method => Estimate::new(search(a, b), None),
        "find" | "findAll" => Estimate::new(search(a, b), Some(Size::up_to(a.max))),
        "contains" => Estimate::new(scaled(a, 0.1).saturating_mul(scaled(b, 0.1)), None),
        "startsWith" | "endsWith" => Estimate::new(scaled(b, 0.1), None),
        "indexOf" | "lastIndexOf" => Estimate::new(compared(first), None),
        "substring" => Estimate::new(scaled(a, 0.1), Some(a)),
        "split" => Estimate::new(scaled(a, 0.2), Some(Size::up_to(a.max))),
        "join" => {
            let gaps = Size { min: a.min.saturating_sub(1), max: a.max.saturating_sub(1) };
            let joined = a.times(first.item()).plus(b.times(gaps));
            Estimate::new(scaled(joined, 0.1), Some(joined))
        }
        "containsIP" | "containsCIDR" => {
            let base = if name == "containsIP" { ADDRESS } else { RANGE };
            let parse = if second.ty == Type::String { scaled(b, 0.1) } else { 0 };
            Estimate::new(base.saturating_add(parse), None)
        }
        "validate" => Estimate::new(scaled(b, 0.1).saturating_mul(FORMAT_PATTERN), None),
        "semver" | "isSemver" => Estimate::new(scaled(a, 0.1), None),
        "format" if method => Estimate::new(scaled(a, 0.1), None),
        "flatten" => made(a, second.number.map_or(u64::MAX as f64, |depth| depth as f64)),
        "sets.contains" | "sets.intersects" => Estimate::new(scaled(a.times(b), 1.0).saturating_add(1), None),
        "sets.equivalent" => Estimate::new(scaled(a.times(b), 2.0).saturating_add(1), None),
        _ => plain,
    }
}

fn ternary(name: &str, first: &Arg, second: &Arg, third: &Arg) -> Estimate {
    let a = first.size();
    match name {
        "replace" => {
            let (old, new) = (second.size(), third.size());
            Estimate::new(scaled(a, 0.2), Some(Size::up_to(replaced(a.max, old.min, new.max))))
        }
        "split" => Estimate::new(scaled(a, 0.2), Some(Size::up_to(third.number.unwrap_or(a.max)))),
        "substring" => Estimate::new(scaled(a, 0.1), Some(a)),
        "findAll" => Estimate::new(search(a, second.size()), Some(Size::up_to(a.max))),
        "slice" => {
            let (from, to) = (second.number.unwrap_or(0), third.number.unwrap_or(a.max));
            made(Size::exact(to.saturating_sub(from)), 1.0)
        }
        "indexOf" | "lastIndexOf" => Estimate::new(compared(first), None),
        _ => Estimate::new(1, None),
    }
}

/// Longest outcome of replacing texts of at least `old` by texts of at most `new` characters.
fn replaced(length: u64, old: u64, new: u64) -> u64 {
    match old {
        // Nothing is between any two characters.
        0 => length.saturating_add(1).saturating_mul(new).saturating_add(length),
        old if new <= old => length,
        old => length.div_ceil(old).saturating_mul(new),
    }
}

fn equality(first: &Arg, smaller: u64) -> u64 {
    match &first.ty {
        Type::Opaque("kubernetes.NamedFormat") => scaled(Size::exact(FORMAT_NAME), 0.1),
        Type::Opaque("kubernetes.URL") => scaled(Size::exact(smaller.max(1)), 0.1),
        Type::Opaque(_) => 1,
        _ => scaled(Size::up_to(smaller), 0.1),
    }
}

/// Searching for a pattern: of its characters, four are one step.
fn search(text: Size, pattern: Size) -> u64 {
    scaled(text.plus(Size::ONE), 0.1).saturating_mul(scaled(pattern, 0.25))
}

/// Looking at each item of a list, or each character of a text.
fn compared(arg: &Arg) -> u64 {
    let size = arg.size();
    match &arg.ty {
        Type::List(of) if matches!(**of, Type::String | Type::Bytes) => {
            size.max.saturating_mul(scaled(arg.item(), 0.1).saturating_add(1))
        }
        Type::List(_) => size.max,
        _ => scaled(size, 0.1),
    }
}

/// A call that makes a list.
fn made(size: Size, factor: f64) -> Estimate {
    Estimate::new(scaled(size, factor).saturating_add(1 + LIST), Some(size))
}

/// Sorting a list of this size.
pub(super) fn sorting(size: Size, item: Option<&Type>) -> u64 {
    let factor = if matches!(item, Some(Type::String | Type::Bytes)) { 2.1 } else { 2.0 };
    made(size.times(size), factor).cost
}

/// So much of the largest size, rounded up.
fn scaled(size: Size, factor: f64) -> u64 {
    // A float that is too large becomes the largest number.
    (size.max as f64 * factor).ceil() as u64
}
