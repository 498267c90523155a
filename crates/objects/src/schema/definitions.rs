//! A table of named schema nodes, each decoded when it is first asked for.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use serde_json::Value;
use serde_json::value::RawValue;

use super::{Schema, SchemaRef, SchemaType, parse};

/// Named schema nodes that may refer to each other, also in circles.
pub struct Definitions {
    slots: HashMap<String, Slot>,
}

struct Slot {
    raw: Box<RawValue>,
    parsed: OnceLock<Schema>,
}

impl std::fmt::Debug for Definitions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Definitions({})", self.slots.len())
    }
}

const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

impl Definitions {
    /// Reads a JSON object from names to schemas; the schemas stay undecoded.
    ///
    /// # Errors
    /// Malformed JSON.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        let raw: HashMap<String, Box<RawValue>> = serde_json::from_slice(text)?;
        let slots = raw.into_iter().map(|(name, raw)| (name, Slot { raw, parsed: OnceLock::new() }));
        Ok(Self { slots: slots.collect() })
    }

    /// The node of a name; one that allows anything where there is none.
    pub fn get(&'static self, name: &str) -> &'static Schema {
        static ANYTHING: LazyLock<Schema> =
            LazyLock::new(|| Schema { preserve_unknown: true, ..Schema::default() });
        let Some(slot) = self.slots.get(name) else { return &ANYTHING };
        slot.parsed.get_or_init(|| {
            let value: Value = serde_json::from_str(slot.raw.get()).unwrap_or_default();
            let node = parse::definition(&value, self);
            match name {
                // It holds what its reader makes of it, as a whole, and need not be an object.
                RAW => Schema { kind: SchemaType::Any, atomic_map: true, ..node },
                _ => node,
            }
        })
    }

    /// A reference to a node.
    pub fn reference(&'static self, name: &str) -> SchemaRef {
        SchemaRef::named(self, name)
    }

    /// Whether there is a node of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.slots.contains_key(name)
    }

    /// All names with their schemas as JSON text (OpenAPI v2 with `$ref` as `#/definitions/NAME`),
    /// for OpenAPI documents.
    pub fn raw(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), &*slot.raw))
    }
}
