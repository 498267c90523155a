//! Server-side apply, and who owns which field (`metadata.managedFields`).
//!
//! The rules are those of Kubernetes: an apply merges what its manager wants into the object, is
//! refused where it would change a field that another manager owns (unless forced), and removes
//! what the manager wanted before, no longer wants, and nobody else owns. Any other write takes
//! the ownership of what it changes. Entries of all versions count alike where conversion changes nothing
//! but `apiVersion`, else by what their version shows ([`versions`](super::versions)).

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::{Comparison, FieldSet, Shape, compare, field_schema, item_schema, items, shape};
use super::managers::{Managers, Operation};
use super::versions::{Differences, Versions};
use super::{first_places, last_applied};
use crate::error::Cause;
use crate::lookup::{at, text};
use crate::protobuf::fill_zeros;
use crate::schema::{Schema, SchemaRef, SchemaType};
use crate::{ApiError, Descriptor, Object};

/// Who owns what was there before the first apply, where that was never tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes, and how.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    /// Name of the field manager; see [`manager_name`](super::manager_name).
    pub manager: &'a str,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: &'a str,
    /// The `apiVersion` that the request was made in.
    pub api_version: &'a str,
    /// The time that goes into changed entries.
    pub now: Timestamp,
}

/// Applies a manager's configuration to the live object (`None` creates one).
///
/// The result has its managedFields; when nothing changed it equals the live object. System
/// metadata, defaults and validation are the caller's steps before storing, as for any update;
/// who owns what stays as it is then, also where an empty value is not shown.
///
/// # Errors
/// 400 for a configuration with managedFields; 409 naming each field that another manager owns, without `force`.
pub fn apply(
    live: Option<&Object>,
    applied: &Object,
    writer: &Writer<'_>,
    force: bool,
    schema: &SchemaRef,
) -> Result<Object, ApiError> {
    let versions = Versions { own: writer.api_version, schema, shown: &|_, _| None };
    apply_seen(live, applied, writer, force, &versions)
}

