//! What a kind is, and the steps that the registry takes an object through.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::conversion::Conversion;
use crate::error::{ApiError, FieldError};
use crate::lookup::{copy_key, list, remove, text};
use crate::schema::SchemaRef;
use crate::table::{CellsFn, Column};
use crate::validations::Rules;
use crate::{Object, meta, protobuf};

/// Group, version and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// API group; empty for the core group.
    pub group: String,
    /// Version, as `v1`.
    pub version: String,
    /// Kind, as `Pod`.
    pub kind: String,
}

impl GroupVersionKind {
    /// Puts the three together.
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// Reads them from an object; `None` where `apiVersion` or `kind` is missing or no text.
    pub fn of(object: &Object) -> Option<Self> {
        let api_version = object.get("apiVersion")?.as_str()?;
        let kind = object.get("kind")?.as_str()?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Some(Self::new(group, version, kind))
    }

    /// Reads what is there of them.
    pub fn read(object: &Object) -> Self {
        let api_version = text(object, &["apiVersion"]);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self::new(group, version, text(object, &["kind"]))
    }

    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// Shown as `apps/v1, Kind=Deployment`; of the core group as `/v1, Kind=Pod`.
impl fmt::Display for GroupVersionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

/// Group and plural resource name. Shown as `pods`, `deployments.apps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural, lower case.
    pub resource: String,
}

