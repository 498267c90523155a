//! The kinds of the core group that have no folder of their own.

pub(in crate::builtin) mod config;
pub(in crate::builtin) mod events;
pub(in crate::builtin) mod limits;
pub(in crate::builtin) mod nodes;
pub(in crate::builtin) mod quotas;
pub(in crate::builtin) mod rows;
