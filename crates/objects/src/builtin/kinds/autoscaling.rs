//! The kinds of autoscaling.

use std::sync::Arc;

use serde_json::json;

use super::Kind;
use crate::builtin::autoscaling;
use crate::builtin::autoscaling::hpa;
use crate::builtin::rows::{name, since_creation};
use crate::conversion::Conversion;
use crate::lookup::number;

const BASE: Kind = Kind {
    group: "autoscaling",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    short_names: &["hpa"],
    categories: &["all"],
    status: true,
    columns: hpa::COLUMNS,
    ..Kind::BASE
};

/// How kinds that have a number of copies show it.
pub(super) static SCALE: Kind = Kind {
    group: "autoscaling",
    kind: "Scale",
    definitions: "io.k8s.api.autoscaling.v1.",
    columns: &[
        ("Name", "string", 0),
        ("Desired", "integer", 0),
        ("Available", "integer", 0),
        ("Age", "string", 0),
    ],
    cells: |scale, now| {
        let count = |path: &[&str]| json!(number(scale, path).unwrap_or(0));
        let [desired, available] = [count(&["spec", "replicas"]), count(&["status", "replicas"])];
        vec![name(scale), desired, available, since_creation(scale, now)]
    },
    ..Kind::BASE
};

pub(super) static KINDS: &[Kind] = &[
    Kind {
        version: "v2",
        definitions: "io.k8s.api.autoscaling.v2.",
        cells: hpa::cells,
        strategy: || Arc::new(hpa::V2),
        ..BASE
    },
    Kind {
        version: "v1",
        definitions: "io.k8s.api.autoscaling.v1.",
        cells: hpa::v1_cells,
        strategy: || Arc::new(hpa::V1),
        conversion: Some(Conversion {
            stored_group: "autoscaling",
            to_stored: autoscaling::convert::v1_to_v2,
            from_stored: autoscaling::convert::v2_to_v1,
        }),
        ..BASE
    },
];
