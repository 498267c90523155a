//! The object model of the cloud's API, as pure functions over [`serde_json::Value`].
//!
//! **Owns**: what a kind is ([`Descriptor`]), how an object's bytes are read and written
//! ([`codec`], [`protobuf`]), the shape that an object must have ([`schema`], [`validations`], [`builtin`], [`crd`]), how a
//! patch changes it ([`patch`]), how it is selected ([`selector`]) and shown ([`table`]), and the
//! wording of every refusal ([`error`]).
//!
//! **Must never know**: storage, revisions beyond splicing one in, HTTP, users, the clock (a
//! caller passes `now`) or anything that does I/O.
//!
//! Start reading at [`Descriptor`]: the registry calls its methods in the order
//! [`decode`](Descriptor::decode), [`default`](Descriptor::default), [`prepare_create`](Descriptor::prepare_create)
//! (or one of the updates), [`validate_create`](Descriptor::validate_create).
#![forbid(unsafe_code)]

pub mod admission;
pub mod builtin;
pub mod codec;
mod conversion;
pub mod crd;
pub mod cron;
pub mod decode;
mod descriptor;
pub mod error;
#[cfg(test)]
mod error_tests;
pub mod golang;
mod lookup;
pub mod meta;
pub mod patch;
pub mod protobuf;
pub mod quantity;
mod refusals;
pub mod rules;
pub mod scale;
pub mod schema;
pub mod selector;
pub mod subresource;
pub mod table;
pub mod validations;

pub use conversion::Conversion;
pub use descriptor::{
    Descriptor, FieldValidation, GroupResource, GroupVersionKind, PlainStrategy, ScalePaths, Strategy,
};
pub use error::{ApiError, FieldError, FieldErrorKind, Reason};
pub use quantity::{Quantity, QuantityError};
pub use schema::{Schema, SchemaRef};
pub use table::Column;
pub use yunfan_cel::parse_duration;

/// An API object: a JSON object with `apiVersion`, `kind` and `metadata`.
pub type Object = serde_json::Value;
