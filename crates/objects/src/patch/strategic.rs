//! Strategic merge patch: a merge patch that knows how lists are keyed.
//!
//! The results were compared with those of `kubectl patch --local` over random patches. Two
//! differences are meant: directives inside a new item are obeyed here and stored there, and a new
//! item goes before its neighbours also where the same patch deletes another one.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{MAP, first_places};
use crate::schema::{PatchMeta, Schema, SchemaRef};
use crate::{ApiError, Object, golang};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const RETAIN_KEYS_FORMAT: &str = "invalid patch format of retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch by the patch strategies and merge keys of a schema.
///
/// A kind without such a schema (any custom resource) has no strategic merge: the caller refuses
/// it with 415.
///
/// # Errors
/// 400 for a patch that is no object or has malformed lists; 500 without a reason, as Kubernetes has it, for an
/// unknown directive, an item without its merge key, and an order that does not fit.
pub fn strategic(document: &Object, patch: &Value, schema: &SchemaRef) -> Result<Object, ApiError> {
    let (original, patch) = match (document, patch) {
        (Value::Object(original), Value::Object(patch)) => (original, patch),
        (_, Value::Null) => return Ok(document.clone()),
        (_, other) => {
            return Err(ApiError::bad_request(format!(
                "json: cannot unmarshal {} into Go value of type {MAP}",
                golang::type_name(other)
            )));
        }
    };
    merge_map(original.clone(), patch, Some(schema)).map(Value::Object).map_err(|fault| match fault {
        Fault::Malformed(why) => ApiError::bad_request(why),
        Fault::Server(why) => ApiError::unclassified(why),
    })
}

/// What is wrong with a patch.
enum Fault {
    /// 400.
    Malformed(String),
    /// What Kubernetes takes for a fault of the server.
    Server(String),
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Malformed(why)
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::Malformed(why.to_owned())
    }
}

type Merged<T> = Result<T, Fault>;

fn directive(map: &Map<String, Value>) -> Merged<Option<&str>> {
    match map.get(DIRECTIVE) {
        None => Ok(None),
        Some(Value::String(word)) if matches!(word.as_str(), "merge" | "replace" | "delete") => {
            Ok(Some(word))
        }
        Some(other) => Err(unknown_directive(map, &golang::plain(other))),
    }
}

fn unknown_directive(map: &Map<String, Value>, word: &str) -> Fault {
    let map = golang::plain(&Value::Object(map.clone()));
    Fault::Server(format!("unknown patch type: {word} in map: {map}"))
}

fn merge_map(
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Schema>,
) -> Merged<Map<String, Value>> {
    match directive(patch)? {
        Some("merge") => return Err(unknown_directive(patch, "merge")),
        Some("delete") => return Ok(Map::new()),
        // What stays in the patch is the whole new value.
        Some("replace") => {
            return Ok(patch
                .iter()
                .filter(|(key, _)| *key != DIRECTIVE)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect());
        }
        _ => {}
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain_keys(&mut original, patch, keys)?;
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVES) {
            let gone = value.as_array().ok_or_else(|| format!("{key}: must be a list"))?;
            let gone: HashSet<&Value> = gone.iter().collect();
            if let Some(items) = original.get_mut(field).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let field = schema.and_then(|schema| schema.field(key));
        merge_field(&mut original, key, value, patch, field)?;
    }
    // An order may be given without the list itself.
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ELEMENT_ORDER)
            && !patch.contains_key(field)
            && let Some(items) = original.get_mut(field).and_then(Value::as_array_mut)
        {
            let merge_key = schema.and_then(|schema| schema.field(field)?.patch.merge_key.as_deref());
            let before = places(items, merge_key);
            *items = in_order(std::mem::take(items), order, &before, merge_key);
        }
    }
    Ok(original)
}

fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>, keys: &Value) -> Merged<()> {
    let keys: HashSet<&str> =
        keys.as_array().ok_or(RETAIN_KEYS_FORMAT)?.iter().filter_map(Value::as_str).collect();
    // All that is patched must be retained.
    if patch.keys().any(|key| !key.starts_with('$') && !keys.contains(key.as_str())) {
        return Err(Fault::Malformed(RETAIN_KEYS_FORMAT.to_owned()));
    }
    original.retain(|key, _| keys.contains(key.as_str()));
    Ok(())
}

