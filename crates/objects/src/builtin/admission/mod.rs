//! The kinds of `admissionregistration.k8s.io`.

pub(in crate::builtin) mod policies;
pub(in crate::builtin) mod webhooks;
