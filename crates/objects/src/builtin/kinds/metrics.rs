//! The kinds of metrics.k8s.io: nothing of them is stored, and nobody writes them.

use super::Kind;
use crate::builtin::usage;

pub(super) static KINDS: &[Kind] = &[
    Kind { kind: "NodeMetrics", plural: "nodes", namespaced: false, ..BASE },
    Kind { kind: "PodMetrics", plural: "pods", ..BASE },
];

const BASE: Kind = Kind {
    group: "metrics.k8s.io",
    version: "v1beta1",
    verbs: &["get", "list"],
    definitions: "io.k8s.metrics.pkg.apis.metrics.v1beta1.",
    columns: usage::COLUMNS,
    cells: usage::cells,
    ..Kind::BASE
};
