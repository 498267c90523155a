//! A strategy put together from functions, for kinds that need no more than a few of them.

use crate::Object;
use crate::descriptor::Strategy;
use crate::error::FieldError;

/// What is special about a kind, as one constant.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) default: fn(&mut Object),
    pub(super) validate: fn(&Object) -> Vec<FieldError>,
    pub(super) validate_update: fn(&Object, &Object) -> Vec<FieldError>,
    pub(super) tolerates: fn(&str, &Object, &Object) -> bool,
    pub(super) validate_create: fn(&Object) -> Vec<FieldError>,
    pub(super) validate_status: fn(&Object, &Object) -> Vec<FieldError>,
    pub(super) warnings: fn(&Object, Option<&Object>) -> Vec<String>,
    pub(super) status_warnings: fn(&Object) -> Vec<String>,
    pub(super) prepare_create: fn(&mut Object),
    pub(super) prepare_update: fn(&mut Object, &Object),
    pub(super) prepare_status_update: fn(&mut Object, &Object),
    pub(super) kept_by_status: &'static [&'static str],
    pub(super) generation: bool,
    pub(super) path_segment_name: bool,
    pub(super) tells_of_missing: bool,
}

/// The parts of the metadata that clients write, for kinds that change nothing of it along with the status.
pub(super) const METADATA: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences"];

impl Rules {
    /// A kind with nothing special, whose changes are counted.
    pub(super) const BASE: Self = Self {
        default: |_| {},
        validate: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        tolerates: |_, _, _| false,
        validate_create: |_| Vec::new(),
        validate_status: |_, _| Vec::new(),
        warnings: |_, _| Vec::new(),
        status_warnings: |_| Vec::new(),
        prepare_create: |_| {},
        prepare_update: |_, _| {},
        prepare_status_update: |_, _| {},
        kept_by_status: &[],
        generation: true,
        path_segment_name: false,
        tells_of_missing: false,
    };
    /// The same, whose changes are not counted.
    pub(super) const UNCOUNTED: Self = Self { generation: false, ..Self::BASE };
}

impl Strategy for Rules {
    fn default(&self, object: &mut Object) {
        (self.default)(object);
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        (self.validate)(object)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        (self.validate_update)(new, old)
    }

    fn tolerates(&self, field: &str, new: &Object, old: &Object) -> bool {
        (self.tolerates)(field, new, old)
    }

    fn validate_create(&self, object: &Object) -> Vec<FieldError> {
        (self.validate_create)(object)
    }

    fn validate_status(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        (self.validate_status)(new, old)
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        (self.warnings)(new, old)
    }

    fn status_warnings(&self, new: &Object) -> Vec<String> {
        (self.status_warnings)(new)
    }

    fn prepare_create(&self, object: &mut Object) {
        (self.prepare_create)(object);
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        (self.prepare_update)(new, old);
    }

    fn prepare_status_update(&self, new: &mut Object, old: &Object) {
        (self.prepare_status_update)(new, old);
    }

    fn kept_by_status(&self) -> &[&str] {
        self.kept_by_status
    }

    fn has_generation(&self) -> bool {
        self.generation
    }

    fn tells_of_missing(&self) -> bool {
        self.tells_of_missing
    }

    fn name_is_path_segment(&self) -> bool {
        self.path_segment_name
    }
}
