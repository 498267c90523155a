//! The kinds of apiextensions.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::{crds, rows};

const BASE: Kind = Kind { group: "apiextensions.k8s.io", definitions: CRD, ..Kind::BASE };

const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

pub(super) static KINDS: &[Kind] = &[Kind {
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    status: true,
    columns: rows::NAME_CREATED_AT,
    cells: rows::name_created_at,
    strategy: || Arc::new(crds::CrdStrategy),
    ..BASE
}];
