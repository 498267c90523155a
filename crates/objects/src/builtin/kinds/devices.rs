//! The kinds of resource.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::devices;

const BASE: Kind = Kind { group: "resource.k8s.io", definitions: "io.k8s.api.resource.v1.", ..Kind::BASE };

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "DeviceClass",
        plural: "deviceclasses",
        namespaced: false,
        strategy: || Arc::new(devices::CLASS),
        ..BASE
    },
    Kind {
        kind: "DeviceTaintRule",
        plural: "devicetaintrules",
        namespaced: false,
        status: true,
        strategy: || Arc::new(devices::taints::RULE),
        ..BASE
    },
    Kind {
        kind: "ResourceClaim",
        plural: "resourceclaims",
        status: true,
        columns: devices::CLAIM_COLUMNS,
        cells: devices::claim_cells,
        strategy: || Arc::new(devices::CLAIM),
        ..BASE
    },
    Kind {
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        strategy: || Arc::new(devices::TEMPLATE),
        ..BASE
    },
    Kind {
        kind: "ResourceSlice",
        plural: "resourceslices",
        namespaced: false,
        selectable: &["spec.nodeName", "spec.driver"],
        columns: devices::SLICE_COLUMNS,
        cells: devices::slice_cells,
        strategy: || Arc::new(devices::SLICE),
        ..BASE
    },
];
