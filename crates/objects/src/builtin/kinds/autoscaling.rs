//! The kinds of autoscaling.

use std::sync::Arc;

use super::Kind;
use crate::builtin::autoscaling;
use crate::builtin::autoscaling::hpa;
use crate::conversion::Conversion;

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
