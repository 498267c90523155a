//! The kinds of the core group.

use std::sync::Arc;

use super::Kind;
use crate::builtin::apps::workloads;
use crate::builtin::core::{config, events, limits, nodes};
use crate::builtin::services::endpoints;
use crate::builtin::{core, pods, rows, services, volumes};

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        subresources: &["finalize"],
        // All of them at once would be the whole cloud.
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        selectable: &["status.phase"],
        columns: &[("Name", "string", 0), ("Status", "string", 0), ("Age", "string", 0)],
        cells: core::rows::namespace,
        strategy: || Arc::new(config::NamespaceStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        short_names: &["po"],
        categories: &["all"],
        status: true,
        subresources: &[
            "attach",
            "binding",
            "ephemeralcontainers",
            "eviction",
            "exec",
            "log",
            "portforward",
            "proxy",
            "resize",
        ],
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        columns: pods::rows::COLUMNS,
        cells: pods::rows::pod,
        strategy: || Arc::new(pods::PodStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "Service",
        plural: "services",
        short_names: &["svc"],
        categories: &["all"],
        status: true,
        subresources: &["proxy"],
        selectable: &["spec.clusterIP", "spec.type"],
        columns: services::COLUMNS,
        cells: services::cells,
        strategy: || Arc::new(services::ServiceStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        short_names: &["cm"],
        columns: &[("Name", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
        cells: core::rows::config_map,
        strategy: || Arc::new(config::ConfigMapStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        selectable: &["type"],
        columns: &[("Name", "string", 0), ("Type", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
        cells: core::rows::secret,
        strategy: || Arc::new(config::SecretStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        short_names: &["sa"],
        subresources: &["token"],
        strategy: || Arc::new(config::ServiceAccountStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        short_names: &["no"],
        namespaced: false,
        status: true,
        selectable: &["spec.unschedulable"],
        subresources: &["proxy"],
        columns: nodes::COLUMNS,
        cells: nodes::cells,
        strategy: || Arc::new(nodes::NodeStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "Event",
        plural: "events",
        short_names: &["ev"],
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        columns: core::rows::EVENT_COLUMNS,
        cells: core::rows::event,
        strategy: || Arc::new(events::CORE),
        ..Kind::BASE
    },
    Kind {
        kind: "ComponentStatus",
        plural: "componentstatuses",
        short_names: &["cs"],
        namespaced: false,
        // Nothing of it is stored.
        verbs: &["get", "list"],
        columns: &[
            ("Name", "string", 0),
            ("Status", "string", 0),
            ("Message", "string", 0),
            ("Error", "string", 0),
        ],
        cells: core::rows::component_status,
        ..Kind::BASE
    },
    Kind {
        kind: "ResourceQuota",
        plural: "resourcequotas",
        short_names: &["quota"],
        status: true,
        columns: &[
            ("Name", "string", 0),
            ("Request", "string", 0),
            ("Limit", "string", 0),
            ("Age", "string", 0),
        ],
        cells: core::rows::resource_quota,
        strategy: || Arc::new(config::QuotaStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "PersistentVolume",
        plural: "persistentvolumes",
        short_names: &["pv"],
        namespaced: false,
        status: true,
        columns: volumes::VOLUME_COLUMNS,
        cells: volumes::volume_cells,
        strategy: || Arc::new(volumes::VolumeStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "PersistentVolumeClaim",
        plural: "persistentvolumeclaims",
        short_names: &["pvc"],
        status: true,
        columns: volumes::CLAIM_COLUMNS,
        cells: volumes::claim_cells,
        strategy: || Arc::new(volumes::ClaimStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        short_names: &["rc"],
        categories: &["all"],
        status: true,
        scale: true,
        selectable: &["status.replicas"],
        columns: workloads::REPLICA_SET_COLUMNS,
        cells: workloads::replication_controller,
        strategy: || Arc::new(workloads::ReplicationControllerStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "Endpoints",
        plural: "endpoints",
        short_names: &["ep"],
        columns: endpoints::COLUMNS,
        cells: endpoints::cells,
        strategy: || Arc::new(endpoints::EndpointsStrategy),
        deprecation: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ..Kind::BASE
    },
    Kind {
        kind: "LimitRange",
        plural: "limitranges",
        short_names: &["limits"],
        columns: rows::NAME_CREATED_AT,
        cells: rows::name_created_at,
        strategy: || Arc::new(limits::LimitRangeStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "PodTemplate",
        plural: "podtemplates",
        columns: endpoints::TEMPLATE_COLUMNS,
        cells: endpoints::template_cells,
        strategy: || Arc::new(endpoints::PodTemplateStrategy),
        ..Kind::BASE
    },
];
