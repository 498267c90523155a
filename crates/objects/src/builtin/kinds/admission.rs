//! The kinds of admissionregistration.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::admission::{policies, webhooks};

const BASE: Kind = Kind {
    group: "admissionregistration.k8s.io",
    namespaced: false,
    categories: &["api-extensions"],
    definitions: "io.k8s.api.admissionregistration.v1.",
    ..Kind::BASE
};

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        columns: webhooks::COLUMNS,
        cells: webhooks::cells,
        strategy: || Arc::new(webhooks::VALIDATING),
        ..BASE
    },
    Kind {
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        columns: webhooks::COLUMNS,
        cells: webhooks::cells,
        strategy: || Arc::new(webhooks::MUTATING),
        ..BASE
    },
    Kind {
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        status: true,
        columns: policies::VALIDATING_COLUMNS,
        cells: policies::validating_cells,
        strategy: || Arc::new(policies::VALIDATING),
        ..BASE
    },
    Kind {
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        columns: policies::BINDING_COLUMNS,
        cells: policies::binding_cells,
        strategy: || Arc::new(policies::VALIDATING_BINDING),
        ..BASE
    },
    Kind {
        kind: "MutatingAdmissionPolicy",
        plural: "mutatingadmissionpolicies",
        columns: policies::MUTATING_COLUMNS,
        cells: policies::mutating_cells,
        strategy: || Arc::new(policies::MUTATING),
        ..BASE
    },
    Kind {
        kind: "MutatingAdmissionPolicyBinding",
        plural: "mutatingadmissionpolicybindings",
        columns: policies::BINDING_COLUMNS,
        cells: policies::binding_cells,
        strategy: || Arc::new(policies::MUTATING_BINDING),
        ..BASE
    },
];
