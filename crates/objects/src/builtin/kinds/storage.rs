//! The kinds of storage.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::storage::csi;
use crate::builtin::{rows, storage};

const BASE: Kind = Kind { group: "storage.k8s.io", definitions: "io.k8s.api.storage.v1.", ..Kind::BASE };

pub(super) static KINDS: &[Kind] = &[
    Kind {
        kind: "StorageClass",
        plural: "storageclasses",
        short_names: &["sc"],
        namespaced: false,
        columns: storage::CLASS_COLUMNS,
        cells: storage::class_cells,
        strategy: || Arc::new(storage::CLASS),
        ..BASE
    },
    Kind {
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        namespaced: false,
        status: true,
        columns: storage::ATTACHMENT_COLUMNS,
        cells: storage::attachment_cells,
        strategy: || Arc::new(storage::ATTACHMENT),
        ..BASE
    },
    Kind {
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        short_names: &["vac"],
        namespaced: false,
        columns: storage::ATTRIBUTES_COLUMNS,
        cells: storage::attributes_cells,
        strategy: || Arc::new(storage::ATTRIBUTES),
        ..BASE
    },
    Kind {
        kind: "CSIDriver",
        plural: "csidrivers",
        namespaced: false,
        columns: csi::DRIVER_COLUMNS,
        cells: csi::driver_cells,
        strategy: || Arc::new(csi::DRIVER),
        ..BASE
    },
    Kind {
        kind: "CSINode",
        plural: "csinodes",
        namespaced: false,
        columns: csi::NODE_COLUMNS,
        cells: csi::node_cells,
        strategy: || Arc::new(csi::NODE),
        ..BASE
    },
    Kind {
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        columns: rows::NAME_CREATED_AT,
        cells: rows::name_created_at,
        strategy: || Arc::new(csi::CAPACITY),
        ..BASE
    },
];
