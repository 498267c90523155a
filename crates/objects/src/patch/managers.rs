//! The entries of `metadata.managedFields`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::apply::Writer;
use super::fields::FieldSet;
use crate::lookup::{list, text};
use crate::{FieldError, Object, meta};

/// Most managers of plain updates; the oldest beyond it are put together.
const MAX_UPDATERS: usize = 10;
/// The manager that they become.
const ANCIENT: &str = "ancient-changes";
/// Longest name of a manager.
const MAX_NAME: usize = 128;
/// Most findings about one name.
const MAX_FINDINGS: usize = 8;

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
    /// Whether it is the writer's own entry. Updates in another version are another entry; an apply in
    /// another version takes the entry over.
    fn is(&self, operation: Operation, writer: &Writer<'_>) -> bool {
        self.operation == operation
            && self.manager == writer.manager
            && self.subresource == writer.subresource
            && (operation == Operation::Apply || self.api_version == writer.api_version)
    }

    /// As [`is`](Self::is), of two entries.
    fn is_same_writer(&self, other: &Self) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As kubectl shows it in a conflict.
    fn shown(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }

    fn read(value: &Value) -> Option<Self> {
        let operation = match text(value, &["operation"]) {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let api_version = text(value, &["apiVersion"]);
        if api_version.is_empty() || text(value, &["fieldsType"]) != "FieldsV1" {
            return None;
        }
        Some(Self {
            manager: text(value, &["manager"]).to_owned(),
            operation,
            api_version: api_version.to_owned(),
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
    /// The entries that can be read; of several of the same writer the last one.
    pub(super) fn read(object: &Object) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for entry in list(object, &["metadata", "managedFields"]).iter().filter_map(Entry::read) {
            match entries.iter_mut().find(|other| other.is_same_writer(&entry)) {
                Some(other) => *other = entry,
                None => entries.push(entry),
            }
        }
        Self(entries)
    }

    /// The entries, where there are any and all can be read.
    pub(super) fn read_all(object: &Object) -> Option<Self> {
        let entries = list(object, &["metadata", "managedFields"]).iter().map(Entry::read);
        entries.collect::<Option<Vec<Entry>>>().filter(|entries| !entries.is_empty()).map(Self)
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

    /// Those who own the field `from`, as owners of nothing but the field `to` of another kind.
    pub(super) fn of_field(self, from: &[&str], to: &[&str], api_version: &str) -> Self {
        let (from, to) = (FieldSet::of_field(from), FieldSet::of_field(to));
        let owning = self.0.into_iter().filter(|entry| !entry.set.common(&from).is_empty());
        let other = |entry: Entry| Entry { set: to.clone(), api_version: api_version.to_owned(), ..entry };
        Self(owning.map(other).collect())
    }

    /// With the owners of the field `from` of another kind as the owners of the field `to`, without a time. Who applied that keeps the
    /// entry, as long as anything of the other kind is applied; of updates it is told apart what else they wrote.
    pub(super) fn with_field(mut self, owners: Self, from: &[&str], to: &[&str], api_version: &str) -> Self {
        let field = FieldSet::of_field(to);
        let (keep, new): (Vec<Entry>, Vec<Entry>) = owners.0.into_iter().partition(|owner| {
            let same = |entry: &&Entry| entry.is_same_writer(owner) && !entry.set.common(&field).is_empty();
            owner.operation == Operation::Apply && self.0.iter().any(|entry| same(&entry))
        });
        for entry in self.0.iter_mut().filter(|entry| !keep.iter().any(|kept| kept.is_same_writer(entry))) {
            entry.set.subtract(&field);
        }
        let mut new = Self(new).of_field(from, to, api_version).0;
        new.iter_mut().for_each(|owner| owner.time.clear());
        self.0.extend(new);
        self
    }

    /// Whether nobody owns anything.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a writer owned until now, and the version that it wrote in.
    pub(super) fn written(&self, operation: Operation, writer: &Writer<'_>) -> Option<(&str, &FieldSet)> {
        let own = self.0.iter().find(|entry| entry.is(operation, writer));
        own.map(|entry| (entry.api_version.as_str(), &entry.set))
    }

    /// What all others own together, by the version that they wrote in.
    pub(super) fn all_but(&self, operation: Operation, writer: &Writer<'_>) -> BTreeMap<String, FieldSet> {
        let mut out: BTreeMap<String, FieldSet> = BTreeMap::new();
        for entry in self.0.iter().filter(|entry| !entry.is(operation, writer)) {
            out.entry(entry.api_version.clone()).or_default().add(&entry.set);
        }
        out
    }

    /// Sets what a writer owns; its time only where it changed the object.
    pub(super) fn put(&mut self, operation: Operation, writer: &Writer<'_>, set: FieldSet, changed: bool) {
        let at = self.0.iter().position(|entry| entry.is(operation, writer));
        let time = if changed { meta::time(writer.now) } else { String::new() };
        match at {
            Some(at) => {
                let entry = &mut self.0[at];
                entry.set = set;
                writer.api_version.clone_into(&mut entry.api_version);
                if changed {
                    entry.time = time;
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

    /// Takes fields, which each version has its own of, from all but the writer.
    pub(super) fn lose<'f>(
        &mut self,
        fields: impl Fn(&str) -> &'f FieldSet,
        operation: Operation,
        writer: &Writer<'_>,
    ) {
        for entry in self.0.iter_mut().filter(|entry| !entry.is(operation, writer)) {
            entry.set.subtract(fields(&entry.api_version));
        }
    }

    /// The versions that entries are of, each once.
    pub(super) fn versions(&self) -> BTreeSet<String> {
        self.0.iter().map(|entry| entry.api_version.clone()).collect()
    }

    /// Takes fields from all who wrote in this version.
    pub(super) fn lose_in(&mut self, version: &str, fields: &FieldSet) {
        for entry in self.0.iter_mut().filter(|entry| entry.api_version == version) {
            entry.set.subtract(fields);
        }
    }

    /// Takes fields that are gone, which each version has its own of, from all.
    pub(super) fn forget<'f>(&mut self, removed: impl Fn(&str) -> &'f FieldSet) {
        for entry in &mut self.0 {
            entry.set.subtract(removed(&entry.api_version));
        }
    }

    /// Who else owns which of these fields, which each version has its own of.
    pub(super) fn conflicts(
        &self,
        fields: impl Fn(&str) -> FieldSet,
        writer: &Writer<'_>,
    ) -> Vec<(String, Vec<String>)> {
        let others = self.0.iter().filter(|entry| !entry.is(Operation::Apply, writer));
        let mut out: Vec<(String, Vec<String>)> = others
            .map(|entry| (entry.shown(), entry.set.common(&fields(&entry.api_version)).paths()))
            .filter(|(_, paths)| !paths.is_empty())
            .collect();
        out.sort();
        out
    }

    /// Puts the oldest updaters together where there are too many: for each version that they wrote in,
    /// one bucket stands for them.
    pub(super) fn limit_updates(&mut self) {
        let mut updaters: Vec<usize> =
            (0..self.0.len()).filter(|at| self.0[*at].operation == Operation::Update).collect();
        updaters.sort_by(|a, b| self.0[*a].time.cmp(&self.0[*b].time));
        let mut count = updaters.len();
        let mut buckets: BTreeMap<String, usize> = BTreeMap::new();
        for at in updaters {
            if count <= MAX_UPDATERS {
                break;
            }
            match buckets.get(&self.0[at].api_version).copied() {
                // The first of a version stays as it is until there is a second one to share with.
                None => {
                    buckets.insert(self.0[at].api_version.clone(), at);
                }
                Some(bucket) => {
                    let set = std::mem::take(&mut self.0[at].set);
                    let time = self.0[at].time.clone();
                    let entry = &mut self.0[bucket];
                    entry.set.add(&set);
                    ANCIENT.clone_into(&mut entry.manager);
                    entry.subresource.clear();
                    entry.time = time;
                    count -= 1;
                }
            }
        }
        self.0.retain(|entry| !entry.set.is_empty());
    }
}

/// What is wrong with the query parameter `fieldManager`.
pub fn validate_manager(name: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.len() > MAX_NAME {
        errors.push(FieldError::too_long("fieldManager", MAX_NAME as u64));
    }
    for (at, letter) in name.char_indices().filter(|(_, letter)| !is_printable(*letter)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
        errors.push(FieldError::invalid("fieldManager", name, why));
    }
    errors.truncate(MAX_FINDINGS);
    errors
}

/// The name under which a writer owns fields: the `fieldManager` of the request, else the part of
/// the user agent before the first `/`.
pub fn manager_name(field_manager: Option<&str>, user_agent: &str) -> String {
    if let Some(name) = field_manager.filter(|name| !name.is_empty()) {
        return name.to_owned();
    }
    let mut out = String::new();
    let program = user_agent.split('/').next().unwrap_or_default();
    for letter in program.chars().filter(|letter| is_printable(*letter)) {
        if out.len() + letter.len_utf8() > MAX_NAME {
            break;
        }
        out.push(letter);
    }
    out
}

/// Whether a character is seen: the plain space is the only blank that counts.
fn is_printable(letter: char) -> bool {
    let hidden = matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff9}'..='\u{ffff}');
    letter == ' ' || !(letter.is_control() || letter.is_whitespace() || hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_managers_name_is_short_and_printable() {
        assert!(validate_manager("kubectl-client-side-apply").is_empty());
        let errors = validate_manager("a\nb");
        assert_eq!(
            errors[0].to_string(),
            "fieldManager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)"
        );
        let long = validate_manager(&"x".repeat(129));
        assert_eq!(long[0].to_string(), "fieldManager: Too long: may not be more than 128 bytes");
        assert_eq!(manager_name(None, "kube\u{7}ctl/v1.36"), "kubectl");
        assert_eq!(manager_name(Some("me"), "kubectl/v1"), "me");
        assert_eq!(manager_name(None, &"é".repeat(100)).len(), 128);
    }
}
