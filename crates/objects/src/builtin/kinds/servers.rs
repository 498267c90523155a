//! The kinds of apiregistration.k8s.io, certificates.k8s.io and storagemigration.k8s.io.

use std::sync::Arc;

use serde_json::json;

use super::Kind;
use crate::builtin::{apiservice, bundles, certificates, migration};
use crate::conversion::Conversion;

const BUNDLES: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "ClusterTrustBundle",
    plural: "clustertrustbundles",
    namespaced: false,
    selectable: &["spec.signerName"],
    definitions: "io.k8s.api.certificates.v1.",
    columns: bundles::BUNDLE_COLUMNS,
    cells: bundles::bundle_cells,
    strategy: || Arc::new(bundles::BUNDLE),
    ..Kind::BASE
};
const POD_REQUESTS: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "PodCertificateRequest",
    plural: "podcertificaterequests",
    status: true,
    selectable: &["spec.signerName", "spec.podName", "spec.nodeName"],
    definitions: "io.k8s.api.certificates.v1.",
    columns: bundles::REQUEST_COLUMNS,
    cells: bundles::request_cells,
    strategy: || Arc::new(bundles::POD_REQUEST),
    ..Kind::BASE
};
const MIGRATIONS: Kind = Kind {
    group: "storagemigration.k8s.io",
    kind: "StorageVersionMigration",
    plural: "storageversionmigrations",
    namespaced: false,
    status: true,
    definitions: "io.k8s.api.storagemigration.v1.",
    columns: migration::COLUMNS,
    cells: migration::cells,
    strategy: || Arc::new(migration::MIGRATION),
    ..Kind::BASE
};

/// What was stable with Kubernetes 1.37 had the same fields before, and clients of 1.36 know that version alone.
const EARLY_CERTIFICATES: Conversion = Conversion {
    stored_group: "certificates.k8s.io",
    to_stored: |object| object["apiVersion"] = json!("certificates.k8s.io/v1"),
    from_stored: |object| object["apiVersion"] = json!("certificates.k8s.io/v1beta1"),
};
const EARLY_MIGRATION: Conversion = Conversion {
    stored_group: "storagemigration.k8s.io",
    to_stored: |object| object["apiVersion"] = json!("storagemigration.k8s.io/v1"),
    from_stored: |object| object["apiVersion"] = json!("storagemigration.k8s.io/v1beta1"),
};

pub(super) static KINDS: &[Kind] = &[
    Kind {
        group: "apiregistration.k8s.io",
        kind: "APIService",
        plural: "apiservices",
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        definitions: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.",
        columns: apiservice::COLUMNS,
        cells: apiservice::cells,
        strategy: || Arc::new(apiservice::API_SERVICE),
        ..Kind::BASE
    },
    Kind {
        group: "certificates.k8s.io",
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        short_names: &["csr"],
        namespaced: false,
        status: true,
        subresources: &["approval"],
        selectable: &["spec.signerName"],
        definitions: "io.k8s.api.certificates.v1.",
        columns: certificates::COLUMNS,
        cells: certificates::cells,
        strategy: || Arc::new(certificates::REQUEST),
        ..Kind::BASE
    },
    BUNDLES,
    Kind { version: "v1beta1", conversion: Some(EARLY_CERTIFICATES), ..BUNDLES },
    POD_REQUESTS,
    Kind { version: "v1beta1", conversion: Some(EARLY_CERTIFICATES), ..POD_REQUESTS },
    MIGRATIONS,
    Kind { version: "v1beta1", conversion: Some(EARLY_MIGRATION), ..MIGRATIONS },
];
