//! The kinds of rbac.authorization.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::{rbac, rows};

const BASE: Kind =
    Kind { group: "rbac.authorization.k8s.io", definitions: "io.k8s.api.rbac.v1.", ..Kind::BASE };

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "Role",
        plural: "roles",
        columns: rows::NAME_CREATED_AT,
        cells: rows::name_created_at,
        strategy: || Arc::new(rbac::RoleStrategy { cluster: false }),
        ..BASE
    },
    Kind {
        kind: "ClusterRole",
        plural: "clusterroles",
        namespaced: false,
        columns: rows::NAME_CREATED_AT,
        cells: rows::name_created_at,
        strategy: || Arc::new(rbac::RoleStrategy { cluster: true }),
        ..BASE
    },
    Kind {
        kind: "RoleBinding",
        plural: "rolebindings",
        columns: rbac::BINDING_COLUMNS,
        cells: rbac::binding_cells,
        strategy: || Arc::new(rbac::BindingStrategy { cluster: false }),
        ..BASE
    },
    Kind {
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        namespaced: false,
        columns: rbac::BINDING_COLUMNS,
        cells: rbac::binding_cells,
        strategy: || Arc::new(rbac::BindingStrategy { cluster: true }),
        ..BASE
    },
];
