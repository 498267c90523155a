//! Kubernetes' own kinds: their descriptors, with schemas from the committed table that
//! `generate/schemas.py` makes.

mod config;
mod core_rows;
mod crds;
mod nodes;
mod pod_defaults;
mod pod_rows;
mod pod_validate;
mod pods;
mod rbac;
mod rows;
mod services;
mod workloads;

use std::io::Read;
use std::sync::{Arc, LazyLock};

pub use pod_rows::{pod_ready, pod_status_text};

use crate::descriptor::{Descriptor, PlainStrategy, ScalePaths, Strategy};
use crate::schema::{Definitions, SchemaRef};
use crate::table::{CellsFn, Column};

/// Verbs of a kind that is stored.
pub const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const CORE: &str = "io.k8s.api.core.v1.";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

static COMPRESSED: &[u8] = include_bytes!("schemas.json.gz");

/// The named schemas of all kinds here and of what they are made of.
pub fn definitions() -> &'static Definitions {
    static TABLE: LazyLock<Definitions> = LazyLock::new(|| {
        let mut text = Vec::with_capacity(128 * 1024);
        flate2::read::GzDecoder::new(COMPRESSED)
            .read_to_end(&mut text)
            .ok()
            .and_then(|_| Definitions::from_json(&text).ok())
            // The table is part of the program; a test reads every definition in it.
            .expect("the committed schema table is readable")
    });
    &TABLE
}

/// The schema of `metadata`.
pub fn object_meta() -> SchemaRef {
    definitions().reference(&format!("{META}ObjectMeta"))
}

/// The schema of `autoscaling/v1` Scale.
pub fn scale() -> SchemaRef {
    definitions().reference("io.k8s.api.autoscaling.v1.Scale")
}

/// All kinds of Kubernetes' own that the cloud serves.
pub fn descriptors() -> Vec<Descriptor> {
    KINDS.iter().map(Kind::descriptor).collect()
}

/// One line of the table of kinds.
struct Kind {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    status: bool,
    scale: bool,
    subresources: &'static [&'static str],
    selectable: &'static [&'static str],
    definitions: &'static str,
    columns: &'static [ColumnSpec],
    cells: CellsFn,
    strategy: fn() -> Arc<dyn Strategy>,
}

/// Heading, type, priority.
type ColumnSpec = (&'static str, &'static str, i32);

impl Kind {
    const BASE: Self = Self {
        group: "",
        kind: "",
        plural: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
        subresources: &[],
        selectable: &[],
        definitions: CORE,
        columns: rows::NAME_AGE,
        cells: rows::name_age,
        strategy: || Arc::new(PlainStrategy),
    };

    fn descriptor(&self) -> Descriptor {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let path = |keys: &[&str]| -> Vec<String> { texts(keys) };
        let columns = self.columns.iter().map(|(name, kind, priority)| match *name {
            "Name" => Column::name(),
            name => Column::new(name, kind, *priority, ""),
        });
        Descriptor {
            group: self.group.to_owned(),
            version: "v1".to_owned(),
            kind: self.kind.to_owned(),
            list_kind: format!("{}List", self.kind),
            plural: self.plural.to_owned(),
            singular: self.kind.to_lowercase(),
            short_names: texts(self.short_names),
            categories: texts(self.categories),
            namespaced: self.namespaced,
            schema: definitions().reference(&format!("{}{}", self.definitions, self.kind)),
            columns: columns.collect(),
            cells: Some(self.cells),
            status_subresource: self.status,
            scale: self.scale.then(|| ScalePaths {
                spec_replicas: path(&["spec", "replicas"]),
                status_replicas: path(&["status", "replicas"]),
                selector: Some(path(&["spec", "selector"])),
            }),
            subresources: texts(self.subresources),
            verbs: texts(&ALL_VERBS),
            strategy: (self.strategy)(),
            builtin: true,
            storage_version: true,
            selectable_fields: texts(self.selectable),
            deprecation: None,
        }
    }
}