fn merge_field(
    original: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    patch: &Map<String, Value>,
    field: Option<&SchemaRef>,
) -> Merged<()> {
    match (original.remove(key), value) {
        (_, Value::Null) => {}
        (Some(Value::Object(_)), Value::Object(_)) if field.is_some_and(|field| field.patch.replace) => {
            original.insert(key.to_owned(), value.clone());
        }
        (Some(Value::Object(before)), Value::Object(inner)) => {
            let merged = merge_map(before, inner, field.map(|field| &**field))?;
            // A part that is deleted by its directive is empty then, not gone.
            original.insert(key.to_owned(), Value::Object(merged));
        }
        (before, Value::Array(items)) => {
            let before = match before {
                Some(Value::Array(list)) => Some(list),
                _ => None,
            };
            let order = patch.get(&format!("{ELEMENT_ORDER}{key}"));
            original.insert(key.to_owned(), Value::Array(merge_list(before, items, order, field)?));
        }
        // Nothing is there that could be merged with.
        (_, new) => {
            original.extend(without_directives(new).map(|new| (key.to_owned(), new)));
        }
    }
    Ok(())
}

/// What a patch gives where there was nothing: without the parts that only say what to do with what is there, and without
/// nulls. `None` for such a part itself.
fn without_directives(value: &Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => {
            let given = map.iter().filter(|(_, value)| !value.is_null());
            let kept = given.filter_map(|(key, value)| Some((key.clone(), without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.iter().filter_map(without_directives).collect())),
        scalar => Some(scalar.clone()),
    }
}

fn merge_list(
    original: Option<Vec<Value>>,
    patch: &[Value],
    order: Option<&Value>,
    field: Option<&SchemaRef>,
) -> Merged<Vec<Value>> {
    let plain = PatchMeta::default();
    let meta = field.map_or(&plain, |field| &field.patch);
    let merge_key = meta.merge_key.as_deref();
    let Some(original) = original else {
        let new: Vec<Value> = patch.iter().filter_map(without_directives).collect();
        return match order.filter(|_| meta.merge) {
            Some(order) => {
                fits_order(patch, order, merge_key)?;
                Ok(in_order(new, order, &HashMap::new(), merge_key))
            }
            None => Ok(new),
        };
    };
    if !meta.merge {
        return Ok(patch.to_vec());
    }
    let before = places(&original, merge_key);
    let schema = field.and_then(|field| field.items.as_ref());
    let merged = match merge_key {
        Some(merge_key) => merge_items(original, patch, merge_key, schema)?,
        None => {
            let mut known: HashSet<&Value> = original.iter().collect();
            let new: Vec<Value> = patch.iter().filter(|item| known.insert(item)).cloned().collect();
            [original, new].concat()
        }
    };
    // Without an order given, the patch itself is one: so new items come first, as in Kubernetes.
    let order = match order {
        Some(order) => {
            fits_order(patch, order, merge_key)?;
            order.clone()
        }
        None => Value::Array(patch.to_vec()),
    };
    Ok(in_order(merged, &order, &before, merge_key))
}

/// Refuses an order in which the items of the patch stand differently or are missing.
fn fits_order(patch: &[Value], order: &Value, merge_key: Option<&str>) -> Merged<()> {
    let items = patch.iter().filter(|item| merge_key.is_none() || item.get(DIRECTIVE).is_none());
    let mut wanted = items.map(|item| id(item, merge_key)).peekable();
    for item in order.as_array().ok_or("$setElementOrder: must be a list")? {
        wanted.next_if(|next| *next == id(item, merge_key));
    }
    match wanted.peek() {
        None => Ok(()),
        Some(_) => Err(Fault::Server(format!(
            "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
            golang::plain(&Value::Array(patch.to_vec())),
            golang::plain(order)
        ))),
    }
}

fn merge_items(
    original: Vec<Value>,
    patch: &[Value],
    merge_key: &str,
    schema: Option<&SchemaRef>,
) -> Merged<Vec<Value>> {
    let (mut changes, mut gone, mut replace) = (Vec::new(), HashSet::new(), false);
    for item in patch {
        let map = item
            .as_object()
            .ok_or_else(|| Fault::from(format!("{item} must be an object with the key {merge_key:?}")))?;
        match directive(map)? {
            Some("replace") => replace = true,
            Some("delete") => {
                gone.insert(key_of(map, merge_key)?);
            }
            Some(_) => {
                return Err(Fault::Server("merging lists cannot yet be specified in the patch".to_owned()));
            }
            None => changes.push(map),
        }
    }
    let stays = |item: &Value| !replace && item.get(merge_key).is_none_or(|key| !gone.contains(key));
    let mut out: Vec<Value> = original.into_iter().filter(stays).collect();
    let keys = out.iter().enumerate().filter_map(|(at, item)| Some((item.get(merge_key)?.clone(), at)));
    let mut known = first_places(keys);
    for map in changes {
        let key = key_of(map, merge_key)?;
        let at = known.get(key).copied();
        let before = at.and_then(|at| out[at].as_object().cloned()).unwrap_or_default();
        let merged = Value::Object(merge_map(before, map, schema.map(|schema| &**schema))?);
        match at {
            Some(at) => out[at] = merged,
            None => {
                known.insert(key.clone(), out.len());
                out.push(merged);
            }
        }
    }
    Ok(out)
}

fn key_of<'a>(item: &'a Map<String, Value>, merge_key: &str) -> Merged<&'a Value> {
    item.get(merge_key).ok_or_else(|| {
        let item = golang::plain(&Value::Object(item.clone()));
        Fault::Server(format!("map: {item} does not contain declared merge key: {merge_key}"))
    })
}

