//! Versions of Kubernetes' own kinds that are not the stored one.

use crate::Object;

/// How objects of a version that is not stored become stored ones, and back. Nothing may be lost on the way there
/// and back. Both steps set `apiVersion`.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    /// Group of the stored version, which may be another one.
    pub stored_group: &'static str,
    /// Makes the stored version.
    pub to_stored: fn(&mut Object),
    /// Makes this version of the stored one.
    pub from_stored: fn(&mut Object),
}