static KINDS: [Kind; 18] = [
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        subresources: &["finalize"],
        selectable: &["status.phase"],
        columns: &[("Name", "string", 0), ("Status", "string", 0), ("Age", "string", 0)],
        cells: core_rows::namespace,
        strategy: || Arc::new(config::NamespaceStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        short_names: &["po"],
        categories: &["all"],
        status: true,
        subresources: &["binding", "log", "exec"],
        selectable: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        columns: pod_rows::COLUMNS,
        cells: pod_rows::pod,
        strategy: || Arc::new(pods::PodStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "Service",
        plural: "services",
        short_names: &["svc"],
        categories: &["all"],
        status: true,
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
        cells: core_rows::config_map,
        strategy: || Arc::new(config::ConfigMapStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        selectable: &["type"],
        columns: &[("Name", "string", 0), ("Type", "string", 0), ("Data", "string", 0), ("Age", "string", 0)],
        cells: core_rows::secret,
        strategy: || Arc::new(config::SecretStrategy),
        ..Kind::BASE
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        short_names: &["sa"],
        columns: &[("Name", "string", 0), ("Secrets", "string", 0), ("Age", "string", 0)],
        cells: core_rows::service_account,
        strategy: || Arc::new(config::NoGeneration),
        ..Kind::BASE
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        short_names: &["no"],
        namespaced: false,
        status: true,
        selectable: &["spec.unschedulable"],
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
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        columns: core_rows::EVENT_COLUMNS,
        cells: core_rows::event,
        strategy: || Arc::new(config::EventStrategy),
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
        cells: core_rows::resource_quota,
        strategy: || Arc::new(config::QuotaStrategy),
        ..Kind::BASE
    },
    Kind {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        short_names: &["deploy"],
        categories: &["all"],
        status: true,
        scale: true,
        definitions: "io.k8s.api.apps.v1.",
        columns: workloads::DEPLOYMENT_COLUMNS,
        cells: workloads::deployment,
        strategy: || Arc::new(workloads::DeploymentStrategy),
        ..Kind::BASE
    },
    Kind {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        short_names: &["rs"],
        categories: &["all"],
        status: true,
        scale: true,
        selectable: &["status.replicas"],
        definitions: "io.k8s.api.apps.v1.",
        columns: workloads::REPLICA_SET_COLUMNS,
        cells: workloads::replica_set,
        strategy: || Arc::new(workloads::ReplicaSetStrategy),
        ..Kind::BASE
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        definitions: "io.k8s.api.discovery.v1.",
        columns: services::SLICE_COLUMNS,
        cells: services::slice_cells,
        strategy: || Arc::new(services::EndpointSliceStrategy),
        ..Kind::BASE
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        definitions: "io.k8s.api.coordination.v1.",
        columns: &[("Name", "string", 0), ("Holder", "string", 0), ("Age", "string", 0)],
        cells: core_rows::lease,
        strategy: || Arc::new(config::NoGeneration),
        ..Kind::BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "Role",
        plural: "roles",
        definitions: "io.k8s.api.rbac.v1.",
        columns: &[("Name", "string", 0), ("Created At", "date", 0)],
        cells: rbac::role_cells,
        strategy: || Arc::new(rbac::RoleStrategy { cluster: false }),
        ..Kind::BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRole",
        plural: "clusterroles",
        namespaced: false,
        definitions: "io.k8s.api.rbac.v1.",
        columns: &[("Name", "string", 0), ("Created At", "date", 0)],
        cells: rbac::role_cells,
        strategy: || Arc::new(rbac::RoleStrategy { cluster: true }),
        ..Kind::BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "RoleBinding",
        plural: "rolebindings",
        definitions: "io.k8s.api.rbac.v1.",
        columns: rbac::BINDING_COLUMNS,
        cells: rbac::binding_cells,
        strategy: || Arc::new(rbac::BindingStrategy { cluster: false }),
        ..Kind::BASE
    },
    Kind {
        group: "rbac.authorization.k8s.io",
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        namespaced: false,
        definitions: "io.k8s.api.rbac.v1.",
        columns: rbac::BINDING_COLUMNS,
        cells: rbac::binding_cells,
        strategy: || Arc::new(rbac::BindingStrategy { cluster: true }),
        ..Kind::BASE
    },
    Kind {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        short_names: &["crd", "crds"],
        namespaced: false,
        status: true,
        definitions: CRD,
        columns: &[("Name", "string", 0), ("Created At", "date", 0)],
        cells: crds::cells,
        strategy: || Arc::new(crds::CrdStrategy),
        ..Kind::BASE
    },
];

#[cfg(test)]
mod tests;
