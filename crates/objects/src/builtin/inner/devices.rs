//! The parts of claims of devices.

use super::Is::{Each, Given, Number, Of, Optional, Text, Whole};
use super::Part;

const CEL_DEVICE_SELECTOR: &[Part] = &[Part("Expression", "expression", Text)];
const DEVICE_SELECTOR: &[Part] = &[Part("CEL", "cel", Of(CEL_DEVICE_SELECTOR))];
const DEVICE_TOLERATION: &[Part] = &[
    Part("Key", "key", Text),
    Part("Operator", "operator", Text),
    Part("Value", "value", Text),
    Part("Effect", "effect", Text),
    Part("TolerationSeconds", "tolerationSeconds", Optional),
];
const CAPACITY_REQUIREMENTS: &[Part] = &[Part("Requests", "requests", Optional)];
const EXACT_DEVICE_REQUEST: &[Part] = &[
    Part("DeviceClassName", "deviceClassName", Text),
    Part("Selectors", "selectors", Each(DEVICE_SELECTOR)),
    Part("AllocationMode", "allocationMode", Text),
    Part("Count", "count", Number),
    Part("AdminAccess", "adminAccess", Optional),
    Part("Tolerations", "tolerations", Each(DEVICE_TOLERATION)),
    Part("Capacity", "capacity", Of(CAPACITY_REQUIREMENTS)),
];
const DEVICE_SUB_REQUEST: &[Part] = &[
    Part("Name", "name", Text),
    Part("DeviceClassName", "deviceClassName", Text),
    Part("Selectors", "selectors", Each(DEVICE_SELECTOR)),
    Part("AllocationMode", "allocationMode", Text),
    Part("Count", "count", Number),
    Part("Tolerations", "tolerations", Each(DEVICE_TOLERATION)),
    Part("Capacity", "capacity", Of(CAPACITY_REQUIREMENTS)),
];
const DEVICE_REQUEST: &[Part] = &[
    Part("Name", "name", Text),
    Part("Exactly", "exactly", Of(EXACT_DEVICE_REQUEST)),
    Part("FirstAvailable", "firstAvailable", Each(DEVICE_SUB_REQUEST)),
];
const DEVICE_CONSTRAINT: &[Part] = &[
    Part("Requests", "requests", Optional),
    Part("MatchAttribute", "matchAttribute", Optional),
    Part("DistinctAttribute", "distinctAttribute", Optional),
];
const DEVICE_CLAIM_CONFIGURATION: &[Part] = &[
    Part("Requests", "requests", Optional),
    Part(
        "Opaque",
        "opaque",
        Of(&[Part("Driver", "driver", Text), Part("Parameters", "parameters", Optional)]),
    ),
];
const DEVICE_CLAIM: &[Part] = &[
    Part("Requests", "requests", Each(DEVICE_REQUEST)),
    Part("Constraints", "constraints", Each(DEVICE_CONSTRAINT)),
    Part("Config", "config", Each(DEVICE_CLAIM_CONFIGURATION)),
];
pub(in crate::builtin) const RESOURCE_CLAIM_SPEC: &[Part] =
    &[Part("Devices", "devices", Whole(DEVICE_CLAIM))];

/// What a template makes claims of: metadata is of the API itself.
pub(in crate::builtin) const RESOURCE_CLAIM_TEMPLATE_SPEC: &[Part] = &[
    Part("labels", "/metadata/labels", Given),
    Part("annotations", "/metadata/annotations", Given),
    Part("Spec", "spec", Whole(RESOURCE_CLAIM_SPEC)),
];
