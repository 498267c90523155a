//! Pods: what the server fills in from classes and accounts, and what these refuse.

pub(super) mod account;
mod mirror;
mod priority;
mod resize;
mod runtime;
mod topology;

use super::{Attempt, Refusal, View, WritePlan};

/// Fills in what the Pod leaves open.
pub(super) fn fill(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    topology::fill(view, attempt);
    account::fill(view, attempt, plan)?;
    priority::fill(view, attempt)?;
    runtime::fill(view, attempt)
}

/// Looks at the whole Pod, which is valid in itself.
pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    mirror::admit(view, attempt)?;
    account::check(view, attempt)?;
    priority::check(view, attempt)?;
    resize::check(view, attempt)?;
    runtime::check(view, attempt)
}