/// What an item is told from others by.
fn id(item: &Value, merge_key: Option<&str>) -> Value {
    match merge_key {
        Some(key) => item.get(key).cloned().unwrap_or_default(),
        None => item.clone(),
    }
}

/// Where each item stands in a list.
fn places(list: &[Value], merge_key: Option<&str>) -> HashMap<Value, usize> {
    first_places(list.iter().enumerate().map(|(at, item)| (id(item, merge_key), at)))
}

/// Sorts a merged list: items named by the order in that order, the others where they stood among
/// their old neighbours.
fn in_order(
    merged: Vec<Value>,
    order: &Value,
    before: &HashMap<Value, usize>,
    merge_key: Option<&str>,
) -> Vec<Value> {
    let order = places(order.as_array().map(Vec::as_slice).unwrap_or_default(), merge_key);
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let id = id(&item, merge_key);
        let stood = before.get(&id).copied();
        match order.get(&id) {
            Some(place) => named.push((*place, stood, item)),
            None => others.push((stood, item)),
        }
    }
    named.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(stood, _)| *stood);
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, stood, item) in named {
        let earlier =
            |other: &Option<usize>| matches!((other, stood), (Some(other), Some(stood)) if *other < stood);
        while let Some((_, other)) = others.next_if(|(other, _)| earlier(other)) {
            out.push(other);
        }
        out.push(item);
    }
    out.extend(others.map(|(_, item)| item));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use serde_json::json;

    fn patched(kind: &str, document: Value, patch: Value) -> Value {
        strategic(&document, &patch, &schema(kind)).unwrap()
    }

    fn schema(kind: &str) -> SchemaRef {
        builtin::descriptors().into_iter().find(|each| each.kind == kind).unwrap().schema
    }

    fn containers(items: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": items}}}})
    }

    #[test]
    fn containers_merge_by_name() {
        let before = containers(json!([{"name": "web", "image": "nginx:1", "args": ["a"]}]));
        let patch =
            containers(json!([{"name": "web", "image": "nginx:2"}, {"name": "log", "image": "fluent"}]));
        assert_eq!(
            patched("Deployment", before, patch),
            containers(
                json!([{"name": "web", "image": "nginx:2", "args": ["a"]}, {"name": "log", "image": "fluent"}])
            )
        );
    }

    #[test]
    fn atomic_lists_are_replaced_and_null_deletes() {
        let before = containers(json!([{"name": "web", "args": ["a", "b"], "image": "x"}]));
        let patch = containers(json!([{"name": "web", "args": ["c"], "image": null}]));
        assert_eq!(patched("Deployment", before, patch), containers(json!([{"name": "web", "args": ["c"]}])));
    }

    #[test]
    fn directives_delete_and_replace() {
        let before = containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]));
        let delete = containers(json!([{"name": "a", "$patch": "delete"}]));
        assert_eq!(
            patched("Deployment", before.clone(), delete),
            containers(json!([{"name": "b", "image": "2"}]))
        );
        let replace = containers(json!([{"$patch": "replace"}, {"name": "c", "image": "3"}]));
        assert_eq!(
            patched("Deployment", before.clone(), replace),
            containers(json!([{"name": "c", "image": "3"}]))
        );
        let whole = json!({"spec": {"$patch": "replace", "replicas": 2}});
        assert_eq!(patched("Deployment", before.clone(), whole), json!({"spec": {"replicas": 2}}));
        let strategic = strategic(&before, &json!({"spec": {"$patch": "explode"}}), &builtin::object_meta());
        let error = strategic.unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (500, "unknown patch type: explode in map: map[$patch:explode]")
        );
        let keyless = containers(json!([{"image": "x"}]));
        let all = builtin::descriptors();
        let schema = &all.iter().find(|each| each.kind == "Deployment").unwrap().schema;
        let error = super::strategic(&before, &keyless, schema).unwrap_err();
        assert_eq!(error.message(), "map: map[image:x] does not contain declared merge key: name");
    }

    #[test]
    fn retain_keys_clears_the_rest() {
        let before =
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(patched("Deployment", before, patch), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    }

    #[test]
    fn element_order_is_kept() {
        let before = containers(json!([{"name": "a"}, {"name": "server"}, {"name": "b"}]));
        let patch = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new", "image": "x"}]
        }}}});
        assert_eq!(
            patched("Deployment", before, patch),
            containers(
                json!([{"name": "server"}, {"name": "b"}, {"name": "new", "image": "x"}, {"name": "a"}])
            )
        );
    }

    #[test]
    fn primitive_lists_merge_and_lose_items() {
        let before = json!({"metadata": {"finalizers": ["a/x", "b/x"]}});
        let add = json!({"metadata": {"finalizers": ["c/x", "a/x"]}});
        assert_eq!(
            patched("Pod", before.clone(), add)["metadata"]["finalizers"],
            json!(["c/x", "a/x", "b/x"])
        );
        let gone = json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["a/x"], "$setElementOrder/finalizers": ["b/x"]}});
        assert_eq!(patched("Pod", before, gone)["metadata"]["finalizers"], json!(["b/x"]));
    }

    #[test]
    fn ports_merge_by_their_number_and_volumes_keep_one_source() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "http", "targetPort": 8080}]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}, {"port": 443}]}});
        assert_eq!(
            patched("Service", service, patch),
            json!({"spec": {"ports": [{"port": 80, "name": "http", "targetPort": 9090}, {"port": 443}]}})
        );
        let pod = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "c"}}]}});
        assert_eq!(
            patched("Pod", pod, patch),
            json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}})
        );
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let before = containers(json!([{"name": "a"}]));
        for (item, why) in [
            (json!({"image": "x"}), "map: map[image:x] does not contain declared merge key: name"),
            (json!({"name": "a", "$patch": "merge"}), "merging lists cannot yet be specified in the patch"),
        ] {
            let error = strategic(&before, &containers(json!([item])), &schema("Deployment")).unwrap_err();
            assert_eq!((error.code(), error.message()), (500, why));
        }
    }

    #[test]
    fn where_nothing_is_there_directives_have_nothing_to_say() {
        for word in ["merge", "replace", "delete", "explode"] {
            let patch = json!({"spec": {"strategy": {"$patch": word, "type": "Recreate"}, "paused": true,
                "template": {"metadata": {"labels": {"a": "b", "c": null}},
                    "spec": {"volumes": [{"name": "v", "$patch": word}, {"emptyDir": {}}]}}}});
            assert_eq!(
                patched("Deployment", json!({"spec": {}}), patch),
                json!({"spec": {"paused": true,
                    "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"volumes": [{"emptyDir": {}}]}}}})
            );
        }
    }

    #[test]
    fn long_lists_are_merged_item_by_item() {
        // Were each item compared with each other, this would take hours.
        let ports = |numbers: std::ops::Range<u32>| -> Value {
            numbers.map(|port| json!({"port": port, "protocol": "TCP"})).collect()
        };
        let numbers = |numbers: std::ops::Range<u32>| -> Value { numbers.map(Value::from).collect() };
        let before =
            json!({"spec": {"ports": ports(0..60_000)}, "metadata": {"finalizers": numbers(0..60_000)}});
        let patch = json!({
            "spec": {"ports": ports(30_000..90_000), "$setElementOrder/ports": ports(30_000..90_000)},
            "metadata": {"finalizers": numbers(30_000..90_000), "$deleteFromPrimitiveList/finalizers": numbers(0..30_000)}});
        let after = patched("Service", before, patch);
        assert!(after["spec"]["ports"] == ports(0..90_000));
        assert!(after["metadata"]["finalizers"] == numbers(30_000..90_000));
    }
}