impl GroupResource {
    /// Puts the two together.
    pub fn new(group: &str, resource: &str) -> Self {
        Self { group: group.to_owned(), resource: resource.to_owned() }
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// Where the scale subresource finds its numbers: paths of object keys, as `["spec", "replicas"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Wanted number.
    pub spec_replicas: Vec<String>,
    /// Observed number.
    pub status_replicas: Vec<String>,
    /// A selector as text, or as a LabelSelector object.
    pub selector: Option<Vec<String>>,
}

/// What happens to fields that the schema does not know (query parameter `fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them, and tell the client in a warning header.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; empty means [`Warn`](Self::Warn). `None` for a word that is none of
    /// the three.
    pub fn parse(parameter: &str) -> Option<Self> {
        match parameter {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// What is special about a kind. Every method has a body that suits a kind without specials.
pub trait Strategy: Send + Sync {
    /// Fills in the defaults that clients see, beyond those of the schema.
    fn default(&self, _object: &mut Object) {}
    /// What is wrong with the name of a new object, beyond what any name must be.
    fn wrong_name(&self, _object: &Object) -> Option<String> {
        None
    }
    /// Checks a complete object (defaults filled in), beyond its schema and its metadata.
    fn validate(&self, _object: &Object) -> Vec<FieldError> {
        Vec::new()
    }
    /// Checks a change; [`validate`](Self::validate) is called as well.
    fn validate_update(&self, _new: &Object, _old: &Object) -> Vec<FieldError> {
        Vec::new()
    }
    /// Whether the findings of [`validate_update`](Self::validate_update) are told before those of
    /// [`validate`](Self::validate).
    fn tells_changes_first(&self) -> bool {
        false
    }
    /// Whether a finding of [`validate`](Self::validate) about this field is let through in a change.
    fn tolerates(&self, _field: &str, _new: &Object, _old: &Object) -> bool {
        false
    }
    /// Checks a change that came through a subresource for a few fields of the object.
    fn validate_part(&self, _subresource: &str, new: &Object, old: &Object) -> Vec<FieldError> {
        self.validate_update(new, old)
    }
    /// Checks that hold for a new object alone; [`validate`](Self::validate) is called as well.
    fn validate_create(&self, _object: &Object) -> Vec<FieldError> {
        Vec::new()
    }
    /// Checks a changed status.
    fn validate_status(&self, _new: &Object, _old: &Object) -> Vec<FieldError> {
        Vec::new()
    }
    /// Whether its own checks tell of each field that must be given, so that the schema's do not.
    fn tells_of_missing(&self) -> bool {
        false
    }
    /// What a client is told of an object that is accepted; `old` is what a change began with.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }
    /// What a client is told of a new object before [`prepare_create`](Self::prepare_create), also where it is refused.
    fn warnings_of_given(&self, _object: &Object) -> Vec<String> {
        Vec::new()
    }
    /// What a client is told of a changed status.
    fn status_warnings(&self, _new: &Object) -> Vec<String> {
        Vec::new()
    }
    /// Sets what the server owns in a new object. The status is gone already.
    fn prepare_create(&self, _object: &mut Object) {}
    /// Sets what the server owns in a changed object. The old status is in place already.
    fn prepare_update(&self, _new: &mut Object, _old: &Object) {}
    /// Sets what the server owns after a change of the status.
    fn prepare_status_update(&self, _new: &mut Object, _old: &Object) {}
    /// Sets what a changed status keeps of the old one, once it is known who owns what: nobody owns it for that.
    fn keep_of_status(&self, _new: &mut Object, _old: &Object) {}
    /// The parts of the metadata that a write of the status does not change.
    fn kept_by_status(&self) -> &[&str] {
        &[]
    }
    /// What is said of a row in a table beside its cells, as the `conditions` of a `TableRow`.
    fn row_conditions(&self, _object: &Object) -> Vec<Value> {
        Vec::new()
    }
    /// Whether changes of the spec are counted in `metadata.generation`.
    fn has_generation(&self) -> bool {
        true
    }
    /// Whether a creator may give the status (nodes register with theirs).
    fn keeps_status_on_create(&self) -> bool {
        false
    }
    /// Whether a name may be any path segment instead of a DNS subdomain (RBAC roles).
    fn name_is_path_segment(&self) -> bool {
        false
    }
    /// Whether a name must be a DNS label instead of a DNS subdomain: namespaces, services.
    fn name_is_label(&self) -> bool {
        false
    }
}

/// A kind with nothing special about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainStrategy;

impl Strategy for PlainStrategy {}

/// One version of a kind: all that the registry needs in order to serve it.
#[derive(Clone)]
pub struct Descriptor {
    /// API group; empty for the core group.
    pub group: String,
    /// Version, as `v1`.
    pub version: String,
    /// Kind, as `Pod`.
    pub kind: String,
    /// Kind of its list, as `PodList`.
    pub list_kind: String,
    /// Resource name in paths, as `pods`.
    pub plural: String,
    /// Singular, as `pod`.
    pub singular: String,
    /// As `po`.
    pub short_names: Vec<String>,
    /// As `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Shape of the whole object.
    pub schema: SchemaRef,
    /// Rules beside the schema.
    pub rules: Option<Arc<Rules>>,
    /// Columns of its table.
    pub columns: Vec<Column>,
    /// Makes a table row's cells, where columns have no JSON paths.
    pub cells: Option<CellsFn>,
    /// Whether `/status` exists, and a plain update leaves the status alone.
    pub status_subresource: bool,
    /// Whether `/scale` exists, and where its numbers are.
    pub scale: Option<ScalePaths>,
    /// Subresources besides status and scale: `log`, `exec`, `binding`.
    pub subresources: Vec<String>,
    /// Verbs shown by discovery.
    pub verbs: Vec<String>,
    /// What is special.
    pub strategy: Arc<dyn Strategy>,
    /// A kind of Kubernetes' own: its type errors are refused while decoding (400).
    pub builtin: bool,
    /// Whether clients may ask for this version.
    pub served: bool,
    /// Whether objects are stored in this version.
    pub storage_version: bool,
    /// How it is made of the stored version, where Kubernetes' own kind is stored in another one.
    pub conversion: Option<Conversion>,
    /// Field selectors that are served besides metadata.name and metadata.namespace.
    pub selectable_fields: Vec<String>,
    /// Tells clients that this version goes away; the text of the warning.
    pub deprecation: Option<String>,
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({}, Kind={})", self.api_version(), self.kind)
    }
}

impl Descriptor {
    /// Group, version and kind.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&self.group, &self.version, &self.kind)
    }

    /// Group and resource.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.plural)
    }

    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        self.gvk().api_version()
    }

    /// Whether its tables show nothing but names and the time of creation, as upstream's of kinds that nobody made columns for.
    pub fn has_plain_table(&self) -> bool {
        self.columns.iter().any(|column| column.name == "Created At")
    }

    /// Fills in defaults: those of the schema, then those of the strategy.
    pub fn default(&self, object: &mut Object) {
        self.schema.apply_defaults(object);
        self.strategy.default(object);
        if self.builtin {
            protobuf::fill_times(&self.api_version(), &self.kind, object);
        }
    }

    /// Sets what the server owns in a new object: no status (an empty one of Kubernetes' own kinds, or what the
    /// strategy sets) where the kind has a status subresource, generation 1. System metadata is [`meta::fill_new`].
    pub fn prepare_create(&self, object: &mut Object) {
        if self.status_subresource && !self.strategy.keeps_status_on_create() {
            remove(object, "status");
            if self.builtin {
                object["status"] = json!({});
            }
        } else if self.status_subresource && self.builtin {
            protobuf::settle_status(&self.api_version(), &self.kind, object);
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            // Where nobody counts, it is what the client says.
            if self.strategy.has_generation() {
                metadata.insert("generation".to_owned(), json!(1));
            }
        }
        self.strategy.prepare_create(object);
    }

    /// Sets what the server owns in a changed object: system metadata and status of the old one;
    /// a generation one higher where anything but metadata and status changed.
    ///
    /// Call it after [`default`](Self::default), since a default is no change.
    pub fn prepare_update(&self, new: &mut Object, old: &Object) {
        if self.status_subresource {
            copy_key(new, old, "status");
        }
        meta::keep_system_fields(new, old);
        self.strategy.prepare_update(new, old);
        self.count_change(new, old);
    }

    /// Makes `new`, which has a few fields of the old object changed, what is to be stored of it.
    pub fn prepare_part(&self, new: &mut Object, old: &Object) {
        self.default(new);
        meta::keep_system_fields(new, old);
        self.count_change(new, old);
    }

    fn count_change(&self, new: &mut Object, old: &Object) {
        if self.strategy.has_generation() && self.spec_differs(new, old) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = json!(generation);
        }
    }

    /// Whether anything but metadata (and status, where it has its own subresource) differs.
    pub fn spec_differs(&self, new: &Object, old: &Object) -> bool {
        let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return true };
        let counts = |key: &str| key != "metadata" && !(key == "status" && self.status_subresource);
        let left = new.iter().filter(|(key, _)| counts(key));
        let right = old.iter().filter(|(key, _)| counts(key));
        !left.eq(right)
    }

    /// Makes `new` the old object with the new status (and the new managedFields). Of Kubernetes'
    /// own kinds the labels, annotations and finalizers may change along with it.
    pub fn prepare_status_update(&self, new: &mut Object, old: &Object) {
        let mut result = old.clone();
        copy_key(&mut result, new, "status");
        if self.builtin {
            copy_key(&mut result, new, "metadata");
            meta::keep_system_fields(&mut result, old);
            for key in self.strategy.kept_by_status() {
                copy_key(&mut result["metadata"], &old["metadata"], key);
            }
        }
        if let Some(fields) = new.get("metadata").and_then(|meta| meta.get("managedFields")) {
            result["metadata"]["managedFields"] = fields.clone();
        }
        // A caller's precondition must survive, or its conflict would go unseen.
        if let Some(revision) = new.get("metadata").and_then(|meta| meta.get("resourceVersion")) {
            result["metadata"]["resourceVersion"] = revision.clone();
        }
        *new = result;
        if self.builtin {
            protobuf::settle_status(&self.api_version(), &self.kind, new);
            protobuf::fill_times(&self.api_version(), &self.kind, new);
        }
        self.strategy.prepare_status_update(new, old);
    }

    /// Checks a new object: metadata, schema, strategy.
    ///
    /// # Errors
    /// 422 with every field at fault.
    pub fn validate_create(&self, object: &Object) -> Result<(), ApiError> {
        let mut errors = meta::validate_name(object, self.name_rule());
        let name = text(object, &["metadata", "name"]);
        let wrong = self.strategy.wrong_name(object).filter(|_| !name.is_empty());
        errors.extend(wrong.map(|why| FieldError::invalid("metadata.name", name, why)));
        errors.extend(meta::validate_beside_name(object, self.namespaced));
        errors.extend(self.unknown_finalizers(object));
        errors.extend(self.validate_body(object, None));
        errors.extend(self.strategy.validate_create(object));
        self.refuse(object, errors)
    }

    /// Checks a changed object: also that nothing immutable changed.
    ///
    /// # Errors
    /// 422 with every field at fault.
    pub fn validate_update(&self, new: &Object, old: &Object) -> Result<(), ApiError> {
        self.validate_change(new, old, self.strategy.validate_update(new, old))
    }

    /// What a client is told of parts of a changed object that break rules in CEL, and did so before: it does not stand in the way of
    /// other changes.
    pub fn tolerated(&self, new: &Object, old: &Object) -> Vec<String> {
        let rules = self.rules.iter();
        rules.flat_map(|rules| rules.tolerated(new, old)).map(|error| error.to_string()).collect()
    }

    /// Checks a change that came through a subresource for a few fields of the object.
    ///
    /// # Errors
    /// 422 with every field at fault.
    pub fn validate_part(&self, subresource: &str, new: &Object, old: &Object) -> Result<(), ApiError> {
        self.validate_change(new, old, self.strategy.validate_part(subresource, new, old))
    }

    /// What is wrong with the metadata of a changed object: of changes upstream says it twice. A name that was once good stays good: no
    /// more is asked of it than that it fits into a path.
    fn metadata_changes(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = meta::validate(new, self.namespaced, meta::NameRule::PathSegment);
        let found = meta::validate_update(new, old);
        errors.extend(found.iter().cloned());
        errors.extend(found);
        errors.extend(self.unknown_finalizers(new));
        // What was let in when less was asked of finalizers does not stand in the way of other changes, or of its own end.
        let of = |object| list(object, &["metadata", "finalizers"]);
        if of(new).iter().all(|finalizer| of(old).contains(finalizer)) {
            errors.retain(|error| !error.field.starts_with("metadata.finalizers"));
        }
        errors
    }

    /// Finalizers that no object of this kind may have.
    fn unknown_finalizers(&self, object: &Object) -> Vec<FieldError> {
        // Groups whose kinds are held to no more than custom resources are.
        const PLAIN: [&str; 3] =
            ["admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io"];
        let plain = !self.builtin || PLAIN.contains(&self.group.as_str());
        if plain { Vec::new() } else { meta::validate_finalizers(object) }
    }

    fn validate_change(&self, new: &Object, old: &Object, found: Vec<FieldError>) -> Result<(), ApiError> {
        let mut errors = self.metadata_changes(new, old);
        let mut body = self.validate_body(new, Some(old));
        body.retain(|error| !self.strategy.tolerates(&error.field, new, old));
        errors.extend(match self.strategy.tells_changes_first() {
            true => [found, body].concat(),
            false => [body, found].concat(),
        });
        self.refuse(new, errors)
    }

    /// Checks a changed status.
    ///
    /// # Errors
    /// 422 with every field at fault.
    pub fn validate_status_update(&self, new: &Object, old: &Object) -> Result<(), ApiError> {
        let mut errors = self.metadata_changes(new, old);
        if !self.builtin {
            let status = |object: &Object| object.get("status").cloned().unwrap_or_default();
            let found = self.schema.properties.get("status").filter(|_| new.get("status").is_some());
            let found = found.map(|schema| schema.validate_change(&status(new), &status(old)));
            // Messages tell the path from the status on, since that is what was looked at.
            let found = found.into_iter().flatten().map(|error| error.below("status"));
            errors.extend(self.with_rules(new, Some(old), found.collect()));
        }
        errors.extend(self.strategy.validate_status(new, old));
        self.refuse(new, errors)
    }

    /// Checks a custom resource by its schema and its rules.
    fn validate_custom(&self, object: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = match old {
            Some(old) => self.schema.validate_change(object, old),
            None => self.schema.validate(object),
        };
        errors.extend(self.schema.embedded_errors(object));
        errors.retain(|error| !error.field.starts_with("metadata.ownerReferences["));
        self.with_rules(object, old, errors)
    }

    /// The findings by the schema, and those by the rules where these can be asked.
    fn with_rules(
        &self,
        object: &Object,
        old: Option<&Object>,
        mut errors: Vec<FieldError>,
    ) -> Vec<FieldError> {
        let Some(rules) = &self.rules else { return errors };
        // A rule may take types for granted, and may be slow on what is too large.
        let blocks = |error: &FieldError| {
            use crate::FieldErrorKind::{
                NotSupported, NotSupportedAs, Required, TooLong, TooMany, TypeInvalid,
            };
            matches!(
                error.kind,
                NotSupported(..) | NotSupportedAs(..) | Required | TooLong(_) | TooMany(..) | TypeInvalid(_)
            )
        };
        if errors.iter().any(blocks) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(FieldError::invalid("<nil>", Value::Null, why));
        } else {
            errors.extend(rules.validate(object, old));
        }
        errors
    }

    fn validate_body(&self, object: &Object, old: Option<&Object>) -> Vec<FieldError> {
        let mut errors = match self.builtin {
            true => self.schema.validate_with(object, false),
            false => self.validate_custom(object, old),
        };
        // What metadata lacks is told with the rest of what is wrong with it.
        errors.retain(|error| !error.field.starts_with("metadata.ownerReferences["));
        if self.strategy.tells_of_missing() {
            errors.retain(|error| error.kind != crate::FieldErrorKind::Required);
        }
        // A strategy may take for granted that the schema holds.
        if errors.is_empty() || self.builtin {
            let own = self.strategy.validate(object);
            // What the strategy says of a field is said in upstream's words, and once.
            let told: HashSet<&str> = own.iter().map(|error| error.field.as_str()).collect();
            errors.retain(|error| !told.contains(error.field.as_str()));
            errors.extend(own);
        }
        errors
    }

    fn refuse(&self, object: &Object, errors: Vec<FieldError>) -> Result<(), ApiError> {
        if errors.is_empty() {
            return Ok(());
        }
        let name = match text(object, &["metadata", "name"]) {
            "" => text(object, &["metadata", "generateName"]),
            name => name,
        };
        // Events are one kind, of two groups.
        let gvk = match self.gvk() {
            gvk if gvk.group == "events.k8s.io" => GroupVersionKind { group: String::new(), ..gvk },
            gvk => gvk,
        };
        Err(ApiError::invalid(&gvk, name, &errors))
    }

    fn name_rule(&self) -> meta::NameRule {
        if self.strategy.name_is_path_segment() {
            meta::NameRule::PathSegment
        } else if self.strategy.name_is_label() {
            meta::NameRule::Label
        } else {
            meta::NameRule::Subdomain
        }
    }
}
