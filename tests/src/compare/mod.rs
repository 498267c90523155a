//! One set of API cases, run against Yunfan and, where its path is given, against a real `kube-apiserver`; the answers of the two are
//! compared field by field.
//!
//! **Owns**: the form of a case ([`Case`]), running its steps ([`Run`]), what an answer must hold ([`missing`]), and what differs
//! between two answers ([`differences`]). The cases are the files in `tests/cases`.
//!
//! Start reading at `case.rs`.

mod answer;
mod case;
mod peer;
mod run;

pub use answer::{Answer, differences, missing};
pub use case::{Case, Patch, Shape, Step};
pub use peer::Peer;
pub use run::{Run, Server};
