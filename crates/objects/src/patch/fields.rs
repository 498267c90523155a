//! Sets of fields, in the form that `metadata.managedFields` has (FieldsV1).
//!
//! A step of a path is kept as FieldsV1 writes it: `f:name` is a field, `k:{"name":"web"}` an item
//! of a list by its keys, `v:"x"` an item of a set. So reading and writing costs next to nothing.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::builtin;
use crate::schema::{ListType, Schema, SchemaRef};

/// A set of fields as a tree: a node is in the set itself, or only leads to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the field that this node stands for is in the set.
    pub member: bool,
    /// What is below, by step.
    pub children: BTreeMap<String, FieldSet>,
}

/// The step to a field.
pub(super) fn field_step(key: &str) -> String {
    format!("f:{key}")
}

/// How a value is merged and owned.
#[derive(Debug)]
pub(super) enum Shape<'a> {
    /// As a whole.
    Leaf,
    /// Field by field.
    Map,
    /// Item by item, told apart by keys.
    Keyed(&'a [String]),
    /// Item by item, told apart by value.
    Set,
}

/// The shape of a value under a schema; without one, objects go field by field and lists as a
/// whole.
pub(super) fn shape<'a>(value: &Value, schema: Option<&'a Schema>) -> Shape<'a> {
    match value {
        Value::Object(_) if schema.is_some_and(|schema| schema.atomic_map) => Shape::Leaf,
        Value::Object(_) => Shape::Map,
        Value::Array(_) => match schema.map(|schema| &schema.list_type) {
            Some(ListType::Map(keys)) if !keys.is_empty() => Shape::Keyed(keys),
            Some(ListType::Set) => Shape::Set,
            _ => Shape::Leaf,
        },
        _ => Shape::Leaf,
    }
}

/// The schema of a field of an object.
pub(super) fn field_schema<'a>(schema: Option<&'a Schema>, key: &str) -> Option<&'a Schema> {
    /// The metadata of a whole object inside of another are as any object's, whatever is said of them there.
    static METADATA: LazyLock<SchemaRef> = LazyLock::new(builtin::object_meta);
    let schema = schema?;
    if schema.embedded_resource && key == "metadata" {
        return Some(&METADATA);
    }
    schema.field(key).map(|found| -> &Schema { found })
}

/// The schema of the items of a list.
pub(super) fn item_schema(schema: Option<&Schema>) -> Option<&Schema> {
    schema.and_then(|schema| schema.items.as_ref()).map(|found| -> &Schema { found })
}

/// The step to an item of a keyed list; `None` where it has none of its keys.
pub(super) fn keyed_step(item: &Value, keys: &[String], schema: Option<&Schema>) -> Option<String> {
    let mut found = Map::new();
    for key in keys {
        let default = || {
            schema.and_then(|schema| schema.field(key)).and_then(|field: &SchemaRef| field.default.clone())
        };
        if let Some(value) = item.get(key).filter(|value| !value.is_null()).cloned().or_else(default) {
            found.insert(key.clone(), value);
        }
    }
    // A reference that is nothing but a name may be without one, which is as good as an empty one.
    let only = |key: &String| {
        schema.is_some_and(|schema| schema.properties.len() == 1 && schema.field(key).is_some())
    };
    if let ([key], true) = (keys, found.is_empty())
        && only(key)
    {
        found.insert(key.clone(), Value::from(""));
    }
    (!found.is_empty()).then(|| format!("k:{}", Value::Object(found)))
}

/// The steps and items of a list that is merged item by item; `None` for any other value. An item
/// that has no keys gets no step: nobody can own it.
pub(super) fn items<'a>(
    value: &'a Value,
    schema: Option<&Schema>,
) -> Option<Vec<(Option<String>, &'a Value)>> {
    let list = value.as_array()?;
    let each = list.iter();
    match shape(value, schema) {
        Shape::Keyed(keys) => {
            let inner = item_schema(schema);
            Some(each.map(|item| (keyed_step(item, keys, inner), item)).collect())
        }
        Shape::Set => Some(each.map(|item| (Some(format!("v:{item}")), item)).collect()),
        _ => None,
    }
}

