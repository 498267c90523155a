//! The kinds of apps.

use std::sync::Arc;

use super::Kind;
use crate::builtin::workloads;

const BASE: Kind = Kind { group: "apps", definitions: "io.k8s.api.apps.v1.", ..Kind::BASE };

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "Deployment",
        plural: "deployments",
        short_names: &["deploy"],
        categories: &["all"],
        status: true,
        scale: true,
        columns: workloads::DEPLOYMENT_COLUMNS,
        cells: workloads::deployment,
        strategy: || Arc::new(workloads::DeploymentStrategy),
        ..BASE
    },
    Kind {
        kind: "ReplicaSet",
        plural: "replicasets",
        short_names: &["rs"],
        categories: &["all"],
        status: true,
        scale: true,
        selectable: &["status.replicas"],
        columns: workloads::REPLICA_SET_COLUMNS,
        cells: workloads::replica_set,
        strategy: || Arc::new(workloads::ReplicaSetStrategy),
        ..BASE
    },
];
