//! Encodings of bodies besides JSON and YAML.

mod messages;
pub(crate) mod protobuf;
mod reader;
