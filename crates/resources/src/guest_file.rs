//! Files that a VirtualMachine's guest is to have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A file that a guest is to have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestFile {
    /// Where it is in the guest.
    #[schemars(length(min = 1, max = 255))]
    pub path: String,
    /// What is in it, base64, at most 10,240 bytes decoded.
    #[schemars(length(max = 13656))]
    pub contents: String,
}
