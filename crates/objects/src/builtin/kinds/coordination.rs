//! The kinds of coordination.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::core;
use crate::builtin::services::slices;

const BASE: Kind =
    Kind { group: "coordination.k8s.io", definitions: "io.k8s.api.coordination.v1.", ..Kind::BASE };

pub(super) static KINDS: &[Kind] = &[Kind {
    kind: "Lease",
    plural: "leases",
    columns: &[("Name", "string", 0), ("Holder", "string", 0), ("Age", "string", 0)],
    cells: core::rows::lease,
    strategy: || Arc::new(slices::LEASE),
    ..BASE
}];
