//! The kinds of events.k8s.io.

use std::sync::Arc;

use super::Kind;
use crate::builtin::core;
use crate::builtin::core::events;
use crate::conversion::Conversion;

pub(super) static KINDS: &[Kind] = &[Kind {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    short_names: &["ev"],
    selectable: &[
        "reason",
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reportingController",
        "type",
    ],
    definitions: "io.k8s.api.events.v1.",
    columns: core::rows::EVENT_COLUMNS,
    cells: |event, now| core::rows::event(&events::in_core(event), now),
    strategy: || Arc::new(events::EVENTS),
    conversion: Some(Conversion {
        stored_group: "",
        to_stored: events::to_core,
        from_stored: events::from_core,
    }),
    ..Kind::BASE
}];