impl FieldSet {
    /// Reads FieldsV1. What is malformed counts as absent.
    pub fn from_fields_v1(value: &Value) -> Self {
        let mut set = Self::default();
        let Some(map) = value.as_object() else { return set };
        for (step, inner) in map {
            if step == "." {
                set.member = true;
                continue;
            }
            let mut child = Self::from_fields_v1(inner);
            // Without anything below, the node can only stand for itself.
            child.member |= child.children.is_empty();
            set.children.insert(step.clone(), child);
        }
        set
    }

    /// One field alone, by the names on the way to it.
    pub(super) fn of_field(path: &[&str]) -> Self {
        let leaf = Self { member: true, ..Self::default() };
        path.iter().rev().fold(leaf, |inner, name| Self {
            member: false,
            children: BTreeMap::from([(field_step(name), inner)]),
        })
    }

    /// Writes FieldsV1.
    pub fn to_fields_v1(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (step, child) in &self.children {
            map.insert(step.clone(), child.to_fields_v1());
        }
        Value::Object(map)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// All fields of a value: leaves, and items of lists that are merged item by item. With
    /// `containers` also the objects and lists on the way, as for something that is new.
    pub fn of(value: &Value, schema: Option<&Schema>, containers: bool) -> Self {
        let mut set = Self { member: containers, children: BTreeMap::new() };
        match (value, shape(value, schema)) {
            (Value::Object(map), Shape::Map) if !map.is_empty() => {
                for (key, inner) in map {
                    let mut child = Self::of(inner, field_schema(schema, key), containers);
                    // An entry of a map, unlike a field, is something by itself.
                    child.member |= schema.is_none_or(|schema| schema.is_entry(key));
                    if !child.is_empty() {
                        set.children.insert(field_step(key), child);
                    }
                }
            }
            (Value::Array(list), Shape::Keyed(_) | Shape::Set) if !list.is_empty() => {
                let inner = item_schema(schema);
                for (step, item) in items(value, schema).unwrap_or_default() {
                    let mut child = Self::of(item, inner, containers);
                    child.member = true;
                    let Some(step) = step else { continue };
                    // Of items with one key, nobody can tell whose is what of them.
                    if set.children.contains_key(&step) {
                        child.children.clear();
                    }
                    set.children.insert(step, child);
                }
            }
            // Of no items nobody owns any; of nothing but the list itself, whoever wrote it.
            (Value::Array(_), Shape::Keyed(_) | Shape::Set) => {}
            _ => set.member = true,
        }
        set
    }

    /// Adds another set.
    pub fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (step, theirs) in &other.children {
            self.children.entry(step.clone()).or_default().add(theirs);
        }
    }

    /// Takes the fields of another set out.
    pub fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (step, theirs) in &other.children {
            if let Some(mine) = self.children.get_mut(step) {
                mine.subtract(theirs);
                if mine.is_empty() {
                    self.children.remove(step);
                }
            }
        }
    }

    /// Takes the fields of another set out, with all that is below them.
    pub fn subtract_below(&mut self, other: &Self) {
        if other.member {
            *self = Self::default();
            return;
        }
        for (step, theirs) in &other.children {
            if let Some(mine) = self.children.get_mut(step) {
                mine.subtract_below(theirs);
                if mine.is_empty() {
                    self.children.remove(step);
                }
            }
        }
    }

    /// The fields that are in both.
    pub fn common(&self, other: &Self) -> Self {
        let mut out = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (step, mine) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                let both = mine.common(theirs);
                if !both.is_empty() {
                    out.children.insert(step.clone(), both);
                }
            }
        }
        out
    }

    /// The paths of all fields, as kubectl shows them: `.spec.containers[name="web"].image`. What is at one level comes before what
    /// is below it.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.member {
            out.push(String::new());
        }
        self.collect_paths(&mut String::new(), &mut out);
        out
    }

    fn collect_paths(&self, path: &mut String, out: &mut Vec<String>) {
        let members = self.children.iter().filter(|(_, child)| child.member);
        out.extend(members.map(|(step, _)| format!("{path}{}", shown_step(step))));
        for (step, child) in &self.children {
            let length = path.len();
            path.push_str(&shown_step(step));
            child.collect_paths(path, out);
            path.truncate(length);
        }
    }
}

