//! The kinds of `apps`.

pub(in crate::builtin) mod daemons;
pub(in crate::builtin) mod stateful;
pub(in crate::builtin) mod workloads;
