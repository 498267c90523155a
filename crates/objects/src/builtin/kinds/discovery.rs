//! The kinds of discovery.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::services::slices;

const BASE: Kind = Kind { group: "discovery.k8s.io", definitions: "io.k8s.api.discovery.v1.", ..Kind::BASE };

pub(super) static KINDS: &[Kind] = &[Kind {
    kind: "EndpointSlice",
    plural: "endpointslices",
    columns: slices::COLUMNS,
    cells: slices::cells,
    strategy: || Arc::new(slices::SLICE),
    ..BASE
}];
