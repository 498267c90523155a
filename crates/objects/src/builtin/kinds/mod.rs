//! The table of kinds, one module for each group.

mod admission;
mod apiextensions;
mod apps;
mod autoscaling;
mod batch;
mod classes;
mod coordination;
mod core;
mod devices;
mod discovery;
mod events;
mod flow;
mod metrics;
mod networking;
mod policy;
mod rbac;
mod servers;
mod storage;

use std::sync::Arc;

use super::rows;
use super::{ALL_VERBS, CORE, ColumnSpec, definitions};
use crate::conversion::Conversion;
use crate::descriptor::{Descriptor, PlainStrategy, ScalePaths, Strategy};
use crate::table::{CREATED, CellsFn, Column};

/// What the data of a ConfigMap are, in the words of its schema.
const DATA: &str = "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.";

/// The kinds of all groups, in the order of discovery.
static ALL: &[&[Kind]] = &[
    core::KINDS,
    apps::KINDS,
    events::KINDS,
    autoscaling::KINDS,
    batch::KINDS,
    policy::KINDS,
    discovery::KINDS,
    coordination::KINDS,
    rbac::KINDS,
    networking::KINDS,
    storage::KINDS,
    classes::KINDS,
    flow::KINDS,
    devices::KINDS,
    admission::KINDS,
    servers::KINDS,
    apiextensions::KINDS,
    metrics::KINDS,
];

/// The descriptors of all kinds.
pub(super) fn descriptors() -> Vec<Descriptor> {
    ALL.iter().copied().flatten().map(Kind::descriptor).collect()
}

/// What of other kinds' objects is shown as a Scale, as two servers show it upstream.
pub(super) fn scale(custom: bool) -> Descriptor {
    let mut scale = autoscaling::SCALE.descriptor();
    for column in &mut scale.columns {
        let said = match column.name.as_str() {
            "Desired" => "Number of desired replicas",
            "Available" => "Number of actual replicas",
            _ => "",
        };
        match custom {
            true if column.name == "Age" => column.kind = "date".to_owned(),
            true if !said.is_empty() => column.description = said.to_owned(),
            true => {}
            // Without the mark of the column that names the object.
            false => column.format.clear(),
        }
    }
    scale
}

/// One line of the table of kinds.
struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    status: bool,
    scale: bool,
    subresources: &'static [&'static str],
    verbs: &'static [&'static str],
    selectable: &'static [&'static str],
    definitions: &'static str,
    columns: &'static [ColumnSpec],
    cells: CellsFn,
    strategy: fn() -> Arc<dyn Strategy>,
    /// What clients are warned with; empty where nothing is said.
    deprecation: &'static str,
    /// Of a version that is not the stored one.
    conversion: Option<Conversion>,
}

impl Kind {
    const BASE: Self = Self {
        group: "",
        version: "v1",
        kind: "",
        plural: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
        subresources: &[],
        verbs: &ALL_VERBS,
        selectable: &[],
        definitions: CORE,
        columns: rows::NAME_AGE,
        cells: rows::name_age,
        strategy: || Arc::new(PlainStrategy),
        deprecation: "",
        conversion: None,
    };

    fn descriptor(&self) -> Descriptor {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let path = |keys: &[&str]| -> Vec<String> { texts(keys) };
        let columns = self.columns.iter().map(|(name, kind, priority)| match (*name, *kind) {
            ("Name", _) => Column { priority: *priority, ..Column::name() },
            (name, "name") => {
                Column { format: "name".to_owned(), ..Column::new(name, "string", *priority, "") }
            }
            (name, format @ ("quantity" | "duration")) => {
                Column { format: format.to_owned(), ..Column::new(name, "string", *priority, "") }
            }
            (name @ ("Age" | "Created At"), kind) => Column::new(name, kind, *priority, CREATED),
            (name @ "Data", kind) if self.kind == "ConfigMap" => Column::new(name, kind, *priority, DATA),
            (name, kind) => Column::new(name, kind, *priority, ""),
        });
        Descriptor {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
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
            verbs: texts(self.verbs),
            strategy: (self.strategy)(),
            builtin: true,
            rules: None,
            served: true,
            storage_version: self.conversion.is_none(),
            conversion: self.conversion,
            selectable_fields: texts(self.selectable),
            deprecation: (!self.deprecation.is_empty()).then(|| self.deprecation.to_owned()),
        }
    }
}
