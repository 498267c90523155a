//! Kubernetes' own kinds: their descriptors, with schemas from the committed table that
//! `generate/schemas.py` makes.

mod admission;
mod apiservice;
mod apps;
mod autoscaling;
mod batch;
mod budgets;
mod bundles;
mod certificates;
mod classes;
mod column_texts;
mod conditions;
mod core;
mod crds;
mod devices;
mod diff;
mod field;
mod flow;
mod formats;
mod inner;
mod kinds;
mod migration;
mod networking;
mod odd;
mod pem;
mod pods;
mod rbac;
mod resources;
mod rows;
mod rules;
mod services;
mod storage;
mod usage;
mod volumes;

use std::collections::HashMap;
use std::io::Read;
use std::sync::LazyLock;

pub use certificates::certificate_part_errors;
pub use classes::SYSTEM_PRIORITIES;
pub(crate) use column_texts::column_text;
pub use flow::objects::flow_objects;
pub use pods::qos_class;
pub use pods::references::{Named, api_reference, names, names_secret};
pub use pods::rows::{pod_ready, pod_status_text};
pub use services::addresses::settle_service;
pub use usage::nano_cores;

use crate::descriptor::Descriptor;
use crate::schema::{Definitions, SchemaRef};

/// Verbs of a kind that is stored.
pub const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const CORE: &str = "io.k8s.api.core.v1.";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

static COMPRESSED: &[u8] = include_bytes!("schemas.json.gz");
static COMPRESSED_DESCRIPTIONS: &[u8] = include_bytes!("descriptions.json.gz");
static COMPRESSED_VALUES: &[u8] = include_bytes!("enums.json.gz");

/// Heading, type (`name`: text that names something), priority.
type ColumnSpec = (&'static str, &'static str, i32);

/// The named schemas of all kinds here and of what they are made of.
pub fn definitions() -> &'static Definitions {
    static TABLE: LazyLock<Definitions> = LazyLock::new(|| {
        unpack(COMPRESSED)
            .and_then(|text| Definitions::from_json(&text).ok())
            // The table is part of the program; a test reads every definition in it.
            .expect("the committed schema table is readable")
    });
    &TABLE
}

/// What is published of definitions beside their schemas.
pub struct Descriptions {
    /// What the definitions and their fields are for: by definition, then by field; a definition's own text is
    /// under the empty name.
    pub texts: HashMap<String, HashMap<String, String>>,
    /// The values that fields may have: by definition, then by field; `FIELD/items` and `FIELD/additionalProperties`
    /// are what is in a list or a map.
    pub values: HashMap<String, HashMap<String, Vec<String>>>,
}

/// Reads what the definitions and their fields are for. Some milliseconds and a MiB each time: it is for
/// documents, which are made once, and does not stay in memory.
pub fn descriptions() -> Descriptions {
    let texts = unpack(COMPRESSED_DESCRIPTIONS).and_then(|text| serde_json::from_slice(&text).ok());
    let values = unpack(COMPRESSED_VALUES).and_then(|text| serde_json::from_slice(&text).ok());
    // The tables are part of the program; a test reads them.
    let readable = "the committed tables of descriptions are readable";
    Descriptions { texts: texts.expect(readable), values: values.expect(readable) }
}

fn unpack(compressed: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(256 * 1024);
    flate2::read::GzDecoder::new(compressed).read_to_end(&mut text).ok()?;
    Some(text)
}

/// The schema of `metadata`.
pub fn object_meta() -> SchemaRef {
    definitions().reference(&format!("{META}ObjectMeta"))
}

/// The schema of `autoscaling/v1` Scale.
pub fn scale() -> SchemaRef {
    definitions().reference("io.k8s.api.autoscaling.v1.Scale")
}

/// `autoscaling/v1` Scale, which is shown and never stored: of a kind of Kubernetes' own, or of a custom one.
pub fn scale_descriptor(custom: bool) -> Descriptor {
    kinds::scale(custom)
}

/// All kinds of Kubernetes' own that the cloud serves.
pub fn descriptors() -> Vec<Descriptor> {
    kinds::descriptors()
}

#[cfg(test)]
mod kind_tests;
#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod tests;
