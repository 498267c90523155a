//! The kinds of apiregistration.k8s.io and certificates.k8s.io, which have one each.

use std::sync::Arc;

use super::Kind;
use crate::builtin::{apiservice, certificates};

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
];
