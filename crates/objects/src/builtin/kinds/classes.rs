//! The kinds of scheduling.k8s.io and node.k8s.io, which have one each.

use std::sync::Arc;

use super::Kind;
use crate::builtin::classes;

pub(super) static KINDS: &[Kind] = &[
    Kind {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        short_names: &["pc"],
        namespaced: false,
        definitions: "io.k8s.api.scheduling.v1.",
        columns: classes::PRIORITY_COLUMNS,
        cells: classes::priority_cells,
        strategy: || Arc::new(classes::PRIORITY),
        ..Kind::BASE
    },
    Kind {
        group: "node.k8s.io",
        kind: "RuntimeClass",
        plural: "runtimeclasses",
        namespaced: false,
        definitions: "io.k8s.api.node.v1.",
        columns: classes::RUNTIME_COLUMNS,
        cells: classes::runtime_cells,
        strategy: || Arc::new(classes::RUNTIME),
        ..Kind::BASE
    },
];