/// As [`apply`], to an object that may have owners in versions with other fields.
fn apply_seen(
    live: Option<&Object>,
    applied: &Object,
    writer: &Writer<'_>,
    force: bool,
    versions: &Versions<'_>,
) -> Result<Object, ApiError> {
    let given = applied.get("metadata").and_then(|meta| meta.get("managedFields"));
    if given.is_some_and(|fields| !fields.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let empty = blank(applied);
    let base = live.unwrap_or(&empty);
    let mut managers = Managers::read(base);
    let mut wanted = FieldSet::of(applied, Some(versions.schema), false);
    without_system_fields(&mut wanted);

    let mut merged = without_managed_fields(merge(base, applied, Some(versions.schema)));
    if let Some(before) = managers.written(Operation::Apply, writer) {
        let mut owned = managers.all_but(Operation::Apply, writer);
        owned.entry(writer.api_version.to_owned()).or_default().add(&wanted);
        merged = versions.prune(merged, before, owned);
    }

    let differences = versions.differences(base, &merged, managers.versions());
    let may_take = last_applied::may_take(base, writer, Some(versions.schema));
    settle_conflicts(&mut managers, &differences, &may_take, writer, force)?;
    last_applied::keep(&mut merged, applied, writer);
    managers.put(Operation::Apply, writer, wanted, !differences.own.is_same());
    managers.forget(|version| &differences.of(version).removed);
    managers.write(&mut merged);
    Ok(merged)
}

/// The live object as its first apply finds it, where nobody owns anything of it: all that a write at this path could have set
/// belongs to one name, which stands for all who wrote it. `None` where there are owners.
pub(crate) fn before_first_apply(
    live: &Object,
    writer: &Writer<'_>,
    settable: Settable<'_>,
    schema: &SchemaRef,
) -> Option<Object> {
    let mut managers = Managers::read(live);
    if !managers.is_empty() {
        return None;
    }
    let mut owned = without_managed_fields(live.clone());
    let written = only_settable(&owned, settable);
    let difference = compared(&blank(live), &written, schema);
    let nobody = Writer { manager: BEFORE_FIRST_APPLY, ..writer.clone() };
    managers.put(Operation::Update, &nobody, difference.changed, true);
    managers.write(&mut owned);
    Some(owned)
}

/// Tracks a create (no `old`) or an update: the writer becomes the owner of all that it changed,
/// and others lose it. Without a change the old entries stay as they are.
///
/// At the object itself, `metadata.managedFields` of `[]` or `[{}]` forgets all owners, and entries that can all be read replace the
/// old ones; anything else keeps them. An object without owners stays so.
pub fn track_update(old: Option<&Object>, new: &mut Object, writer: &Writer<'_>, schema: &SchemaRef) {
    let at_object = writer.subresource.is_empty();
    let given = at(new, &["metadata", "managedFields"]).and_then(Value::as_array);
    let reset = given.is_some_and(|given| given.is_empty() || **given == [json!({})]);
    if at_object && reset {
        *new = without_managed_fields(std::mem::take(new));
        return;
    }
    let empty = blank(new);
    let base = old.unwrap_or(&empty);
    let given = if at_object { Managers::read_all(new) } else { None };
    let mut managers = given.unwrap_or_else(|| Managers::read(base));
    let plain = without_managed_fields(std::mem::take(new));
    let difference = compared(base, &plain, schema);
    *new = plain;
    if old.is_some() && managers.is_empty() {
        // Its owners were forgotten, or there never were any: that stays so until somebody applies.
        return;
    }
    if !difference.is_same() {
        managers.lose(|_| &difference.changed, Operation::Update, writer);
        managers.forget(|_| &difference.removed);
        let written = managers.written(Operation::Update, writer);
        let mut set = written.map(|(_, set)| set.clone()).unwrap_or_default();
        set.add(&difference.changed);
        managers.put(Operation::Update, writer, set, true);
        managers.limit_updates();
    }
    managers.write(new);
}

/// Gives an object in another version, with that version's schema, where there is a way.
pub type Shown<'a> = &'a dyn Fn(&Object, &str) -> Option<(Object, SchemaRef)>;

/// After [`track_update`], for a kind whose versions differ in their fields: what changed as another version shows it is lost to
/// those who wrote in that version.
pub fn lose_elsewhere(old: &Object, new: &mut Object, api_version: &str, shown: Shown<'_>) {
    let mut managers = Managers::read(new);
    let (before, after) = (without_managed_fields(old.clone()), without_managed_fields(new.clone()));
    let mut lost = false;
    for version in managers.versions() {
        if version == api_version {
            continue;
        }
        let (Some((before, schema)), Some((after, _))) = (shown(&before, &version), shown(&after, &version))
        else {
            continue;
        };
        let mut difference = compared(&before, &after, &schema);
        difference.changed.add(&difference.removed);
        managers.lose_in(&version, &difference.changed);
        lost = true;
    }
    if lost {
        managers.write(new);
    }
}

/// An object of the same kind with nothing in it.
fn blank(object: &Object) -> Object {
    let mut out = json!({"metadata": {}});
    for key in ["apiVersion", "kind"] {
        if let Some(value) = object.get(key) {
            out[key] = value.clone();
        }
    }
    out
}

/// The old state, without its managedFields, to compare with the new one: with what a program writes even of an object with
/// nothing in it, so that nobody owns that for having written it first.
fn typed(old: &Object, new: &Object) -> Object {
    let mut out = without_managed_fields(old.clone());
    fill_zeros(text(new, &["apiVersion"]), text(new, &["kind"]), &mut out, new);
    out
}

fn without_managed_fields(mut object: Object) -> Object {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Fields that the server manages and nobody owns.
fn without_system_fields(set: &mut FieldSet) {
    const META: [&str; 8] = [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ];
    set.member = false;
    for step in ["f:apiVersion", "f:kind"] {
        set.children.remove(step);
    }
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.member = false;
        for step in META {
            metadata.children.remove(step);
        }
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
}

/// What is new in an object, and what is gone, as far as it can have owners.
pub(super) fn compared(old: &Object, new: &Object, schema: &SchemaRef) -> Comparison {
    let mut difference = compare(&typed(old, new), new, Some(schema));
    strip(&mut difference);
    difference
}

fn strip(difference: &mut Comparison) {
    without_system_fields(&mut difference.removed);
    without_system_fields(&mut difference.changed);
}

/// What an object has even when nobody owns anything in it.
const PARTS: [&str; 3] = ["metadata", "spec", "status"];

/// Marks the parts that an object has even when nobody owns anything in them, so that they are
/// emptied and not removed.
pub(super) fn keep_parts(owned: &mut FieldSet) {
    for part in PARTS {
        owned.children.entry(format!("f:{part}")).or_default().member = true;
    }
}

impl Descriptor {
    /// Server-side apply at the object or at one of its subresources: see [`apply`]. `shown` gives the object in other
    /// versions, where those have other fields.
    ///
    /// # Errors
    /// As there.
    pub fn apply(
        &self,
        live: Option<&Object>,
        applied: &Object,
        writer: &Writer<'_>,
        force: bool,
        shown: Shown<'_>,
    ) -> Result<Object, ApiError> {
        let settable = Settable {
            subresource: writer.subresource,
            status_subresource: self.status_subresource,
            kept_by_status: self.builtin.then(|| self.strategy.kept_by_status()),
        };
        let applied = only_settable(applied, settable);
        let tracked = live.and_then(|live| before_first_apply(live, writer, settable, &self.schema));
        let versions = Versions { own: writer.api_version, schema: &self.schema, shown };
        let mut out = apply_seen(tracked.as_ref().or(live), &applied, writer, force, &versions)?;
        // Who applied a null owns what it stands for, but it is nothing.
        self.drop_nulls(&mut out);
        Ok(out)
    }

    /// An object with these fields laid over it, whoever owns them. Fields must not be parts of what is owned as a whole:
    /// whoever means to change a part of that would take the rest away.
    ///
    /// # Errors
    /// In words: a field that does not fit, or is such a part.
    pub fn laid_over(&self, object: &Object, fields: &Object) -> Result<Object, String> {
        self.check_configuration(fields).map_err(|error| error.message().to_owned())?;
        let mut wholes = Vec::new();
        find_wholes(fields, Some(&self.schema), &mut String::new(), &mut wholes);
        if !wholes.is_empty() {
            let all = wholes.join(", ");
            let why = format!("may not mutate atomic arrays, maps or structs: {all}");
            return Err(format!("invalid ApplyConfiguration: {why}"));
        }
        Ok(merge(object, fields, Some(&self.schema)))
    }
}

/// The paths of lists and maps that are owned as a whole.
fn find_wholes(value: &Value, schema: Option<&Schema>, path: &mut String, found: &mut Vec<String>) {
    // Of what nothing is said, nothing is owned as a whole.
    let Some(known) = schema.filter(|schema| schema.kind != SchemaType::Any) else { return };
    let length = path.len();
    let whole = is_leaf(value, schema);
    match value {
        Value::Object(map) => {
            if whole {
                found.push(path.clone());
            }
            for (key, inner) in map {
                path.push('.');
                path.push_str(key);
                find_wholes(inner, field_schema(Some(known), key), path, found);
                path.truncate(length);
            }
        }
        Value::Array(list) => {
            if whole {
                found.push(path.clone());
            }
            for (index, inner) in list.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                find_wholes(inner, item_schema(Some(known)), path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// The live value with the applied one laid over it.
fn merge(live: &Value, applied: &Value, schema: Option<&Schema>) -> Value {
    match (live, applied) {
        (Value::Object(old), Value::Object(new)) if matches!(shape(applied, schema), Shape::Map) => {
            let mut out = old.clone();
            for (key, inner) in new {
                let merged = match old.get(key) {
                    Some(before) => merge(before, inner, field_schema(schema, key)),
                    None => inner.clone(),
                };
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (Value::Array(_), Value::Array(_)) => match (items(live, schema), items(applied, schema)) {
            (Some(old), Some(new)) => Value::Array(merge_items(&old, &new, item_schema(schema))),
            _ => applied.clone(),
        },
        // Nothing is laid over what has parts: others may own those.
        (Value::Object(old), Value::Null) if !old.is_empty() && !is_leaf(live, schema) => live.clone(),
        (Value::Array(old), Value::Null) if !old.is_empty() && !is_leaf(live, schema) => live.clone(),
        _ => applied.clone(),
    }
}

fn is_leaf(value: &Value, schema: Option<&Schema>) -> bool {
    matches!(shape(value, schema), Shape::Leaf)
}

/// Items of both; the applied ones in their order, the others behind the neighbour that they stood behind, as far as that order
/// leaves them one: `visitListItems` of Kubernetes' merge library has the rules.
fn merge_items(
    old: &[(Option<String>, &Value)],
    new: &[(Option<String>, &Value)],
    schema: Option<&Schema>,
) -> Vec<Value> {
    let (standing, applied) = (steps(old), steps(new));
    let merged = |(step, item): &(Option<String>, &Value)| {
        let before = step.as_deref().and_then(|step| standing.get(step));
        before.map_or_else(|| (*item).clone(), |at| merge(old[*at].1, item, schema))
    };
    let mut shared =
        new.iter().filter_map(|(step, _)| step.as_deref()).filter(|step| standing.contains_key(step));
    let mut awaited = shared.next();
    let mut taken = HashSet::with_capacity(new.len());
    let mut out = Vec::with_capacity(old.len() + new.len());
    let (mut left, mut right) = (0, 0);
    while left < old.len() || right < new.len() {
        if let Some((step, item)) = old.get(left) {
            let step = step.as_deref();
            let is_applied = step.is_some_and(|step| applied.contains_key(step));
            let meets = is_applied && new.get(right).is_some_and(|(other, _)| other.as_deref() == step);
            if !is_applied {
                out.push((*item).clone());
            }
            let awaits_another = right < new.len() && awaited.is_some() && awaited != step;
            if !is_applied || (!meets && awaits_another) {
                left += 1;
                continue;
            }
            // It comes now, or has come already.
            left += usize::from(meets || step.is_some_and(|step| taken.contains(step)));
        }
        if let Some(next) = new.get(right) {
            let step = next.0.as_deref();
            out.push(merged(next));
            taken.extend(step);
            if awaited.is_some() && awaited == step {
                awaited = shared.next();
            }
            right += 1;
        }
    }
    out
}

/// Where the items that can be told apart stand.
fn steps<'a>(items: &'a [(Option<String>, &Value)]) -> HashMap<&'a str, usize> {
    first_places(items.iter().enumerate().filter_map(|(at, (step, _))| Some((step.as_deref()?, at))))
}

/// The object without what the manager wanted before and nobody owns now.
pub(super) fn without_unowned(
    object: &Object,
    before: &FieldSet,
    owned: &FieldSet,
    schema: &Schema,
) -> Object {
    let mut out = object.clone();
    remove_unowned(&mut out, before, owned, Some(schema));
    for part in PARTS {
        if let Some(emptied) = out.get_mut(part)
            && emptied.is_null()
            && object[part].is_object()
        {
            *emptied = json!({});
        }
    }
    out
}

/// Removes what the manager wanted before and nobody owns now; an item or an entry that was the manager's goes whole where
/// others own no more than parts of it. What is inside something that stays is left alone unless it was the manager's as well; what stays with nothing left inside becomes null, as Kubernetes has it.
fn remove_unowned(value: &mut Value, before: &FieldSet, owned: &FieldSet, schema: Option<&Schema>) {
    let had = has_parts(value);
    remove_parts(value, before, owned, schema);
    if had && !has_parts(value) {
        *value = Value::Null;
    }
}

/// Whether something that was the manager's stays for those who own it, or parts of it. `whole` is for what is something by itself:
/// an item of a list, an entry of a map.
fn stays(mine: &FieldSet, theirs: &FieldSet, whole: bool) -> bool {
    if whole && mine.member { theirs.member } else { !theirs.is_empty() }
}

/// Whether there is anything in a map or a list.
fn has_parts(value: &Value) -> bool {
    value.as_object().is_some_and(|map| !map.is_empty())
        || value.as_array().is_some_and(|list| !list.is_empty())
}

fn remove_parts(value: &mut Value, before: &FieldSet, owned: &FieldSet, schema: Option<&Schema>) {
    if let Value::Object(map) = value {
        for (step, mine) in &before.children {
            let Some(key) = step.strip_prefix("f:") else { continue };
            let whole = schema.is_none_or(|schema| schema.is_entry(key));
            match owned.children.get(step).filter(|theirs| stays(mine, theirs, whole)) {
                None => {
                    map.remove(key);
                }
                Some(theirs) => {
                    if let Some(inner) = map.get_mut(key) {
                        remove_unowned(inner, mine, theirs, field_schema(schema, key));
                    }
                }
            }
        }
        return;
    }
    let Some(listed) = items(value, schema) else { return };
    let steps: Vec<Option<String>> = listed.into_iter().map(|(step, _)| step).collect();
    let Value::Array(list) = value else { return };
    let inner = item_schema(schema);
    let mut steps = steps.into_iter();
    list.retain_mut(|item| {
        let Some(step) = steps.next().flatten() else { return true };
        let Some(mine) = before.children.get(&step) else { return true };
        match owned.children.get(&step).filter(|theirs| stays(mine, theirs, true)) {
            None => false,
            Some(theirs) => {
                remove_unowned(item, mine, theirs, inner);
                true
            }
        }
    });
}

/// Refuses changes to what others own, or takes it from them: with `force`, or where all of it is what it may take.
fn settle_conflicts(
    managers: &mut Managers,
    differences: &Differences,
    may_take: &FieldSet,
    writer: &Writer<'_>,
    force: bool,
) -> Result<(), ApiError> {
    let disputed = |version: &str| {
        let mut fields = differences.of(version).changed.clone();
        fields.subtract(may_take);
        fields
    };
    let conflicts = managers.conflicts(disputed, writer);
    if force || conflicts.is_empty() {
        managers.lose(|version| &differences.of(version).changed, Operation::Apply, writer);
        return Ok(());
    }
    let causes: Vec<Cause> = conflicts
        .iter()
        .flat_map(|(manager, paths)| {
            paths.iter().map(move |path| Cause {
                reason: "FieldManagerConflict".to_owned(),
                message: format!("conflict with {manager}"),
                field: path.clone(),
            })
        })
        .collect();
    let text = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => {
            let each = conflicts.iter().map(|(manager, paths)| {
                let lines: Vec<String> = paths.iter().map(|path| format!("- {path}")).collect();
                format!("conflicts with {manager}:\n{}", lines.join("\n"))
            });
            format!("Apply failed with {} conflicts: {}", many.len(), each.collect::<Vec<_>>().join("\n"))
        }
    };
    Err(ApiError::apply_conflict(text, causes))
}

/// What a request at one path may set of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settable<'a> {
    pub(crate) subresource: &'a str,
    /// Whether the status has a path of its own.
    pub(crate) status_subresource: bool,
    /// The parts of the metadata that do not come along with a status; without a list, none does.
    pub(crate) kept_by_status: Option<&'a [&'a str]>,
}

/// The configuration without the parts that a request may not set.
pub(crate) fn only_settable(applied: &Object, settable: Settable<'_>) -> Object {
    let Some(map) = applied.as_object() else { return applied.clone() };
    let keep = |key: &str| match (settable.subresource, settable.status_subresource) {
        ("", true) => key != "status",
        ("status", _) => matches!(key, "apiVersion" | "kind" | "metadata" | "status"),
        _ => true,
    };
    let mut out: Map<String, Value> =
        map.iter().filter(|(key, _)| keep(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
    if settable.subresource == "status"
        && let Some(Value::Object(metadata)) = out.get_mut("metadata")
    {
        let names = |key: &str| matches!(key, "name" | "namespace" | "resourceVersion" | "uid");
        metadata.retain(|key, _| {
            names(key) || settable.kept_by_status.is_some_and(|kept| !kept.contains(&key.as_str()))
        });
    }
    Value::Object(out)
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