/// A step as kubectl shows it.
pub(super) fn shown_step(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let each: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", each.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => step.to_owned(),
    }
}

/// How one object differs from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Fields that only the old one has, containers included.
    pub removed: FieldSet,
    /// Fields that both have, with other values, or that only the new one has (containers
    /// included).
    pub changed: FieldSet,
}

impl Comparison {
    /// Whether they are the same.
    pub fn is_same(&self) -> bool {
        self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Compares two values of one schema.
pub fn compare(old: &Value, new: &Value, schema: Option<&Schema>) -> Comparison {
    let mut out = Comparison::default();
    if old == new {
        return out;
    }
    let is_empty = |value: &Value| match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match (old, new) {
        (Value::Object(before), Value::Object(after))
            if matches!(shape(new, schema), Shape::Map) && !(is_empty(old) && is_empty(new)) =>
        {
            for (key, inner) in before {
                let (step, schema) = (field_step(key), field_schema(schema, key));
                match after.get(key) {
                    Some(newer) => out.insert(step, compare(inner, newer, schema)),
                    None => out.removed(step, FieldSet::of(inner, schema, true)),
                }
            }
            for (key, inner) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                out.changed(field_step(key), FieldSet::of(inner, field_schema(schema, key), true));
            }
        }
        (Value::Array(_), Value::Array(_)) => match (items(old, schema), items(new, schema)) {
            (Some(before), Some(after)) => compare_items(&before, &after, item_schema(schema), &mut out),
            _ => out.changed.member = true,
        },
        // As if there were nothing in it: it is no other value for that.
        (_, Value::Null) if !is_empty(old) && has_members(old, schema) => {
            out.removed = FieldSet { member: false, ..FieldSet::of(old, schema, true) };
        }
        // Another type: what was below is gone, what is below is new.
        _ => {
            out.removed = FieldSet { member: false, ..FieldSet::of(old, schema, true) };
            out.changed = FieldSet::of(new, schema, true);
            out.changed.member = true;
        }
    }
    out
}

/// Whether it is a map or a list whose members have owners of their own.
fn has_members(value: &Value, schema: Option<&Schema>) -> bool {
    match value {
        Value::Object(_) => matches!(shape(value, schema), Shape::Map),
        Value::Array(_) => items(value, schema).is_some(),
        _ => false,
    }
}

fn compare_items(
    before: &[(Option<String>, &Value)],
    after: &[(Option<String>, &Value)],
    schema: Option<&Schema>,
    out: &mut Comparison,
) {
    let index = |list: &[(Option<String>, &Value)]| -> BTreeMap<String, Value> {
        // Of repeated items the first counts.
        let mut map = BTreeMap::new();
        for (step, item) in list {
            if let Some(step) = step {
                map.entry(step.clone()).or_insert_with(|| (*item).clone());
            }
        }
        map
    };
    let (before, after) = (index(before), index(after));
    let whole = |item: &Value| FieldSet { member: true, ..FieldSet::of(item, schema, true) };
    for (step, item) in &before {
        match after.get(step) {
            Some(newer) => out.insert(step.clone(), compare(item, newer, schema)),
            None => out.removed(step.clone(), whole(item)),
        }
    }
    for (step, item) in after {
        if !before.contains_key(&step) {
            out.changed(step, whole(&item));
        }
    }
}

impl Comparison {
    fn insert(&mut self, step: String, inner: Self) {
        if !inner.removed.is_empty() {
            self.removed.children.insert(step.clone(), inner.removed);
        }
        if !inner.changed.is_empty() {
            self.changed.children.insert(step, inner.changed);
        }
    }

    fn removed(&mut self, step: String, set: FieldSet) {
        self.removed.children.insert(step, set);
    }

    fn changed(&mut self, step: String, set: FieldSet) {
        self.changed.children.insert(step, set);
    }
}
