//! The Common Expression Language, as Kubernetes speaks it: rules that clients write and we run.
//!
//! **Owns**: reading an expression ([`Environment::compile`]), checking it against the declared shape of its
//! variables ([`Decl`]), estimating its worst cost ([`Program::max_cost`]), and running it within a
//! [`Budget`]. The standard functions and the general ones of Kubernetes (lists, regular expressions, URLs,
//! addresses, sets, versions) are here.
//!
//! **Must never know**: what an object, a schema or a request is. Who embeds it declares variables, and adds
//! functions of its own as a [`Library`].
//!
//! Expressions are hostile until proven cheap: length, nesting, cost and time are limited everywhere, and no
//! input makes anything here panic.
//!
//! Start reading at [`Environment`], then `eval.rs`.
#![forbid(unsafe_code)]

mod ast;
mod budget;
mod check;
mod cost;
mod decl;
mod environment;
mod eval;
mod lexer;
mod library;
mod parser;
mod types;
mod value;

pub use budget::Budget;
pub use decl::{Decl, DeclKind, MAX_REQUEST_BYTES};
pub use environment::{CompileError, Environment, Messages, Program};
pub use eval::{EvalError, Lookup};
pub use lexer::RESERVED;
pub use library::{Call, Function, Library, parse_duration, table};
pub use types::Type;
pub use value::{Key, List, ListKind, Opaque, Value};
