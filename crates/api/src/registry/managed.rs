//! managedFields of writes that are no server-side apply.

use jiff::Timestamp;
use serde_json::Value;
use yunfan_objects::patch::apply::{self, track_update};

use super::Writer;
use crate::kinds::Kind;

/// Notes in `new` which fields the writer owns now.
pub(super) fn track(
    writer: &Writer<'_>,
    kind: &Kind,
    subresource: &str,
    old: Option<&Value>,
    new: &mut Value,
) {
    // An apply has noted it already, in its own way.
    if writer.applies {
        return;
    }
    let api_version = kind.descriptor.api_version();
    let who = apply::Writer {
        manager: writer.manager,
        subresource,
        api_version: &api_version,
        now: Timestamp::now(),
    };
    track_update(old, new, &who, &kind.descriptor.schema);
}
