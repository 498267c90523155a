//! The kinds of `autoscaling`, in both versions.

pub(in crate::builtin) mod convert;
pub(in crate::builtin) mod hpa;
#[cfg(test)]
mod tests;
pub(in crate::builtin) mod validate;
