//! The entries of `metadata.managedFields`.

use serde_json::{Value, json};

use super::apply::Writer;
use super::fields::FieldSet;
use crate::lookup::{list, text};
use crate::{ApiError, Object, meta};

/// Most managers of plain updates; the oldest beyond it are put together.
const MAX_UPDATERS: usize = 10;
/// The manager that they become.
const ANCIENT: &str = "ancient-changes";
/// Longest name of a manager.
const MAX_NAME: usize = 128;

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: String,
    set: FieldSet,
}

impl Entry {
    fn is(&self, operation: Operation, manager: &str, subresource: &str) -> bool {
        self.operation == operation && self.manager == manager && self.subresource == subresource
    }

    /// As kubectl shows it in a conflict.
    fn shown(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            out.push_str(&format!(" using {}", self.api_version));
            if !self.time.is_empty() {
                out.push_str(&format!(" at {}", self.time));
            }
        }
        out
    }

    fn read(value: &Value) -> Option<Self> {
        let operation = match text(value, &["operation"]) {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Self {
            manager: text(value, &["manager"]).to_owned(),
            operation,
            api_version: text(value, &["apiVersion"]).to_owned(),
            subresource: text(value, &["subresource"]).to_owned(),
            time: text(value, &["time"]).to_owned(),
            set: FieldSet::from_fields_v1(&value["fieldsV1"]),
        })
    }

    fn to_json(&self) -> Value {
        let mut out = json!({
            "manager": self.manager,
            "operation": if self.operation == Operation::Apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_fields_v1(),
        });
        for (key, text) in [("subresource", &self.subresource), ("time", &self.time)] {
            if !text.is_empty() {
                out[key] = json!(text);
            }
        }
        out
    }
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers(Vec<Entry>);

impl Managers {
    pub(super) fn read(object: &Object) -> Self {
        Self(list(object, &["metadata", "managedFields"]).iter().filter_map(Entry::read).collect())
    }

    /// Writes the entries that own something, in Kubernetes' order.
    pub(super) fn write(mut self, object: &mut Object) {
        self.0.retain(|entry| !entry.set.is_empty());
        self.0.sort_by(|a, b| {
            let key = |entry: &Entry| {
                (entry.operation, entry.time.clone(), entry.manager.clone(), entry.subresource.clone())
            };
            key(a).cmp(&key(b))
        });
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.0.is_empty() {
            metadata.remove("managedFields");
        } else {
            let entries = self.0.iter().map(Entry::to_json).collect();
            metadata.insert("managedFields".to_owned(), Value::Array(entries));
        }
    }

    pub(super) fn set(&self, operation: Operation, manager: &str, subresource: &str) -> Option<&FieldSet> {
        self.0.iter().find(|entry| entry.is(operation, manager, subresource)).map(|entry| &entry.set)
    }

    /// What all others own together.
    pub(super) fn all_but(&self, operation: Operation, manager: &str, subresource: &str) -> FieldSet {
        let mut out = FieldSet::default();
        for entry in self.0.iter().filter(|entry| !entry.is(operation, manager, subresource)) {
            out.add(&entry.set);
        }
        out
    }

    /// Sets what a writer owns; its time only where something changed.
    pub(super) fn put(&mut self, operation: Operation, writer: &Writer<'_>, set: FieldSet, changed: bool) {
        let at = self.0.iter().position(|entry| entry.is(operation, writer.manager, writer.subresource));
        let time = meta::time(writer.now);
        match at {
            Some(at) => {
                let entry = &mut self.0[at];
                entry.set = set;
                if changed {
                    entry.time = time;
                    writer.api_version.clone_into(&mut entry.api_version);
                }
            }
            None => self.0.push(Entry {
                manager: writer.manager.to_owned(),
                operation,
                api_version: writer.api_version.to_owned(),
                subresource: writer.subresource.to_owned(),
                time,
                set,
            }),
        }
    }

    /// Takes fields from all but the writer.
    pub(super) fn lose(&mut self, fields: &FieldSet, operation: Operation, writer: &Writer<'_>) {
        for entry in
            self.0.iter_mut().filter(|entry| !entry.is(operation, writer.manager, writer.subresource))
        {
            entry.set.subtract(fields);
        }
    }

    /// Takes fields that are gone from all.
    pub(super) fn forget(&mut self, removed: &FieldSet) {
        for entry in &mut self.0 {
            entry.set.subtract(removed);
        }
    }

    /// Who else owns which of these fields.
    pub(super) fn conflicts(&self, fields: &FieldSet, writer: &Writer<'_>) -> Vec<(String, Vec<String>)> {
        let others =
            self.0.iter().filter(|entry| !entry.is(Operation::Apply, writer.manager, writer.subresource));
        let mut out: Vec<(String, Vec<String>)> = others
            .map(|entry| (entry.shown(), entry.set.common(fields).paths()))
            .filter(|(_, paths)| !paths.is_empty())
            .collect();
        out.sort();
        out
    }

    /// Puts the oldest updaters of a version together where there are too many.
    pub(super) fn limit_updates(&mut self) {
        let mut updaters: Vec<usize> = (0..self.0.len())
            .filter(|at| self.0[*at].operation == Operation::Update && self.0[*at].subresource.is_empty())
            .collect();
        if updaters.len() <= MAX_UPDATERS {
            return;
        }
        updaters.sort_by(|a, b| self.0[*a].time.cmp(&self.0[*b].time));
        let old: Vec<usize> = updaters[..=updaters.len() - MAX_UPDATERS].to_vec();
        // The newest of the old ones stands for them all.
        let Some((last, rest)) = old.split_last() else { return };
        let mut set = std::mem::take(&mut self.0[*last].set);
        for at in rest {
            set.add(&std::mem::take(&mut self.0[*at].set));
        }
        self.0[*last].set = set;
        ANCIENT.clone_into(&mut self.0[*last].manager);
        self.0.retain(|entry| !entry.set.is_empty());
    }
}

/// The name under which a writer owns fields: the `fieldManager` of the request, else the part of
/// the user agent before the first `/`.
///
/// # Errors
/// 400 for a name that is too long or not printable, as a query parameter.
pub fn manager_name(field_manager: Option<&str>, user_agent: &str) -> Result<String, ApiError> {
    match field_manager.filter(|name| !name.is_empty()) {
        Some(name) if name.len() > MAX_NAME => Err(ApiError::bad_request(format!(
            "fieldManager: Invalid value: {name:?}: may not be more than {MAX_NAME} bytes"
        ))),
        Some(name) if name.chars().any(char::is_control) => Err(ApiError::bad_request(
            "fieldManager: Invalid value: should only contain printable characters",
        )),
        Some(name) => Ok(name.to_owned()),
        None => {
            let name = user_agent.split('/').next().unwrap_or_default();
            let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME / 4).collect();
            Ok(if name.is_empty() { "unknown".to_owned() } else { name })
        }
    }
}
