//! The kinds of apps.

use std::sync::Arc;

use super::Kind;
use crate::builtin::apps::{daemons, stateful, workloads};

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
        columns: workloads::REPLICA_SET_COLUMNS,
        cells: workloads::replica_set,
        strategy: || Arc::new(workloads::ReplicaSetStrategy),
        ..BASE
    },
    Kind {
        kind: "StatefulSet",
        plural: "statefulsets",
        short_names: &["sts"],
        categories: &["all"],
        status: true,
        scale: true,
        columns: stateful::STATEFUL_SET_COLUMNS,
        cells: stateful::stateful_set,
        strategy: || Arc::new(stateful::StatefulSetStrategy),
        ..BASE
    },
    Kind {
        kind: "DaemonSet",
        plural: "daemonsets",
        short_names: &["ds"],
        categories: &["all"],
        status: true,
        columns: daemons::COLUMNS,
        cells: daemons::cells,
        strategy: || Arc::new(daemons::DaemonSetStrategy),
        ..BASE
    },
    Kind {
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        columns: stateful::REVISION_COLUMNS,
        cells: stateful::revision,
        strategy: || Arc::new(stateful::ControllerRevisionStrategy),
        ..BASE
    },
];
