//! The kinds of apiextensions.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::crds;

const BASE: Kind = Kind { group: "apiextensions.k8s.io", definitions: CRD, ..Kind::BASE };

const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

pub(super) static KINDS: &[Kind] = &[Kind {
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    status: true,
    columns: &[("Name", "string", 0), ("Created At", "date", 0)],
    cells: crds::cells,
    strategy: || Arc::new(crds::CrdStrategy),
    ..BASE
}];
