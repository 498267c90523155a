//! The kinds of flowcontrol.apiserver.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::flow;

const BASE: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    namespaced: false,
    status: true,
    definitions: "io.k8s.api.flowcontrol.v1.",
    ..Kind::BASE
};

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "FlowSchema",
        plural: "flowschemas",
        columns: flow::SCHEMA_COLUMNS,
        cells: flow::schema_cells,
        strategy: || Arc::new(flow::SCHEMA),
        ..BASE
    },
    Kind {
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        columns: flow::LEVEL_COLUMNS,
        cells: flow::level_cells,
        strategy: || Arc::new(flow::LEVEL),
        ..BASE
    },
];
