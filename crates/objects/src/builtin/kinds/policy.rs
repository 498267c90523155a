//! The kinds of policy.

use std::sync::Arc;

use super::Kind;
use crate::builtin::budgets;

const BASE: Kind = Kind { group: "policy", definitions: "io.k8s.api.policy.v1.", ..Kind::BASE };

pub(super) static KINDS: &[Kind] = &[Kind {
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    short_names: &["pdb"],
    status: true,
    columns: budgets::COLUMNS,
    cells: budgets::cells,
    strategy: || Arc::new(budgets::BudgetStrategy),
    ..BASE
}];
